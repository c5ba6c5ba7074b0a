//! Builds, wires, supervises, reloads and stops all rooms.

pub mod supervise;
