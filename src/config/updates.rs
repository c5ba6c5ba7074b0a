//! `[updates]`: trusted keys, cache size, doors.
