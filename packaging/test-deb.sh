#!/usr/bin/env bash
# Installs a package in a fresh Debian with a real systemd as PID 1 (systemd-nspawn) and lives through its life:
#   start, sandbox, keys, ports, log, reload with a right and a wrong configuration, kill -9, a hung daemon, reboot,
#   upgrade with a changed configuration, remove, purge.
# usage, as root: packaging/test-deb.sh PACKAGE.deb [NEWER.deb]
#   ROOTFS=folder of a Debian made once by debootstrap (1.5 min, 260 MB); without it target/rootfs is made and kept.
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/needs.sh
[ $# -ge 1 ] || { sed -n '2,6s/^# //p' "$0"; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "this test makes mounts and a container: run it as root" >&2; exit 1; }
needs systemd-container debootstrap procps iproute2

package=$(readlink -f "$1") newer=${2:+$(readlink -f "$2")} root=${ROOTFS:-target/rootfs}
if [ ! -e "$root/usr/bin/systemctl" ]; then
    echo "making $root"
    debootstrap --variant=minbase \
        --include=systemd,systemd-sysv,dbus,procps,iproute2,ca-certificates,init-system-helpers \
        bookworm "$root" >"$root.log" 2>&1 || { tail -5 "$root.log"; exit 1; }
fi
root=$(readlink -f "$root")

work=$(mktemp -d) machine=headgate-test-$$ outer='' inner=''
mkdir "$work"/{upper,below,machine}
mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/below" "$work/machine"
disk=$work/machine
# Also after a failure nothing stays behind: no container, no mount.
finish() {
    set +e
    [ -n "$inner" ] && kill -KILL "$inner" 2>/dev/null
    [ -n "$outer" ] && kill -TERM "$outer" 2>/dev/null && wait "$outer" 2>/dev/null
    umount "$disk" && rm -rf --one-file-system "$work"
}
trap finish EXIT

step() { printf '%4s s  %s\n' "$SECONDS" "$*"; }
fail() {
    echo "FAILED: $*" >&2
    inside journalctl -u headgate --no-pager -n 40 -o short-monotonic >&2 || true
    exit 1
}
inside() { nsenter -t "$inner" -a -- "$@"; }
network() { nsenter -t "$inner" -n -- "$@"; }
show() { inside systemctl show -P "$1" headgate; }
until_is() { # property, value, seconds
    local end=$((SECONDS + ${3:-30}))
    until [ "$(show "$1")" = "$2" ]; do
        [ $SECONDS -lt $end ] || fail "$1 is $(show "$1"), not $2"
        sleep 0.1
    done
}
boot() {
    # There is no systemd outside to register with. The network is private: only loopback inside.
    setsid systemd-nspawn -q -D "$disk" -b --register=no --keep-unit --private-network --link-journal=no \
        -M "$machine" --console=pipe </dev/null >"$work/console" 2>&1 &
    outer=$!
    local end=$((SECONDS + 60)) state=''
    until [ "$state" = running ] || [ "$state" = degraded ]; do
        [ $SECONDS -lt $end ] || { cat "$work/console"; inner=''; fail "the container does not boot"; }
        sleep 0.1
        inner=$(pgrep -P "$outer" | head -1 || true)
        [ -z "$inner" ] || state=$(inside systemctl is-system-running 2>/dev/null || true)
    done
    step "booted: $state"
}
halt() {
    kill -s RTMIN+4 "$inner"
    local end=$((SECONDS + 60))
    while kill -0 "$outer" 2>/dev/null; do
        [ $SECONDS -lt $end ] || fail "the container does not halt"
        sleep 0.1
    done
    outer='' inner=''
}
dpkg_i() { inside dpkg --force-confdef --force-confold -i "$1" >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; fail "dpkg -i"; }; }

printf '127.0.0.1 localhost\n::1 localhost\n' >"$disk/etc/hosts"
cp "$package" "$disk/root/a.deb"
[ -z "$newer" ] || cp "$newer" "$disk/root/b.deb"
boot

dpkg_i /root/a.deb
until_is ActiveState active
step "installed and active, ready after $(inside systemctl show -P ExecMainStartTimestampMonotonic headgate |
    { read -r start; ready=$(show ActiveEnterTimestampMonotonic); echo $(((ready - start) / 1000)); }) ms, $(inside systemctl is-enabled headgate)"
inside systemd-analyze verify --man=no headgate.service || fail "the unit does not verify"
exposure=$(inside systemd-analyze security --no-pager headgate | grep -oE '[0-9]+\.[0-9]+' | tail -1)
awk "BEGIN { exit !($exposure <= 2.0) }" || fail "exposure $exposure is above 2.0"
step "exposure $exposure"

