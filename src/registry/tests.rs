//! The registry: laws of the book, and the task over a real store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::{
    Configured, Ports,
    book::{Batch, Book, unseen},
    entry::Now,
    start,
};
use crate::{
    bus::{ChildEvent, Events, Sign},
    config::presence::Presence as Settings,
    model::{
        command::{Door, RefusalCode},
        device::{Device, Lifecycle, Presence, Protocol},
        event::Event,
        ids::DeviceId,
        record::Kind,
        time::Millis,
    },
    store::Store,
    tasks::Tasks,
};

fn id(text: &str) -> DeviceId {
    DeviceId::new(text).expect("id")
}

fn at(seconds: f64) -> Now {
    let since_start = Duration::from_secs_f64(seconds);
    Now { at: Millis(1_760_000_000_000 + since_start.as_millis() as i64), since_start }
}

fn configured(name: &str, protocol: Protocol, interval: Option<u64>) -> Configured {
    Configured {
        id: id(name),
        protocol,
        kind: "test".into(),
        tags: Vec::new(),
        groups: Vec::new(),
        interval: interval.map(Duration::from_secs),
    }
}

fn presence(book: &Book, name: &str) -> Presence {
    book.get(&id(name)).expect("known").device.presence
}

/// The status bodies and event bodies that the book wants written.
fn taken(book: &mut Book, now: Now) -> Vec<(Kind, Json)> {
    let batch = book.take(0, now);
    batch.records.iter().map(|r| (r.kind, serde_json::from_slice(&r.body).expect("json"))).collect()
}

#[test]
fn silence_makes_a_device_late_and_then_offline() {
    let mut book = Book::new(Settings::default(), Vec::new());
    book.sync(vec![configured("a", Protocol::Mqtt, Some(10))], None, at(0.0));
    assert_eq!(presence(&book, "a"), Presence::NeverSeen);
    book.connected(&id("a"), Protocol::Mqtt, at(1.0).at, at(1.0));
    assert_eq!(presence(&book, "a"), Presence::Online);
    book.judge(at(15.9));
    assert_eq!(presence(&book, "a"), Presence::Online);
    book.judge(at(16.1));
    assert_eq!(presence(&book, "a"), Presence::Late);
    book.take(0, at(16.2));
    book.judge(at(31.1));
    assert_eq!(presence(&book, "a"), Presence::Offline);
    let told = taken(&mut book, at(31.2));
    assert_eq!(told[0].0, Kind::Status);
    assert_eq!(told[0].1["state"], "offline");
    assert!(told[0].1["reason"].as_str().is_some_and(|r| r.contains("expected every 10")), "{told:?}");
    book.heard(&id("a"), Protocol::Mqtt, at(40.0).at, at(40.0));
    assert_eq!(taken(&mut book, at(40.0))[0].1["state"], "online");
}

#[test]
fn a_version_that_overtakes_the_connection_is_not_lost() {
    let mut book = Book::new(Settings::default(), Vec::new());
    book.firmware(&id("new"), "1.0.0", at(1.0).at, at(1.0));
    book.connected(&id("new"), Protocol::Mqtt, at(1.1).at, at(1.1));
    let device = &book.get(&id("new")).expect("known").device;
    assert_eq!((device.firmware_version.as_deref(), device.lifecycle), (Some("1.0.0"), Lifecycle::Active));
    assert_eq!(device.presence, Presence::Online);
}

#[test]
fn without_an_interval_an_mqtt_child_counts_by_its_connection() {
    let mut book = Book::new(Settings::default(), Vec::new());
    book.connected(&id("a"), Protocol::Mqtt, at(0.0).at, at(0.0));
    book.judge(at(100_000.0));
    assert_eq!(presence(&book, "a"), Presence::Online);
    book.disconnected(&id("a"), "keep-alive ran out".into(), at(100_001.0));
    assert_eq!(presence(&book, "a"), Presence::Offline);
    let told = taken(&mut book, at(100_001.0));
    let (_, status) = told.iter().find(|(kind, _)| *kind == Kind::Status).expect("a status");
    assert_eq!((status["state"].as_str(), status["reason"].as_str()), (Some("offline"), Some("keep-alive ran out")));
}

