//! The CoAP door as libcoap's client meets it: what is stored is answered, what is not allowed is not, nothing breaks it.

use std::{io::Write, net::SocketAddr, path::PathBuf, process::Command, sync::Arc, time::Duration};

use headgate::{
    bus::{ChildEvent, ChildEvents, FetchKind, ImagePiece, Inbound, TurnedAway, UpdateAsk},
    config::{coap::Server, read::Document},
    drivers::coap::server::{ServerPorts, run_on},
    model::{
        command::{Refusal, RefusalCode},
        device::{Lifecycle, Lives, Protocol},
        ids::DeviceId,
        topic::ChildTopic,
    },
    tasks::Tasks,
};
use serde_json::{Value as Json, json};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
};

const TOKEN: &str = "correct-horse-battery";

fn libcoap(name: &str) -> PathBuf {
    let names = [name.to_owned(), format!("{name}-notls"), format!("{name}-openssl"), format!("{name}-gnutls")];
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = || path.split(':').map(PathBuf::from);
    let found = names.iter().flat_map(|name| folders().map(move |folder| folder.join(name))).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: apt-get install libcoap3-bin"))
}

/// A gateway around the door: a keeper that takes what is an object, and an image on offer.
struct Gateway {
    address: SocketAddr,
    stored: mpsc::UnboundedReceiver<(String, ChildTopic, Json)>,
    events: mpsc::Receiver<ChildEvent>,
    image: Arc<Vec<u8>>,
    lives: watch::Sender<Arc<Lives>>,
    turned_away: mpsc::Receiver<TurnedAway>,
    tasks: Tasks,
}

async fn gateway() -> Gateway {
    let text = format!(
        "listen = \"127.0.0.1:0\"\nunprotected = [\"s1\", \"s2\"]\nlargest = \"32KiB\"\n[tokens]\ns2 = \"{TOKEN}\"\n"
    );
    let document = Document::parse("headgate.toml", &text);
    let server = Server::read(&document.root());
    assert!(document.into_problems().is_empty());
    let (_config, config) = watch::channel(Arc::new(server));
    let (inbound, mut inbound_in) = mpsc::channel::<Vec<Inbound>>(16);
    let (fetch, mut fetch_in) = mpsc::channel::<headgate::bus::Fetch>(16);
    let (updates, mut updates_in) = mpsc::channel(16);
    let (children, events) = mpsc::channel(1024);
    let (store, stored) = mpsc::unbounded_channel();
    let tasks = Tasks::new();
    tasks.spawn("keeper", async move {
        while let Some(batch) = inbound_in.recv().await {
            for inbound in batch {
                let parsed: Result<Json, _> = serde_json::from_slice(&inbound.payload);
                let verdict = match parsed {
                    Ok(json) if json.is_object() || json.is_array() => {
                        let _ = store.send((inbound.device.to_string(), inbound.topic, json));
                        Ok(())
                    }
                    Ok(_) => Err(Refusal::new(RefusalCode::PayloadInvalid, "expected an object of values")),
                    Err(error) => Err(Refusal::new(RefusalCode::PayloadInvalid, format!("not JSON: {error}"))),
                };
                let _ = inbound.reply.send(verdict);
            }
        }
    });
    tasks.spawn("fetches", async move {
        while let Some(fetch) = fetch_in.recv().await {
            let answer = match fetch.what {
                FetchKind::Delta => json!({ "setpoint": 21 }),
                FetchKind::Config => Json::Null,
                FetchKind::Commands => {
                    (0..40).map(|n| json!({ "name": "blink", "commandId": format!("c{n}") })).collect()
                }
            };
            let _ = fetch.reply.send(Ok(answer));
        }
    });
    let image: Arc<Vec<u8>> = Arc::new((0..150_001u32).map(|i| (i * 7 % 251) as u8).collect());
    let shared = image.clone();
    tasks.spawn("updates", async move {
        while let Some(ask) = updates_in.recv().await {
            match ask {
                UpdateAsk::Offer { reply, .. } => {
                    let _ = reply.send(Ok(json!({ "jobId": "j1", "url": "http://gateway/v1/firmware/ab" })));
                }
                UpdateAsk::Piece { offset, length, reply, .. } => {
                    let start = (offset as usize).min(shared.len());
                    let end = (start + length as usize).min(shared.len());
                    let bytes = shared[start..end].to_vec().into();
                    let sha256 = "ab".repeat(32).into();
                    let _ = reply.send(Ok(ImagePiece { sha256, total: shared.len() as u64, bytes }));
                }
                _ => {}
            }
        }
    });
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("port");
    let address = socket.local_addr().expect("address");
    let (lives, who) = watch::channel(Arc::new(Lives::new([], Lifecycle::Active)));
    let (turned_away_in, turned_away) = mpsc::channel(16);
    let children = ChildEvents::new(vec![children]);
    let ports = ServerPorts { inbound, children, fetch, updates, lives: who, turned_away: turned_away_in };
    let stop = tasks.stopping();
    tasks.spawn("door", async move {
        tokio::select! {
            ended = run_on(socket, config, &ports) => ended.expect("door"),
            () = stop.cancelled() => {}
        }
    });
    Gateway { address, stored, events, image, lives, turned_away, tasks }
}

