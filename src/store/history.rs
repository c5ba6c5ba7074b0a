//! Who changed which shadow, when and through which door.

pub const MIGRATIONS: &[&str] = &[];
