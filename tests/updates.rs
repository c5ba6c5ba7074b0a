//! Updates end to end at the room's edge: orders in, a real HTTP server with Range behind, a broker's inbox in front.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use headgate::{
    bus::{ChildEvent, Events, LocalMessage, Order, OrderKind, UpdateAsk},
    config::updates::{PublicKey, Updates as Config},
    identity::{Identity, Issue},
    model::{
        command::{Door, Refusal},
        ids::DeviceId,
        record::Lane,
        time::Millis,
        update::{ChildUpdate, Stage, UpdateOrder, UpdateProgress, UpdateStatus},
    },
    store::{Store, WriterThread},
    tasks::Tasks,
    updates::{self, Ports, Settings, Updates},
};
use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, oneshot};

const SOON: Duration = Duration::from_secs(20);

/// A firmware server that can be told to misbehave.
#[derive(Default)]
struct Manners {
    /// Ends each answer after so many bytes of body.
    cut_after: Mutex<Option<usize>>,
    weak: AtomicBool,
    /// Answers with this status instead.
    status: Mutex<Option<u16>>,
    requests: AtomicUsize,
    ranges: Mutex<Vec<Option<String>>>,
    image: Mutex<Vec<u8>>,
}

fn serve(image: Vec<u8>) -> (String, Arc<Manners>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let url = format!("http://{}/fw.bin", listener.local_addr().expect("address"));
    let manners = Arc::new(Manners { image: Mutex::new(image), ..Manners::default() });
    let shared = manners.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = shared.clone();
            std::thread::spawn(move || answer(stream, &shared));
        }
    });
    (url, manners)
}

fn answer(mut stream: TcpStream, manners: &Manners) -> Option<()> {
    let mut range = None;
    let mut if_range = None;
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.trim().to_owned()),
            "if-range" => if_range = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    manners.requests.fetch_add(1, Ordering::SeqCst);
    manners.ranges.lock().expect("lock").push(range.clone());
    let image = manners.image.lock().expect("lock").clone();
    if let Some(status) = *manners.status.lock().expect("lock") {
        let _ = write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return Some(());
    }
    let strong = format!("\"{}\"", &hex::encode(digest::digest(&digest::SHA256, &image))[..12]);
    let etag = if manners.weak.load(Ordering::SeqCst) { format!("W/{strong}") } else { strong };
    let start = range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let start = start.filter(|start| *start < image.len() && if_range.as_deref().is_none_or(|tag| tag == etag));
    let body = &image[start.unwrap_or(0)..];
    let (status, extra) = match start {
        Some(start) => ("206 Partial", format!("Content-Range: bytes {start}-{}/{}\r\n", image.len() - 1, image.len())),
        None => ("200 OK", String::new()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: {etag}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .ok()?;
    let cut = manners.cut_after.lock().expect("lock").unwrap_or(usize::MAX).min(body.len());
    stream.write_all(&body[..cut]).ok()
}

struct Gateway {
    store: Store,
    writer: Option<WriterThread>,
    tasks: Tasks,
    updates: Updates,
    orders: mpsc::Sender<Order>,
    reports: mpsc::Sender<(DeviceId, UpdateProgress)>,
    asks: mpsc::Sender<UpdateAsk>,
    children: mpsc::Sender<ChildEvent>,
    local: mpsc::Receiver<LocalMessage>,
}

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("seed")
}

fn public(seed: u8) -> PublicKey {
    PublicKey(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

fn signed(url: &str, image: &[u8], job: &str) -> UpdateOrder {
    let digest = digest::digest(&digest::SHA256, image);
    UpdateOrder {
        job_id: job.into(),
        target_version: "2.0".into(),
        url: url.into(),
        size: image.len() as u64,
        sha256: hex::encode(digest),
        signature: Some(STANDARD.encode(pair(1).sign(digest.as_ref()))),
        deadline: None,
    }
}

fn image() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).take(900_001).collect()
}

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).expect("id")
}

impl Gateway {
    async fn start(folder: &Path) -> Gateway {
        let config = Config { keys: vec![public(1)], keep_free: 0, ..Config::default() };
        Self::with(folder, config).await
    }

