//! `[log]`: how much is kept, how fast it is committed.
