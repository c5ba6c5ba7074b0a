//! Firmware images and each child's update.

pub const MIGRATIONS: &[&str] = &[];
