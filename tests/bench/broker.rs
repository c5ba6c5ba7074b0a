//! The broker beside Debian's mosquitto: same machine, same run, same load tool.
//!
//! `cargo bench --bench broker` prints all (about five minutes); `-- quick` what a person waits for; `-- plain`, `-- tls`,
//! `-- storm`, `-- fair` a part, and `-- quick tls` the same of a part.

#[path = "broker_load.rs"]
mod load;
#[path = "broker_peers.rs"]
mod peers;

use std::{
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use headgate::tasks::Tasks;
use load::{Manner, Run, connect, connector, publish, subscribe};
use peers::Peer;
use tokio::{sync::mpsc, time::sleep};
use tokio_rustls::TlsConnector;

/// Messages per second, all publishers together, at which latency is measured.
const PACE: u32 = 2_000;

/// One broker in one role.
struct Column<'p> {
    peer: &'p Peer,
    title: &'static str,
    /// `{}` is the publisher's client id.
    topic: &'static str,
    filter: &'static str,
    /// The subscriber's session is kept, so that there is something to save.
    kept: bool,
}

#[derive(Clone, Copy)]
struct Cell {
    qos: u8,
    size: usize,
    clients: usize,
}

struct Figures {
    rate: f64,
    cpu: f64,
    memory: f64,
    own: f64,
    p50: u32,
    p99: u32,
}

struct Crowd {
    tasks: Tasks,
    run: Arc<Run>,
    latencies: mpsc::UnboundedReceiver<Vec<u32>>,
}

/// Connects the subscriber and all publishers; they begin when all are there.
async fn crowd(column: &Column<'_>, tls: Option<&TlsConnector>, cell: Cell, every: Option<Duration>) -> Crowd {
    let port = if tls.is_some() { column.peer.tls } else { column.peer.plain };
    let (run, tasks) = (Run::new(), Tasks::new());
    let (tell, latencies) = mpsc::unbounded_channel();
    let watcher = connect(port, tls, "watcher", !column.kept).await.expect("the subscriber");
    let (filter, shared, paced) = (column.filter, run.clone(), every.is_some());
    tasks.spawn("subscriber", async move {
        let _ = tell.send(subscribe(watcher, filter, cell.qos, shared, paced).await);
    });
    sleep(Duration::from_millis(50)).await;
    let ids: Vec<String> = (0..cell.clients).map(|n| format!("{}{n}", run.mark)).collect();
    let mut streams = Vec::new();
    for some in ids.chunks(100) {
        streams.extend(join_all(some.iter().map(|id| connect(port, tls, id, true))).await);
    }
    for (id, stream) in ids.iter().zip(streams) {
        let topic = column.topic.replace("{}", id);
        let window = if cell.clients > 100 { 4 } else { 20 };
        let manner = Manner { topic, qos: cell.qos, size: cell.size, window, every };
        let (stream, run) = (stream.expect("a publisher"), run.clone());
        tasks.spawn("publisher", async move {
            if let Err(error) = publish(stream, manner, run).await {
                eprintln!("a publisher ended: {error}");
            }
        });
    }
    Crowd { tasks, run, latencies }
}

impl Crowd {
    async fn end(mut self) -> Vec<u32> {
        self.run.stop.store(true, Ordering::Relaxed);
        drop(tokio::time::timeout(Duration::from_secs(5), self.tasks.stop_and_wait()).await);
        self.latencies.recv().await.unwrap_or_default()
    }
}

async fn measure(column: &Column<'_>, tls: Option<&TlsConnector>, cell: Cell, span: Duration) -> Figures {
    let flat = crowd(column, tls, cell, None).await;
    sleep(span / 4).await;
    let counter = if cell.qos == 0 { &flat.run.delivered } else { &flat.run.acknowledged };
    let (before, cpu, began) = (counter.load(Ordering::Relaxed), column.peer.cpu(), Instant::now());
    sleep(span).await;
    let count = (counter.load(Ordering::Relaxed) - before) as f64;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), column.peer.cpu() - cpu);
    let (memory, own) = (column.peer.memory(), column.peer.own_memory());
    flat.end().await;
    // what was queued is worked off before the next
    sleep(Duration::from_millis(200)).await;
    let every = Duration::from_secs(1) * u32::try_from(cell.clients).expect("few") / PACE;
    let paced = crowd(column, tls, cell, Some(every)).await;
    sleep(span).await;
    let (p50, p99) = percentiles(paced.end().await);
    Figures { rate: count / seconds, cpu: cpu / count.max(1.0) * 100_000.0, memory, own, p50, p99 }
}

