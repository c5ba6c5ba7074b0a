//! `[broker]`: listeners and limits of the local broker.
