#!/usr/bin/env bash
# Installs the Debian packages named as arguments that are missing, and says so. Sourced by other scripts.
set -euo pipefail

needs() {
    local missing=() as_root=()
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "missing Debian packages: ${missing[*]}; install them as root: apt-get install ${missing[*]}" >&2
            return 1
        }
        as_root=(sudo)
    fi
    echo "installing missing Debian packages: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# A C compiler for the bundled SQLite and TLS, libsystemd for readiness, watchdog and journal.
needs_build() {
    needs gcc libc6-dev pkg-config libsystemd-dev
    command -v cargo >/dev/null || {
        echo "no Rust toolchain found; install Rust 1.89 or newer, then run this again" >&2
        return 1
    }
}
