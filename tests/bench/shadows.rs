//! Measures the shadow service: 5,000 shadows of 2 KiB, 2,000 durable updates a second, and the time from an update to
//! its `accepted`. Then the most telemetry the keeper takes in. `cargo bench --bench shadows [-- seconds]`

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use headgate::{
    bus::{Events, Inbound},
    clock,
    model::{
        command::Door,
        ids::DeviceId,
        topic::{ChildTopic, ShadowOperation, ShadowTopic},
    },
    store::Store,
    tasks::Tasks,
    twins::{self, Settings},
};
use tokio::sync::{mpsc, oneshot, watch};

const SHADOWS: usize = 5_000;
const RATE: u64 = 2_000;

/// About 2 KiB of state: 40 numbers and 20 texts, some of them nested.
fn document(seed: usize) -> String {
    let numbers: Vec<String> = (0..40).map(|n| format!("\"measured_value_{n:02}\":{}.{n}", seed % 1000)).collect();
    let texts: Vec<String> = (0..20).map(|n| format!("\"text_{n:02}\":\"{:0>32}\"", seed + n)).collect();
    format!("{{\"state\":{{\"reported\":{{{},\"nested\":{{{}}}}}}}}}", numbers.join(","), texts.join(","))
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    sorted.get(((sorted.len() as f64 - 1.0) * part) as usize).copied().unwrap_or_default()
}

struct Stand {
    inbound: headgate::bus::InboundSender,
    accepted: mpsc::Receiver<(String, Instant)>,
}

impl Stand {
    /// An update of the classic shadow of device `n`.
    fn update(
        n: usize,
        payload: String,
    ) -> (Inbound, oneshot::Receiver<Result<(), headgate::model::command::Refusal>>) {
        let topic = ChildTopic::Shadow(ShadowTopic { name: None, operation: ShadowOperation::Update });
        let device = DeviceId::new(&format!("device-{n}")).expect("an id");
        let (reply, answer) = oneshot::channel();
        let payload = payload.into();
        (Inbound { device, topic, payload, at: clock::now(), door: Door::Device, reply, mark: None }, answer)
    }
}

fn main() {
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(10_u64);
    let folder = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(run(folder.path(), seconds));
}

async fn run(folder: &std::path::Path, seconds: u64) {
    let (store, thread) = Store::open(folder).expect("store");
    let tasks = Tasks::new();
    let (inbound, inbound_end) = mpsc::channel(1024);
    let (local, mut said) = mpsc::channel(1024);
    let ports = twins::Ports {
        inbound: inbound_end,
        drivers: mpsc::channel(1).1,
        children: mpsc::channel(1).1,
        orders: mpsc::channel(1).1,
        fetches: mpsc::channel(1).1,
        local,
        events: Events::new(),
        store: store.clone(),
        updates: mpsc::channel(1).0,
        asks: mpsc::channel(1).0,
        signs: mpsc::channel(1).0,
        outcomes: mpsc::channel(1).0,
        readings: watch::channel(None).1,
    };
    let keeper = twins::start(Settings::default(), ports, &tasks);
    let (tell, accepted) = mpsc::channel(65_536);
    tasks.spawn("broker", async move {
        while let Some(message) = said.recv().await {
            if message.topic.ends_with("update/accepted") && tell.send((message.topic, Instant::now())).await.is_err() {
                return;
            }
        }
    });
    let mut stand = Stand { inbound, accepted };

    println!("resident before: {} KiB", resident_kib());
    let began = Instant::now();
    for n in 0..SHADOWS {
        let (update, _) = Stand::update(n, document(n));
        stand.inbound.send(vec![update]).await.expect("runs");
    }
    for _ in 0..SHADOWS {
        stand.accepted.recv().await.expect("accepted");
    }
    let took = began.elapsed();
    println!(
        "{SHADOWS} shadows of {} bytes made in {took:.2?}: {:.0}/s; resident {} KiB",
        document(0).len(),
        SHADOWS as f64 / took.as_secs_f64(),
        resident_kib()
    );

    // 2,000 updates a second, one small change each, spread over all shadows.
    let mut sent: HashMap<String, Instant> = HashMap::new();
    let mut times = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    let began = Instant::now();
    let total = RATE * seconds;
    for n in 0..total {
        tick.tick().await;
        let device = (n as usize).wrapping_mul(7919) % SHADOWS;
        let payload = format!("{{\"state\":{{\"reported\":{{\"measured_value_07\":{n}}}}}}}");
        let (update, _) = Stand::update(device, payload);
        sent.insert(format!("$aws/things/device-{device}/shadow/update/accepted"), Instant::now());
        stand.inbound.send(vec![update]).await.expect("runs");
        while let Ok((topic, at)) = stand.accepted.try_recv() {
            times.extend(sent.remove(&topic).map(|sent| at - sent));
        }
    }
    while times.len() < total as usize {
        match tokio::time::timeout(Duration::from_secs(20), stand.accepted.recv()).await {
            Ok(Some((topic, at))) => times.extend(sent.remove(&topic).map(|sent| at - sent)),
            _ => break,
        }
    }
    let took = began.elapsed();
    times.sort();
    println!(
        "{} of {total} updates accepted in {took:.2?}: {:.0}/s; p50 {:.2?}, p99 {:.2?}, greatest {:.2?}; resident {} KiB",
        times.len(),
        times.len() as f64 / took.as_secs_f64(),
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        times.last().copied().unwrap_or_default(),
        resident_kib()
    );

    // As much telemetry as it takes, in batches as a busy connection brings them.
    let began = Instant::now();
    let mut count = 0_u64;
    let mut last = Vec::new();
    while began.elapsed() < Duration::from_secs(seconds.min(10)) {
        let mut batch = Vec::with_capacity(256);
        for n in 0..256 {
            let (reply, answer) = oneshot::channel();
            let device = DeviceId::new(&format!("device-{}", (count + n) % 100)).expect("an id");
            let payload = format!("{{\"temp\":{}.5,\"humidity\":48}}", n % 50).into();
            batch.push(Inbound {
                device,
                topic: ChildTopic::Telemetry,
                payload,
                at: clock::now(),
                door: Door::Device,
                reply,
                mark: None,
            });
            if n == 255 {
                last.push(answer);
            }
        }
        count += 256;
        stand.inbound.send(batch).await.expect("runs");
    }
    for answer in last {
        answer.await.expect("answered").expect("stored");
    }
    let took = began.elapsed();
    println!(
        "{count} telemetry messages on disk in {took:.2?}: {:.0}/s; resident {} KiB",
        count as f64 / took.as_secs_f64(),
        resident_kib()
    );
    tasks.stop_and_wait().await;
    drop(keeper);
    store.stop().await;
    thread.join();
}
