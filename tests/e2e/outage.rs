//! An outage that is longer than the log: the person at the gateway, whoever scrapes it and the cloud are told the same.

use serde_json::json;

use super::{
    eventually,
    gateway::Gateway,
    site::{Child, Ground},
};

/// A screen of `headgate status`, once it says all of `words`.
fn says(gateway: &Gateway, words: &[&str]) {
    let mut screen = String::new();
    let mut missing = Vec::new();
    for _ in 0..400 {
        screen = String::from_utf8_lossy(&gateway.cli(&["status"]).stdout).into_owned();
        missing = words.iter().filter(|word| !screen.contains(**word)).collect();
        if missing.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{missing:?} not in\n{screen}");
}

/// Readings of five kilobytes that compress badly.
fn fills(child: &Child, numbers: std::ops::RangeInclusive<u64>) {
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 33) as u8 % 26)
    };
    let mut line = |n| {
        let noise: String = std::iter::repeat_with(&mut noise).take(5000).collect();
        json!({ "n": n, "noise": noise }).to_string()
    };
    let lines: Vec<String> = numbers.map(&mut line).collect();
    assert!(child.says_all("telemetry", &lines), "taken in, cloud or no cloud");
}

#[test]
fn how_long_it_can_be_offline_what_was_dropped_and_what_it_costs_is_told_everywhere() {
    let ground = Ground::new();
    let more = "budget_day = \"64MiB\"\nbacklog_rate = 100\n[log]\nmax_size = \"4MiB\"\nkeep_free = 0\n";
    let gateway = ground.gateway(more).start();
    let child = ground.child(&gateway, "room");
    assert!(child.measures(1..=20));
    says(&gateway, &["live", "can be offline for", "nothing dropped", "of 64.0 MiB this day", "expected"]);

    ground.wire.cut();
    gateway.eventually("the cut is noticed", |g| (g.get("/v1/status")["link"]["state"] == "backing-off").then_some(()));
    fills(&child, 21..=1520);
    says(&gateway, &["away: ", "waiting, oldest from", "(quota)", "the card lasts"]);
    let log = gateway.get("/v1/log");
    let dropped = log["dropped"]["quota"].as_u64().expect("dropped");
    assert!(dropped > 0 && log["fullIn"].is_number() && log["cardYears"].is_number(), "{log}");
    let metrics = gateway.api("GET", "/v1/metrics", None).1;
    let metrics = metrics.as_str().expect("text");
    for name in [
        "headgate_log_dropped_total{cause=\"quota\"} ",
        "headgate_log_full_seconds ",
        "headgate_card_years ",
        "headgate_link_budget_bytes{span=\"day\",what=\"forecast\"} ",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }

    // The rest leaves at a hundred a second.
    ground.wire.heal();
    says(&gateway, &["catching up"]);
    ground.reaches_the_gateway();
    ground.says("gw", "diagnostics/request", r#"{"requestId": "drops", "type": "metrics"}"#);
    eventually("the drops, as the cloud asks for them", || {
        let said = ground.cloud.on("devices/gw/diagnostics/response");
        let text: String = said.iter().filter(|part| part["requestId"] == "drops").map(ToString::to_string).collect();
        text.contains("headgate_log_dropped_total{").then_some(())
    });
    eventually("everything came or was declared", || {
        let room = ground.counted("room").account("room");
        let gaps = ground.cloud.on("devices/gw/gaps");
        let declared: u64 = gaps.iter().filter_map(|gap| gap["count"].as_u64()).sum();
        assert!(gaps.iter().all(|gap| gap["cause"] == "quota" && gap["device"] == "room"), "{gaps:?}");
        (room.own.len() + declared == 1520).then_some(())
    });
    assert!(gateway.get("/v1/log")["dropped"]["quota"].as_u64() >= Some(dropped));
}
