//! The web room from outside: who may do what, who is turned away at the doorstep, and that what children say stays
//! text. Set `HEADGATE_LOOK=127.0.0.1:8099` to look at the page with the plant of `web/fake.rs`.

mod browser;
mod fake;
mod furniture;

use std::{path::PathBuf, time::Duration};

use browser::{Browser, exchange};
use headgate::{
    config::{identity::IdentityConfig, web::WebConfig},
    identity::{Identity, login::Role, tls},
    store::Store,
    tasks::Tasks,
    web::{self, Access, Ports, Web},
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixStream},
};

const PASSWORD: &str = "violet-anvil-harbour-9";

struct Gateway {
    web: Web,
    identity: Identity,
    socket: PathBuf,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

async fn gateway(config: WebConfig, hostile: bool) -> Gateway {
    tls::install_provider();
    let folder = tempfile::tempdir().expect("folder");
    let (store, _thread) = Store::open(folder.path()).expect("store");
    let identity =
        Identity::open(store.clone(), &IdentityConfig::default(), folder.path(), "gw").await.expect("identity");
    let tasks = Tasks::new();
    let fake = fake::start(&tasks, hostile);
    let socket = folder.path().join("control.sock");
    let ports = Ports {
        questions: fake.questions,
        orders: fake.orders,
        events: fake.events,
        identity: identity.clone(),
        store,
        modbus: Some(fake.modbus),
        firmware: None,
        control: Some(socket.clone()),
    };
    let certificates = identity.tls().watch_without_client_certificates();
    let web = web::start(&config, ports, Some(certificates), &tasks).await.expect("web");
    Gateway { web, identity, socket, tasks, _folder: folder }
}

fn loopback() -> WebConfig {
    WebConfig { listen: vec!["127.0.0.1:0".parse().expect("address")], ..WebConfig::default() }
}

impl Gateway {
    fn browser(&self) -> Browser {
        Browser::new(self.web.addresses[0].0)
    }

