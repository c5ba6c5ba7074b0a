//! `[presence]`: when a child counts as late or offline.