    async fn with(folder: &Path, config: Config) -> Gateway {
        let (store, writer) = Store::open(folder).expect("store");
        let tasks = Tasks::new();
        let (orders, orders_in) = mpsc::channel(16);
        let (reports, reports_in) = mpsc::channel(16);
        let (asks, asks_in) = mpsc::channel(16);
        let (children, children_in) = mpsc::channel(16);
        let (local_out, local) = mpsc::channel(16);
        let ports = Ports {
            orders: orders_in,
            reports: reports_in,
            asks: asks_in,
            children: children_in,
            local: local_out,
            events: Events::new(),
            store: store.clone(),
        };
        let settings = Settings { config, folder: folder.join("firmware"), base_url: "http://10.0.0.1:8080".into() };
        let updates = updates::start(settings, ports, &tasks).await.expect("start");
        Gateway { store, writer: Some(writer), tasks, updates, orders, reports, asks, children, local }
    }

    async fn stop(mut self) {
        self.tasks.stop_and_wait().await;
        self.store.stop().await;
        self.writer.take().expect("thread").join();
    }

    async fn order(&self, name: &str, order: UpdateOrder) -> Result<Json, Refusal> {
        let (reply, answer) = oneshot::channel();
        let order = Order { device: device(name), door: Door::Cloud, what: OrderKind::Update(order), reply };
        self.orders.send(order).await.expect("room");
        answer.await.expect("answer")
    }

    /// Waits until the child's update is as `wanted`.
    async fn until(&self, name: &str, wanted: impl Fn(&ChildUpdate) -> bool) -> ChildUpdate {
        let mut view = self.updates.watch();
        let found = view.wait_for(|all| all.iter().any(|u| u.device.as_str() == name && wanted(u)));
        let found = tokio::time::timeout(SOON, found).await;
        match found {
            Ok(found) => {
                found.expect("room").iter().find(|u| u.device.as_str() == name && wanted(u)).cloned().expect("found")
            }
            Err(_) => panic!("not in time: {:#?}", self.updates.status()),
        }
    }

    async fn stage(&self, name: &str, stage: Stage) -> ChildUpdate {
        self.until(name, |update| update.stage == stage).await
    }

    async fn heard(&mut self) -> (String, Json) {
        let message = tokio::time::timeout(SOON, self.local.recv()).await.expect("in time").expect("open");
        (message.topic, serde_json::from_slice(&message.payload).expect("json"))
    }

    async fn piece(&self, name: &str, offset: u64, length: u32) -> Result<headgate::bus::ImagePiece, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(UpdateAsk::Piece { device: device(name), offset, length, reply }).await.expect("room");
        answer.await.expect("answer")
    }

    async fn whole(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let piece = self.piece(name, bytes.len() as u64, 40_000).await.expect("piece");
            bytes.extend_from_slice(&piece.bytes);
            if bytes.len() as u64 == piece.total {
                return bytes;
            }
        }
    }

    /// What went up as `update/status`.
    async fn up(&self) -> Vec<Json> {
        let records = self.store.read_after(Lane::Urgent, 0, 1000, 1 << 20).await.expect("log");
        records.iter().map(|r| serde_json::from_slice(&r.record.body).expect("json")).collect()
    }

    async fn reports(&self, name: &str, status: UpdateStatus, progress: Option<u8>, to: Option<&str>) {
        let said = UpdateProgress {
            device: None,
            job_id: None,
            from: Some("1.0".into()),
            to: to.map(str::to_owned),
            status,
            progress,
            error: None,
        };
        self.reports.send((device(name), said)).await.expect("room");
    }
}

