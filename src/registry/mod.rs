//! Which devices exist, where they stand in their life, and whether they are there.