fn percentiles(mut latencies: Vec<u32>) -> (u32, u32) {
    latencies.sort_unstable();
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(u32::MAX);
    (at(0.5), at(0.99))
}

fn columns<'p>(headgate: &'p Peer, mosquitto: &'p Peer, saving: &'p Peer) -> [Column<'p>; 4] {
    let bench = |peer, title, kept| Column { peer, title, topic: "bench/{}", filter: "bench/#", kept };
    [
        bench(headgate, "headgate", false),
        Column {
            topic: "devices/{}/telemetry",
            filter: "devices/+/telemetry",
            ..bench(headgate, "headgate, on disk", false)
        },
        bench(mosquitto, "mosquitto", false),
        bench(saving, "mosquitto, saving", true),
    ]
}

async fn table(columns: &[Column<'_>], tls: Option<&TlsConnector>, quick: bool) {
    let span = Duration::from_millis(if quick { 700 } else { 1200 });
    println!(
        "\n{}\n{:>3} {:>5} {:>5}  {:<18} {:>9} {:>10} {:>9} {:>9} {:>7} {:>7}",
        if tls.is_some() { "TLS" } else { "plain" },
        "qos",
        "bytes",
        "pubs",
        "",
        "msg/s",
        "cpu s/100k",
        "p50 ms",
        "p99 ms",
        "rss MB",
        "own MB"
    );
    for qos in [0, 1] {
        for size in if quick { vec![100] } else { vec![100, 1024] } {
            for clients in if quick { vec![1, 50] } else { vec![1, 50, 1000] } {
                for column in columns {
                    // saving is slow whatever the wire, and saves nothing of QoS 0
                    if column.kept && (qos == 0 || tls.is_some()) {
                        continue;
                    }
                    let f = measure(column, tls, Cell { qos, size, clients }, span).await;
                    // nothing arrived: the broker was still busy with what came before
                    let ms = |us: u32| if us == u32::MAX { "-".into() } else { format!("{:.2}", f64::from(us) / 1e3) };
                    println!(
                        "{qos:>3} {size:>5} {clients:>5}  {:<18} {:>9.0} {:>10.2} {:>9} {:>9} {:>7.1} {:>7.1}",
                        column.title,
                        f.rate,
                        f.cpu,
                        ms(f.p50),
                        ms(f.p99),
                        f.memory,
                        f.own
                    );
                }
            }
        }
    }
}

/// A thousand children come at once: until the last is served, and what it costs.
async fn storm(peer: &Peer, tls: Option<&TlsConnector>) {
    let (port, before, cpu, began) =
        (if tls.is_some() { peer.tls } else { peer.plain }, peer.own_memory(), peer.cpu(), Instant::now());
    let ids: Vec<String> = (0..1000).map(|n| format!("s{n}")).collect();
    let each = ids.iter().map(|id| async {
        let outcome = connect(port, tls, id, true).await;
        (outcome, began.elapsed())
    });
    let streams = join_all(each).await;
    let last = streams.iter().map(|(_, at)| *at).max().unwrap_or_default();
    let served = streams.iter().filter(|(outcome, _)| outcome.is_ok()).count();
    println!(
        "{:<10} {:<6} {served:>5} of 1000 in {:>5.2} s, {:>5.2} cpu s, {before:>5.1} to {:>5.1} MB of its own",
        peer.name,
        if tls.is_some() { "TLS" } else { "plain" },
        last.as_secs_f64(),
        peer.cpu() - cpu,
        peer.own_memory()
    );
}

/// Ten quiet children and one that publishes as fast as its wire allows.
async fn fair(peer: &Peer, span: Duration) {
    let column = |filter| Column { peer, title: "", topic: "bench/{}", filter, kept: false };
    let quiet = Cell { qos: 1, size: 100, clients: 10 };
    let every = Some(Duration::from_millis(10));
    let alone = crowd(&column("bench/#"), None, quiet, every).await;
    sleep(span).await;
    let alone = percentiles(alone.end().await);
    let mut found = Vec::new();
    for (title, qos, at_once) in [("a gigabit of QoS 0", 0, GIGABIT), ("all QoS 0 it can", 0, 0), ("QoS 1", 1, 0)] {
        // a process of its own at the lowest priority: the broker's fairness is what counts, not the scheduler's
        let mut loud = Command::new("nice");
        loud.args(["-n", "19"]).arg(std::env::current_exe().expect("a path"));
        let loud = loud.args(["loud", &peer.plain.to_string(), &qos.to_string(), &at_once.to_string()]);
        let mut loud = loud.spawn().expect("nice");
        sleep(Duration::from_millis(300)).await;
        let beside = crowd(&column("bench/+"), None, quiet, every).await;
        sleep(span).await;
        found.push((title, percentiles(beside.end().await)));
        let _ = loud.kill();
        let _ = loud.wait();
    }
    let ms = |(p50, p99): (u32, u32)| format!("{:.2} / {:.2} ms", f64::from(p50) / 1000.0, f64::from(p99) / 1000.0);
    let beside: Vec<String> = found.iter().map(|(title, at)| format!("beside {title} {}", ms(*at))).collect();
    println!("{:<10} alone {}, {}", peer.name, ms(alone), beside.join(", "));
}

/// Messages of a KiB in a millisecond on a wire of 1 Gbit/s.
const GIGABIT: usize = 118;

/// `loud PORT QOS AT_ONCE`: floods until it is killed; with so many messages every millisecond, or without bound.
async fn loud(port: &str, qos: &str, at_once: &str) {
    let (port, qos) = (port.parse().expect("a port"), qos.parse().expect("a QoS"));
    let at_once: usize = at_once.parse().expect("a number");
    let stream = connect(port, None, "loud", true).await.expect("the loud one");
    let window = if qos == 0 { at_once } else { 100 };
    let every = (at_once > 0).then_some(Duration::from_millis(1));
    let manner = Manner { topic: "bench/loud/x".into(), qos, size: 1024, window, every };
    let _ = publish(stream, manner, Run::new()).await;
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let [what, port, qos, at_once] = &arguments[..]
        && what == "loud"
    {
        return loud(port, qos, at_once).await;
    }
    let quick = arguments.iter().any(|argument| argument == "quick");
    let named: Vec<&String> = arguments.iter().filter(|argument| *argument != "quick").collect();
    let asked = |what: &str| named.iter().any(|name| *name == what) || named.is_empty() && !(quick && what == "tls");
    let (headgate, mosquitto, saving) = (Peer::headgate(), Peer::mosquitto(false), Peer::mosquitto(true));
    for peer in [&headgate, &mosquitto] {
        println!("idle: {} {:.1} MB resident, {:.1} of them its own", peer.name, peer.memory(), peer.own_memory());
    }
    let tls = connector();
    let all = columns(&headgate, &mosquitto, &saving);
    if asked("plain") {
        table(&all, None, quick).await;
    }
    if asked("tls") {
        table(&all, Some(&tls), quick).await;
    }
    if asked("storm") {
        println!("\na thousand at once");
        for peer in [&headgate, &mosquitto] {
            storm(peer, None).await;
            storm(peer, Some(&tls)).await;
        }
    }
    if asked("fair") {
        println!("\n10 children at 100 messages a second each, p50 / p99, alone and beside one that floods");
        for peer in [&headgate, &mosquitto] {
            fair(peer, Duration::from_millis(if quick { 1500 } else { 4000 })).await;
        }
    }
}