impl Gateway {
    fn url(&self, path: &str) -> String {
        format!("coap://{}/{path}", self.address)
    }

    async fn client(&self, arguments: &[&str], path: &str) -> String {
        let mut command = Command::new(libcoap("coap-client"));
        command.args(["-B", "20"]).args(arguments).arg(self.url(path));
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("ran").expect("coap-client");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    fn live(&self, known: &[(&str, Lifecycle)], newcomers: Lifecycle) {
        let known: Vec<_> = known.iter().map(|(id, life)| (DeviceId::new(id).expect("an id"), *life)).collect();
        let lives = Lives::new(known.iter().map(|(id, life)| (id, *life)), newcomers);
        self.lives.send_replace(Arc::new(lives));
    }

    fn took(&mut self) -> Option<(String, ChildTopic, Json)> {
        self.stored.try_recv().ok()
    }
}

#[tokio::test]
async fn what_a_child_pushes_is_stored_in_every_format_and_the_delta_comes_back() {
    let mut gateway = gateway().await;
    let answer = gateway.client(&["-m", "post", "-t", "50", "-e", "{\"temp\":21.5}"], "devices/s1/telemetry").await;
    assert!(answer.contains("\"setpoint\":21"), "the delta travels in the answer: {answer}");
    assert_eq!(gateway.took(), Some(("s1".into(), ChildTopic::Telemetry, json!({"temp": 21.5}))));
    gateway.client(&["-m", "put", "-e", "{\"reported\":{\"mode\":\"eco\"}}"], "devices/s1/state").await;
    assert_eq!(gateway.took(), Some(("s1".into(), ChildTopic::State, json!({"reported": {"mode": "eco"}}))));
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::File::create(&path).and_then(|mut f| f.write_all(bytes)).expect("written");
        path.to_string_lossy().into_owned()
    };
    // {"temp": 21.5, "n": 3}
    let cbor = file("cbor", &[0xa2, 0x64, b't', b'e', b'm', b'p', 0xf9, 0x4d, 0x60, 0x61, b'n', 0x03]);
    gateway.client(&["-m", "post", "-t", "60", "-f", &cbor], "devices/s1/telemetry").await;
    assert_eq!(gateway.took().expect("stored").2, json!({"temp": 21.5, "n": 3}));
    let senml = r#"[{"bn":"urn:dev:mac:0024befffe804ff1:","bt":1760000000,"n":"temp","v":20.5},{"n":"rh","v":40}]"#;
    gateway.client(&["-m", "post", "-t", "110", "-e", senml], "devices/s1/telemetry").await;
    let sets = json!([{"ts": 1_760_000_000_000_i64, "values": {"temp": 20.5, "rh": 40}}]);
    assert_eq!(gateway.took().expect("stored").2, sets);
    // [{0: "temp", 2: 1.5}]
    let senml = file("senml", &[0x81, 0xa2, 0x00, 0x64, b't', b'e', b'm', b'p', 0x02, 0xf9, 0x3e, 0x00]);
    gateway.client(&["-m", "post", "-t", "112", "-f", &senml], "devices/s1/state").await;
    assert_eq!(gateway.took().expect("stored").2, json!({"reported": {"temp": 1.5}}));
    let readings: Vec<Json> = (0..400).map(|n| json!({"ts": 1_760_000_000_000_i64 + n, "values": {"n": n}})).collect();
    let large = file("large", json!(readings).to_string().as_bytes());
    gateway.client(&["-m", "post", "-t", "50", "-f", &large], "devices/s1/telemetry").await;
    assert_eq!(gateway.took().expect("stored").2, json!(readings), "18 kB in blocks");
    assert!(matches!(gateway.events.recv().await, Some(ChildEvent::Connected { protocol: "coap", .. })));
    gateway.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_a_reason() {
    let mut gateway = gateway().await;
    let post = |payload: &'static str, path: &'static str| (["-m", "post", "-e", payload], path);
    for ((arguments, path), expected) in [
        (post("{}", "devices/stranger/telemetry"), "4.01"),
        (post("{}", "devices/s2/telemetry"), "4.01"),
        (post("{}", "devices/s2/telemetry?token=wrong"), "4.01"),
        (post("5", "devices/s1/telemetry"), "expected an object"),
        (post("{broken", "devices/s1/telemetry"), "not JSON"),
        (post("{}", "devices/s1/delta"), "4.05"),
        (post("{}", "devices/s1/nothing"), "4.04"),
        (post("{}", "elsewhere"), "4.04"),
    ] {
        let answer = gateway.client(&arguments, path).await;
        assert!(answer.contains(expected), "{path}: {answer}");
    }
    assert!(gateway.client(&["-m", "post", "-t", "0", "-e", "5"], "devices/s1/telemetry").await.contains("4.15"));
    assert!(gateway.client(&["-m", "post", "-t", "60", "-e", "5x"], "devices/s1/telemetry").await.contains("4.00"));
    assert!(gateway.client(&["-m", "delete"], "devices/s1/telemetry").await.contains("4.05"));
    assert!(gateway.client(&["-m", "get"], "devices/s1/config").await.contains("4.04"));
    assert!(gateway.client(&["-m", "get", "-A", "42"], "devices/s1/delta").await.contains("4.06"));
    let folder = tempfile::tempdir().expect("folder");
    let large = folder.path().join("large");
    std::fs::write(&large, vec![b'5'; 40_000]).expect("written");
    let large = large.to_string_lossy();
    assert!(gateway.client(&["-m", "post", "-f", &large], "devices/s1/telemetry").await.contains("4.13"));
    assert_eq!(gateway.took(), None, "nothing of this was stored");
    gateway.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn a_device_that_may_not_talk_is_told_so_until_it_may() {
    use Lifecycle::{Active, Decommissioned, Maintenance, Pending, Quarantined, Suspended};
    let mut gateway = gateway().await;
    let requests: [(&[&str], &str); 5] = [
        (&["-m", "post", "-e", "{\"n\":1}"], "telemetry"),
        (&["-m", "put", "-e", "5"], "state"),
        (&["-m", "get"], "delta"),
        (&["-m", "get"], "firmware"),
        (&["-m", "get"], "nothing"),
    ];
    for life in [Suspended, Quarantined, Decommissioned, Pending] {
        gateway.live(&[("s1", life), ("s2", life)], Active);
        for (arguments, what) in requests {
            for path in [format!("devices/s1/{what}"), format!("devices/s2/{what}?token={TOKEN}")] {
                let answer = gateway.client(arguments, &path).await;
                let word = format!("this device is {life:?}").to_lowercase();
                assert!(answer.contains("4.03") && answer.contains(&word), "{path}, {life:?}: {answer}");
                let refused = gateway.turned_away.try_recv().expect("listed");
                assert_eq!((refused.device.as_str(), refused.reason), (&path[8..10], "not-active"));
                assert!(refused.text.contains(&format!("{life:?}")), "{}", refused.text);
            }
        }
        // Who it is comes first: a stranger does not learn how it stands with a device.
        let answer = gateway.client(requests[0].0, "devices/s2/telemetry?token=wrong").await;
        assert!(answer.contains("4.01") && !answer.contains("this device"), "{answer}");
        assert_eq!(gateway.turned_away.try_recv().expect("listed").reason, "bad-credentials");
    }
    assert_eq!(gateway.took(), None, "nothing of this was stored");
    while let Ok(event) = gateway.events.try_recv() {
        assert!(matches!(event, ChildEvent::Waiting { .. }), "and nobody was heard: {event:?}");
    }
    gateway.live(&[("s1", Maintenance), ("s2", Active)], Pending);
    for path in ["devices/s1/telemetry", &format!("devices/s2/telemetry?token={TOKEN}")] {
        let answer = gateway.client(requests[0].0, path).await;
        assert!(!answer.contains("4.0"), "{answer}");
        assert!(gateway.took().is_some(), "{path}");
    }
    gateway.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn whoever_waits_for_approval_is_announced_and_stored_from_the_first_message_after_it() {
    let mut gateway = gateway().await;
    let post: [&str; 4] = ["-m", "post", "-e", "{\"n\":1}"];
    gateway.live(&[], Lifecycle::Pending);
    assert!(gateway.client(&post, "devices/s1/telemetry").await.contains("4.03"), "the first");
    let event = gateway.events.try_recv();
    assert!(matches!(event, Ok(ChildEvent::Waiting { protocol: Protocol::Coap, .. })), "{event:?}");
    gateway.live(&[("s1", Lifecycle::Pending)], Lifecycle::Pending);
    assert!(gateway.client(&post, "devices/s1/telemetry").await.contains("4.03"), "the second");
    assert!(gateway.events.try_recv().is_err(), "it is known");
    assert_eq!(gateway.took(), None);
    gateway.live(&[("s1", Lifecycle::Active)], Lifecycle::Pending);
    assert!(!gateway.client(&post, "devices/s1/telemetry").await.contains("4.0"));
    assert!(gateway.took().is_some());
    gateway.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn what_waits_for_a_child_is_fetched_in_blocks() {
    let gateway = gateway().await;
    assert!(gateway.client(&["-m", "get"], "devices/s1/delta").await.contains("{\"setpoint\":21}"));
    let commands = gateway.client(&["-m", "get"], "devices/s1/commands").await;
    assert!(commands.contains("\"c0\"") && commands.contains("\"c39\""), "{commands}");
    let offer = gateway.client(&["-m", "get"], "devices/s1/update").await;
    assert!(offer.contains("\"/devices/s1/firmware\""), "{offer}");
    assert!(gateway.client(&["-m", "get"], ".well-known/core").await.contains("headgate.inbox"));
    let filtered = gateway.client(&["-m", "get"], ".well-known/core?rt=headgate.devices").await;
    assert!(filtered.contains("headgate.devices") && !filtered.contains("headgate.inbox"), "{filtered}");
    let folder = tempfile::tempdir().expect("folder");
    for path in ["devices/s1/firmware", &format!("devices/s2/firmware?token={TOKEN}")] {
        let image = folder.path().join("image");
        let file = image.to_string_lossy().into_owned();
        gateway.client(&["-m", "get", "-o", &file], path).await;
        assert!(std::fs::read(&image).expect("image") == *gateway.image, "{path}");
    }
    gateway.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn garbage_stops_nothing_and_nobody_is_flooded() {
    let mut gateway = gateway().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    let mut seed = 12_345u32;
    let mut random = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) as u8
    };
    let (mut out, mut back) = (0, 0);
    let mut buffer = [0; 4096];
    for round in 0..3_000u32 {
        let length = usize::from(random()) % 80;
        let mut datagram: Vec<u8> = (0..length).map(|_| random()).collect();
        if round % 3 == 0 && length > 4 {
            // Looks like CoAP: version 1, confirmable, a GET with a token of two bytes.
            datagram[..2].copy_from_slice(&[0x42, 0x01]);
        }
        let _ = socket.send_to(&datagram, gateway.address).await;
        out += datagram.len();
        if round % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while let Ok(length) = socket.try_recv(&mut buffer) {
            back += length;
        }
    }
    // A well-formed GET from somebody unknown: at most three times its size comes back.
    let request = b"\x41\x01\x77\x77\x01\xbb.well-known\x04core";
    socket.send_to(request, gateway.address).await.expect("sent");
    let answer = loop {
        let received = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await;
        let length = received.expect("in time").expect("answer");
        if buffer[2..4] == [0x77, 0x77] {
            break length;
        }
        back += length;
    };
    assert!(answer <= 3 * request.len(), "{answer} bytes for {}", request.len());
    assert!(back <= 3 * out, "{back} bytes back for {out}");
    let answer = gateway.client(&["-m", "post", "-e", "{\"alive\":true}"], "devices/s1/telemetry").await;
    assert!(!answer.contains("4."), "{answer}");
    assert_eq!(gateway.took().expect("stored").2, json!({"alive": true}));
    gateway.tasks.stop_and_wait().await;
}
