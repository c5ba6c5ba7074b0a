//! What may you touch: grants and denials in a file that is followed, topics nobody can forge, wills, retained
//! messages; and what people see of all the connections.

use std::fs;

use serde_json::Value as Json;

use super::{
    gateway::Gateway,
    identity::{Door, says},
    peers::Heard,
};

const GRANTS: &str = r#"
[[grant]]
to = ["device:panel"]
read = ["devices/+/telemetry", "devices/+/state", "site/#", "$SYS/broker/#"]

[[grant]]
to = ["everyone"]
read = ["$SYS/broker/connections/{d}"]
write = ["site/notes/{d}"]
"#;

/// The user, its token and where it connects.
struct Child {
    name: &'static str,
    token: String,
    port: u16,
}

impl Child {
    fn new(door: &Door, name: &'static str) -> Self {
        Self { name, token: door.credential(&["issue", name]).trim().to_owned(), port: door.tcp }
    }

    fn login(&self) -> Vec<&str> {
        vec!["-u", self.name, "-P", &self.token, "-V", "5"]
    }

    /// What mosquitto_pub says of a publish, reason codes included.
    fn says(&self, topic: &str, payload: &str, more: &[&str]) -> String {
        says(self.port, topic, payload, &[&self.login()[..], &["-d"], more].concat()).1
    }

    /// What mosquitto_sub says of a subscription that is answered or refused.
    fn asks(&self, filter: &str) -> String {
        let port = self.port.to_string();
        let arguments = ["5", "mosquitto_sub", "-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", filter, "-d", "-E"];
        super::site::output("timeout", &[&arguments[..], &self.login()].concat())
    }

    fn is_granted(&self, filter: &str) -> bool {
        let said = self.asks(filter);
        said.contains("Subscribed (") && !said.contains("135")
    }

    fn hears(&self, filter: &str) -> Heard {
        Heard::subscribe(self.port, filter, &self.login())
    }
}

fn write(gateway: &Gateway, text: &str) {
    fs::write(gateway.config_folder().join("access.toml"), text).expect("written");
}

fn problems(gateway: &Gateway) -> Vec<Json> {
    gateway.get("/v1/config/problems")["problems"].as_array().expect("a list").clone()
}

