//! Whatever arrives, nothing panics and what was read means the same when it is written and read again.
//!
//! Each target of `targets` is a plain function of bytes. It is fed with its corpus, then with mutations of it from a
//! printed seed, for its share of `HEADGATE_FUZZ_SECONDS`. Without them it is the same 10 s for all together each time,
//! so that a change is judged by what it changed; with them it goes where nobody was. `HEADGATE_FUZZ_SEED` repeats a run. A
//! failing input is printed as hex and, once understood, goes into the corpus.

mod corpus;
mod door;
mod mutate;
mod rules;
#[path = "../broker/stand.rs"]
#[expect(dead_code, reason = "the tests of the broker use all of it")]
mod stand;
mod targets;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use mutate::Mutator;

/// Targets that share the time.
const TARGETS: u32 = 11;

pub fn share() -> Duration {
    let seconds = std::env::var("HEADGATE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_u32);
    Duration::from_secs(seconds.into()) / TARGETS
}

pub fn seed() -> u64 {
    let exploring = std::env::var("HEADGATE_FUZZ_SECONDS").is_ok();
    let fresh = || u64::from(std::process::id()) << 32 | u64::from(Instant::now().elapsed().subsec_nanos()) | 1;
    let given = std::env::var("HEADGATE_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| if exploring { fresh() } else { 1 })
}

fn fuzz(name: &str, corpus: Vec<Vec<u8>>, words: &[&str], target: fn(&[u8])) {
    assert!(!corpus.is_empty());
    let seed = seed();
    let mut mutator = Mutator::new(seed, words);
    let (end, mut runs) = (Instant::now() + share(), 0_u64);
    let run = |input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
            panic!("{name}, seed {seed}, input {} ({:?})", hex::encode(input), String::from_utf8_lossy(input));
        }
    };
    corpus.iter().for_each(|input| run(input));
    // At least some, however slow the machine.
    while runs < 200 || Instant::now() < end {
        run(&mutator.next(&corpus));
        runs += 1;
    }
    println!("{name}: {runs} inputs, seed {seed}");
}

#[test]
fn mqtt_packets() {
    fuzz("mqtt packets", corpus::mqtt(), &[], targets::mqtt);
}

#[test]
fn access_rules() {
    let words = ["+", "#", "/", "$aws/things/", "devices/", "d1", "{d}", "$SYS/", "/shadow/update/accepted", "\n"];
    fuzz("access rules", corpus::access(), &words, targets::access);
}

#[test]
fn configurations() {
    fuzz("configurations", corpus::toml(), corpus::TOML_WORDS, targets::toml);
}

#[test]
fn modbus_frames() {
    fuzz("modbus frames", corpus::modbus(), &[], targets::modbus_frames);
}

#[test]
fn modbus_values() {
    fuzz("modbus values", corpus::registers(), &[], targets::modbus_values);
}

#[test]
fn coap_datagrams() {
    fuzz("coap datagrams", corpus::coap(), &[], targets::coap);
}

#[test]
fn content_formats() {
    fuzz("content formats", corpus::formats(), corpus::JSON_WORDS, targets::formats);
}

#[test]
fn telemetry() {
    fuzz("telemetry", corpus::telemetry(), corpus::JSON_WORDS, targets::telemetry);
}

#[test]
fn shadow_documents() {
    fuzz("shadow documents", corpus::shadows(), corpus::JSON_WORDS, targets::shadows);
}

#[test]
fn job_documents() {
    fuzz("job documents", corpus::jobs(), corpus::JSON_WORDS, targets::jobs);
}
