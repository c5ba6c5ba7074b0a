//! The real daemon beside real peers that nobody here wrote, told as stories.

mod access;
mod anonymous;
mod certificates;
mod child_jobs;
mod clock;
mod coap;
mod commissioning;
mod disk;
mod drift;
mod gateway;
mod identity;
mod limits;
mod mistakes;
mod operations;
mod outage;
mod peers;
mod preload;
mod reload;
mod road;
mod shadow_cloud;
mod shadow_sync;
mod shadow_vectors;
mod silenced;
mod site;
mod stand_ins;
mod storm;
mod uplink_tls;
mod wishes;

use std::time::{Duration, Instant};

/// Asks until there is an answer; fails after 45 s. The pause is between questions, not in place of readiness.
pub fn eventually<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(45) {
        if let Some(answer) = question() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("not within 45 s: {what}");
}
