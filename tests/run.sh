#!/usr/bin/env bash
# Passes all tests: format, lints, unit and integration tests against real peers. Installs what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/needs.sh
needs_build
needs mosquitto mosquitto-clients libcoap3-bin libmodbus-dev mbpoll socat openssl python3 curl \
    python3-pymodbus python3-serial python3-serial-asyncio

# Debug information would double the size of every test program.
export CARGO_PROFILE_DEV_DEBUG=0
echo "== format"
cargo fmt --check
echo "== lints"
cargo clippy --locked --all-targets -- -D warnings
echo "== tests"
# One failure must not hide the next.
cargo test --locked --no-fail-fast "$@"
echo "== bugs that are planted must be caught"
cargo test --locked --features faults --test log_crash -- named ack-before-commit cursor-before-puback skip-sync
echo "== without libsystemd"
cargo check --locked --no-default-features