pid=$(show MainPID)
inside grep -qE '^CapEff:\s+0+$' "/proc/$pid/status" || fail "it has capabilities"
inside grep -qE '^Seccomp:\s+2$' "/proc/$pid/status" || fail "no system call filter"
inside grep -qE '^NoNewPrivs:\s+1$' "/proc/$pid/status" || fail "it may gain privileges"
[ "$(inside stat -c %U "/proc/$pid")" = headgate ] || fail "it runs as $(inside stat -c %U "/proc/$pid")"
[ "$(stat -c %a "$disk/var/lib/headgate")" = 700 ] || fail "the state folder is open to others"
open=$(find "$disk/var/lib/headgate" -type f ! -name '*.pem' -perm /077)
[ -z "$open" ] || fail "open to others: $open"
[ -f "$disk/var/lib/headgate/identity/ca.key" ] || fail "no key of the authority was made"
[ "$(stat -c %a "$disk/etc/headgate/headgate.toml")" = 640 ] || fail "the configuration is open to others"
step "sandbox, user and files as they should be; resident $(inside awk '/VmRSS/ { print $2 " KiB" }' "/proc/$pid/status")"
ports=$(network ss -Hlntu | awk '{ print $1 "/" $5 }' | sort | tr '\n' ' ')
# The network sees TLS alone: everything else is on loopback until the configuration says otherwise.
for port in $ports; do
    case $port in tcp/127.0.0.1:* | udp/127.0.0.1:* | tcp/0.0.0.0:8883) ;; *) fail "it listens on $port" ;; esac
done
step "listens on $ports"
inside journalctl -u headgate --no-pager -o cat | grep -qE '[0-9A-Z]{4}-[0-9A-Z]{4}-[0-9A-Z]{4}' || fail "no first code in the journal"
inside journalctl -u headgate --no-pager -o cat | grep -qE '^<[0-7]>' && fail "level prefixes were not understood"
[ -z "$(inside journalctl -u headgate --no-pager -p err -q -o cat)" ] || fail "errors in the journal"
step "first code in the journal, levels understood, no errors"

inside systemctl reload headgate || fail "reload"
[ "$(show MainPID)" = "$pid" ] || fail "a reload restarted it"
cp "$disk/etc/headgate/headgate.toml" "$work/good"
echo 'no_such_key = 1' >>"$disk/etc/headgate/headgate.toml"
inside systemctl reload headgate 2>/dev/null && fail "a wrong configuration was taken"
[ "$(show MainPID)" = "$pid" ] && [ "$(show ActiveState)" = active ] || fail "a wrong configuration ended it"
inside journalctl -u headgate --no-pager -o cat | grep -q no_such_key || fail "what is wrong is not said"
cat "$work/good" >"$disk/etc/headgate/headgate.toml"
step "reload: a right configuration is taken, a wrong one refused with its reason"

inside kill -KILL "$pid"
until_is NRestarts 1
until_is ActiveState active
step "killed, back as $(show MainPID)"

mkdir -p "$disk/etc/systemd/system/headgate.service.d"
printf '[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\n' >"$disk/etc/systemd/system/headgate.service.d/watchdog.conf"
inside sh -c 'systemctl daemon-reload && systemctl restart headgate'
until_is ActiveState active
sleep 9
[ "$(show NRestarts)" = 0 ] || fail "the watchdog is not fed"
inside kill -STOP "$(show MainPID)"
until_is NRestarts 1 60
until_is ActiveState active
inside journalctl -u headgate --no-pager -o cat | grep -q 'Watchdog timeout' || fail "no watchdog"
rm -r "$disk/etc/systemd/system/headgate.service.d"
inside sh -c 'systemctl daemon-reload && systemctl restart headgate'
until_is ActiveState active
step "fed the watchdog for two of its spans; hung, ended by it and back"

halt
boot
until_is ActiveState active
step "active after a reboot"

echo '# changed by the operator' >>"$disk/etc/headgate/headgate.toml"
key=$(sha256sum <"$disk/var/lib/headgate/identity/ca.key")
dpkg_i "/root/$([ -n "$newer" ] && echo b || echo a).deb"
until_is ActiveState active
grep -q 'changed by the operator' "$disk/etc/headgate/headgate.toml" || fail "the upgrade replaced the configuration"
[ "$key" = "$(sha256sum <"$disk/var/lib/headgate/identity/ca.key")" ] || fail "the upgrade changed the authority"
step "upgraded: configuration and keys kept"

begin=$(date +%s%N)
inside systemctl stop headgate
[ "$(show Result)" = success ] || fail "stopped with $(show Result)"
step "stopped in $((($(date +%s%N) - begin) / 1000000)) ms"
inside systemctl start headgate
inside dpkg -r headgate >/dev/null
[ -f "$disk/etc/headgate/headgate.toml" ] && [ -f "$disk/var/lib/headgate/headgate.db" ] || fail "removing took data"
inside dpkg -P headgate >/dev/null 2>&1
[ ! -e "$disk/etc/headgate/headgate.toml" ] && [ ! -e "$disk/var/lib/headgate" ] || fail "purging left data"
step "removed with data kept, purged without"
halt
echo "PACKAGE TEST OK in $SECONDS s"
