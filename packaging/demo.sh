#!/usr/bin/env bash
# Builds Headgate and plays the demonstration: simulated devices, gateway and cloud in one process on loopback.
# Arguments go to `headgate demo`, for example: packaging/demo.sh --minutes 5
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/needs.sh
needs_build
cargo build --release --locked
exec target/release/headgate demo "$@"
