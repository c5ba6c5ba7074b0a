//! Firmware: fetch once, verify, cache, deliver to children, follow each child's state.
