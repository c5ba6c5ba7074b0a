//! The gateways: how each is told to read the same farm and to send it to the same broker.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value as Json, json};

use crate::{counter::free_port, process::Process};

/// What all of them are to do.
pub struct Job<'j> {
    /// A Modbus TCP endpoint per device, unit 1, holding registers 0 to 99 as r0 to r99.
    pub endpoints: &'j [u16],
    pub interval_ms: u64,
    pub broker: u16,
    pub folder: &'j Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    Headgate,
    ThingsBoard,
    NodeRed,
}

pub const REGISTERS: usize = 100;

impl Gateway {
    pub const ALL: [Gateway; 3] = [Gateway::Headgate, Gateway::NodeRed, Gateway::ThingsBoard];

    pub fn name(self) -> &'static str {
        match self {
            Gateway::Headgate => "headgate",
            Gateway::ThingsBoard => "thingsboard",
            Gateway::NodeRed => "node-red",
        }
    }

    /// Starts it; says why where it cannot be.
    pub fn start(self, job: &Job<'_>) -> Result<Process, String> {
        fs::create_dir_all(job.folder).map_err(|e| e.to_string())?;
        let mut command = match self {
            Gateway::Headgate => headgate(job),
            Gateway::ThingsBoard => thingsboard(job)?,
            Gateway::NodeRed => node_red(job)?,
        };
        Process::start(&mut command, &job.folder.join("output.log")).map_err(|e| format!("{}: {e}", self.name()))
    }
}

/// Where `tests/bench/modbus-peers.sh` puts them.
fn peers() -> PathBuf {
    std::env::var_os("MODBUS_PEERS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/modbus-peers"), PathBuf::from)
}

fn installed(program: &str) -> Result<PathBuf, String> {
    let path = peers().join(program);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is not there; run tests/bench/modbus-peers.sh", path.display()))
    }
}

