//! Alarms, raised and cleared.

pub const MIGRATIONS: &[&str] = &[];