#[test]
fn a_polled_device_is_what_its_driver_says() {
    let mut book = Book::new(Settings::default(), Vec::new());
    book.sync(vec![configured("m", Protocol::Modbus, None)], None, at(0.0));
    book.reachable(&id("m"), true, None, at(1.0).at, at(1.0));
    assert_eq!(presence(&book, "m"), Presence::Online);
    book.reachable(&id("m"), false, Some("timeout after 3 tries".into()), at(2.0).at, at(2.0));
    // A stale reading is passed on by mistake: the driver's word counts.
    book.heard(&id("m"), Protocol::Modbus, at(3.0).at, at(3.0));
    assert_eq!(presence(&book, "m"), Presence::Offline);
    assert_eq!(book.get(&id("m")).expect("m").device.reason.as_deref(), Some("timeout after 3 tries"));
    book.reachable(&id("m"), true, None, at(4.0).at, at(4.0));
    assert_eq!(presence(&book, "m"), Presence::Online);
    book.sync(Vec::new(), None, at(5.0));
    assert_eq!(presence(&book, "m"), Presence::Offline);
}

#[test]
fn a_device_that_may_not_talk_is_offline_until_it_is_heard_after_that() {
    for protocol in [Protocol::Mqtt, Protocol::Coap, Protocol::Modbus] {
        let mut book = Book::new(Settings::default(), Vec::new());
        book.sync(vec![configured("a", protocol, None)], None, at(0.0));
        book.live(&id("a"), Lifecycle::Suspended, json!("gateway"), at(0.1));
        book.judge(at(0.1));
        assert_eq!(presence(&book, "a"), Presence::NeverSeen, "{protocol:?}");
        book.live(&id("a"), Lifecycle::Active, json!("gateway"), at(0.2));
        book.connected(&id("a"), protocol, at(1.0).at, at(1.0));
        assert_eq!(presence(&book, "a"), Presence::Online, "{protocol:?}");
        for (word, life) in [("suspended", Lifecycle::Suspended), ("quarantined", Lifecycle::Quarantined)] {
            book.live(&id("a"), life, json!("gateway"), at(2.0));
            book.judge(at(2.0));
            let device = &book.get(&id("a")).expect("known").device;
            assert_eq!((device.presence, device.reason.as_deref()), (Presence::Offline, Some(word)), "{protocol:?}");
        }
        // A reading that was under way is no sign of life of what comes after.
        book.heard(&id("a"), protocol, at(2.5).at, at(2.5));
        book.live(&id("a"), Lifecycle::Active, json!("gateway"), at(3.0));
        book.judge(at(3.0));
        let device = &book.get(&id("a")).expect("known").device;
        assert_eq!(device.reason.as_deref(), Some("not heard since it became active"), "{protocol:?}");
        book.heard(&id("a"), protocol, at(4.0).at, at(4.0));
        assert_eq!(presence(&book, "a"), Presence::Online, "{protocol:?}");
    }
}

#[test]
fn the_gateway_itself_is_there_and_tells_no_status_of_its_own() {
    let mut book = Book::new(Settings::default(), Vec::new());
    book.sync(vec![configured("gw", Protocol::Gateway, None)], None, at(0.0));
    book.judge(at(100_000.0));
    assert_eq!((presence(&book, "gw"), taken(&mut book, at(100_000.0))), (Presence::Online, Vec::new()));
}

#[test]
fn a_restart_of_the_gateway_raises_nothing_while_children_come_back() {
    let mut book = Book::new(Settings::default(), Vec::new());
    for n in 0..50 {
        book.connected(&id(&format!("c{n}")), Protocol::Mqtt, at(0.0).at, at(0.0));
    }
    let before: Vec<Device> = book.devices().map(|e| e.device.clone()).collect();
    let mut book = Book::new(Settings::default(), before);
    book.judge(at(1.0));
    for n in 0..49 {
        book.connected(&id(&format!("c{n}")), Protocol::Mqtt, at(20.0).at, at(20.0));
    }
    book.judge(at(59.0));
    assert_eq!(taken(&mut book, at(59.0)), Vec::new());
    book.judge(at(61.0));
    let told = taken(&mut book, at(61.0));
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(presence(&book, "c49"), Presence::Offline);
}

