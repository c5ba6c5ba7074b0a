//! MQTT children need no driver: the door of the local broker takes them in as they are. What lives here is a simulated
//! one, for the demo, for tests and for people who try things out.

mod device;
mod download;
pub mod simulate;
