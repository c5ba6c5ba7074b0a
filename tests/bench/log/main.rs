//! The log and the road beside the limits of the same machine in the same run.
//!
//! `cargo bench --bench log` runs all but the long ones; `-- ingest`, `drain`, `bytes`, `wire`, `south`, `compare` or
//! `backlog 10000000` one of them. Peers: a bare SQLite writer and a bare rumqttc publisher with the same rows, batches
//! and durability, and Debian's mosquitto as a bridge.

mod backlog;
mod bytes;
mod compare;
mod drain;
mod ingest;
mod peers;
#[path = "../../road/mod.rs"]
mod road;
mod south;

use std::path::Path;

use headgate::model::{
    record::{Kind, NewRecord},
    time::Millis,
};
use road::id;

/// More than any of these fills.
const CAP: u64 = 64 << 30;

/// A reading of about 160 bytes. The last four digits of each of its eight values are random, so that no compressor can
/// go below 13 bytes for them; a real meter moves less.
fn body(n: u64) -> String {
    // SplitMix64 by Vigna: one well-mixed number per value.
    let value = |k: u64| {
        let mut x = (n * 8 + k).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % 10_000) as f64 / 100.0
    };
    let names = ["voltage_l1", "voltage_l2", "voltage_l3", "current_l1", "current_l2", "current_l3", "power", "energy"];
    let values: Vec<String> =
        names.iter().zip(1..).map(|(name, k)| format!("\"{name}\":{:.2}", 220.0 + value(k))).collect();
    format!("{{\"values\":{{{}}}}}", values.join(","))
}

fn topic(n: u64) -> String {
    format!("devices/meter-{:02}/telemetry", n % 20)
}

fn reading(n: u64) -> NewRecord {
    let device = id(&format!("meter-{:02}", n % 20));
    let ts = Millis(1_760_000_000_000 + n as i64 * 50);
    NewRecord { device, kind: Kind::Telemetry, name: None, ts, body: body(n).into() }
}

fn readings(from: u64, to: u64) -> Vec<NewRecord> {
    (from..to).map(reading).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median and 99th of a hundred.
fn middle_and_high(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[values.len() * 99 / 100])
}

/// `write_bytes` of a process: what it sent to the storage layer (proc(5)).
fn device_bytes(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["child", folder] => backlog::child(Path::new(folder)).await,
        ["ingest"] => ingest::ingest(&[1, 10, 100, 1000]).await,
        ["ingest", size] => ingest::ingest(&[size.parse().expect("readings per commit")]).await,
        ["drain"] => drain::drain().await,
        ["bytes"] => bytes::disk().await,
        ["wire"] => bytes::wire().await,
        ["south"] => south::south().await,
        ["compare"] => compare::compare().await,
        ["backlog", count] => backlog::backlog(count.parse().expect("a number of records")).await,
        _ => {
            ingest::ingest(&[1, 10, 100, 1000]).await;
            drain::drain().await;
            bytes::disk().await;
            bytes::wire().await;
            south::south().await;
        }
    }
}
