#!/usr/bin/env bash
# Compilers for arm64 and armhf without Docker and without root: toolchain.sh FOLDER [RUST_SUITE] [TARGET_SUITE]
#
# A Rust that has the standard libraries of both is in Debian (the packages rustc-web and libstd-rust-web-dev of trixie). It
# is unpacked below FOLDER, not installed, and started through the loader that came with it, so that it runs on Debian 12;
# linked is with Debian 12's gcc and libsystemd, so that what it builds runs there, too. The system's own apt learns of no
# foreign architecture. Afterwards `. FOLDER/env arm64` sets what cargo needs; packaging/build-deb.sh does that when
# HEADGATE_TOOLCHAIN names the folder.
set -euo pipefail
folder=$(mkdir -p "${1:?usage: toolchain.sh FOLDER [RUST_SUITE] [TARGET_SUITE]}" && cd "$1" && pwd)
rust_suite=${2:-trixie} target_suite=${3:-bookworm}
. "$(dirname "$0")/../needs.sh"
needs gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf qemu-user-static

# Where this machine gets its Debian packages from.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
    grep -oE '[a-z+]+://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ' || true)
[ -n "$mirror" ] || { echo "no Debian mirror in /etc/apt: this needs a Debian machine" >&2; exit 1; }

# A package list of its own for each suite, in which nothing counts as installed.
lists() {
    local at=$folder/apt/$1
    mkdir -p "$at"/{state/lists/partial,cache/archives/partial}
    : >"$at/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$at/sources.list"
    cat >"$at/apt.conf" <<CONF
Dir::Etc::sourcelist "$at/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$at/state";
Dir::State::status "$at/status";
Dir::Cache "$at/cache";
APT::Architecture "amd64";
APT::Architectures {"amd64"; "arm64"; "armhf";};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "5";
CONF
    APT_CONFIG=$at/apt.conf apt-get -qq update
}

# unpack SUITE INTO PACKAGE…
unpack() {
    local conf=$folder/apt/$1/apt.conf into=$2 fetched
    shift 2
    mkdir -p "$into"
    fetched=$(mktemp -d "$folder/XXXX")
    (cd "$fetched" && APT_CONFIG=$conf apt-get -qq download "$@")
    for package in "$fetched"/*.deb; do dpkg -x "$package" "$into"; done
    rm -r "$fetched"
}

lists "$rust_suite"
lists "$target_suite"
in_rust_suite() { APT_CONFIG=$folder/apt/$rust_suite/apt.conf "$@"; }
compiler=$(in_rust_suite apt-cache depends libstd-rust-web-dev:amd64 | awk '/Depends: libstd-rust-web-[0-9]/ { print $2; exit }')
below=$(in_rust_suite apt-get -s -o Debug::NoLocking=1 install --no-install-recommends "$compiler:amd64" | awk '/^Inst / { print $2 }')
# shellcheck disable=SC2086
unpack "$rust_suite" "$folder/rust" rustc-web:amd64 libstd-rust-web-dev:{amd64,arm64,armhf} $below
# The libraries that libsystemd stands on are needed for linking only.
for arch in arm64 armhf; do
    unpack "$target_suite" "$folder/$arch" {libsystemd-dev,libsystemd0,libcap2,libgcrypt20,libgpg-error0,liblzma5,libzstd1,liblz4-1}:$arch
done

loader=$(find "$folder/rust" -name ld-linux-x86-64.so.2 -type f | head -1)
cat >"$folder/rustc" <<WRAPPER
#!/bin/sh
exec "$loader" --library-path "$folder/rust/usr/lib/x86_64-linux-gnu:$folder/rust/lib/x86_64-linux-gnu" "$folder/rust/usr/bin/rustc" "\$@"
WRAPPER
chmod +x "$folder/rustc"
cat >"$folder/env" <<ENV
# . $folder/env arm64|armhf
case \$1 in
arm64) _triple=aarch64-unknown-linux-gnu _gnu=aarch64-linux-gnu _emulator=qemu-aarch64-static ;;
armhf) _triple=armv7-unknown-linux-gnueabihf _gnu=arm-linux-gnueabihf _emulator=qemu-arm-static ;;
esac
_lower=\$(echo \$_triple | tr - _)
_upper=\$(echo \$_lower | tr a-z A-Z)
_libraries=$folder/\$1/usr/lib/\$_gnu:$folder/\$1/lib/\$_gnu
export RUSTC=$folder/rustc "CC_\$_lower=\$_gnu-gcc" "AR_\$_lower=\$_gnu-ar" "SYSTEMD_LIB_DIR_\$_lower=$folder/\$1/usr/lib/\$_gnu"
export "CARGO_TARGET_\${_upper}_LINKER=\$_gnu-gcc" "CARGO_TARGET_\${_upper}_RUSTFLAGS=-Clink-arg=-Wl,-rpath-link=\$_libraries"
export "CARGO_TARGET_\${_upper}_RUNNER=\$_emulator -L /usr/\$_gnu -E LD_LIBRARY_PATH=\$_libraries"
ENV
"$folder/rustc" --version
