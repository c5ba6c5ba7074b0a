//! Valid inputs to begin with: packets of both MQTT versions, every framing of Modbus, CoAP datagrams, documents.

use std::{fs, path::Path, sync::Arc};

use bytes::BytesMut;
use headgate::{
    config::modbus::{Framing, point::Point, profile::Profiles},
    drivers::{coap::wire::Message, modbus::frame::encode},
};

pub const TOML_WORDS: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "\n",
    "=",
    "\"",
    "'''",
    "{d}",
    "true",
    "-1",
    "1e999",
    "0x",
    "\"90d\"",
    "99999999999999999999",
    "[broker]\n",
    "[broker.limits]\n",
    "[[device]]\n",
    "[[grant]]\n",
    "to = [\"everyone\"]\n",
    "[bus]\n",
    "protocol = \"modbus-tcp\"\n",
    "\"65536\"",
    "[[device.point]]\n",
    "nan",
    "1979-05-27T07:32:00Z",
    "\u{0}",
    "\u{feff}",
    "a.b.c = 1\n",
    "\"0s\"",
    "\"512MiB\"",
];

pub const JSON_WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "\"",
    "\\u0000",
    "\\ud800",
    "1e999",
    "-0",
    "99999999999999999999",
    "\"state\"",
    "\"desired\"",
    "\"reported\"",
    "\"version\"",
    "\"clientToken\"",
    "\"values\"",
    "\"ts\"",
    "\"firmwareVersion\"",
    "\"bn\"",
    "\"bt\"",
    "\"n\"",
    "\"v\"",
    "\"statusDetails\"",
    "\"expectedVersion\"",
    "\"maxParallel\"",
    "\"stages\"",
    "{\"a\":",
    "[[[[[[[[[[[[[[[[[[[[",
];

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = body.len();
    let mut out = vec![first];
    if length >= 128 {
        out.push((length % 128) as u8 | 0x80);
    }
    out.push(if length >= 128 { (length / 128) as u8 } else { length as u8 });
    out.extend(body);
    out
}

/// CONNECTs of both versions, with everything in them; the second part says whether it is version 5.
pub fn connects() -> Vec<(Vec<u8>, bool)> {
    let name = text(b"MQTT");
    let (id, will, user) =
        (text(b"pump"), [text(b"devices/pump/x"), text(b"gone")].concat(), [text(b"pump"), text(b"secret")].concat());
    let properties: &[u8] =
        &[17, 0, 0, 0, 60, 33, 0, 10, 39, 0, 1, 0, 0, 34, 0, 5, 25, 1, 23, 1, 38, 0, 1, b'a', 0, 1, b'b'];
    let will_properties: &[u8] = &[24, 0, 0, 0, 5, 1, 1, 2, 0, 0, 0, 9, 3, 0, 1, b't', 8, 0, 1, b'r', 9, 0, 1, b'c'];
    vec![
        (packet(0x10, &[&name, &[4, 2, 0, 60], &id]), false),
        (packet(0x10, &[&name, &[4, 0xEE, 0, 60], &id, &will, &user]), false),
        (packet(0x10, &[&name, &[5, 2, 0, 60, 0], &id]), true),
        (
            packet(
                0x10,
                &[
                    &name,
                    &[5, 0xEE, 0, 60, properties.len() as u8],
                    properties,
                    &id,
                    &[will_properties.len() as u8],
                    will_properties,
                    &will,
                    &user,
                ],
            ),
            true,
        ),
    ]
}

/// Every other packet a client may send.
pub fn packets(v5: bool) -> Vec<Vec<u8>> {
    let (topic, filter) = (text(b"devices/pump/telemetry"), text(b"devices/pump/#"));
    let none: &[u8] = if v5 { &[0] } else { &[] };
    let mut all = vec![
        packet(0x30, &[&topic, none, b"{\"t\":1}"]),
        packet(0x32, &[&topic, &[0, 1], none, b"{\"t\":1}"]),
        packet(0x35, &[&topic, &[0, 2], none, b"{\"t\":1}"]),
        packet(0x62, &[&[0, 2]]),
        packet(0x40, &[&[0, 1]]),
        packet(0x50, &[&[0, 3]]),
        packet(0x70, &[&[0, 3]]),
        packet(0x82, &[&[0, 4], none, &filter, &[1], &text(b"$share/g/devices/pump/x"), &[0]]),
        packet(0xA2, &[&[0, 5], none, &filter]),
        packet(0xC0, &[]),
        packet(0xE0, &[]),
    ];
    if v5 {
        let properties: &[u8] =
            &[1, 1, 2, 0, 0, 0, 9, 35, 0, 3, 8, 0, 1, b'r', 9, 0, 1, b'c', 38, 0, 1, b'a', 0, 1, b'b', 3, 0, 1, b't'];
        all.push(packet(0x32, &[&topic, &[0, 9, properties.len() as u8], properties, b"x"]));
        all.push(packet(0x30, &[&[0, 0, 3, 35, 0, 3], b"by its alias"]));
        all.push(packet(0x82, &[&[0, 6, 2, 11, 7], &filter, &[0x2D]]));
        all.push(packet(0x40, &[&[0, 1, 0x10, 0]]));
        all.push(packet(0xE0, &[&[4, 5, 17, 0, 0, 0, 9]]));
        all.push(packet(0xF0, &[]));
    }
    all
}