#[test]
fn a_flapping_child_is_one_event_and_its_last_state() {
    let mut book = Book::new(Settings::default(), Vec::new());
    let mut told = Vec::new();
    for n in 0..40 {
        let now = at(f64::from(n) * 2.0);
        book.connected(&id("a"), Protocol::Mqtt, now.at, now);
        told.extend(taken(&mut book, now));
        book.disconnected(&id("a"), "reset".into(), at(f64::from(n) * 2.0 + 1.0));
        told.extend(taken(&mut book, at(f64::from(n) * 2.0 + 1.0)));
    }
    let raised = told.iter().filter(|(_, body)| body["event"] == "flapping").count();
    let statuses = told.iter().filter(|(kind, _)| *kind == Kind::Status).count();
    assert_eq!((raised, statuses <= 6), (1, true), "{told:#?}");
    // Calm: whatever was withheld is told.
    book.judge(at(200.0));
    let told = taken(&mut book, at(200.0));
    assert_eq!((told.len(), told[0].1["state"].as_str()), (1, Some("offline")), "{told:?}");
    book.judge(at(900.0));
    let told = taken(&mut book, at(900.0));
    assert_eq!(told[0].1, json!({"event": "flapping", "state": "cleared"}));
}

#[test]
fn what_did_not_reach_the_disk_is_owed_again() {
    let mut book = Book::new(Settings::default(), Vec::new());
    book.connected(&id("a"), Protocol::Mqtt, at(0.0).at, at(0.0));
    let batch = book.take(0, at(0.0));
    let records = batch.records.clone();
    assert!(!records.is_empty());
    book.not_written(batch);
    assert_eq!(book.take(0, at(0.0)).records, records);
    assert!(book.take(0, at(0.0)).devices.is_empty());
}

proptest! {
    /// Whatever happens, the cloud ends up knowing the state that holds of each device, and is never told the same twice.
    #[test]
    fn the_last_status_told_is_the_presence_that_holds(steps in prop::collection::vec((0u8..4, any::<bool>(), 1u64..30, any::<bool>()), 1..80)) {
        let mut book = Book::new(Settings::default(), Vec::new());
        book.sync(["a", "b"].map(|name| configured(name, Protocol::Mqtt, Some(10))).into(), None, at(0.0));
        let (mut clock, mut said) = (0.0, BTreeMap::new());
        let mut hear = |batch: &Batch| {
            for record in batch.records.iter().filter(|r| r.kind == Kind::Status) {
                let body: Json = serde_json::from_slice(&record.body).expect("json");
                let state = body["state"].as_str().expect("a state").to_owned();
                prop_assert_ne!(said.get(&record.device), Some(&state));
                said.insert(record.device.clone(), state);
            }
            Ok(())
        };
        for (what, first, wait, disk) in steps {
            let device = id(if first { "a" } else { "b" });
            clock += wait as f64;
            let now = at(clock);
            match what {
                0 => book.connected(&device, Protocol::Mqtt, now.at, now),
                1 => book.disconnected(&device, "gone".into(), now),
                2 => book.reachable(&device, false, None, now.at, now),
                _ => book.judge(now),
            }
            let batch = book.take(0, now);
            if !disk {
                book.not_written(batch);
                continue;
            }
            hear(&batch)?;
        }
        book.judge(at(clock + 1000.0));
        let now = at(clock + 1100.0);
        book.judge(now);
        hear(&book.take(0, now))?;
        for name in ["a", "b"] {
            let said = said.get(&id(name)).map(String::as_str);
            match presence(&book, name) {
                Presence::NeverSeen => prop_assert_eq!(said, None),
                Presence::Offline => prop_assert_eq!(said, Some("offline")),
                _ => prop_assert_eq!(said, Some("online")),
            }
        }
    }
}