    /// Somebody who is logged in with `role`.
    async fn somebody(&self, name: &str, role: Role) -> Browser {
        let (code, _) = self.identity.login_code(name, role, "test").await.expect("code");
        let mut browser = self.browser();
        let answer = browser.log_in(json!({ "account": name, "password": PASSWORD, "code": code.expose() })).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        browser
    }
}

#[tokio::test]
async fn the_first_login_takes_the_one_time_code_and_nothing_else() {
    let gateway = gateway(loopback(), false).await;
    let mut browser = gateway.browser();
    assert_eq!(browser.get("/v1/session").await.json(), json!({ "account": null, "firstLogin": true }));
    for path in ["/v1/status", "/v1/devices", "/v1/metrics", "/v1/events"] {
        assert_eq!(browser.get(path).await.status, 401, "{path}");
    }
    for (account, password) in [("admin", "admin"), ("root", ""), ("headgate", "headgate")] {
        assert_eq!(browser.log_in(json!({ "account": account, "password": password })).await.status, 401);
    }
    let (code, _) = gateway.identity.first_code().await.expect("store").expect("no account yet");
    let short = json!({ "account": "anna", "password": "short", "code": code.expose() });
    assert_eq!(browser.log_in(short).await.json()["code"], "bad-password");
    let first = json!({ "account": "anna", "password": PASSWORD, "code": code.expose() });
    let answer = browser.log_in(first.clone()).await;
    assert_eq!((answer.status, answer.json()["role"].as_str()), (200, Some("admin")), "{}", answer.body);
    let cookie = answer.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert_eq!(browser.get("/v1/status").await.status, 200);
    assert_eq!(gateway.browser().log_in(first).await.json()["code"], "bad-code");

    let mut again = gateway.browser();
    assert_eq!(again.log_in(json!({ "account": "anna", "password": PASSWORD })).await.status, 200);
    assert_ne!(again.cookie, browser.cookie);
    assert_eq!(browser.send("DELETE", "/v1/session", None).await.status, 200);
    assert_eq!(browser.get("/v1/status").await.status, 401);
    assert_eq!(again.get("/v1/status").await.status, 200);
}

#[tokio::test]
async fn guessing_is_slowed_down_and_says_nothing_about_names() {
    let gateway = gateway(loopback(), false).await;
    gateway.somebody("anna", Role::Viewer).await;
    let mut browser = gateway.browser();
    let wrong = browser.log_in(json!({ "account": "anna", "password": "not the password" })).await;
    let unknown = browser.log_in(json!({ "account": "nobody", "password": "not the password" })).await;
    assert_eq!((wrong.status, wrong.body), (unknown.status, unknown.body));
    let mut last = 401;
    for _ in 0..8 {
        let answer = browser.log_in(json!({ "account": "anna", "password": "not the password" })).await;
        last = answer.status;
        if last == 429 {
            assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
            break;
        }
    }
    assert_eq!(last, 429);
}

#[tokio::test]
async fn every_route_keeps_to_its_role() {
    let gateway = gateway(loopback(), false).await;
    let viewer = gateway.somebody("vera", Role::Viewer).await;
    let technician = gateway.somebody("theo", Role::Technician).await;
    let admin = gateway.somebody("anna", Role::Admin).await;
    let people = [(Some(Role::Viewer), &viewer), (Some(Role::Technician), &technician), (Some(Role::Admin), &admin)];
    let nobody = gateway.browser();
    for (method, path, access) in web::permissions() {
        // What would end the sessions under test, or never end itself, is tested by itself.
        if (path == "/v1/session" && method == "DELETE") || path == "/v1/events" {
            continue;
        }
        let least = match access {
            Access::Open => None,
            Access::From(least) | Access::Proved(least) => Some(least),
        };
        let concrete = path.replace("{device}", "tracker-12").replace(['{', '}'], "");
        for (role, browser) in [(None, &nobody)].into_iter().chain(people) {
            let body = (method != "GET").then(|| json!({}));
            let answer = browser.send(method.as_str(), &concrete, body).await;
            let allowed = least.is_none_or(|least| role.is_some_and(|role| role >= least));
            let turned_away = match role {
                None => answer.status == 401 && answer.json()["code"] == "login-first",
                Some(_) => answer.status == 403 && answer.json()["code"] == "not-authorized",
            };
            assert_eq!(allowed, !turned_away, "{method} {path} as {role:?}: {} {}", answer.status, answer.body);
            assert!(answer.status < 500, "{method} {path} as {role:?}: {} {}", answer.status, answer.body);
        }
    }
    assert_eq!(admin.get("/v1/nothing").await.status, 404);
    assert_eq!(admin.send("PUT", "/v1/status", Some(json!({}))).await.status, 405);
}

#[tokio::test]
async fn what_another_site_sends_is_refused() {
    let gateway = gateway(loopback(), false).await;
    let admin = gateway.somebody("anna", Role::Admin).await;
    let foreign = [
        admin.clone().with("origin", "https://evil.example").with("sec-fetch-site", "cross-site"),
        admin.clone().with("origin", "null"),
        admin.clone().with("sec-fetch-site", "same-site"),
        admin.clone().without("headgate"),
        admin.clone().without("headgate").without("origin").without("sec-fetch-site"),
    ];
    for browser in foreign {
        let answer = browser.post("/v1/config/reload", json!({})).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("cross-site")), "{:?}", browser.headers);
    }
    assert_eq!(admin.post("/v1/config/reload", json!({})).await.status, 200);
    let script = admin.clone().without("origin").without("sec-fetch-site");
    assert_eq!(script.post("/v1/config/reload", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_misdirected() {
    let gateway = gateway(WebConfig { hosts: vec!["gateway.plant.lan".into()], ..loopback() }, false).await;
    let browser = gateway.browser();
    for host in
        ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.1.2.3", "", "localhost.evil.example"]
    {
        let answer = browser.clone().with("host", host).get("/").await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(!answer.body.contains("<html"), "{host}");
    }
    for host in ["localhost:8080", "LOCALHOST", "127.0.0.1", "gateway.plant.lan:8443", "Gateway.Plant.LAN."] {
        assert_eq!(browser.clone().with("host", host).get("/").await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn what_children_say_stays_text() {
    let gateway = gateway(loopback(), true).await;
    let viewer = gateway.somebody("vera", Role::Viewer).await;
    for path in [
        "/v1/devices",
        "/v1/devices/victim",
        "/v1/devices/victim/shadow",
        "/",
        "/assets/app.js",
        "/nowhere/%3Cscript%3E",
    ] {
        let answer = viewer.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin", "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!(
            path.starts_with("/v1"),
            answer.header("content-type").starts_with("application/json") && answer.status == 200,
            "{path}"
        );
    }
    assert_eq!(viewer.get("/v1/devices/victim").await.json()["type"], furniture::HOSTILE);
    // The page itself has no way to turn text into elements, and loads nothing from elsewhere.
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/web/page");
    for entry in std::fs::read_dir(page).expect("page") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("utf-8");
        let forbidden = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
            "javascript:",
            "DOMParser",
            "createContextualFragment",
            " style=\"",
            "onclick=\"",
            "https://",
            "//cdn",
        ];
        for word in forbidden {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
        if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| *name != "index.html") {
            assert_eq!(viewer.get(&format!("/assets/{name}")).await.status, 200, "{name} is not served");
        }
    }
}

#[tokio::test]
async fn live_values_come_as_events_and_end_with_the_session() {
    let gateway = gateway(loopback(), false).await;
    let viewer = gateway.somebody("vera", Role::Viewer).await;
    let mut stream = TcpStream::connect(viewer.address).await.expect("connect");
    stream.write_all(viewer.request("GET", "/v1/events?device=meter-main", None).as_bytes()).await.expect("send");
    let mut lines = BufReader::new(stream).lines();
    let mut seen = Vec::new();
    let until_values = async {
        while let Some(line) = lines.next_line().await.expect("read") {
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let items: serde_json::Value = serde_json::from_str(data).expect("json");
            let items = items.as_array().expect("a list").clone();
            let done = items.iter().any(|item| item["type"] == "values");
            seen.extend(items);
            if done {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), until_values).await.expect("values in time");
    assert_eq!(seen[0]["type"], "hello");
    let values = seen.iter().find(|item| item["type"] == "values").expect("values");
    assert_eq!(values["device"], "meter-main");
    assert_eq!(values["values"].as_array().map(Vec::len), Some(10));
    viewer.send("DELETE", "/v1/session", None).await;
    let end = async { while lines.next_line().await.is_ok_and(|line| line.is_some()) {} };
    tokio::time::timeout(Duration::from_secs(60), end).await.expect("the stream ends with its session");
}

#[tokio::test]
async fn a_wish_is_stored_carried_out_and_shown_with_its_author() {
    let gateway = gateway(loopback(), false).await;
    let technician = gateway.somebody("theo", Role::Technician).await;
    let path = "/v1/devices/hvac-roof/shadow";
    let answer = technician.send("PATCH", path, Some(json!({ "desired": { "setpoint": 22 } }))).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let history = technician.get("/v1/devices/hvac-roof/history").await.json();
    assert_eq!(history[0]["door"], json!({ "technician": "theo" }));
    let over = technician.send("PATCH", path, Some(json!({ "desired": { "setpoint": 99 } }))).await;
    assert_eq!((over.status, over.json()["code"].as_str()), (422, Some("out-of-range")));
    for (body, status) in [(json!({}), 400), (json!({ "desired": {} }), 400), (json!({ "wanted": 1 }), 400)] {
        assert_eq!(technician.send("PATCH", path, Some(body)).await.status, status);
    }
    assert_eq!(technician.get("/v1/devices/nobody").await.status, 404);
    assert_eq!(technician.get("/v1/devices/bad%20id").await.status, 400);
    let text = technician.clone().with("content-type", "text/plain");
    assert_eq!(text.send("PATCH", path, None).await.status, 415);
}

#[tokio::test]
async fn tools_tell_how_far_they_are() {
    let gateway = gateway(loopback(), false).await;
    let technician = gateway.somebody("theo", Role::Technician).await;
    let answer = technician.post("/v1/tools/modbus", json!({ "tool": "scan" })).await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let documents: Vec<&str> = answer.body.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(documents.len(), 4, "{}", answer.body);
    assert_eq!(documents[3], r#"{"result":{"found":[{"unit":2}]}}"#);
    let wrong = technician.post("/v1/tools/modbus", json!({ "tool": "explode" })).await;
    assert_eq!((wrong.status, wrong.json()["code"].as_str()), (400, Some("payload-invalid")), "{}", wrong.body);
}

#[tokio::test]
async fn the_control_socket_needs_no_login_and_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let gateway = gateway(loopback(), false).await;
    let mode = std::fs::metadata(&gateway.socket).expect("socket").permissions().mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
    let stream = UnixStream::connect(&gateway.socket).await.expect("connect");
    let answer = exchange(stream, "GET /v1/session HTTP/1.1\r\nhost: headgate\r\nconnection: close\r\n\r\n").await;
    assert_eq!(answer.json()["role"], "admin");
    let stream = UnixStream::connect(&gateway.socket).await.expect("connect");
    let body = r#"{"device":"child-1","kind":"token"}"#;
    let request = format!(
        "POST /v1/credentials HTTP/1.1\r\nhost: headgate\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert!(exchange(stream, &request).await.json()["token"].as_str().expect("token").starts_with("hg1_"));
    gateway.tasks.stop_and_wait().await;
    assert!(!gateway.socket.exists());
}

#[tokio::test]
async fn an_answer_arrives_whole_also_where_nobody_wanted_the_body() {
    let gateway = gateway(loopback(), false).await;
    // Larger than what is read at once: a connection closed on the rest of it would be reset, the answer lost.
    let body = json!({ "padding": "x".repeat(200_000) }).to_string();
    for path in ["/v1/alarms/nobody/nothing/acknowledge", "/v1/nothing/here"] {
        let stream = UnixStream::connect(&gateway.socket).await.expect("connect");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: headgate\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(exchange(stream, &request).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn beyond_loopback_only_https_speaks_and_plain_http_is_sent_there() {
    let gateway = gateway(WebConfig { tls: true, ..loopback() }, false).await;
    let browser = gateway.browser();
    let plain = browser.get("/some/page?x=1").await;
    assert_eq!(plain.status, 308);
    assert_eq!(plain.header("location"), format!("https://{}/some/page?x=1", browser.address));
    assert_eq!(browser.post("/v1/session", json!({})).await.status, 308);

    let mut roots = rustls::RootCertStore::empty();
    let pem = gateway.identity.authority_pem();
    let authority = rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).expect("pem");
    roots.add(authority).expect("authority");
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
    let connect = async || {
        let stream = TcpStream::connect(browser.address).await.expect("connect");
        connector.connect("localhost".try_into().expect("name"), stream).await.expect("handshake")
    };
    let secure = browser.clone().with("origin", &format!("https://{}", browser.address));
    let (code, _) = gateway.identity.first_code().await.expect("store").expect("code");
    let login = json!({ "account": "anna", "password": PASSWORD, "code": code.expose() });
    let answer = exchange(connect().await, &secure.request("POST", "/v1/session", Some(&login))).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("__Host-headgate=") && cookie.contains("; Secure"), "{cookie}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let gateway = gateway(loopback(), false).await;
    let taken = gateway.web.addresses[0].0;
    let folder = tempfile::tempdir().expect("folder");
    let (store, _thread) = Store::open(folder.path()).expect("store");
    let identity =
        Identity::open(store.clone(), &IdentityConfig::default(), folder.path(), "gw").await.expect("identity");
    let tasks = Tasks::new();
    let fake = fake::start(&tasks, false);
    let ports = Ports {
        questions: fake.questions,
        orders: fake.orders,
        events: fake.events,
        identity,
        store,
        modbus: None,
        firmware: None,
        control: None,
    };
    let config = WebConfig { listen: vec![taken], ..WebConfig::default() };
    let error = web::start(&config, ports, None, &tasks).await.expect_err("taken").to_string();
    assert!(error.contains(&taken.to_string()) && error.contains("web.listen"), "{error}");
}

#[tokio::test]
async fn the_page_can_be_looked_at() {
    let look: Option<std::net::SocketAddr> =
        std::env::var("HEADGATE_LOOK").ok().map(|text| text.parse().expect("address"));
    let config = look.map_or_else(loopback, |address| WebConfig { listen: vec![address], ..WebConfig::default() });
    let gateway = gateway(config, std::env::var("HEADGATE_LOOK_HOSTILE").is_ok()).await;
    let index = gateway.browser().get("/").await;
    assert!(index.body.contains("/assets/app.js"), "{}", index.body);
    let tag = index.header("etag").to_owned();
    assert_eq!(gateway.browser().with("if-none-match", &tag).get("/").await.status, 304);
    if look.is_some() {
        let (code, _) = gateway.identity.first_code().await.expect("store").expect("code");
        eprintln!(
            "page at http://{}/ code {} socket {}",
            gateway.web.addresses[0].0,
            code.expose(),
            gateway.socket.display()
        );
        tokio::time::sleep(Duration::from_secs(7200)).await;
    }
}

#[test]
fn every_route_is_documented_with_its_role() {
    let text = include_str!("../../docs/api.md");
    let documented: Vec<(String, String)> = (text.lines())
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(route, rest)| Some((route.to_owned(), rest.split_once(" |")?.0.to_owned())))
        .filter(|(route, _)| route.contains(" /"))
        .collect();
    let mut table: Vec<(String, String)> = Vec::new();
    for (method, path, access) in web::permissions() {
        let role = match access {
            Access::Open => "anyone".to_owned(),
            Access::From(role) => role.as_str().to_owned(),
            Access::Proved(role) => format!("{}, proved", role.as_str()),
        };
        table.push((format!("{method} {path}"), role));
    }
    for route in &table {
        assert!(documented.contains(route), "{route:?} is not in docs/api.md like this");
    }
    assert_eq!(documented.len(), table.len(), "docs/api.md has routes that do not exist");
}
