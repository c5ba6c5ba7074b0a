//! CoAP children, as servers the gateway asks and as clients that push (RFC 7252).
//!
//! `wire` is a message, `exchange` the message layer as a value, `endpoint` both on a socket, `transfer` whole bodies
//! in blocks. `client` serves one child that is a server; `server` is the door for children that are clients.

mod answers;
pub mod blocks;
mod client;
mod commands;
pub mod endpoint;
pub mod exchange;
pub mod formats;
pub mod server;
mod session;
pub mod simulate;
pub mod transfer;
mod values;
pub mod wire;

pub use client::{DriverError, Ports, run};

/// Commands that every device knows.
pub const COMMANDS: [&str; 1] = ["read-now"];
