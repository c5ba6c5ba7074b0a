//! Retained messages of the local broker.

pub const MIGRATIONS: &[&str] = &[];
