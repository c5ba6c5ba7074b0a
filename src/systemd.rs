//! The init system: ready, reloading, stopping, watchdog.
