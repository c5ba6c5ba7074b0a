//! A clock that is wrong: set back to 1970 by a power cut, moved by hours and years in both directions under the
//! running daemon. Nothing is lost, nothing changes its order, and what is stamped at a guess says so.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value as Json;

use super::{
    eventually,
    preload::Preload,
    site::{Ground, assert_gap_free},
};

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// The time of day as everybody but the daemon has it, in seconds.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

struct Clock(Preload);

impl Clock {
    fn new() -> Self {
        Clock(Preload::new("shifted.c", "HEADGATE_TEST_CLOCK"))
    }

    fn is_off_by(&self, seconds: i64) {
        self.0.obeys(&seconds.to_string());
    }

    fn is_right(&self) {
        self.is_off_by(0);
    }
}

/// What arrived of `room`, one per number, by number.
fn readings(ground: &Ground, count: u64) -> Vec<Json> {
    eventually(&format!("{count} readings"), || {
        (ground.counted("room").account("room").own.len() == count).then_some(())
    });
    let heard = ground.telemetry("room");
    assert_gap_free(&heard);
    let mut by_seq: Vec<Json> = heard;
    by_seq.sort_by_key(|reading| reading["seq"].as_u64());
    by_seq.dedup_by_key(|reading| reading["seq"].as_u64());
    assert!(ground.cloud.on("devices/gw/gaps").is_empty(), "nothing was given up");
    by_seq
}

fn ts(reading: &Json) -> i64 {
    reading["ts"].as_i64().expect("a stamp") / 1000
}

#[test]
fn a_gateway_that_wakes_in_1970_flags_its_stamps_and_repairs_them_when_the_clock_is_set() {
    let (clock, ground) = (Clock::new(), Ground::new());
    clock.is_off_by(-now());
    let gateway = clock.0.around(ground.gateway("")).start();
    let child = ground.child(&gateway, "room");
    let status = gateway.cli(&["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("not trusted"), "{status:?}");
    assert!(child.measures(1..=20), "taken in all the same");
    let before = readings(&ground, 20);
    assert!(before.iter().all(|reading| reading["clockUntrusted"] == true), "{}", before[0]);
    assert!(before.iter().all(|reading| ts(reading) > 50 * YEAR), "never before it was built: {}", before[0]);

    ground.wire.cut();
    gateway.eventually("the cut is noticed", |g| (g.get("/v1/status")["link"]["state"] == "backing-off").then_some(()));
    let begun = now();
    assert!(child.measures(21..=40));
    clock.is_right();
    gateway.eventually("a clock that is believed", |g| g.get("/v1/status")["clockTrusted"].as_bool()?.then_some(()));
    assert!(child.measures(41..=60));
    let done = now();
    ground.wire.heal();
    let all = readings(&ground, 60);
    for reading in &all[20..] {
        assert!(reading["clockUntrusted"].is_null(), "repaired before it left: {reading}");
        assert!((begun - 2..=done + 2).contains(&ts(reading)), "{reading} between {begun} and {done}");
    }
    assert!(all.windows(2).skip(20).all(|two| two[0]["ts"].as_i64() <= two[1]["ts"].as_i64()), "in order");
}

#[test]
fn jumps_by_hours_and_years_in_both_directions_neither_lose_nor_reorder_anything() {
    let (clock, ground) = (Clock::new(), Ground::new());
    clock.is_right();
    // Whatever is older than this may go, and what a jump makes old by the calendar must not.
    let mut gateway = clock.0.around(ground.gateway("[log]\nmax_age = \"30d\"\n")).start();
    let child = ground.child(&gateway, "room");
    let connected = child.listens("#");
    assert!(child.measures(1..=20));
    ground.wire.cut();
    gateway.eventually("the cut is noticed", |g| (g.get("/v1/status")["link"]["state"] == "backing-off").then_some(()));
    let jumps = [5 * HOUR, -3 * HOUR, 3 * YEAR, -YEAR, 20 * YEAR, 0];
    let mut next = 21;
    for jump in jumps {
        clock.is_off_by(jump);
        assert!(child.measures(next..=next + 19), "off by {jump} s");
        next += 20;
        let room = gateway.get("/v1/devices").as_array().expect("devices").iter().find(|d| d["id"] == "room").cloned();
        assert_eq!(room.expect("room")["presence"], "online", "off by {jump} s");
    }
    // A power cut while it is wrong, and one into the past.
    for jump in [2 * YEAR, -2 * YEAR, 0] {
        clock.is_off_by(jump);
        gateway.kill();
        gateway.start_again();
        assert!(child.measures(next..=next + 19), "off by {jump} s after a start");
        next += 20;
    }
    ground.wire.heal();
    let all = readings(&ground, next - 1);
    assert_eq!(all.len() as u64, next - 1);
    assert_eq!(ground.counted("room").account("room").disordered, 0);
    drop(connected);
}
