//! Points in time as every wire and the log carry them: Unix milliseconds.

use serde::{Deserialize, Serialize};

/// Unix time in milliseconds. Signed, so that a wrong clock can be represented rather than wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub i64);

impl Millis {
    /// Whole seconds, rounded down: the unit of shadow metadata and of the jobs service.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Milliseconds from `earlier` to `self`; negative where the clock went back.
    pub fn since(self, earlier: Millis) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn plus(self, millis: i64) -> Millis {
        Millis(self.0.saturating_add(millis))
    }
}
