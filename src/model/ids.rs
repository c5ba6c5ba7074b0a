//! Names of things: device ids. Checked once where they enter, trusted afterwards.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest device id, in bytes.
pub const MAX_ID: usize = 64;

/// The id of a device (a child, or the gateway itself): `[A-Za-z0-9._:-]{1,64}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(Arc<str>);

/// Why a text is no device id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    #[error("a device id is empty; give it 1 to 64 of the characters A-Z a-z 0-9 . _ : -")]
    Empty,
    #[error("a device id of {0} bytes is too long; at most 64 are allowed")]
    TooLong(usize),
    #[error("a device id may not contain {0:?}; allowed are A-Z a-z 0-9 . _ : -")]
    Character(char),
}

impl DeviceId {
    /// Checks `text` against the grammar above.
    pub fn new(text: &str) -> Result<Self, BadId> {
        if text.is_empty() {
            return Err(BadId::Empty);
        }
        if text.len() > MAX_ID {
            return Err(BadId::TooLong(text.len()));
        }
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-'))) {
            Some(c) => Err(BadId::Character(c)),
            None => Ok(Self(text.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DeviceId {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        Self::new(&text)
    }
}

impl std::str::FromStr for DeviceId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::new(text)
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_kept() {
        assert!(DeviceId::new("meter-1.a_b:C").is_ok());
        assert_eq!(DeviceId::new(""), Err(BadId::Empty));
        assert_eq!(DeviceId::new("a/b"), Err(BadId::Character('/')));
        assert_eq!(DeviceId::new(&"x".repeat(65)), Err(BadId::TooLong(65)));
        assert!(serde_json::from_str::<DeviceId>("\"a b\"").is_err());
    }
}
