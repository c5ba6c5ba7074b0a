//! Updates end to end at the room's edge: orders in, a real HTTP server with Range behind, a broker's inbox in front.

mod gateway;
mod server;
mod serving;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    sync::atomic::Ordering,
    time::Duration,
};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use headgate::{
    bus::{ChildEvent, UpdateAsk},
    config::updates::Updates as Config,
    model::{
        time::Millis,
        update::{Stage, UpdateOrder, UpdateStatus},
    },
};
use serde_json::Value as Json;

use self::{
    gateway::{Gateway, device, image, pair, public, signed},
    server::serve,
};

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
async fn an_order_with_a_wrong_size_fails_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let (url, _server) = serve(image());
    let gateway = Gateway::start(folder.path()).await;
    let good = signed(&url, &image(), "good");
    let (wrong, right) = (UpdateOrder { size: 100, job_id: "wrong".into(), ..good.clone() }, good);
    let (a, b) = tokio::join!(gateway.order("a", wrong), gateway.order("b", right));
    a.expect("stored");
    b.expect("stored");
    let failed = gateway.stage("a", Stage::Failed).await;
    assert!(failed.error.as_ref().expect("why").contains("ordered were 100"), "{failed:?}");
    gateway.stage("b", Stage::Offered).await;
    gateway.stop().await;
}

#[tokio::test]
async fn whoever_hears_an_offer_may_fetch_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    let (url, _server) = serve(image());
    let mut gateway = Gateway::start(folder.path()).await;
    let order = |job| signed(&url, &image(), job);
    let (a, b) = tokio::join!(gateway.order("a", order("j1")), gateway.order("b", order("j2")));
    a.expect("stored");
    b.expect("stored");
    for _ in 0..2 {
        let (topic, _) = gateway.heard().await;
        let child = topic.split('/').nth(1).expect("a device");
        assert!(gateway.updates.open_offer(&device(child)).is_some(), "{child} heard of an offer that is not open");
    }
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
    // Time enough to store it and to try once.
    let deadline = Some(headgate::clock::now().plus(5_000));
    let order = UpdateOrder { deadline, ..signed(&url, b"other", "j2") };
    gateway.order("a", order).await.expect("stored");
    let failed = gateway.until("a", |u| u.order.job_id == "j2" && u.stage == Stage::Failed).await;
    let why = failed.error.expect("why");
    assert!(why.contains("deadline") && why.contains("500"), "{why}");
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
