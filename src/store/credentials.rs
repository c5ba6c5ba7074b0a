//! Tokens, passwords, certificates, enrolment codes.

pub const MIGRATIONS: &[&str] = &[];
