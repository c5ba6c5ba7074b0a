//! What those who look after a site do from afar: ask, be alarmed, install firmware, restart.

use std::{fs, path::Path, process::Command};

use serde_json::{Value as Json, json};

use super::{
    eventually,
    gateway::Gateway,
    peers::web_server,
    site::{Ground, output},
};

const ROOM: &str = "[[device]]\nid = \"room\"\nprotocol = \"mqtt\"\n";

/// The whole answer to a diagnostics request, put together from its chunks.
fn answered(ground: &Ground, device: &str, request: &Json) -> Json {
    ground.says(device, "diagnostics/request", &request.to_string());
    let topic = format!("devices/{device}/diagnostics/response");
    eventually(&format!("the answer to {request}"), || {
        let heard = ground.cloud.on(&topic);
        let mut chunks: Vec<&Json> = heard.iter().filter(|chunk| chunk["requestId"] == request["requestId"]).collect();
        chunks.sort_by_key(|chunk| chunk["chunk"].as_u64());
        chunks.dedup_by_key(|chunk| chunk["chunk"].as_u64());
        let total = chunks.first()?["totalChunks"].as_u64()? as usize;
        if chunks.len() < total {
            return None;
        }
        if total == 1 {
            return Some(chunks[0].clone());
        }
        let text: String = chunks.iter().map(|chunk| chunk["payload"].as_str().expect("a piece of text")).collect();
        let mut whole = chunks[0].clone();
        whole["payload"] = serde_json::from_str(&text).unwrap_or(Json::String(text));
        Some(whole)
    })
}

#[test]
fn the_cloud_asks_the_gateway_how_it_is_and_never_hears_a_secret() {
    let ground = Ground::new();
    let gateway = ground.gateway("username = \"site\"\npassword = \"s3cret-of-the-cloud\"\n").start();
    ground.reaches_the_gateway();
    let ask = |id: &str, kind: &str, params: Json| {
        answered(&ground, "gw", &json!({"requestId": id, "type": kind, "params": params}))
    };
    let info = ask("1", "system-info", json!({}));
    assert_eq!(info["status"], "ok", "{info}");
    assert_eq!(info["payload"]["version"], env!("CARGO_PKG_VERSION"), "{info}");
    let metrics = ask("2", "metrics", json!({}));
    assert!(metrics["payload"].to_string().contains("acknowledged"), "{metrics}");
    let log = ask("3", "log-tail", json!({"lines": 200, "level": "info"}));
    assert!(log["payload"].to_string().contains("cloud"), "{log}");
    let config = ask("4", "config-dump", json!({}));
    assert!(config["payload"].to_string().contains("unacked_timeout"), "{config}");
    for answer in [&info, &metrics, &log, &config] {
        assert!(!answer.to_string().contains("s3cret-of-the-cloud"), "{answer}");
    }
    assert!(!gateway.logged().join("\n").contains("s3cret-of-the-cloud"));
    // What cannot be answered is said, never left silent.
    assert_eq!(ask("5", "horoscope", json!({}))["status"], "error");
    let late = json!({"requestId": "6", "type": "ping", "expiresAt": 1000});
    assert_eq!(answered(&ground, "gw", &late)["status"], "error");
    let unconfirmed = ask("7", "reboot", json!({}));
    assert_eq!(unconfirmed["status"], "error", "a restart needs its confirmation: {unconfirmed}");
}

