//! One folder per field protocol: device to Reading, desired to device.

pub mod coap;
pub mod modbus;
pub mod mqtt;