fn write(path: PathBuf, text: &str) {
    fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn headgate(job: &Job<'_>) -> Command {
    let devices = job.folder.join("devices.d");
    fs::create_dir_all(&devices).expect("a folder");
    let main = format!(
        "[gateway]\nid = \"gw\"\nstate = \"{}\"\nlog_level = \"warn\"\n[broker]\ntcp = [\"127.0.0.1:{}\"]\ntls = []\n\
         [web]\nlisten = [\"127.0.0.1:{}\"]\n[uplink]\nbroker = \"mqtt://127.0.0.1:{}\"\n",
        job.folder.join("state").display(),
        free_port(),
        free_port(),
        job.broker
    );
    write(job.folder.join("headgate.toml"), &main);
    for (n, port) in job.endpoints.iter().enumerate() {
        let mut text = format!(
            "[bus]\nname = \"bus{n}\"\nprotocol = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\n[[device]]\n\
             id = \"d{n}\"\nunit = 1\ninterval = \"{}ms\"\n",
            job.interval_ms
        );
        for register in 0..REGISTERS {
            let _ = write!(text, "[[device.register]]\nname = \"r{register}\"\naddress = {register}\n");
        }
        write(devices.join(format!("bus{n}.toml")), &text);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_headgate"));
    command.args(["run", "--config"]).arg(job.folder);
    command
}

/// One entry per register, as its documentation shows it.
fn thingsboard(job: &Job<'_>) -> Result<Command, String> {
    let program = installed("thingsboard/bin/thingsboard-gateway")?;
    let main = json!({
        "thingsboard": {
            "host": "127.0.0.1", "port": job.broker, "remoteShell": false, "remoteConfiguration": false,
            "statistics": {"enable": false}, "deviceFiltering": {"enable": false}, "maxPayloadSizeBytes": 1_000_000,
            "minPackSendDelayMS": 10, "minPackSizeToSend": 500, "handleDeviceRenaming": false, "qos": 1,
            "security": {"type": "accessToken", "accessToken": "bench"},
            "reportStrategy": {"type": "ON_RECEIVED"},
            "checkingDeviceActivity": {"checkDeviceInactivity": false}
        },
        "storage": {"type": "memory", "read_records_count": 100, "max_records_count": 100_000},
        "grpc": {"enabled": false},
        "connectors": [{"type": "modbus", "name": "farm", "configuration": "modbus.json"}]
    });
    let register = |address: usize| json!({ "tag": format!("r{address}"), "type": "16uint", "functionCode": 3, "objectsCount": 1, "address": address });
    let slave = |(n, port): (usize, &u16)| {
        let timeseries: Vec<Json> = (0..REGISTERS).map(register).collect();
        json!({
            "host": "127.0.0.1", "port": port, "type": "tcp", "method": "socket", "unitId": 1,
            "deviceName": format!("d{n}"), "deviceType": "default", "timeout": 5, "byteOrder": "BIG", "wordOrder": "BIG",
            "retries": 1, "retryOnEmpty": true, "retryOnInvalid": true, "pollPeriod": job.interval_ms,
            "connectAttemptTimeMs": 1000, "connectAttemptCount": 5, "waitAfterFailedAttemptsMs": 5000,
            "attributes": [], "timeseries": timeseries, "attributeUpdates": [], "rpc": []
        })
    };
    let slaves: Vec<Json> = job.endpoints.iter().enumerate().map(slave).collect();
    write(job.folder.join("tb_gateway.json"), &main.to_string());
    write(job.folder.join("modbus.json"), &json!({"name": "farm", "master": {"slaves": slaves}}).to_string());
    let mut command = Command::new(program);
    command.current_dir(job.folder).env("TB_GW_CONFIG_DIR", job.folder);
    Ok(command)
}

fn node_red(job: &Job<'_>) -> Result<Command, String> {
    let modules = installed("node-red/node_modules")?;
    let mut flow = vec![
        json!({"id": "tab", "type": "tab", "label": "farm"}),
        json!({
            "id": "cloud-config", "type": "mqtt-broker", "name": "cloud", "broker": "127.0.0.1", "port": job.broker.to_string(),
            "clientid": "node-red", "autoConnect": true, "usetls": false, "protocolVersion": "4", "keepalive": "60",
            "cleansession": true
        }),
    ];
    // The same message as the others send: device, time, names and values.
    let named = "const values = {}; const words = msg.payload;\nfor (let n = 0; n < words.length; n++) values[\"r\" + n] = words[n];\n\
                 return { topic: \"devices/\" + node.name + \"/telemetry\", payload: { ts: Date.now(), values } };";
    for (n, port) in job.endpoints.iter().enumerate() {
        let (client, read, shape, out) = (format!("c{n}"), format!("m{n}"), format!("f{n}"), format!("o{n}"));
        flow.push(json!({
            "id": client, "type": "modbus-client", "name": format!("client {n}"), "clienttype": "tcp",
            "bufferCommands": true, "stateLogEnabled": false, "queueLogEnabled": false, "failureLogEnabled": false,
            "tcpHost": "127.0.0.1", "tcpPort": port.to_string(), "tcpType": "DEFAULT", "unit_id": "1",
            "commandDelay": "1", "clientTimeout": "1000", "reconnectOnTimeout": true, "reconnectTimeout": "2000",
            "parallelUnitIdsAllowed": true, "serialPort": "", "serialType": "RTU-BUFFERD", "serialBaudrate": "9600",
            "serialDatabits": "8", "serialStopbits": "1", "serialParity": "none", "serialConnectionDelay": "100",
            "serialAsciiResponseStartDelimiter": "0x3A"
        }));
        flow.push(json!({
            "id": read, "type": "modbus-read", "z": "tab", "name": "", "topic": "", "showStatusActivities": false,
            "logIOActivities": false, "showErrors": false, "showWarnings": false, "unitid": "1",
            "dataType": "HoldingRegister", "adr": "0", "quantity": REGISTERS.to_string(),
            "rate": job.interval_ms.max(1).to_string(), "rateUnit": "ms", "delayOnStart": false, "startDelayTime": "1",
            "server": client, "useIOFile": false, "ioFile": "", "useIOForPayload": false, "emptyMsgOnFail": false,
            "keepMsgProperties": false, "wires": [[shape], []]
        }));
        flow.push(json!({
            "id": shape, "type": "function", "z": "tab", "name": format!("d{n}"), "func": named, "outputs": 1, "timeout": 0,
            "noerr": 0, "initialize": "", "finalize": "", "libs": [], "wires": [[out]]
        }));
        flow.push(json!({
            "id": out, "type": "mqtt out", "z": "tab", "name": "", "topic": "", "qos": "1", "retain": "false",
            "broker": "cloud-config", "wires": []
        }));
    }
    write(job.folder.join("flow.json"), &Json::Array(flow).to_string());
    let settings = format!(
        "module.exports = {{ flowFile: \"flow.json\", uiPort: {}, uiHost: \"127.0.0.1\", credentialSecret: false,\n\
         editorTheme: {{ tours: false }}, telemetry: {{ enabled: false }}, logging: {{ console: {{ level: \"warn\" }} }} }};\n",
        free_port()
    );
    write(job.folder.join("settings.js"), &settings);
    // Node-RED looks for nodes below its user folder.
    let link = job.folder.join("node_modules");
    let _ = std::os::unix::fs::symlink(&modules, &link);
    fs::copy(modules.join("../package.json"), job.folder.join("package.json")).map_err(|e| e.to_string())?;
    let mut command = Command::new(modules.join("node/bin/node"));
    command.arg(modules.join("node-red/red.js")).arg("--userDir").arg(job.folder).arg("--settings");
    command.arg(job.folder.join("settings.js"));
    Ok(command)
}