#[tokio::test]
async fn an_image_is_fetched_once_offered_and_completed_by_evidence() {
    let folder = tempfile::tempdir().expect("folder");
    let (url, server) = serve(image());
    let mut gateway = Gateway::start(folder.path()).await;
    gateway.order("a", signed(&url, &image(), "j1")).await.expect("stored");
    gateway.order("b", signed(&url, &image(), "j2")).await.expect("stored");
    let again = gateway.order("a", signed(&url, &image(), "j1")).await.expect("idempotent");
    assert_eq!(again["jobId"], "j1");
    gateway.stage("a", Stage::Offered).await;
    gateway.stage("b", Stage::Offered).await;
    assert_eq!(server.requests.load(Ordering::SeqCst), 1, "one fetch for two children");
    let (topic, offer) = gateway.heard().await;
    assert!(topic == "devices/a/update/command" || topic == "devices/b/update/command", "{topic}");
    let sha256 = signed(&url, &image(), "").sha256;
    assert_eq!(offer["url"], format!("http://10.0.0.1:8080/v1/firmware/{sha256}"));
    assert_eq!(offer["size"], image().len());
    gateway.heard().await;
    let subscribed = ChildEvent::Subscribed { device: device("a"), filter: "devices/a/#".into(), at: Millis(0) };
    gateway.children.send(subscribed).await.expect("room");
    assert_eq!(gateway.heard().await.0, "devices/a/update/command", "the offer is a level");
    assert!(gateway.whole("a").await == image());
    gateway.reports("a", UpdateStatus::Installing, Some(40), None).await;
    let installing = gateway.stage("a", Stage::Installing).await;
    assert_eq!((installing.progress, installing.from.as_deref()), (Some(40), Some("1.0")));
    let refused = gateway.updates.cancel(device("a"), "ann").await.expect_err("too late to cancel");
    assert!(refused.message.contains("begun"), "{refused}");
    let running = UpdateAsk::Running { device: device("a"), version: "2.0".into() };
    gateway.asks.send(running).await.expect("room");
    gateway.stage("a", Stage::Completed).await;
    gateway.updates.cancel(device("b"), "ann").await.expect("cancelled");
    gateway.stage("b", Stage::Cancelled).await;
    assert!(gateway.piece("b", 0, 10).await.is_err(), "no offer, no bytes");
    let up = gateway.up().await;
    assert_eq!(up[0]["status"], "completed");
    assert_eq!(up[1]["error"], "cancelled by ann");
    gateway.stop().await;
}

#[tokio::test]
async fn a_cut_transfer_goes_on_where_it_stood_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let (url, server) = serve(image());
    *server.cut_after.lock().expect("lock") = Some(300_000);
    let gateway = Gateway::start(folder.path()).await;
    gateway.order("a", signed(&url, &image(), "j1")).await.expect("stored");
    gateway.until("a", |u| u.stage == Stage::Waiting && u.error.is_some()).await;
    gateway.stop().await;
    let gateway = Gateway::start(folder.path()).await;
    gateway.stage("a", Stage::Offered).await;
    assert!(gateway.whole("a").await == image());
    let ranges = server.ranges.lock().expect("lock").clone();
    assert_eq!(ranges[..2], [None, Some("bytes=300000-".to_owned())], "{ranges:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn without_a_strong_etag_or_with_a_changed_image_the_head_is_not_reused() {
    for weak in [true, false] {
        let folder = tempfile::tempdir().expect("folder");
        let mut other = image();
        other[5] ^= 1;
        let (url, server) = serve(if weak { image() } else { other });
        server.weak.store(weak, Ordering::SeqCst);
        *server.cut_after.lock().expect("lock") = Some(300_000);
        let gateway = Gateway::start(folder.path()).await;
        gateway.order("a", signed(&url, &image(), "j1")).await.expect("stored");
        gateway.until("a", |u| u.stage == Stage::Waiting && u.error.is_some()).await;
        *server.image.lock().expect("lock") = image();
        *server.cut_after.lock().expect("lock") = None;
        gateway.stage("a", Stage::Offered).await;
        assert!(gateway.whole("a").await == image());
        gateway.stop().await;
    }
}

