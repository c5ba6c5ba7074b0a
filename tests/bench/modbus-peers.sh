#!/usr/bin/env bash
# Installs the gateways that `cargo bench --bench modbus` measures Headgate beside, into a folder of their own: ThingsBoard's
# gateway (PyPI, in a venv) and Node-RED with its Modbus nodes (npm, with the Node it wants). What cannot be installed is
# said and left out. usage: tests/bench/modbus-peers.sh [FOLDER], by default target/modbus-peers; remove the folder when done.
set -uo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-target/modbus-peers}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

echo "== ThingsBoard gateway"
if python3 -m venv "$folder/thingsboard" &&
    "$folder/thingsboard/bin/pip" install -q --disable-pip-version-check thingsboard-gateway==3.8.5 pymodbus==3.9.2 pyserial pyserial-asyncio; then
    # It writes into the folder it is started in; the benchmark gives it one.
    echo "installed"
else
    echo "left out: needs python3 with venv, and the Python package index"
    rm -rf "$folder/thingsboard"
fi

echo "== Node-RED with node-red-contrib-modbus"
mkdir -p "$folder/node-red"
# The Modbus nodes name a fork of modbus-serial outside the registry; the published one serves.
cat >"$folder/node-red/package.json" <<'JSON'
{"name": "bench", "private": true, "overrides": {"@openp4nr/modbus-serial": "npm:modbus-serial@8.0.25"}}
JSON
if (cd "$folder/node-red" && npm install --no-audit --no-fund --loglevel=error node@22 node-red@5 node-red-contrib-modbus@5.60.2); then
    echo "installed"
else
    echo "left out: needs npm and its registry"
    rm -rf "$folder/node-red"
fi
