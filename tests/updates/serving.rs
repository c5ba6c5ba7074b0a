//! How a child gets its image: piece by piece over MQTT, or by HTTP with Range.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use headgate::{
    bus::UpdateAsk,
    identity::{Identity, Issue},
    model::update::Stage,
    updates,
};
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use super::{
    gateway::{Gateway, device, image, signed},
    server::serve,
};

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