#[tokio::test]
async fn what_is_unsigned_altered_or_of_another_size_is_refused_where_the_cloud_sees_it() {
    let folder = tempfile::tempdir().expect("folder");
    let mut altered = image();
    altered[450_000] ^= 0x10;
    let (url, server) = serve(altered.clone());
    let gateway = Gateway::start(folder.path()).await;
    let good = signed(&url, &image(), "x");
    let unsigned = UpdateOrder { signature: None, job_id: "unsigned".into(), ..good.clone() };
    let digest = digest::digest(&digest::SHA256, &image());
    let foreign = STANDARD.encode(pair(2).sign(digest.as_ref()));
    let foreign = UpdateOrder { signature: Some(foreign), job_id: "foreign".into(), ..good.clone() };
    assert!(gateway.order("a", unsigned).await.expect_err("unsigned").message.contains("not signed"));
    assert!(gateway.order("b", foreign).await.expect_err("foreign").message.contains("trusted keys"));
    assert_eq!(server.requests.load(Ordering::SeqCst), 0, "nothing is fetched for them");
    gateway.order("c", UpdateOrder { job_id: "altered".into(), ..good.clone() }).await.expect("stored");
    let failed = gateway.stage("c", Stage::Failed).await;
    assert!(failed.error.as_ref().expect("why").contains("SHA-256"), "{failed:?}");
    let mut longer = signed(&url, &image(), "longer");
    longer.size += 1;
    gateway.order("d", longer).await.expect("stored");
    let failed = gateway.stage("d", Stage::Failed).await;
    assert!(failed.error.as_ref().expect("why").contains("has 900001 bytes, ordered were 900002"), "{failed:?}");
    *server.status.lock().expect("lock") = Some(404);
    gateway.order("e", signed(&url, b"another", "gone")).await.expect("stored");
    assert!(gateway.stage("e", Stage::Failed).await.error.expect("why").contains("404"));
    for name in ["a", "b", "c", "d", "e"] {
        assert!(gateway.piece(name, 0, 10).await.is_err(), "{name} is served nothing");
    }
    let up = gateway.up().await;
    let jobs: Vec<&str> = up.iter().filter_map(|r| r["jobId"].as_str()).collect();
    assert_eq!(jobs, ["unsigned", "foreign", "altered", "longer", "gone"]);
    assert!(up.iter().all(|r| r["status"] == "failed" && r["error"].is_string()), "{up:#?}");
    gateway.stop().await;
}

