//! The Modbus road of the gateway beside two others on the same simulated farm, and what a bus carries.
//!
//! `cargo bench --bench modbus` runs all but the last; one of them by name behind `--`:
//!
//! * `farm [GATEWAY…]`: 10 x 100 and 100 x 100 registers once a second, from the wire to an MQTT broker: values per second, CPU
//!   seconds per 100,000 values, resident memory; Headgate beside ThingsBoard's gateway and Node-RED, where
//!   `tests/bench/modbus-peers.sh` has installed them
//! * `flat-out`: 10 devices asked a hundred times a second, and as fast as they answer: at once, and as real devices do
//! * `line`: a serial line at 9600 to 115200 baud, and how much of it is used
//! * `sick`: one unit of ten dead, one that refuses, one slow: what the other seven lose
//! * `leaks [N]`: N exceptions and N timeouts (a million each), memory on the way

mod counter;
mod farm;
mod gateways;
mod process;
#[path = "../../modbus/support.rs"]
#[allow(dead_code)]
mod support;
mod wire;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let rest: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        match arguments.first().map(String::as_str) {
            Some("farm") => farm::beside_others(&rest).await,
            Some("flat-out") => farm::flat_out(&rest).await,
            Some("line") => wire::line().await,
            Some("sick") => wire::sick().await,
            Some("leaks") => {
                wire::leaks(rest.first().map_or(1_000_000, |n| n.parse().expect("a number of requests"))).await;
            }
            None => {
                farm::beside_others(&[]).await;
                farm::flat_out(&[]).await;
                wire::line().await;
                wire::sick().await;
            }
            Some(other) => panic!("{other}: say farm, flat-out, line, sick or leaks"),
        }
    });
}
