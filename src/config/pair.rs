//! Files of a certificate and its private key, where they are named. Whether they fit is for those who can read keys.

use std::path::PathBuf;

use super::problem::Place;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate: Named,
    pub key: Named,
}

/// A file, and where it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub place: Place,
    pub path: PathBuf,
}
