//! The real daemon beside real peers that nobody here wrote, told as stories.

mod gateway;
mod peers;
mod stand_ins;

use std::time::{Duration, Instant};

/// Asks until there is an answer; fails after 20 s. The pause is between questions, not in place of readiness.
pub fn eventually<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if let Some(answer) = question() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("not within 20 s: {what}");
}