proptest! {
    /// Only those are looked at of whom silence may mean something by now: nothing is found later for that.
    #[test]
    fn nothing_is_found_later_than_by_looking_at_all(steps in prop::collection::vec((0u8..6, 1u64..25), 1..80)) {
        let devices = || vec![configured("a", Protocol::Mqtt, Some(10)), configured("b", Protocol::Mqtt, None)];
        let known = || devices().into_iter().map(|c| Device { presence: Presence::Online, ..unseen(c.id, c.protocol, c.kind) });
        let (mut few, mut all) = (Book::new(Settings::default(), known().collect()), Book::new(Settings::default(), known().collect()));
        few.sync(devices(), None, at(0.0));
        let mut clock = 0.0;
        for (what, wait) in steps {
            clock += wait as f64;
            let (device, now) = (id(if what % 2 == 0 { "a" } else { "b" }), at(clock));
            for book in [&mut few, &mut all] {
                match what {
                    0 | 1 => book.connected(&device, Protocol::Mqtt, now.at, now),
                    2 | 3 => book.disconnected(&device, "gone".into(), now),
                    _ => {}
                }
            }
            few.judge(now);
            // Whatever the configuration says again is looked at as a whole.
            all.sync(devices(), None, now);
            for name in ["a", "b"] {
                let (few, all) = (&few.get(&id(name)).expect("known").device, &all.get(&id(name)).expect("known").device);
                prop_assert_eq!((few.presence, &few.reason), (all.presence, &all.reason), "{} at {}", name, clock);
            }
            prop_assert_eq!(taken(&mut few, now), taken(&mut all, now));
        }
    }
}

#[tokio::test]
async fn the_registry_keeps_its_devices_through_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let (store, thread) = Store::open(folder.path()).expect("store");
    let (tasks, events) = (Tasks::new(), Events::new());
    let mut watch = events.watch();
    let (children_in, children) = mpsc::channel(8);
    let (signs_in, signs) = mpsc::channel(8);
    let ports = Ports { children, signs, store: store.clone(), events };
    let registry = start(Settings::default(), ports, &tasks).await.expect("start");
    registry.sync(vec![configured("meter", Protocol::Modbus, None)], None).await;
    assert_eq!(*registry.ids().borrow(), vec![id("meter")]);

    let connected =
        ChildEvent::Connected { device: id("pump"), address: None, protocol: "mqtt", at: Millis(1_760_000_000_000) };
    children_in.send(connected).await.expect("sent");
    let version = Sign::Firmware { device: id("pump"), at: Millis(1), version: Arc::from("1.0.0") };
    loop {
        if let Event::Presence { device, presence: Presence::Online, .. } = watch.recv().await.expect("an event") {
            assert_eq!(device, id("pump"));
            break;
        }
    }
    signs_in.send(version).await.expect("sent");
    let mut ids = registry.ids();
    ids.wait_for(|ids| ids.len() == 2).await.expect("ids");

    let technician = Door::Technician("ada".into());
    let wrong = registry.set_lifecycle(&id("pump"), Lifecycle::Pending, technician.clone()).await;
    assert_eq!(wrong.expect_err("active cannot become pending").code, RefusalCode::OutOfRange);
    let pump = registry.set_lifecycle(&id("pump"), Lifecycle::Suspended, technician.clone()).await.expect("suspended");
    assert_eq!(pump.lifecycle, Lifecycle::Suspended);
    let lives = registry.lives().borrow().clone();
    assert_eq!((lives.of(&id("pump")), lives.of(&id("new"))), (Lifecycle::Suspended, Lifecycle::Active));
    assert_eq!(*registry.ids().borrow(), vec![id("meter")]);
    let labelled = registry.set_labels(&id("meter"), Vec::new(), Vec::new()).await;
    assert_eq!(labelled.expect_err("configured").code, RefusalCode::NotWritable);
    registry.set_labels(&id("pump"), vec!["wet".into()], Vec::new()).await.expect("labels");

    tasks.stop_and_wait().await;
    store.stop().await;
    thread.join();
    let (store, _thread) = Store::open(folder.path()).expect("again");
    let devices = store.devices().await.expect("devices");
    let pump = devices.iter().find(|d| d.id == id("pump")).expect("pump");
    assert_eq!((pump.lifecycle, pump.tags.clone()), (Lifecycle::Suspended, vec!["wet".to_owned()]));
    assert_eq!(pump.last_seen, Some(Millis(1_760_000_000_000)));
    assert_eq!(pump.firmware_version.as_deref(), Some("1.0.0"));
}
