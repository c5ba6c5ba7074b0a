//! Modbus children on serial lines and TCP endpoints (Modbus Application Protocol V1.1b3, Modbus over Serial Line V1.02).
//!
//! ```text
//!  config::modbus ─▶ plan ─▶ schedule ─▶ owner ─ ask ─▶ wire ─ frame ─▶ link
//!                              ▲           │ poll, write, tools, scope
//!                     health ──┴── unit ◀──┘ codec, report ─▶ readings
//! ```
//! The values (`codec`, `plan`, `frame`, `health`, `patience`, `report`, `schedule`, `solve`, `budget`) know no wire and no clock;
//! `owner` is the one task per bus; [`driver`] keeps one owner per configured bus.

mod ahead;
mod ask;
pub mod budget;
pub mod codec;
mod date;
mod discover;
pub mod driver;
pub mod frame;
pub mod health;
pub mod link;
mod number;
pub mod owner;
mod patience;
mod pause;
pub mod pdu;
pub mod plan;
mod poll;
mod port;
pub mod report;
pub mod schedule;
mod scope;
pub mod simulate;
pub mod solve;
pub mod status;
mod tool_check;
mod tool_files;
mod tool_registers;
mod tool_run;
mod tool_scan;
pub mod tools;
pub mod unit;
mod variant;
pub mod wire;
mod write;

/// Commands that every unit knows, beside those of its profile.
pub const COMMANDS: [&str; 2] = ["read-now", "identify"];
