//! `[uplink]`: the cloud's broker.
