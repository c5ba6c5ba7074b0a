//! The registry's devices.

pub const MIGRATIONS: &[&str] = &[];