#[tokio::test]
async fn an_image_altered_on_disk_is_not_served_and_fetched_anew() {
    let folder = tempfile::tempdir().expect("folder");
    let (url, server) = serve(image());
    let gateway = Gateway::start(folder.path()).await;
    let order = signed(&url, &image(), "j1");
    let (head, tail) = order.sha256.split_at(2);
    let path = folder.path().join("firmware/sha256").join(head).join(tail);
    gateway.order("a", order.clone()).await.expect("stored");
    gateway.stage("a", Stage::Offered).await;
    let mut bytes = std::fs::read(&path).expect("cached");
    bytes[100_000] ^= 1;
    std::fs::write(&path, &bytes).expect("alter");
    // Warm: the very piece is refused. Cold, after a restart: the whole image is.
    let refused = gateway.piece("a", 98_304, 4_096).await.expect_err("altered");
    assert!(refused.message.contains("altered"), "{refused}");
    gateway.until("a", |u| u.stage == Stage::Offered && u.attempts == 2).await;
    assert!(gateway.whole("a").await == image());
    gateway.stop().await;
    std::fs::write(&path, &bytes).expect("alter");
    let gateway = Gateway::start(folder.path()).await;
    gateway.until("a", |u| u.stage == Stage::Offered && u.attempts == 3).await;
    assert!(gateway.whole("a").await == image());
    assert_eq!(server.requests.load(Ordering::SeqCst), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn every_stage_survives_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let (url, server) = serve(image());
    *server.status.lock().expect("lock") = Some(503);
    let gateway = Gateway::start(folder.path()).await;
    gateway.order("a", signed(&url, &image(), "j1")).await.expect("stored");
    gateway.until("a", |u| u.error.as_ref().is_some_and(|e| e.contains("503"))).await;
    gateway.stop().await;
    *server.status.lock().expect("lock") = None;
    let gateway = Gateway::start(folder.path()).await;
    gateway.stage("a", Stage::Offered).await;
    gateway.stop().await;
    let mut gateway = Gateway::start(folder.path()).await;
    let address = None;
    let connected = ChildEvent::Connected { device: device("a"), address, protocol: "mqtt", at: Millis(0) };
    gateway.children.send(connected).await.expect("room");
    assert_eq!(gateway.heard().await.0, "devices/a/update/command");
    gateway.reports("a", UpdateStatus::Rebooting, None, None).await;
    gateway.stage("a", Stage::Installing).await;
    gateway.stop().await;
    let gateway = Gateway::start(folder.path()).await;
    let back = gateway.stage("a", Stage::Installing).await;
    assert_eq!(back.child, Some(UpdateStatus::Rebooting));
    gateway.order("a", signed(&url, &image(), "j2")).await.expect_err("busy with j1");
    gateway.reports("a", UpdateStatus::RolledBack, None, None).await;
    gateway.stage("a", Stage::RolledBack).await;
    gateway.stop().await;
    // Without the key that signed it, an offer is withdrawn at the next start.
    let gateway = Gateway::start(folder.path()).await;
    gateway.order("a", signed(&url, &image(), "j3")).await.expect("stored");
    gateway.stage("a", Stage::Offered).await;
    gateway.stop().await;
    let gateway = Gateway::with(folder.path(), Config { keys: vec![public(2)], ..Config::default() }).await;
    assert!(gateway.stage("a", Stage::Failed).await.error.expect("why").contains("trusted keys"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_wrong_version_at_the_end_is_a_failure_and_a_deadline_ends_the_waiting() {
    let folder = tempfile::tempdir().expect("folder");
    let (url, server) = serve(image());
    let gateway = Gateway::start(folder.path()).await;
    gateway.order("a", signed(&url, &image(), "j1")).await.expect("stored");
    gateway.stage("a", Stage::Offered).await;
    gateway.reports("a", UpdateStatus::Completed, None, Some("1.9")).await;
    assert!(gateway.stage("a", Stage::Failed).await.error.expect("why").contains("1.9"));
    *server.status.lock().expect("lock") = Some(500);
    let deadline = Some(headgate::clock::now().plus(1_500));
    let order = UpdateOrder { deadline, ..signed(&url, b"other", "j2") };
    gateway.order("a", order).await.expect("stored");
    let failed = gateway.until("a", |u| u.order.job_id == "j2" && u.stage == Stage::Failed).await;
    let why = failed.error.expect("why");
    assert!(why.contains("deadline") && why.contains("500"), "{why}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_child_pulls_pieces_over_mqtt() {
    let folder = tempfile::tempdir().expect("folder");
    let (url, _server) = serve(image());
    let mut gateway = Gateway::start(folder.path()).await;
    gateway.order("a", signed(&url, &image(), "j1")).await.expect("stored");
    gateway.stage("a", Stage::Offered).await;
    gateway.heard().await;
    let ask = |payload: Json| {
        let (reply, answer) = oneshot::channel();
        let ask = UpdateAsk::Chunk { device: device("a"), payload: payload.to_string().into(), reply };
        let asks = gateway.asks.clone();
        async move {
            asks.send(ask).await.expect("room");
            answer.await.expect("answer")
        }
    };
    ask(json!({"offset": 65_530, "len": 20, "jobId": "j1"})).await.expect("understood");
    let refused = ask(json!({"offset": 2_000_000, "len": 20})).await.expect_err("beyond the end");
    assert!(refused.message.contains("900001"), "{refused}");
    ask(json!({"offset": "x"})).await.expect_err("nonsense");
    let (topic, chunk) = gateway.heard().await;
    assert_eq!(
        (topic.as_str(), &chunk["total"], &chunk["jobId"]),
        ("devices/a/update/chunk", &json!(900_001), &json!("j1"))
    );
    let data = STANDARD.decode(chunk["data"].as_str().expect("data")).expect("base64");
    assert_eq!(data, image()[65_530..65_550]);
    gateway.stop().await;
}

#[tokio::test]
async fn the_least_recently_used_image_makes_room_and_pinned_ones_stay() {
    let folder = tempfile::tempdir().expect("folder");
    let images: Vec<Vec<u8>> = (0..3u8).map(|n| vec![n; 1000]).collect();
    let (url, server) = serve(images[0].clone());
    let config = Config { keys: vec![public(1)], quota: 2_500, keep_free: 0, ..Config::default() };
    let gateway = Gateway::with(folder.path(), config).await;
    for (number, name) in ["a", "b"].into_iter().enumerate() {
        *server.image.lock().expect("lock") = images[number].clone();
        gateway.order(name, signed(&url, &images[number], name)).await.expect("stored");
        gateway.stage(name, Stage::Offered).await;
    }
    *server.image.lock().expect("lock") = images[2].clone();
    gateway.order("c", signed(&url, &images[2], "c")).await.expect("stored");
    let waiting = gateway.until("c", |u| u.stage == Stage::Waiting && u.error.is_some()).await;
    assert!(waiting.error.expect("why").contains("no room"), "both are pinned");
    gateway.updates.cancel(device("a"), "ann").await.expect("cancelled");
    gateway.stage("c", Stage::Offered).await;
    let kept: Vec<u64> = gateway.updates.cached().await.expect("cache").iter().map(|a| a.size).collect();
    assert_eq!(kept, [1000, 1000]);
    assert!(gateway.whole("b").await == images[1]);
    gateway.stop().await;
}

/// The room's HTTP door as the web room mounts it, and a token for each of two children.
async fn door(gateway: &Gateway, folder: &Path) -> (String, [String; 2]) {
    let config = headgate::config::identity::IdentityConfig::default();
    let identity = Identity::open(gateway.store.clone(), &config, folder, "gateway").await.expect("identity");
    let token = async |name: &str| {
        let issued = identity.issue(&device(name), Issue::Token, "test").await.expect("issued");
        issued.token.expect("token").expose().to_owned()
    };
    let tokens = [token("a").await, token("b").await];
    let router = axum::Router::new().nest("/v1/firmware", updates::http::router(gateway.updates.clone(), identity));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    let stop = gateway.tasks.stopping();
    gateway.tasks.spawn("http", async move {
        let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
        let _ = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await;
    });
    (format!("http://{address}/v1/firmware"), tokens)
}

struct Got {
    status: u16,
    headers: ureq::http::HeaderMap,
    /// `None` where the body broke off.
    body: Option<Vec<u8>>,
}

async fn ask(method: &str, url: String, headers: &[(&str, &str)]) -> Got {
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("request");
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let run = move || {
        let mut response = agent.run(request).expect("answer");
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec().ok();
        Got { status: response.status().as_u16(), headers: response.headers().clone(), body }
    };
    tokio::task::spawn_blocking(run).await.expect("ran")
}

#[tokio::test]
async fn http_serves_an_offer_to_its_child_alone_with_ranges() {
    let folder = tempfile::tempdir().expect("folder");
    let (url, _server) = serve(image());
    let gateway = Gateway::start(folder.path()).await;
    let (base, [a, b]) = door(&gateway, folder.path()).await;
    let order = signed(&url, &image(), "j1");
    let firmware = format!("{base}/{}", order.sha256);
    let (a, b) = (format!("Bearer {a}"), format!("Bearer {b}"));
    let early = ask("GET", firmware.clone(), &[("authorization", &a)]).await;
    assert_eq!(early.status, 404, "nothing is on offer yet");
    gateway.order("a", order.clone()).await.expect("stored");
    gateway.stage("a", Stage::Offered).await;
    let whole = ask("GET", firmware.clone(), &[("authorization", &a)]).await;
    assert_eq!((whole.status, whole.headers["content-length"].to_str().expect("text")), (200, "900001"));
    assert!(whole.body.expect("body") == image());
    let etag = whole.headers["etag"].to_str().expect("text").to_owned();
    let basic = format!("Basic {}", STANDARD.encode(format!("a:{}", a.trim_start_matches("Bearer "))));
    let part = [("authorization", basic.as_str()), ("range", "bytes=65530-65549"), ("if-range", &etag)];
    let part = ask("GET", firmware.clone(), &part).await;
    assert_eq!((part.status, part.headers["content-range"].to_str().expect("text")), (206, "bytes 65530-65549/900001"));
    assert_eq!(part.body.expect("body"), image()[65_530..65_550]);
    let other = [("authorization", a.as_str()), ("range", "bytes=5-"), ("if-range", "\"another\"")];
    assert_eq!(ask("GET", firmware.clone(), &other).await.status, 200, "not continued over another image");
    let beyond = ask("GET", firmware.clone(), &[("authorization", &a), ("range", "bytes=900001-")]).await;
    assert_eq!((beyond.status, beyond.headers["content-range"].to_str().expect("text")), (416, "bytes */900001"));
    let head = ask("HEAD", firmware.clone(), &[("authorization", &a)]).await;
    assert_eq!((head.status, head.body.expect("none").len()), (200, 0));
    assert_eq!(ask("GET", firmware.clone(), &[("authorization", &a), ("if-none-match", &etag)]).await.status, 304);
    assert_eq!(ask("GET", firmware.clone(), &[]).await.status, 401);
    assert_eq!(ask("GET", firmware.clone(), &[("authorization", "Bearer hg1_x.wrong")]).await.status, 401);
    assert_eq!(ask("GET", firmware.clone(), &[("authorization", &b)]).await.status, 404, "not its offer");
    // Altered under our hands: the transfer breaks off before an altered byte.
    let (head, tail) = order.sha256.split_at(2);
    let path = folder.path().join("firmware/sha256").join(head).join(tail);
    let mut bytes = image();
    bytes[500_000] ^= 1;
    std::fs::write(&path, &bytes).expect("alter");
    let broken = ask("GET", firmware, &[("authorization", &a)]).await;
    assert_eq!((broken.status, broken.body), (200, None));
    gateway.stop().await;
}

/// Not a test of its own: the process that [`killed_at_any_moment_it_goes_on_where_it_stood`] kills.
#[tokio::test]
async fn a_process_to_be_killed() {
    let (Ok(folder), Ok(url)) = (std::env::var("TO_BE_KILLED_IN"), std::env::var("TO_BE_KILLED_URL")) else { return };
    let gateway = Gateway::start(Path::new(&folder)).await;
    let _ = gateway.order("a", signed(&url, &image(), "j1")).await;
    println!("ordered");
    gateway.until("a", |_| false).await;
}

#[tokio::test]
async fn killed_at_any_moment_it_goes_on_where_it_stood() {
    let folder = tempfile::tempdir().expect("folder");
    let (url, server) = serve(image());
    *server.cut_after.lock().expect("lock") = Some(100_000);
    for round in 0..8u64 {
        let mut process = std::process::Command::new(std::env::current_exe().expect("self"))
            .args(["--exact", "a_process_to_be_killed", "--nocapture", "--test-threads=1"])
            .env("TO_BE_KILLED_IN", folder.path())
            .env("TO_BE_KILLED_URL", &url)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("self again");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        while let Some(Ok(line)) = lines.next() {
            if line.contains("ordered") {
                break;
            }
        }
        // Kills fall into different moments: this is what the test is about, not waiting for something.
        std::thread::sleep(Duration::from_millis(round * 37));
        process.kill().expect("killed");
        process.wait().expect("ended");
    }
    *server.cut_after.lock().expect("lock") = None;
    let gateway = Gateway::start(folder.path()).await;
    gateway.stage("a", Stage::Offered).await;
    assert!(gateway.whole("a").await == image());
    let history = gateway.updates.history(device("a")).await.expect("history");
    assert_eq!(history.len(), 1, "ordered eight times, stored once");
    let ranges = server.ranges.lock().expect("lock").clone();
    let anew = ranges.iter().skip_while(|range| range.is_none()).filter(|range| range.is_none()).count();
    assert_eq!(anew, 0, "a part is continued, not begun anew: {ranges:?}");
    assert_eq!(gateway.up().await, Vec::<Json>::new(), "nothing failed");
    gateway.stop().await;
}
