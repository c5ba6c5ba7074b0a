//! Whether the files of a certificate and its private key, as a configuration names them, are there and fit.

use std::path::Path;

use rustls::{Error, crypto::aws_lc_rs, sign::CertifiedKey};

use super::files::{self, FileError};
use crate::config::{
    pair::{Named, Pair},
    problem::Problem,
};

/// What is wrong with the two, each told where it is named.
pub fn problems(pair: &Pair) -> Vec<Problem> {
    match (files::read_certificates(&pair.certificate.path), files::read_key(&pair.key.path)) {
        (Ok(chain), Ok(key)) => match CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()) {
            Ok(_) => Vec::new(),
            Err(error) => vec![unfit(pair, &error)],
        },
        (chain, key) => {
            let chain = chain.err().map(|error| unreadable(&pair.certificate, error));
            let key = key.err().map(|error| unreadable(&pair.key, error));
            chain.into_iter().chain(key).collect()
        }
    }
}

fn unfit(pair: &Pair, error: &Error) -> Problem {
    let shown = |path: &Path| path.display().to_string();
    let (certificate, key) = (shown(&pair.certificate.path), shown(&pair.key.path));
    match error {
        Error::InconsistentKeys(_) => pair.key.place.problem(
            format!("{key} is not the private key of the certificate in {certificate}"),
            format!(
                "name the two that were made for each other: openssl x509 -noout -pubkey -in {certificate} and \
                 openssl pkey -pubout -in {key} then print the same"
            ),
        ),
        Error::InvalidCertificate(_) => pair.certificate.place.problem(
            format!("the first certificate in {certificate} cannot be used: {error}"),
            "the certificate that belongs to the key stands first, those that signed it behind it",
        ),
        _ => pair.key.place.problem(
            format!("the key in {key} cannot be used: {error}"),
            "use a key with ECDSA (P-256, P-384), RSA from 2048 bits, or Ed25519",
        ),
    }
}

fn unreadable(named: &Named, error: FileError) -> Problem {
    match error {
        FileError::Io { path, error } => named.place.problem(
            format!("{} cannot be read: {error}", path.display()),
            "name a file that is there, readable for the user the gateway runs as (the check must run as that user too)",
        ),
        FileError::Content { path, found, expected } => {
            named.place.problem(format!("{} is not what it should be: {found}", path.display()), format!("expected {expected}"))
        }
    }
}
