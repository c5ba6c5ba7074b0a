//! Files of certificates and keys, where they are named. Whether they are what they should be is for those who can read
//! keys.

use std::path::PathBuf;

use super::problem::Place;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pem {
    /// A certificate and its private key.
    Pair { certificate: Named, key: Named },
    /// Certificates of those who vouch for the other side.
    Authorities(Named),
}

impl Pem {
    /// Where it is named first.
    pub fn line(&self) -> usize {
        let (Pem::Pair { certificate: named, .. } | Pem::Authorities(named)) = self;
        named.place.line
    }
}

/// A file, and where it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub place: Place,
    pub path: PathBuf,
}
