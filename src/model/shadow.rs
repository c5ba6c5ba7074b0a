//! The device shadow as a pure value: merge, delta, versions.
