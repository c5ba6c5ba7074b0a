//! The targets: each takes bytes from a stranger. Plain functions, so that any fuzzer can drive them.

use std::{
    str::from_utf8,
    sync::{Arc, LazyLock},
};

use bytes::BytesMut;
use headgate::{
    broker::wire::{self, Packet, Version, encode::Outgoing},
    config::{
        Config,
        coap::Format,
        load::{Source, Sources},
        modbus::{Framing, point::Point, profile::Profiles},
    },
    drivers::{
        coap::{formats, wire::Message},
        modbus::{
            codec,
            frame::{self, Side, Step},
            pdu,
        },
    },
    jobs::definition::Definition,
    model::{
        access::{Access, Filter, Grant, Grantee, Who, covers, matches},
        executions::{Given, Queue},
        ids::DeviceId,
        jobs::JobOrder,
        reading::Value,
        shadow::{Document, Limits, Request, Slot, merge, token_of},
        time::Millis,
        topic::{JobsTopic, LocalTopic},
    },
    twins::telemetry as takes,
};
use serde_json::Value as Json;

const NOW: Millis = Millis(1_800_000_000_000);

/// A connection's bytes from its first one: CONNECT, then whatever follows, as one client or the other.
pub fn mqtt(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    let mut version = None;
    while let Ok(Some(frame)) = wire::frame(&mut buffer, version, 256 * 1024) {
        match version {
            None => {
                let Ok(asked) = wire::version(&frame) else { return };
                let Ok(connect) = wire::connect(asked, frame) else { return };
                assert_eq!(connect.version, asked);
                version = Some(asked);
            }
            Some(version) => match wire::packet(version, frame) {
                Ok(Packet::Publish(publish)) => told_again(version, &publish),
                Ok(_) => {}
                Err(_) => return,
            },
        }
    }
}

/// What is passed on must be what a client reads as the same message.
fn told_again(version: Version, publish: &wire::Publish) {
    let Ok(topic) = from_utf8(&publish.topic) else { panic!("a topic that is not UTF-8 was let in") };
    if topic.is_empty() {
        return; // an alias stands for it
    }
    // Wildcards are the connection's to refuse: it has an alias to resolve first.
    assert!(!topic.contains('\0'), "{topic:?} is no topic name");
    let out = Outgoing {
        dup: false,
        qos: publish.qos,
        retain: publish.retain,
        packet: publish.packet,
        topic,
        properties: &publish.properties,
        expiry: publish.expiry,
        alias: None,
        identifiers: &[],
        payload: &publish.payload,
    };
    let mut written = BytesMut::new();
    out.write(version, &mut written);
    assert_eq!(written.len(), out.size(version));
    let frame = wire::frame(&mut written, Some(version), usize::MAX).expect("our own packet").expect("whole");
    let Ok(Packet::Publish(again)) = wire::packet(version, frame) else { panic!("our own packet is refused") };
    assert_eq!((&again.topic, &again.payload, again.qos), (&publish.topic, &publish.payload, publish.qos));
    if version == Version::V5 {
        assert_eq!((&again.properties, again.expiry), (&publish.properties, publish.expiry));
    }
}