#[test]
fn a_child_is_asked_and_answers_for_itself() {
    let ground = Ground::new();
    let gateway = ground.gateway("").devices("room.toml", ROOM).start();
    let child = ground.child(&gateway, "room");
    let ears = child.listens("#");
    ground.reaches_the_gateway();
    ground.says("room", "diagnostics/request", r#"{"requestId": "r1", "type": "system-info"}"#);
    ears.expect("devices/room/diagnostics/request", |request| request["requestId"] == "r1");
    let said = r#"{"requestId": "r1", "chunk": 1, "totalChunks": 1, "payload": {"free": 4711}, "status": "ok"}"#;
    child.says("diagnostics/response", said);
    let heard = ground.cloud.expect("devices/room/diagnostics/response", |answer| answer["requestId"] == "r1");
    assert_eq!(heard["payload"]["free"], 4711, "{heard}");
}

/// A rule that watches `limit`.
fn rule(limit: i64) -> String {
    format!("[[rule]]\nname = \"hot\"\nvalue = \"temp\"\nabove = {limit}\nclear = {limit}\nseverity = \"major\"\n")
}

#[test]
fn an_alarm_is_told_everywhere_and_follows_its_rule_while_the_gateway_runs() {
    let ground = Ground::new();
    let gateway = ground.gateway(&rule(30)).devices("room.toml", ROOM).start();
    let child = ground.child(&gateway, "room");
    let events = |text: &str| {
        ground.cloud.expect("devices/room/events", |event| event.to_string().contains(text));
    };
    child.says("telemetry", r#"{"temp": 41}"#);
    events("temp is 41, above 30");
    let alarm = |gateway: &Gateway| gateway.get("/v1/alarms").as_array().and_then(|all| all.first().cloned());
    let raised = gateway.eventually("the alarm", |gateway| alarm(gateway));
    assert_eq!((&raised["active"], &raised["severity"]), (&json!(true), &json!("major")), "{raised}");
    let status = String::from_utf8(gateway.cli(&["status"]).stdout).expect("text");
    assert!(status.contains("temp is 41, above 30"), "{status}");

    let (code, answer) = gateway.api("POST", "/v1/alarms/room/hot/acknowledge", Some(&json!({})));
    assert_eq!(code, 200, "{answer}");
    events("acknowledged");

    // The operator raises the limit: with the new rule the next reading finds it well.
    let file = gateway.config_folder().join("headgate.toml");
    let text = fs::read_to_string(&file).expect("read").replace(&rule(30), &rule(50));
    fs::write(&file, text).expect("written");
    assert!(gateway.cli(&["reload"]).status.success());
    child.says("telemetry", r#"{"temp": 42}"#);
    events("cleared");
    child.says("telemetry", r#"{"temp": 51}"#);
    events("temp is 51, above 50");
}

/// Where the makers of firmware sit: an image that is signed by openssl, and its order as the cloud would write it.
struct Maker<'a> {
    folder: &'a Path,
    url: String,
}

impl Maker<'_> {
    fn at(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn openssl(&self, arguments: &[&str]) -> Vec<u8> {
        let done = Command::new("openssl").args(arguments).output().expect("openssl is needed for this test");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }

    /// The public key, in PEM.
    fn key(&self) -> String {
        self.openssl(&["genpkey", "-algorithm", "ed25519", "-out", &self.at("release.pem")]);
        String::from_utf8(self.openssl(&["pkey", "-in", &self.at("release.pem"), "-pubout"])).expect("PEM")
    }

    fn release(&self, version: &str) -> (Vec<u8>, Json) {
        let name = format!("{version}.bin");
        let begun = version.bytes().map(u32::from).sum::<u32>();
        let image: Vec<u8> =
            (begun..begun + 200_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        fs::write(self.at(&name), &image).expect("written");
        let (key, digest, signature) = (self.at("release.pem"), self.at("digest"), self.at("signature"));
        self.openssl(&["dgst", "-sha256", "-binary", "-out", &digest, &self.at(&name)]);
        self.openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", &key, "-in", &digest, "-out", &signature]);
        let sum = output("sha256sum", &[&self.at(&name)]);
        let order = json!({
            "jobId": format!("to {version}"), "targetVersion": version, "url": format!("{}/{name}", self.url),
            "size": image.len(), "sha256": sum.split(' ').next(),
            "signature": output("base64", &["-w0", &signature]).trim(),
        });
        (image, order)
    }
}

#[test]
fn signed_firmware_reaches_a_child_and_an_altered_image_reaches_nobody() {
    let ground = Ground::new();
    let folder = tempfile::tempdir().expect("folder");
    let (server, url) = web_server(folder.path());
    let maker = Maker { folder: folder.path(), url };
    let updates = format!("[updates]\nkeys = ['''{}''']\n", maker.key());
    let (image, order) = maker.release("2.0");
    let gateway = ground.gateway(&updates).devices("room.toml", ROOM).start();
    let child = ground.child(&gateway, "room");
    let ears = child.listens("update/#");
    ground.reaches_the_gateway();
    ground.says("room", "update/command", &order.to_string());
    let offer = ears.expect("devices/room/update/command", |offer| offer["jobId"] == "to 2.0");
    let (offered, size) = (offer["url"].as_str().expect("a url").to_owned(), offer["size"].as_u64());
    assert!(!offered.contains(&maker.url), "a child never talks to the internet: {offer}");
    assert_eq!(size, Some(image.len() as u64));

    let got = folder.path().join("got");
    let got = got.display().to_string();
    let bearer = format!("Authorization: Bearer {}", child.token());
    let curl = |more: &[&str]| {
        let mut arguments = vec!["-sS", "-H", &bearer, "-o", &got, "-w", "%{http_code}"];
        arguments.extend(more);
        arguments.push(&offered);
        output("curl", &arguments)
    };
    assert_eq!(curl(&["-r", "0-99999"]), "206");
    assert_eq!(curl(&["-C", "100000"]), "206", "a transfer that broke goes on");
    assert!(fs::read(&got).expect("read") == image, "byte for byte");
    assert_eq!(output("curl", &["-sS", "-o", "/dev/null", "-w", "%{http_code}", &offered]), "401", "not for strangers");
    for (status, progress) in [("downloading", 50), ("installing", 100), ("completed", 100)] {
        let said = json!({"jobId": "to 2.0", "from": "1.0", "to": "2.0", "status": status, "progress": progress});
        child.says("update/status", &said.to_string());
    }
    ground.cloud.expect("devices/room/update/status", |told| told["status"] == "completed");

    // On its way to the gateway one bit of the next image is turned.
    let (mut altered, order) = maker.release("2.1");
    altered[77_777] ^= 1;
    fs::write(maker.at("2.1.bin"), altered).expect("written");
    ground.says("room", "update/command", &order.to_string());
    let refused = ground.cloud.expect("devices/room/update/status", |told| told["jobId"] == "to 2.1");
    assert_eq!(refused["status"], "failed", "{refused}");
    assert!(refused["error"].as_str().is_some_and(|why| why.contains("SHA-256")), "{refused}");
    let offers = ears.on("devices/room/update/command");
    assert!(offers.iter().all(|offer| offer["jobId"] != "to 2.1"), "{offers:?}");
    drop(server);
}

#[test]
fn a_job_ordered_at_the_gateway_itself_is_carried_out_device_by_device_and_tells_who_failed() {
    let ground = Ground::new();
    let both = ["a", "b"].map(|id| format!("[[device]]\nid = \"{id}\"\nprotocol = \"mqtt\"\n")).concat();
    let gateway = ground.gateway("").devices("both.toml", &both).start();
    let children = ["a", "b"].map(|id| ground.child(&gateway, id));
    let ears = [children[0].listens("commands/#"), children[1].listens("commands/#")];
    let job = json!({
        "jobId": "blink-all", "type": "command", "deviceFilter": {"ids": ["a", "b"]},
        "payload": {"name": "blink", "params": {"times": 2}},
        "schedule": {"maxParallel": 1, "retryPolicy": {"maxAttempts": 1}},
    });
    let (code, answer) = gateway.api("POST", "/v1/jobs", Some(&job));
    assert_eq!(code, 202, "{answer}");
    assert_eq!(gateway.api("POST", "/v1/jobs", Some(&job)).1["repeated"], true, "the same again is the same job");
    for (index, status) in [(0, "succeeded"), (1, "failed")] {
        let topic = format!("devices/{}/commands/blink", children[index].device);
        let command = ears[index].expect(&topic, |command| command["params"]["times"] == 2);
        let said = json!({"commandId": command["commandId"], "status": status, "result": "no lamp"});
        children[index].says("commands/blink/response", &said.to_string());
    }
    let ended = gateway.eventually("the job has ended", |gateway| {
        let job = gateway.get("/v1/jobs").get(0)?.clone();
        ["succeeded", "failed"].contains(&job["status"].as_str()?).then_some(job)
    });
    let stands = |device: &str| {
        let targets = ended["targets"].as_array().expect("targets");
        let target = targets.iter().find(|target| target["device"] == device).expect("a target").clone();
        (target["status"].as_str().unwrap_or_default().to_owned(), target["error"].to_string())
    };
    assert_eq!(stands("a").0, "succeeded", "{ended}");
    assert_eq!(stands("b").0, "failed", "{ended}");
    assert!(stands("b").1.contains("no lamp"), "{ended}");
    let told = ground.cloud.expect("devices/gw/jobs/blink-all/status", |told| told["progress"]["failed"] == 1);
    assert_eq!(told["progress"]["succeeded"], 1, "{told}");
    let (code, refused) = gateway.api("POST", "/v1/jobs/nothing/control", Some(&json!({"control": "pause"})));
    assert_eq!(code, 404, "{refused}");
}

#[test]
fn guessing_passwords_leaves_the_gateway_no_larger_than_before() {
    let ground = Ground::new();
    let gateway = ground.gateway("").devices("room.toml", ROOM).start();
    let password = json!({"device": "room", "kind": "password", "password": "violet-anvil-harbour-9"});
    assert_eq!(gateway.api("POST", "/v1/credentials", Some(&password)).0, 200);
    let before = gateway.resident();
    for guess in 0..6 {
        let port = ground.mqtt.to_string();
        let wrong = format!("wrong-{guess}");
        let arguments =
            ["-h", "127.0.0.1", "-p", &port, "-i", "room", "-u", "room", "-P", &wrong, "-t", "t", "-m", "x"];
        output("mosquitto_pub", &arguments);
    }
    // Each guess needs 19 MiB for as long as it is hashed.
    gateway.eventually("the memory of six hashes is given back", |gateway| {
        (gateway.resident() < before + (16 << 20)).then_some(())
    });
}
