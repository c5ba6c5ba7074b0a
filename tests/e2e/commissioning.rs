//! A technician with the command line beside the running daemon: looks for units, tries values, watches the line, and
//! makes a device of a register table that nobody has seen; the daemon keeps its port and its pace.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::{Value as Json, json};

use super::{gateway::Gateway, peers::free_port};

/// `headgate modbus simulate …`, ended with the test.
struct Simulated(Child, BufReader<ChildStdout>);

impl Simulated {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headgate"));
        command.args(["modbus", "simulate"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().expect("headgate runs");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        // The pipe stays open: the simulator has more to say.
        let mut simulated = Self(child, out);
        let ready = simulated.1.by_ref().lines().map_while(Result::ok).any(|line| line.starts_with("Ctrl-C ends it"));
        assert!(ready, "the simulator serves");
        simulated
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(devices: &str) -> Gateway {
    let listeners = format!(
        "[broker]\ntcp = [\"127.0.0.1:{}\"]\ntls = []\n[web]\nlisten = [\"127.0.0.1:{}\"]\n",
        free_port(),
        free_port()
    );
    Gateway::builder().toml(&listeners).devices("bus.toml", devices).start()
}

/// What a command prints; it must succeed.
fn says(gateway: &Gateway, arguments: &[&str]) -> String {
    printed(arguments, gateway.cli(arguments))
}

/// The same for a command that needs no gateway.
fn prints(arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_headgate")).args(arguments).output().expect("headgate runs");
    printed(arguments, done)
}

fn printed(arguments: &[&str], done: std::process::Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{arguments:?}: {out}{err}");
    out.into_owned()
}

fn json_of(gateway: &Gateway, arguments: &[&str]) -> Json {
    let text = says(gateway, &[arguments, &["--json"]].concat());
    // Progress comes as lines of its own before the answer.
    let start = text.find("\n{\n").map_or(0, |at| at + 1);
    serde_json::from_str(&text[start..]).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

fn serial(port: &Path) -> String {
    format!(
        "[bus]\nname = \"cellar\"\nprotocol = \"modbus-rtu\"\nport = \"{}\"\nbaud = 19200\n[[device]]\nid = \"room\"\nunit = 4\n\
         profile = \"xy-md02\"\ninterval = \"100ms\"\n",
        port.display()
    )
}

#[test]
fn tools_work_on_a_serial_line_that_the_daemon_keeps() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = folder.path().join("ttyUSB0");
    let text = port.display().to_string();
    let arguments = ["--profile", "xy-md02", "--units", "4-5", "--pty", &text, "--baud", "19200"];
    let simulated = Simulated::start(&arguments);
    let mut gateway = start(&serial(&port));
    let status = |gateway: &Gateway| {
        let (code, answer) = gateway.api("POST", "/v1/tools/modbus", Some(&json!({"tool": "status", "bus": "cellar"})));
        assert_eq!(code, 200, "{answer}");
        answer
    };
    gateway.eventually("the sensor is read", |gateway| status(gateway).to_string().contains("online").then_some(()));

    // By the port itself: the daemon owns it, so the question goes to the daemon.
    let scan = says(&gateway, &["modbus", "scan", "--port", &text, "--units", "3-6", "--timeout", "60"]);
    assert!(scan.contains("unit 4") && scan.contains("unit 5") && scan.contains("2 units found"), "{scan}");
    assert!(scan.contains("profiles xy-md02"), "{scan}");
    let temperature = says(&gateway, &["modbus", "read", "--device", "room", "--name", "temperature"]);
    assert!(temperature.contains("°C"), "{temperature}");
    let written = [
        &["modbus", "write", "--device", "room", "--name", "temperatureCorrection", "--verify"][..],
        &["--revert-after", "200ms", "-1.5"],
    ]
    .concat();
    let written = says(&gateway, &written);
    assert!(written.contains("wrote -1.5, read back -1.5") && written.contains("taken back: 0.0 again"), "{written}");
    let refused = gateway.cli(&["modbus", "write", "--device", "room", "--name", "temperatureCorrection", "99"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("99 is above 10, the most allowed"));
    says(&gateway, &["modbus", "write", "--device", "room", "--name", "temperatureCorrection", "--verify", "7.5"]);
    let solved = json_of(&gateway, &["modbus", "solve", "--device", "room", "-a", "258", "--display", "7.5"]);
    let best = &solved["candidates"][0];
    assert_eq!((&best["address"], &best["scale"]), (&json!(259), &json!(0.1)), "{solved:#}");
    let budget = json_of(&gateway, &["modbus", "budget", "--bus", "cellar"]);
    assert!(budget["measured"]["utilisation"].as_f64() > Some(0.0), "{budget:#}");

    let capture = folder.path().join("cellar.jsonl");
    let capture = capture.display().to_string();
    says(&gateway, &["modbus", "scope", "--bus", "cellar", "--time", "1s", "--capture", &capture]);
    let listen = format!("127.0.0.1:{}", free_port());
    let _replayed = Simulated::start(&["--capture", &capture, "--listen", &listen]);
    let replayed =
        json_of(&gateway, &["modbus", "read", "--tcp", &listen, "--unit", "4", "--table", "input", "-a", "1"]);
    assert!(replayed["registers"][0].as_u64().is_some_and(|tenths| (150..300).contains(&tenths)), "{replayed}");

    let answer = status(&gateway);
    let room = answer.pointer("/result/units/0").or(answer.pointer("/units/0")).expect("the unit").clone();
    assert_eq!((&room["state"], &room["counters"]["timeouts"]), (&json!("online"), &json!(0)), "{room:#}");
    assert_eq!(gateway.stop(), 0);
    drop(simulated);
}

#[test]
fn a_device_says_what_it_can_be_called_with() {
    let gateway = start(
        "[bus]\nprotocol = \"modbus-tcp\"\naddress = \"127.0.0.1:1\"\n[[device]]\nid = \"relays\"\nunit = 1\n\
         profile = \"waveshare-relay-8\"\n[[device]]\nid = \"meter\"\nunit = 2\nprofile = \"eastron-sdm630\"\n",
    );
    let coap = "[[device]]\nid = \"house\"\nprotocol = \"coap\"\naddress = \"127.0.0.1:1\"\n[[device.resource]]\npath = \"t\"\n";
    fs::write(gateway.config_folder().join("devices.d/house.toml"), coap).expect("written");
    for (device, commands) in [
        ("relays", json!(["read-now", "identify", "all-off"])),
        ("meter", json!(["read-now", "identify"])),
        ("house", json!(["read-now"])),
    ] {
        let view = gateway.eventually(device, |gateway| {
            let (status, view) = gateway.api("GET", &format!("/v1/devices/{device}"), None);
            (status == 200).then_some(view)
        });
        assert_eq!(view["commands"], commands, "{view}");
    }
    let shown = says(&gateway, &["device", "show", "relays"]);
    assert!(shown.contains("commands  read-now, identify, all-off"), "{shown}");
    let refused = gateway.cli(&["device", "command", "meter", "all-off", "--wait", "30s"]);
    let refused = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(refused.contains("it knows read-now, identify"), "{refused}");
}

#[test]
fn a_makers_table_becomes_a_profile_a_simulated_device_and_values() {
    let folder = tempfile::tempdir().expect("a folder");
    let table = folder.path().join("table.csv");
    let text = "Register;Parameter;Format;Factor;Unit;R/W;Min;Max;Remarks\n40101-40102;Flow temperature;FLOAT;;°C;R;;;low word first\n\
                40105;Flow;INT16;0.01;m³/h;R;;;\n40201;Set point;INT16;0.1;°C;R/W;5;30;\n40202;Mode;UINT16;;;R/W;;;\"0 off, 1 auto\"\n";
    fs::write(&table, text).expect("written");
    let mut gateway = start("");
    let imported = prints(&["profile", "import", &table.display().to_string(), "--name", "hx-40"]);
    let profiles = gateway.config_folder().join("profiles");
    fs::create_dir_all(&profiles).expect("a folder");
    let profile = profiles.join("hx-40.toml");
    fs::write(&profile, imported).expect("written");
    let profile = profile.display().to_string();
    let checked = prints(&["profile", "check", &profile]);
    assert!(checked.contains("hx-40 with 4 registers"), "{checked}");
    assert!(says(&gateway, &["profile", "show"]).contains("hx-40"));
    let listen = format!("127.0.0.1:{}", free_port());
    let _simulated = Simulated::start(&["--profile", &profile, "--listen", &listen]);
    let device = format!(
        "[bus]\nname = \"plant\"\nprotocol = \"modbus-tcp\"\naddress = \"{listen}\"\n[[device]]\nid = \"hx\"\nunit = 1\n\
         profile = \"hx-40\"\ninterval = \"200ms\"\n"
    );
    let file = gateway.config_folder().join("devices.d/plant.toml");
    fs::write(&file, device).expect("written");
    assert!(says(&gateway, &["modbus", "budget", &file.display().to_string()]).contains("% of the bus"));
    gateway.eventually("the new device is read", |gateway| {
        let done = gateway.cli(&["modbus", "read", "--device", "hx", "--name", "flowTemperature"]);
        String::from_utf8_lossy(&done.stdout).contains("°C").then_some(())
    });
    let written = says(&gateway, &["modbus", "write", "--device", "hx", "--name", "mode", "--verify", "auto"]);
    assert!(written.contains("wrote \"auto\", read back \"auto\""), "{written}");
    assert_eq!(gateway.stop(), 0);
}
