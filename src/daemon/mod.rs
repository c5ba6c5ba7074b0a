//! Builds, wires, supervises, reloads and stops all rooms.
