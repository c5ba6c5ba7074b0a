//! Text to checked values: read what was written, check what it means, or say *all* problems at once.

pub mod access;
pub mod broker;
pub mod coap;
pub mod gateway;
pub mod identity;
pub mod log;
pub mod modbus;
pub mod presence;
pub mod problem;
pub mod read;
pub mod updates;
pub mod uplink;
pub mod web;
