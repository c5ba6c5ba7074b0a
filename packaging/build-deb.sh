#!/usr/bin/env bash
# Builds target/debian/headgate_<version>_<arch>.deb: build-deb.sh [amd64|arm64|armhf] [--fast]
# Without an architecture: that of this machine. Others are built with the toolchain in the folder that HEADGATE_TOOLCHAIN names
# (packaging/cross/toolchain.sh makes it), else with cross where it is installed (it needs Docker or Podman), else with
# gcc-aarch64-linux-gnu or gcc-arm-linux-gnueabihf and a Rust that has the target.
# --fast packs quickly instead of small, for tests.
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/needs.sh

here=$(dpkg --print-architecture) arch="" fast=()
for argument in "$@"; do
    case $argument in
    --fast) fast=(--fast) ;;
    amd64 | arm64 | armhf) arch=$argument ;;
    *) echo "usage: build-deb.sh [amd64|arm64|armhf] [--fast]" >&2; exit 2 ;;
    esac
done
arch=${arch:-$here}
needs_build
command -v cargo-deb >/dev/null || { echo "cargo-deb is missing: cargo install --locked cargo-deb" >&2; exit 1; }

# The same input gives the same bytes: no time of now, no path of this machine.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

tool=cargo target=() gnu=""
case $arch in
"$here") ;;
amd64) target=(--target x86_64-unknown-linux-gnu) ;;
arm64)
    target=(--target aarch64-unknown-linux-gnu) gnu=aarch64-linux-gnu-
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER:-aarch64-linux-gnu-gcc}
    ;;
armhf)
    target=(--target armv7-unknown-linux-gnueabihf) gnu=arm-linux-gnueabihf-
    export CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER=${CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER:-arm-linux-gnueabihf-gcc}
    ;;
esac
if [ ${#target[@]} -gt 0 ] && [ -n "${HEADGATE_TOOLCHAIN:-}" ]; then
    . "$HEADGATE_TOOLCHAIN/env" "$arch"
elif [ ${#target[@]} -gt 0 ] && command -v cross >/dev/null; then
    tool=cross
    export CROSS_CONFIG=cross.toml # cross looks for Cross.toml by itself
fi

"$tool" build --release --locked "${target[@]}"
mkdir -p target/completions
for shell in bash zsh fish; do
    # For a foreign architecture this needs an emulator (qemu-user); completions of an earlier build will do too.
    "$tool" run --quiet --release --locked "${target[@]}" -- completions "$shell" >"target/completions/$shell.new" &&
        mv "target/completions/$shell.new" "target/completions/$shell"
done
mkdir -p target/debian
cargo deb --no-build "${target[@]}" "${fast[@]}" -o target/debian/

# What it needs must be in the oldest system that is supported (Debian 12: glibc 2.36; 2.34 is promised).
binary=target/${target[1]:-}/release/headgate
newest=$("${gnu}objdump" -T "$binary" 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -V | tail -1 || true)
if [ -n "$newest" ] && [ "$(printf '%s\n' "$newest" GLIBC_2.34 | sort -V | tail -1)" != GLIBC_2.34 ]; then
    echo "$binary needs $newest, but the package promises GLIBC_2.34: build on Debian 12" >&2
    exit 1
fi
ls -l target/debian/*_"$arch".deb