/// Lines: a grant's filter, a denial's filter, what is asked, a topic, and who asks.
pub fn access(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.lines().chain(std::iter::repeat("")).take(5).collect();
    let [grant, denial, asked, topic, who] = lines[..] else { return };
    let device = DeviceId::new(who).unwrap_or_else(|_| DeviceId::new("d1").expect("an id"));
    let who = Who { device: &device, groups: &[] };
    let of = |filter: &str| {
        let filters: Vec<Filter> = Filter::new(filter).into_iter().collect();
        Grant { to: vec![Grantee::Everyone], read: filters.clone(), write: filters }
    };
    let access = Access { grants: vec![of(grant)], denials: vec![of(denial)] };
    let gateways = matches!(LocalTopic::parse(topic), LocalTopic::GatewayOnly(_)) || topic.starts_with("$SYS/");
    assert!(!(gateways && access.may_publish(who, topic).is_ok()), "{topic:?} was forged");
    if topic.contains(['+', '#']) || topic.is_empty() || Filter::check(asked).is_err() {
        let _ = access.may_subscribe(who, asked);
        return;
    }
    // The bare root, which "{root}/#" names too, is nobody's to hear by itself.
    let roots = ["devices/", "$aws/things/"].map(|root| format!("{root}{device}"));
    if roots.iter().any(|root| topic.strip_suffix('/').unwrap_or(topic) == root) {
        return;
    }
    // Who may subscribe to a filter may receive whatever it names, but for what is denied.
    if access.may_subscribe(who, asked).is_ok() && matches(asked, topic) {
        assert!(access.may_receive(who, topic) || access.denied(who, topic), "{asked:?} was too broad for {topic:?}");
    }
    if Filter::check(grant).is_ok() && covers(grant, asked) && matches(asked, topic) {
        assert!(matches(grant, topic), "{grant:?} does not cover {asked:?}: {topic:?}");
    }
}

/// A whole configuration: any of the three files.
pub fn toml(data: &[u8]) {
    // Reading the shipped profiles again for each input would be most of the work.
    static PROFILES: LazyLock<Profiles> = LazyLock::new(Profiles::shipped);
    let text = String::from_utf8_lossy(data).into_owned();
    let source = || Source { name: "fuzz.toml".into(), text: text.clone() };
    let sources = |which| Sources {
        main: (which == 0).then(source),
        access: (which == 1).then(source),
        devices: (which == 2).then(source).into_iter().collect(),
        profiles: PROFILES.clone(),
        problems: Vec::new(),
    };
    for which in 0..3 {
        if let Err(problems) = Config::check(sources(which)) {
            assert!(!problems.is_empty());
            problems.iter().for_each(|problem| assert!(!problem.to_string().is_empty()));
        }
    }
}

/// A stream of frames of each framing, from either side, and the PDU in each.
pub fn modbus_frames(data: &[u8]) {
    for framing in [Framing::Tcp, Framing::Rtu, Framing::Ascii] {
        for side in [Side::Request, Side::Reply] {
            let mut buffer = BytesMut::from(data);
            loop {
                let before = buffer.len();
                let Step::Frame(found) = frame::decode(framing, side, &mut buffer) else { break };
                assert!(buffer.len() < before, "a frame of no bytes");
                let mut written = BytesMut::new();
                frame::encode(framing, found.transaction, found.unit, &found.pdu, &mut written);
                assert_eq!(
                    frame::decode(framing, side, &mut written),
                    Step::Frame(found.clone()),
                    "{framing:?} {side:?}"
                );
                answers(&found.pdu);
            }
        }
    }
    answers(data);
}

fn answers(reply: &[u8]) {
    pdu::registers(reply);
    pdu::bit(reply, 3);
    pdu::file_registers(reply);
    pdu::identification(reply);
    let asked = pdu::Request::custom(reply);
    let _ = (asked.function(), asked.reply_len(), asked.is_answered_by(reply));
    let read = pdu::Request::custom(&[3, 0, 0, 0, 2]);
    if read.is_answered_by(reply) && reply.first() == Some(&3) {
        assert_eq!(pdu::registers(reply).len(), 2);
    }
}

static POINTS: LazyLock<Vec<Arc<Point>>> = LazyLock::new(super::corpus::points);

/// Registers read as each kind of value there is in the shipped profiles, and what came of it written again.
pub fn modbus_values(data: &[u8]) {
    let words: Vec<u16> = data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let exponent = data.first().map(|byte| i32::from(*byte as i8));
    for point in POINTS.iter() {
        for exponent in [None, exponent] {
            if let Ok(value) = codec::decode(point, &words, exponent) {
                if let Value::Float(number) = value {
                    assert!(number.is_finite(), "{number} is no number");
                }
                let _ = codec::encode(point, &value, exponent);
            }
        }
        let number = f64::from_bits(data.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte)));
        for value in [
            Value::Float(number),
            Value::Int(number.to_bits() as i64),
            Value::Text(String::from_utf8_lossy(data).into()),
        ] {
            let _ = codec::encode(point, &value, exponent);
        }
    }
}

