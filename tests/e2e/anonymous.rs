//! Clients without credentials where they are let in: whose name they may not take, and what sends them away.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value as Json, json};

use super::{gateway::Gateway, peers::free_port};

const POLLED: &str = "[bus]\nname = \"hall\"\nprotocol = \"modbus-tcp\"\naddress = \"127.0.0.1:1\"\n[[device]]\nid = \
                      \"plc\"\nunit = 1\n[[device.register]]\nname = \"t\"\naddress = 0\n";
const ASKED: &str = "[[device]]\nid = \"bed\"\nprotocol = \"coap\"\naddress = \"127.0.0.1:1\"\n[[device.resource]]\npath = \
                     \"t\"\n";

struct Stand {
    gateway: Gateway,
    port: u16,
}

fn stand(anonymous: &str) -> Stand {
    stand_with(anonymous, "")
}

fn stand_with(anonymous: &str, sections: &str) -> Stand {
    let port = free_port();
    let gateway = Gateway::builder()
        .toml(&format!(
            "[broker]\ntcp = [\"127.0.0.1:{port}\"]\ntls = []\nanonymous = \"{anonymous}\"\n[web]\nenabled = false\n{sections}"
        ))
        .devices("asked.toml", ASKED)
        .start();
    Stand { gateway, port }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// A packet of the broker: its type and its body.
fn read(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a packet");
    assert!(head[1] < 128, "a short packet");
    let mut body = vec![0; usize::from(head[1])];
    stream.read_exact(&mut body).expect("whole");
    (head[0], body)
}

impl Stand {
    /// Connects with the user name `id` where there is a token; the code of the CONNACK and its sentence.
    fn knock(&self, version: u8, id: &str, token: Option<&str>) -> (u8, String, TcpStream) {
        self.connect(version, id, token, true)
    }

    fn connect(&self, version: u8, id: &str, token: Option<&str>, clean: bool) -> (u8, String, TcpStream) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        let flags = if token.is_some() { 0xC0 } else { 0 } | if clean { 2 } else { 0 };
        let mut body =
            [text("MQTT"), vec![version, flags, 0, 0], vec![0; usize::from(version == 5)], text(id)].concat();
        if let Some(token) = token {
            body.extend([text(id.split('/').next().expect("a name")), text(token)].concat());
        }
        let length = u8::try_from(body.len()).expect("short");
        let head = if length < 128 { vec![0x10, length] } else { vec![0x10, length & 127 | 128, 1] };
        stream.write_all(&[head, body].concat()).expect("sent");
        let (kind, body) = read(&mut stream);
        assert_eq!(kind, 0x20, "CONNACK");
        // properties' length, 0x1F, length of the text
        let said = if body[1] == 0 { &[] } else { body.get(6..).unwrap_or_default() };
        (body[1], String::from_utf8_lossy(said).into_owned(), stream)
    }

    /// Refused in both versions; the sentence.
    fn refused(&self, id: &str, token: Option<&str>, codes: [u8; 2]) -> String {
        assert_eq!(self.knock(4, id, token).0, codes[0], "{id} with 3.1.1");
        let (code, said, _) = self.knock(5, id, token);
        assert_eq!(code, codes[1], "{id} with 5: {said}");
        said
    }

    fn admitted(&self, id: &str, token: Option<&str>) -> TcpStream {
        let (code, said, stream) = self.knock(5, id, token);
        assert_eq!(code, 0, "{id}: {said}");
        stream
    }

    /// The registry writes a newcomer down a moment after it came in.
    fn known(&self, id: &str, protocol: &str) {
        self.gateway.eventually(id, |gateway| {
            let fits = |row: &&Json| row["id"] == id && row["protocol"] == protocol;
            gateway.get("/v1/devices").as_array()?.iter().find(fits).map(drop)
        });
    }

    fn live(&self, id: &str, lifecycle: &str) {
        let path = format!("/v1/devices/{id}/lifecycle");
        let (code, said) = self.gateway.api("PUT", &path, Some(&json!({"lifecycle": lifecycle})));
        assert!((200..300).contains(&code), "{id} {lifecycle}: {code} {said}");
    }

    fn token(&self, id: &str) -> String {
        let done = self.gateway.cli(&["credential", "issue", id]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("UTF-8").trim().to_owned()
    }

    /// The row of `headgate credential refused` about `device` for `reason`.
    fn listed(&self, device: &str, reason: &str) -> Json {
        self.gateway.eventually(&format!("{device}: {reason}"), |gateway| {
            let rows = gateway.get("/v1/credentials/refused");
            let fits = |row: &&Json| row["device"] == device && row["reason"] == reason;
            rows.as_array().expect("a list").iter().find(fits).cloned()
        })
    }
}

/// The client is sent away with 0x87; the sentence.
fn sent_away(mut stream: TcpStream) -> String {
    let (kind, body) = read(&mut stream);
    assert_eq!((kind, body[0]), (0xE0, 0x87), "DISCONNECT");
    String::from_utf8_lossy(&body[5..]).into_owned()
}

#[test]
fn a_device_that_may_not_talk_is_refused_and_sent_away_as_one_with_credentials_is() {
    let mut stand = stand("by_client_id");
    let (bare, token) = (stand.admitted("bare", None), stand.token("proved"));
    let proved = stand.admitted("proved", Some(&token));
    stand.known("bare", "mqtt");
    stand.known("proved", "mqtt");
    for id in ["bare", "proved"] {
        stand.live(id, "suspended");
    }
    assert!(sent_away(bare).contains("suspended"));
    sent_away(proved);
    for lifecycle in ["suspended", "quarantined"] {
        ["bare", "proved"].iter().for_each(|id| stand.live(id, lifecycle));
        let (bare, proved) = (stand.refused("bare", None, [5, 0x87]), stand.refused("proved", Some(&token), [5, 0x87]));
        assert_eq!((&*bare, bare.contains(lifecycle)), (&*proved, true));
    }
    let rows = ["bare", "proved"].map(|id| stand.listed(id, "not-active")["text"].to_string());
    assert_eq!(rows[0].replace("bare", "proved"), rows[1]);
    let (_, metrics) = stand.gateway.api("GET", "/v1/metrics", None);
    assert!(metrics.as_str().expect("text").contains("headgate_logins_refused_total{reason=\"not-active\"} 8"));
    stand.live("bare", "active");
    let back = stand.admitted("bare", None);
    stand.live("bare", "decommissioned");
    assert!(sent_away(back).contains("decommissioned"));
    stand.gateway.kill();
    stand.gateway.start_again();
    assert!(stand.refused("bare", None, [5, 0x87]).contains("decommissioned"), "after a restart");
}

#[test]
fn nobody_takes_the_name_of_the_gateway_or_of_a_child_that_speaks_no_mqtt() {
    let stand = stand("by_client_id");
    for (id, word) in [("gw", "gateway"), ("gw/panel", "gateway"), ("bed", "CoAP"), ("bed/panel", "CoAP")] {
        let said = stand.refused(id, None, [2, 0x85]);
        assert!(said.contains(word), "{id}: {said}");
    }
    assert!(stand.listed("gw", "client-id")["text"].as_str().is_some_and(|text| text.contains("gateway")));
    stand.listed("bed", "client-id");
    // One that came first makes room for the device that the configuration names from now on.
    let early = stand.admitted("plc", None);
    stand.known("plc", "mqtt");
    fs::write(stand.gateway.config_folder().join("devices.d/bus.toml"), POLLED).expect("written");
    assert!(sent_away(early).contains("Modbus"));
    assert!(stand.refused("plc", None, [2, 0x85]).contains("Modbus"));
}

#[test]
fn a_device_with_a_credential_is_nobody_who_shows_none() {
    let stand = stand("by_client_id");
    let early = stand.admitted("meter", None);
    let token = stand.token("meter");
    assert!(sent_away(early).contains("meter has credentials"), "from the moment it has one");
    for id in ["meter", "meter/panel"] {
        assert!(stand.refused(id, None, [5, 0x87]).contains("meter has credentials"), "{id}");
        stand.admitted(id, Some(&token));
    }
    stand.listed("meter", "no-credentials");
    let id = stand.gateway.get("/v1/credentials?device=meter")[0]["id"].as_str().expect("an id").to_owned();
    assert!(stand.gateway.cli(&["credential", "revoke", &id]).status.success());
    assert!(stand.refused("meter", None, [5, 0x87]).contains("meter has credentials"), "also when it was revoked");
}

#[test]
fn a_guest_takes_no_client_id_from_its_owner_and_goes_when_guests_are_suspended() {
    let stand = stand("guest");
    let token = stand.token("meter");
    for id in ["meter", "meter/panel"] {
        stand.refused(id, None, [5, 0x87]);
        stand.admitted(id, Some(&token));
    }
    stand.refused("gw", None, [2, 0x85]);
    let guest = stand.admitted("somebody", None);
    stand.known("anonymous", "mqtt");
    stand.live("anonymous", "suspended");
    assert!(sent_away(guest).contains("suspended"));
    assert!(stand.refused("somebody", None, [5, 0x87]).contains("suspended"));
}

#[test]
fn whoever_waits_for_approval_is_not_let_in_the_first_time_either() {
    let limits = "[broker.limits]\nanonymous_devices = 1\n[presence]\nadmit = \"pending\"\n";
    let stand = stand_with("by_client_id", limits);
    let token = stand.token("proved");
    for (id, token) in [("bare", None), ("proved", Some(&*token))] {
        for _ in ["unknown", "known"] {
            let said = stand.refused(id, token, [5, 0x87]);
            assert!(said.contains("pending"), "{id}: {said}");
            stand.known(id, "mqtt");
        }
        let row = stand.gateway.get(&format!("/v1/devices/{id}"));
        assert_eq!((&row["lifecycle"], &row["presence"]), (&json!("pending"), &json!("never-seen")), "{row}");
    }
    stand.refused("third", None, [3, 0x97]);
    let rows = stand.gateway.get("/v1/devices").to_string();
    assert!(!rows.contains("third"), "whoever is one too many is not listed either: {rows}");
    for (id, token) in [("bare", None), ("proved", Some(&*token))] {
        stand.live(id, "active");
        stand.admitted(id, token);
    }
}

#[test]
fn a_guest_waits_for_approval_of_all_guests() {
    let stand = stand_with("guest", "[presence]\nadmit = \"pending\"\n");
    assert!(stand.refused("somebody", None, [5, 0x87]).contains("pending"));
    stand.known("anonymous", "mqtt");
    stand.live("anonymous", "active");
    stand.admitted("somebody", None);
}

#[test]
fn a_decommissioned_device_leaves_nothing_in_the_broker() {
    let stand = stand_with("by_client_id", "[broker.limits]\nanonymous_devices = 1\n");
    let (code, _, mut early) = stand.connect(4, "early", None, false);
    assert_eq!(code, 0);
    stand.known("early", "mqtt");
    stand.refused("late", None, [3, 0x97]);
    stand.live("early", "decommissioned");
    assert_eq!(early.read(&mut [0]).expect("closed"), 0, "3.1.1 has no words for it");
    let sessions = stand.gateway.get("/v1/connections").to_string();
    assert!(!sessions.contains("early"), "its session ended with it: {sessions}");
    stand.admitted("late", None);
    stand.refused("later", None, [3, 0x97]);
    assert!(stand.refused("early", None, [5, 0x87]).contains("decommissioned"));
}
