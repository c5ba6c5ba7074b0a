//! How a cloud wants to be spoken to: one file per cloud, topics and payloads to records and orders and back.

pub mod aws;
pub mod native;
