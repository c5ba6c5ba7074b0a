//! Bulk work over many children.
