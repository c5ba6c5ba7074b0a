//! Structured logs for people and for journald.
