//! Durable ingest beside a bare SQLite writer: the same rows, the same batches, the same `synchronous`.

use std::time::Instant;

use futures_util::{StreamExt, stream};
use headgate::{model::record::NewRecord, tasks::Tasks};

use super::{
    CAP, body, median,
    peers::{bare, insert},
    reading, readings,
    road::open,
};

pub async fn ingest(sizes: &[u64]) {
    println!("durable ingest, rows of {} bytes, one writer, each batch synced before the next", body(1).len());
    println!(
        "{:>8} {:>14} {:>14} {:>8} {:>14} {:>8}",
        "batch", "SQLite rows/s", "headgate/s", "ratio", "two under way", "ratio"
    );
    for &batch in sizes {
        // At one reading per commit both write-ahead logs begin anew within it.
        let rounds = (40_000 / batch).clamp(40, 2000);
        let (mut sqlite, mut ours, mut paired) = (Vec::new(), Vec::new(), Vec::new());
        // In turns, so that whatever else the machine does meets both.
        for _ in 0..7 {
            let folder = tempfile::tempdir_in(".").expect("folder");
            let mut connection = bare(folder.path());
            let batches: Vec<Vec<NewRecord>> =
                (0..rounds).map(|round| readings(round * batch, (round + 1) * batch)).collect();
            let begun = Instant::now();
            for (round, records) in (0u64..).zip(&batches) {
                insert(&mut connection, records, round * batch + 1);
            }
            sqlite.push((rounds * batch) as f64 / begun.elapsed().as_secs_f64());
            drop(connection);
            ours.push(store(&batches, 1).await);
            // As several publishers have it: while one batch is synced the next is there.
            paired.push(store(&batches, 2).await);
        }
        let (sqlite, ours, paired) = (median(sqlite), median(ours), median(paired));
        let share = |rate: f64| rate / sqlite * 100.0;
        println!("{batch:>8} {sqlite:>14.0} {ours:>14.0} {:>7.0}% {paired:>14.0} {:>7.0}%", share(ours), share(paired));
    }
    together().await;
}

/// Readings per second, with so many batches handed over at a time.
async fn store(batches: &[Vec<NewRecord>], under_way: usize) -> f64 {
    let folder = tempfile::tempdir_in(".").expect("folder");
    let (store, thread) = open(folder.path(), CAP);
    let all = batches.to_vec();
    let begun = Instant::now();
    let mut stored = stream::iter(all).map(|batch| store.append(batch)).buffered(under_way);
    while let Some(done) = stored.next().await {
        done.expect("stored");
    }
    let rate = batches.iter().map(Vec::len).sum::<usize>() as f64 / begun.elapsed().as_secs_f64();
    drop(stored);
    store.stop().await;
    thread.join();
    rate
}

/// Many publishers, each of which waits for the sync of its one record: what group commit gives.
async fn together() {
    let folder = tempfile::tempdir_in(".").expect("folder");
    let (store, thread) = open(folder.path(), CAP);
    let tasks = Tasks::new();
    let (each, publishers) = (2000u64, 64u64);
    let begun = Instant::now();
    for publisher in 0..publishers {
        let store = store.clone();
        tasks.spawn("publisher", async move {
            for n in 0..each {
                store.append(vec![reading(publisher * each + n)]).await.expect("stored");
            }
        });
    }
    tasks.stop_and_wait().await;
    let rate = (each * publishers) as f64 / begun.elapsed().as_secs_f64();
    println!("{publishers} publishers, one record each, each waits for its sync: {rate:.0} records/s");
    store.stop().await;
    thread.join();
}