#[test]
fn rules_are_followed_while_children_are_connected_and_mistakes_are_all_told_at_once() {
    let door = Door::open("");
    let (panel, pump) = (Child::new(&door, "panel"), Child::new(&door, "pump"));
    // Default deny: nothing is granted yet.
    assert!(panel.asks("devices/+/telemetry").contains("135"), "{}", panel.asks("devices/+/telemetry"));
    assert!(pump.says("site/notes/pump", "x", &[]).contains("RC:135"));

    write(&door.gateway, GRANTS);
    door.gateway.eventually("the grant counts", |_| panel.is_granted("devices/+/telemetry").then_some(()));
    let heard = panel.hears("devices/+/telemetry");
    assert!(pump.says("devices/pump/telemetry", r#"{"t": 21}"#, &[]).contains("RC:0"));
    heard.expect("devices/pump/telemetry", |reading| reading["t"] == 21);
    // A broader one is refused, not narrowed.
    for broader in ["devices/#", "#", "devices/+/+", "$aws/things/pump/#", "+/+/telemetry"] {
        assert!(panel.asks(broader).contains("135"), "{broader}: {}", panel.asks(broader));
    }
    assert!(pump.says("site/notes/pump", "x", &[]).contains("RC:0"));
    assert!(pump.says("site/notes/panel", "x", &[]).contains("RC:135"), "in another's name");

    // Every mistake at once, and the rules from before go on.
    let bad = "[[grant]]\nto = [\"devise:panel\"]\nread = [\"a/#/b\", \"a+\"]\nwrit = [\"x\"]\n";
    write(&door.gateway, bad);
    let found = door.gateway.eventually("the problems", |g| Some(problems(g)).filter(|found| found.len() >= 4));
    let text = Json::from(found).to_string();
    for word in ["devise:panel", "a/#/b", "a+", "writ"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(pump.says("devices/pump/telemetry", r#"{"t": 22}"#, &[]).contains("RC:0"));
    heard.expect("devices/pump/telemetry", |reading| reading["t"] == 22);

    // A denial ends a subscription that stood: nothing more is heard, and nobody was disconnected for it.
    write(
        &door.gateway,
        &format!("{GRANTS}\n[[deny]]\nto = [\"device:panel\"]\nread = [\"devices/pump/telemetry\"]\n"),
    );
    door.gateway.eventually("no problems", |gateway| problems(gateway).is_empty().then_some(()));
    let fence = panel.hears("site/#");
    assert!(pump.says("devices/pump/telemetry", r#"{"t": 23}"#, &[]).contains("RC:0"));
    assert!(pump.says("site/notes/pump", r#"{"after": 23}"#, &[]).contains("RC:0"));
    fence.expect("site/notes/pump", |note| note["after"] == 23);
    assert!(!heard.on("devices/pump/telemetry").iter().any(|reading| reading["t"] == 23), "a denied reading arrived");
}

#[test]
fn answers_cannot_be_forged_and_wills_and_retained_messages_are_judged() {
    let door = Door::open("");
    let (panel, pump) = (Child::new(&door, "panel"), Child::new(&door, "pump"));
    write(
        &door.gateway,
        &format!("{GRANTS}\n[[grant]]\nto = [\"device:pump\"]\nwrite = [\"#\", \"$aws/#\", \"$SYS/#\"]\n"),
    );
    door.gateway.eventually("the grants count", |_| pump.says("x", "y", &[]).contains("RC:0").then_some(()));
    for topic in [
        "$aws/things/pump/shadow/update/accepted",
        "$aws/things/pump/shadow/update/rejected",
        "$aws/things/pump/shadow/update/delta",
        "$aws/things/pump/shadow/update/documents",
        "$aws/things/panel/shadow/name/config/get/accepted",
        "$aws/things/panel/jobs/notify",
        "devices/pump/delta",
        "devices/panel/commands/reboot",
        "devices/panel/update/command",
        "devices/panel/errors",
        "$SYS/broker/uptime",
    ] {
        let said = pump.says(topic, "{}", &[]);
        assert!(said.contains("RC:135"), "{topic}: {said}");
    }
    // A will is judged before the door opens.
    let will = |topic: &str| {
        panel.says("devices/panel/telemetry", r#"{"t": 1}"#, &["--will-topic", topic, "--will-payload", "gone"])
    };
    assert!(will("devices/panel/heartbeat").contains("RC:0"));
    for topic in ["devices/pump/telemetry", "devices/panel/delta", "elsewhere"] {
        let said = will(topic);
        assert!(said.contains("Not authorized") && !said.contains("RC:0"), "{topic}: {said}");
    }
    // Retained: kept where it may be said, delivered to those who may hear it.
    assert!(pump.says("site/board", "hello", &["-r"]).contains("RC:0"));
    let heard = panel.hears("site/#");
    super::eventually("the retained message", || (!heard.on("site/board").is_empty()).then_some(()));
    assert!(pump.asks("site/board").contains("135"), "may write there, and not read");
    assert!(panel.says("site/board", "no", &["-r"]).contains("RC:135"));
}

#[test]
fn what_children_do_is_seen_on_the_screen_in_the_metrics_and_below_sys() {
    let door = Door::open("");
    let (panel, pump) = (Child::new(&door, "panel"), Child::new(&door, "pump"));
    write(&door.gateway, GRANTS);
    door.gateway.eventually("the grant counts", |_| panel.is_granted("$SYS/broker/uptime").then_some(()));
    let _connected = pump.hears("devices/pump/delta");
    for n in 0..20 {
        assert!(pump.says("devices/pump/telemetry", &format!("{{\"n\": {n}}}"), &["-i", "pump/says"]).contains("RC:0"));
    }
    // What is refused counts with its reason, and says itself on the child's own topic.
    let wrong = pump.says("devices/pump/telemetry", "no JSON", &["-i", "pump/says", "-x", "600"]);
    assert!(wrong.contains("RC:153"), "{wrong}");

    let kept = door.gateway.eventually("the sender has gone, and its session is kept for its ten minutes", |gateway| {
        let rows = gateway.get("/v1/connections");
        let rows = rows.as_array().expect("a list").iter();
        rows.clone().find(|row| row["clientId"] == "pump/says" && row["connected"] == false).cloned()
    });
    assert_eq!(kept["device"], "pump");
    assert!(kept["messagesIn"].as_u64() >= Some(1) && kept["bytesIn"].as_u64() > Some(20), "{kept}");
    assert!(kept["dropped"].as_object().is_some_and(|dropped| !dropped.is_empty()), "{kept}");
    assert!(kept["lastError"].is_string(), "{kept}");
    let rows = door.gateway.get("/v1/connections");
    let live = rows.as_array().expect("a list").iter().find(|row| row["device"] == "pump" && row["connected"] == true);
    let live = live.expect("the listener");
    assert!(
        live["address"].as_str().is_some_and(|a| a.starts_with("127.0.0.1:")) && live["protocol"] == "mqtt 5",
        "{live}"
    );

    let screen = String::from_utf8(door.gateway.cli(&["status"]).stdout).expect("UTF-8");
    for word in ["pump/says", "mqtt 5", "dropped", "last error", "away for"] {
        assert!(screen.contains(word), "{word}: {screen}");
    }
    let (_, metrics) = door.gateway.api("GET", "/v1/metrics", None);
    let metrics = metrics.as_str().expect("text");
    let value = |start: &str| -> f64 {
        let line =
            metrics.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in {metrics}"));
        line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
    };
    assert!(value("headgate_broker_messages_total{device=\"pump\",client=\"pump/says\",way=\"in\"}") >= 1.0);
    assert!(value("headgate_broker_bytes_total{device=\"pump\",client=\"pump/says\",way=\"in\"}") > 20.0);
    assert!(value("headgate_broker_dropped_total{device=\"pump\",client=\"pump/says\"") >= 1.0);
    assert_eq!(value("headgate_broker_connected{device=\"pump\",client=\"pump/says\"}"), 0.0);
    assert!(value("headgate_logins_total") >= 20.0);

    // Below $SYS each child sees itself, and the panel all of them.
    let own = pump.hears("$SYS/broker/connections/pump");
    own.expect("$SYS/broker/connections/pump", |rows| rows.to_string().contains("pump/says"));
    assert!(pump.asks("$SYS/broker/connections/panel").contains("135"), "another's connections");
    let all = panel.hears("$SYS/broker/#");
    all.expect("$SYS/broker/connections/pump", |rows| rows[0]["device"] == "pump");
    all.expect("$SYS/broker/publish/messages/received", |n| n.as_u64() > Some(0));
}
