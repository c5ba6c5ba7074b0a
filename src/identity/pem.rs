//! Whether the files of certificates and private keys, as a configuration names them, are there and fit.

use std::path::Path;

use rustls::{Error, RootCertStore, crypto::aws_lc_rs, sign::CertifiedKey};

use super::files::{self, FileError};
use crate::config::{
    pem::{Named, Pem},
    problem::Problem,
};

/// What is wrong with these files, each told where it is named.
pub fn problems(pem: &Pem) -> Vec<Problem> {
    match pem {
        Pem::Pair { certificate, key } => pair(certificate, key),
        Pem::Authorities(named) => authorities(named).into_iter().collect(),
    }
}

fn pair(certificate: &Named, key: &Named) -> Vec<Problem> {
    match (files::read_certificates(&certificate.path), files::read_key(&key.path)) {
        (Ok(chain), Ok(private)) => match CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()) {
            Ok(_) => Vec::new(),
            Err(error) => vec![unfit(certificate, key, &error)],
        },
        (chain, private) => {
            let chain = chain.err().map(|error| unreadable(certificate, error));
            let private = private.err().map(|error| unreadable(key, error));
            chain.into_iter().chain(private).collect()
        }
    }
}

fn authorities(named: &Named) -> Option<Problem> {
    let found = match files::read_certificates(&named.path) {
        Ok(found) => found,
        Err(error) => return Some(unreadable(named, error)),
    };
    let mut roots = RootCertStore::empty();
    found.into_iter().zip(1..).find_map(|(certificate, number)| {
        let error = roots.add(certificate).err()?;
        let found = format!("certificate {number} in {} cannot be used: {error}", named.path.display());
        Some(named.place.problem(found, "name a file with nothing but certificates of authorities in PEM"))
    })
}

fn unfit(certificate: &Named, key: &Named, error: &Error) -> Problem {
    let shown = |path: &Path| path.display().to_string();
    let (certificate_path, key_path) = (shown(&certificate.path), shown(&key.path));
    match error {
        Error::InconsistentKeys(_) => key.place.problem(
            format!("{key_path} is not the private key of the certificate in {certificate_path}"),
            format!(
                "name the two that were made for each other: openssl x509 -noout -pubkey -in {certificate_path} and \
                 openssl pkey -pubout -in {key_path} then print the same"
            ),
        ),
        Error::InvalidCertificate(_) => certificate.place.problem(
            format!("the first certificate in {certificate_path} cannot be used: {error}"),
            "the certificate that belongs to the key stands first, those that signed it behind it",
        ),
        _ => key.place.problem(
            format!("the key in {key_path} cannot be used: {error}"),
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
