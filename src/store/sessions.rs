//! Persistent sessions of the local broker and what waits for them.

pub const MIGRATIONS: &[&str] = &[];
