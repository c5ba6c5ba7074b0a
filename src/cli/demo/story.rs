//! The story: readings flow, a wish travels down, the link dies and returns, firmware goes out, and somebody counts.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use super::{
    cloud::View,
    screen::{Screen, bar},
    stage::{CLIMATE, DEVICES, GATEWAY, PUMP, Stage},
};
use crate::{
    config::modbus::kind::Table,
    model::{device::Presence, event::LinkState, reading::Value, record::Lane, view::Overview},
};

/// How often the table is drawn.
const PACE: Duration = Duration::from_millis(500);
/// Longest for one step of the story.
const STEP: Duration = Duration::from_secs(40);
/// How long the link stays dead.
const OUTAGE: Duration = Duration::from_secs(12);
/// Bytes of the firmware image.
const IMAGE: usize = 600 * 1024;
/// The XY-MD02's register for the temperature correction (tenths of a degree).
const CORRECTION: u16 = 0x103;

/// Plays for `length` at most and counts; true when every step was seen and the count holds.
pub async fn play(mut stage: Stage, length: Duration, story_only: bool) -> bool {
    let began = Instant::now();
    let mut teller = Teller { screen: Screen::new(), began, unseen: Vec::new() };
    teller.greet(&stage);
    let interrupted = tokio::select! {
        () = teller.tell(&mut stage, story_only) => false,
        () = sleep(length) => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    if interrupted {
        teller.say("interrupted: counting what there is");
    }
    stage.wire.heal();
    let held = teller.count(&mut stage).await;
    stage.stop_gateway().await;
    stage.others.stop_and_wait().await;
    for step in &teller.unseen {
        teller.screen.say(&format!("  NOT SEEN: {step}"));
    }
    held && teller.unseen.is_empty()
}

struct Teller {
    screen: Screen,
    began: Instant,
    /// Steps of the story that did not come to pass.
    unseen: Vec<String>,
}

impl Teller {
    fn greet(&mut self, stage: &Stage) {
        self.screen.say("Headgate demo: four devices, a gateway and a cloud in one process, on loopback only.\n");
        for url in &stage.urls {
            self.screen.say(&format!("  The page:          {url}"));
        }
        self.screen.say(&format!("  First login code:  {}\n", stage.code));
    }

    async fn tell(&mut self, stage: &mut Stage, story_only: bool) {
        self.say("1. Readings flow from four devices through the log to the cloud.");
        let flowing = |view: &View| DEVICES.iter().all(|(id, _)| !view.oracle.account(id).received.is_empty());
        self.wait(stage, "readings of all four devices in the cloud", async |stage| flowing(&stage.cloud.view())).await;

        self.say("2. The cloud wishes a temperature correction of -1.5 °C on the RS-485 sensor.");
        stage.cloud.delta(CLIMATE, json!({ "temperatureCorrection": -1.5 })).await;
        self.wait(stage, "the value in the device's register", async |stage| {
            stage.climate.registers.read(2, Table::Holding, CORRECTION, 1) == Some(vec![(-15_i16).cast_unsigned()])
        })
        .await;
        self.say("   It stands in holding register 0x0103 of unit 2.");
        self.wait(stage, "the value reported back", async |stage| {
            let state = stage.cloud.view().latest(CLIMATE, "state").cloned();
            state.and_then(|state| state.pointer("/reported/temperatureCorrection").and_then(Json::as_f64))
                == Some(-1.5)
        })
        .await;
        self.say("   Read back and reported: desired and reported agree.");

        self.say("3. The link to the cloud dies without a word. Polling goes on, the log grows.");
        stage.wire.stall();
        let dead = Instant::now();
        while dead.elapsed() < OUTAGE {
            self.draw(stage).await;
            sleep(PACE).await;
        }
        let waiting = overview(stage).await.map_or(0, |o| o.log.waiting);
        self.say(&format!("   {waiting} records wait on disk. The link returns."));
        if waiting == 0 {
            self.unseen.push("records waiting on disk during the outage".into());
        }
        stage.wire.heal();
        self.wait(stage, "a drained log", async |stage| {
            overview(stage).await.is_some_and(|o| o.link.state == LinkState::Live && o.log.waiting < 20)
        })
        .await;
        self.say("   Drained.");

        self.say("4. Signed firmware 1.1.0 for the MQTT pump: fetched once, verified, offered, installed.");
        let mut image = vec![0_u8; IMAGE];
        let _ = aws_lc_rs::rand::fill(&mut image);
        let order = stage.cloud.release("demo-update-1", "1.1.0", image);
        stage.cloud.update(PUMP, &order).await;
        self.wait(stage, "the pump running 1.1.0", async |stage| stage.pump.borrow().firmware == "1.1.0").await;
        self.say("   The pump runs 1.1.0.");

        self.say("5. The same image with one bit turned: the gateway refuses it.");
        let mut spoiled = stage.cloud.release("demo-update-2", "1.2.0", vec![7_u8; 4096]);
        spoiled.sha256.replace_range(0..1, if spoiled.sha256.starts_with('0') { "1" } else { "0" });
        stage.cloud.update(PUMP, &spoiled).await;
        self.wait(stage, "the refusal of the altered image", async |stage| {
            let status = stage.cloud.view().latest(PUMP, "update/status").cloned().unwrap_or_default();
            status["jobId"] == "demo-update-2" && status["status"] == "failed"
        })
        .await;
        self.say("   Refused, and the cloud was told why.");
        if story_only {
            return;
        }
        self.say("The story is told. The page stays; Ctrl-C counts and ends.");
        loop {
            self.draw(stage).await;
            sleep(PACE).await;
        }
    }

    /// Everything stops measuring, the log drains, and an observer compares: sent = received + declared.
    async fn count(&mut self, stage: &mut Stage) -> bool {
        self.say("Counting: the devices stop, the log drains.");
        stage.pump_tasks.stop_and_wait().await;
        stage.drivers.stop();
        let began = Instant::now();
        let mut quiet = 0;
        while began.elapsed() < STEP && quiet < 4 {
            let drained = overview(stage).await.is_some_and(|o| o.log.waiting == 0);
            quiet = if drained { quiet + 1 } else { 0 };
            self.draw(stage).await;
            sleep(PACE).await;
        }
        self.screen.clear();
        let view = stage.cloud.view();
        let on_disk = on_disk(stage).await;
        let mut held = true;
        self.screen.say("\n  device     on disk  received  declared  missing  repeated");
        for (device, _) in DEVICES {
            let account = view.oracle.account(device);
            let sent = on_disk.get(device).copied().unwrap_or(0);
            let missing: u64 = account.missing(Some(sent)).iter().map(|hole| hole.end() - hole.start() + 1).sum();
            let (received, declared) = (account.received.len(), account.declared.len());
            held &= missing == 0 && sent > 0 && received + declared == sent && account.disordered == 0;
            self.screen
                .say(&format!("  {device:12}{sent:6}{received:10}{declared:10}{missing:9}{:10}", account.repeated));
        }
        // The pump counts for itself: its own numbers never passed through the gateway's hands.
        let pump = stage.pump.borrow().clone();
        let own = view.oracle.account(PUMP).own.len();
        held &= own == pump.acknowledged && pump.lost == 0;
        self.screen.say(&format!(
            "  {PUMP} counts for itself: {} measured, {} acknowledged by the gateway, {own} in the cloud",
            pump.measured, pump.acknowledged
        ));
        self.screen.say(match held {
            true => "\n  The count holds: sent = received + declared, in order, nothing missing.",
            false => "\n  THE COUNT DOES NOT HOLD.",
        });
        held
    }

    fn say(&mut self, line: &str) {
        let at = self.began.elapsed().as_secs();
        self.screen.say(&format!("[{:02}:{:02}] {line}", at / 60, at % 60));
    }

    /// Draws until `seen`; a step that does not come to pass in time is remembered, and the story goes on.
    async fn wait(&mut self, stage: &mut Stage, what: &str, seen: impl AsyncFn(&Stage) -> bool) {
        let began = Instant::now();
        while began.elapsed() < STEP {
            if seen(stage).await {
                return;
            }
            self.draw(stage).await;
            sleep(PACE / 2).await;
        }
        self.say(&format!("   not within {STEP:?}: {what}"));
        self.unseen.push(what.to_owned());
    }

    async fn draw(&mut self, stage: &Stage) {
        let Some(overview) = overview(stage).await else { return };
        let mut rows = vec![String::new()];
        let latest = stage.gateway.rows().await.unwrap_or_default();
        for (id, what) in DEVICES {
            let row = latest.iter().find(|row| row.device.id.as_str() == id);
            let sign = match row.map(|row| row.device.presence) {
                Some(Presence::Online) => "online ",
                Some(Presence::Late) => "late   ",
                Some(Presence::Offline) => "OFFLINE",
                _ => "       ",
            };
            let values = row.map(|row| {
                let shown = row.values.iter().filter_map(|live| Some((live, short(live.value.as_ref()?)))).take(3);
                shown
                    .map(|(live, value)| {
                        let unit = row.units.get(&live.name).map(String::as_str).unwrap_or_default();
                        format!("{} {value} {unit}", live.name)
                    })
                    .collect::<Vec<_>>()
                    .join("  ")
            });
            rows.push(format!("  {id:10} {sign} {what:28} {}", values.unwrap_or_default()));
        }
        rows.push(format!(
            "  cloud: {:14} log: {} waiting, {} KiB on disk   received: {}",
            words(&overview.link.state),
            overview.log.waiting,
            overview.log.bytes / 1024,
            stage.cloud.view().oracle.accounts().map(|(_, account)| account.received.len()).sum::<u64>(),
        ));
        if let Some(update) = &stage.pump.borrow().update
            && !update.status.is_final()
        {
            rows.push(format!("  {PUMP} {:?} {}", update.status, bar(update.progress.unwrap_or(0))));
        }
        rows.push(format!("  gateway {GATEWAY}, {} MiB resident", overview.memory.unwrap_or(0) >> 20));
        self.screen.table(&rows);
    }
}

async fn overview(stage: &Stage) -> Option<Overview> {
    stage.gateway.overview(Default::default()).await.ok()
}

/// Readings of each device that were ever taken in: nothing is dropped from the log in so short a time.
async fn on_disk(stage: &Stage) -> HashMap<String, u64> {
    let mut counted = HashMap::new();
    let mut position = 0;
    while let Ok(records) = stage.gateway.store.read_after(Lane::Telemetry, position, 10_000, 8 << 20).await {
        let Some(last) = records.last() else { break };
        position = last.position;
        for record in &records {
            *counted.entry(record.record.device.to_string()).or_insert(0) += 1;
        }
    }
    counted
}

fn words(state: &LinkState) -> String {
    match state {
        LinkState::Disabled => "none".into(),
        LinkState::Connecting => "connecting".into(),
        LinkState::Live => "live".into(),
        LinkState::CatchingUp { backlog } => format!("catching up ({backlog})"),
        LinkState::BackingOff { .. } => "unreachable".into(),
        LinkState::Refused { reason } => format!("refused: {reason}"),
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::Float(f) => format!("{f:.1}"),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Text(t) => t.to_string(),
    }
}