/// Whole conversations: a CONNECT and what follows it.
pub fn mqtt() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (connect, v5) in connects() {
        all.push([connect.clone(), packets(v5).concat()].concat());
        all.extend(packets(v5).into_iter().map(|one| [connect.clone(), one].concat()));
        all.push(connect);
    }
    all
}

pub fn access() -> Vec<Vec<u8>> {
    [
        "devices/+/telemetry\nsite/secret/#\ndevices/d1/telemetry\ndevices/d1/telemetry\nd2",
        "#\n$SYS/#\n#\n$aws/things/d1/shadow/update/accepted\nd1",
        "site/{d}/#\n\nsite/d1/+\nsite/d1/a\nd1",
        "+/+/#\na/b\n+/b/c\na/b/c\nx:y.z",
        "a\nb\ndevices/d1//#\ndevices/d1/\nd1",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// The shipped configuration files, examples and profiles.
pub fn toml() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut all: Vec<Vec<u8>> = ["headgate.toml", "access.toml.example"]
        .into_iter()
        .map(|name| fs::read(folder.join(name)).expect("a shipped file"))
        .collect();
    let entries = fs::read_dir(folder.join("devices.d")).expect("devices.d");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    all.extend(paths.iter().map(|path| fs::read(path).expect("an example")));
    all
}

pub fn modbus() -> Vec<Vec<u8>> {
    let pdus: [&[u8]; 14] = [
        &[3, 0, 0, 0, 2],
        &[3, 4, 0x12, 0x34, 0x56, 0x78],
        &[1, 1, 0x05],
        &[4, 2, 0, 1],
        &[0x83, 2],
        &[5, 0, 1, 0xFF, 0],
        &[6, 0, 1, 0, 7],
        &[15, 0, 0, 0, 10, 2, 0xCD, 1],
        &[16, 0, 1, 0, 2, 4, 0, 10, 1, 2],
        &[22, 0, 4, 0, 0xF2, 0, 0x25],
        &[23, 4, 0, 1, 0, 2],
        &[0x2B, 0x0E, 1, 1, 0, 0, 2, 0, 3, b'a', b'b', b'c', 1, 2, b'x', b'y'],
        &[20, 6, 5, 6, 0, 1, 0, 2],
        &[0x2B, 0x0E, 1, 0],
    ];
    let mut all = Vec::new();
    for framing in [Framing::Tcp, Framing::Rtu, Framing::Ascii] {
        let mut stream = BytesMut::new();
        for (n, pdu) in pdus.iter().enumerate() {
            let mut one = BytesMut::new();
            encode(framing, n as u16, 17, pdu, &mut one);
            stream.extend_from_slice(&one);
            all.push(one.to_vec());
        }
        all.push(stream.to_vec());
    }
    all.extend(pdus.map(<[u8]>::to_vec));
    all
}

/// Every point of the shipped profiles: between them all kinds, orders and scalings that are in use.
pub fn points() -> Vec<Arc<Point>> {
    Profiles::shipped().iter().flat_map(|profile| profile.points.clone()).collect()
}

pub fn registers() -> Vec<Vec<u8>> {
    vec![
        vec![0; 64],
        vec![0xFF; 64],
        [0x80, 0, 0x7F, 0xFF, 0x7F, 0xC0, 0, 0].repeat(8),
        [0x42, 0xF6, 0xE9, 0x79, 0, 1, 0, 0].repeat(8),
        b"ABB B23 112-100 serial 0001    ".to_vec(),
        [0x7F, 0xEF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF].repeat(8),
    ]
}

pub fn coap() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = ["/devices/pump/telemetry", "/.well-known/core", "/a/b/c"]
        .into_iter()
        .filter_map(|path| Message::request(2, path).with_payload(b"{\"t\":1}".to_vec()).to_bytes())
        .collect();
    // CON GET with token, Uri-Path twice, Observe, Block2, Accept, Uri-Query; an ACK 2.05; an empty RST
    all.push(vec![
        0x44, 1, 0x12, 0x34, 1, 2, 3, 4, 0x60, 0x51, b's', 0x01, b't', 0x47, b'q', b'=', b'1', b'2', b'3', b'4', b'5',
        0x21, 50, 0x61, 0x06,
    ]);
    all.push(vec![0x60, 0x45, 0x12, 0x34, 0xC1, 50, 0xFF, b'{', b'}']);
    all.push(vec![0x70, 0, 0x12, 0x34]);
    all.push(vec![
        0x40, 2, 0, 1, 0xBD, 3, b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8', b'9', b'0', b'a', b'b', b'c', b'd',
        b'e', b'f', 0xFF, b'x',
    ]);
    all
}

