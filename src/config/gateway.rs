//! `[gateway]`: who this gateway is and where it keeps its state.
