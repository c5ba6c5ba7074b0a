//! Bulk jobs and their executions.

pub const MIGRATIONS: &[&str] = &[];