pub fn formats() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "21.5",
        "true",
        r#"{"t": 21.5, "list": [1, 2], "deep": {"x": null}}"#,
        r#"[{"bn": "urn:dev:ow:10e2073a01080063:", "bt": 1.276020076e9, "bu": "A", "bver": 5, "n": "voltage", "u": "V", "v": 120.1}, {"n": "current", "t": -5, "v": 1.2}, {"n": "label", "vs": "x"}, {"n": "on", "vb": true}]"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    all.push(vec![0xA2, 0x61, b't', 0xFB, 0x40, 0x35, 0x80, 0, 0, 0, 0, 0, 0x61, b'l', 0x83, 1, 0x20, 0xF6]);
    all.push(vec![
        0x82, 0xA3, 0x21, 0x61, b'd', 0x22, 0x1A, 0x4C, 0, 0, 0, 2, 1, 0xA2, 0, 0x61, b'x', 2, 0xF9, 0x3C, 0,
    ]);
    all.push(vec![0x9F, 0xBF, 0x61, b'n', 0x7F, 0x61, b'a', 0x61, b'b', 0xFF, 0xFF, 0xC1, 0x1A, 0, 0, 0, 1, 0xFF]);
    all
}

pub fn telemetry() -> Vec<Vec<u8>> {
    [
        r#"{"ts": 1760000000000, "temp": 21.4, "on": true, "text": "a\"b"}"#,
        r#"{"values": {"temp": 1e300, "x": -0}, "ts": 1760000000000}"#,
        r#"[{"t": 1}, {"ts": 5, "t": 2, "firmwareVersion": "1.2.0", "deviceId": "pump"}]"#,
        r#"{"text": "a\ud800\"b", "x": 1}"#,
        r#"{"a\u0041": 1, "": 2, "nested": {"x": 1}, "none": null}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn shadows() -> Vec<Vec<u8>> {
    [
        r#"{"state": {"desired": {"a": 1, "b": {"c": [1, 2]}}, "reported": {"a": 2}}, "clientToken": "t", "version": 1}"#,
        r#"{"state": {"desired": null, "reported": {"x": {"y": {"z": null}}}}}"#,
        r#"{"state": null}"#,
        r#"{"d":{"a":1},"r":{"b":{"c":2}},"s":[1700000000,1,1700000001,1]}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn jobs() -> Vec<Vec<u8>> {
    [
        r#"{"jobId": "j1", "type": "command", "deviceFilter": {"ids": ["a"], "tags": ["x"], "statuses": ["online"]}, "payload": {"name": "reboot", "params": {}, "timeoutMs": 5000}, "schedule": {"startTime": "2026-01-01T00:00:00Z", "window": {"days": ["mon"], "from": "22:00", "to": "04:00"}, "maxParallel": 3, "staggerMs": 10, "retryPolicy": {"maxAttempts": 3, "backoffMultiplier": 2}}, "rollout": {"stages": [{"percent": 5, "soak": "4h", "maxErrorRate": 0.1}], "abort": true}}"#,
        r#"{"status": "IN_PROGRESS", "statusDetails": {"step": "1"}, "expectedVersion": "1", "stepTimeoutInMinutes": 5, "clientToken": "c"}"#,
        r#"{"status": "SUCCEEDED", "includeJobDocument": true, "includeJobExecutionState": true, "executionNumber": 1}"#,
        r#"{"jobId": "j2", "type": "firmware-update", "payload": {"version": "1.1.0", "url": "https://x/y", "size": 10, "sha256": "00"}}"#,
        "{}",
        "",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
