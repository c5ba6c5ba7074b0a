//! `headgate demo`: everything in one process, and the parts of it that tests use too.

pub mod cloud;
pub mod http;
pub mod oracle;
pub mod wire;
