//! Text to checked values: read what was written, check what it means, or say *all* problems at once.

pub mod problem;
pub mod read;