pub fn coap(data: &[u8]) {
    let Some(message) = Message::parse(data) else { return };
    let _ = (message.path(), message.queries(), message.query("q"), message.kind(), message.token());
    let Some(bytes) = message.to_bytes() else { return };
    let again = Message::parse(&bytes).expect("our own datagram");
    assert_eq!((again.code(), again.id(), again.payload()), (message.code(), message.id(), message.payload()));
    assert_eq!((again.path(), again.token()), (message.path(), message.token()));
}

pub fn formats(data: &[u8]) {
    for format in [Format::Text, Format::Json, Format::Cbor, Format::SenmlJson, Format::SenmlCbor] {
        if let Ok(json) = formats::to_contract(format, data, NOW) {
            let bytes = formats::to_cbor(&json).expect("JSON can be written as CBOR");
            if let Ok(formats::Body::Document(again)) = formats::decode(Format::Cbor, &bytes, NOW) {
                // Whole numbers may come back in another form; the shape stays.
                assert_eq!(again.is_object(), json.is_object());
            }
        }
    }
}

pub fn telemetry(data: &[u8]) {
    let Ok(message) = takes::parse(data) else { return };
    for set in &message.sets {
        let body = set.body();
        let json: Json = serde_json::from_slice(&body).expect("a record body is JSON");
        assert!(json["values"].as_object().is_some_and(|values| !values.is_empty()), "{json}");
    }
}

pub fn shadows(data: &[u8]) {
    let limits = Limits::default();
    token_of(data);
    if let Some(document) = Document::decode(data, 1).ok().filter(exact) {
        let again = Document::decode(&document.encode(), 1).expect("our own document");
        assert_eq!(again, document);
    }
    let Ok(request) = Request::parse(data, &limits) else { return };
    let Ok(outcome) = merge(&Slot::Absent, request.clone(), NOW, &limits) else { return };
    let document = outcome.current.clone();
    if exact(&document) {
        assert_eq!(Document::decode(&document.encode(), document.version).as_ref(), Ok(&*document));
    }
    assert!(document.state_bytes() <= limits.state_bytes);
    for answer in [outcome.accepted(), outcome.documents()] {
        serde_json::from_slice::<Json>(&answer).expect("an answer is JSON");
    }
    outcome.changes(10);
    // The same once more changes nothing but the version and the stamps.
    let unversioned = Request { version: None, ..request };
    let again = merge(&Slot::Live(document.clone()), unversioned, NOW, &limits).expect("the same again");
    assert!(
        again.current.desired.same_values(&document.desired) && again.current.reported.same_values(&document.reported)
    );
}

/// Whether serde_json reads every number of it as it writes it; some of seventeen digits come back a last digit off.
fn exact(document: &Document) -> bool {
    [document.desired(), document.reported()].into_iter().all(|section| {
        let text = serde_json::to_vec(&section).expect("JSON");
        serde_json::from_slice::<serde_json::Map<String, Json>>(&text).is_ok_and(|again| again == section)
    })
}

pub fn jobs(data: &[u8]) {
    if let Ok(order) = serde_json::from_slice::<JobOrder>(data)
        && let Ok(definition) = Definition::read(&order)
    {
        for attempt in [0, 1, 7, u32::MAX] {
            assert!(definition.retry_after(attempt) >= 0);
        }
    }
    let mut queue = Queue::default();
    let document = serde_json::from_slice(data).unwrap_or_else(|_| serde_json::json!({"a": 1}));
    let given = Given { job_id: "j1".into(), document, minutes: Some(5), retries: 1 };
    if given.check().is_ok() {
        queue.give(given, NOW);
    }
    for topic in [
        JobsTopic::Get,
        JobsTopic::StartNext,
        JobsTopic::Describe("j1".into()),
        JobsTopic::Describe("$next".into()),
        JobsTopic::Update("j1".into()),
    ] {
        let _ = queue.request(&topic, data, NOW);
    }
    queue.expire(NOW.plus(600_000));
    let _ = (queue.next(), queue.next_end());
}
