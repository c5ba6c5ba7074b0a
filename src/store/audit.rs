//! Who did what.

pub const MIGRATIONS: &[&str] = &[];
