//! A certificate signing request (PKCS #10) as a child made it: read, and its key judged. What else it asks for is not
//! looked at.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::{
    CertificateSigningRequestDer,
    pem::{Error as PemError, PemObject},
};
use x509_parser::{
    certification_request::X509CertificationRequest, error::X509Error, prelude::FromDer, public_key::PublicKey,
};

use super::authority::AuthorityError;

/// Bits an RSA key must have.
const LEAST: usize = 2048;

/// A request that was read from PEM.
pub(super) struct Request(CertificateSigningRequestDer<'static>);

impl Request {
    pub fn read(pem: &str) -> Result<Request, AuthorityError> {
        // The older label of the same thing (RFC 7468 section 7), which Java's keytool writes.
        let pem = pem.replace("NEW CERTIFICATE REQUEST-----", "CERTIFICATE REQUEST-----");
        CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map(Request).map_err(|error| match error {
            PemError::NoItemsFound => unread("there is none in it"),
            PemError::MissingSectionEnd { .. } => unread("it is cut off, its last line is not there"),
            PemError::Base64Decode(_) => unread("what stands between its first and its last line is no Base64"),
            other => unread(other),
        })
    }

    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// The key's DER, as a certificate holds it.
    pub fn raw_key(&self) -> Result<&[u8], AuthorityError> {
        Ok(self.parsed()?.certification_request_info.subject_pki.raw)
    }

    /// The public key, where the request's own signature holds: whoever asks has the private key.
    pub fn key(&self) -> Result<SubjectPublicKeyInfo, AuthorityError> {
        let request = self.parsed()?;
        let key = &request.certification_request_info.subject_pki;
        // Before its signature, which is not judged for so short a key.
        if let Ok(PublicKey::RSA(rsa)) = key.parsed()
            && rsa.key_size() < LEAST
        {
            let text = format!("its RSA key has {} bits, at least {LEAST} are needed", rsa.key_size());
            return Err(AuthorityError::Request(text));
        }
        let unknown = || {
            let text = "its key or signature is of a kind that is not known here (use P-256, P-384, Ed25519 or RSA)";
            AuthorityError::Request(text.into())
        };
        request.verify_signature().map_err(|error| match error {
            X509Error::SignatureUnsupportedAlgorithm => unknown(),
            _ => AuthorityError::Request("it is not signed by the key it is for".into()),
        })?;
        SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| unknown())
    }

    fn parsed(&self) -> Result<X509CertificationRequest<'_>, AuthorityError> {
        let (rest, parsed) = X509CertificationRequest::from_der(&self.0)
            .map_err(|_| unread("what stands between its first and its last line is something else, or damaged"))?;
        if rest.is_empty() { Ok(parsed) } else { Err(unread("bytes follow it")) }
    }
}

fn unread(error: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Request(format!("{error}; expected PKCS #10 in PEM (-----BEGIN CERTIFICATE REQUEST-----)"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, SignatureAlgorithm};

    use super::*;

    fn request(kind: &'static SignatureAlgorithm) -> String {
        let key = KeyPair::generate_for(kind).expect("key");
        CertificateParams::default().serialize_request(&key).expect("request").pem().expect("PEM")
    }

    fn refused(pem: &str) -> String {
        Request::read(pem).and_then(|request| request.key()).expect_err("refused").to_string()
    }

    #[test]
    fn what_is_wrong_with_a_request_is_said_in_words() {
        let sound = request(&PKCS_ED25519);
        Request::read(&sound).and_then(|request| request.key()).expect("a sound one");
        let other = sound.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST");
        Request::read(&other).and_then(|request| request.key()).expect("the older label");
        let lines: Vec<&str> = sound.lines().collect();
        for (pem, words) in [
            (String::new(), "there is none in it; expected PKCS #10"),
            ("\u{0}\u{7f}not PEM".to_owned(), "there is none in it"),
            (sound.replace("CERTIFICATE REQUEST", "PRIVATE KEY"), "there is none in it"),
            (lines[..2].join("\n"), "cut off"),
            (sound.replace("MI", "M*"), "no Base64"),
            (sound.replace("MI", "MJ"), "something else, or damaged"),
            (request(&PKCS_ECDSA_P521_SHA512), "of a kind that is not known here (use P-256"),
        ] {
            let said = refused(&pem);
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    #[test]
    fn a_request_for_a_key_that_did_not_sign_it_is_refused() {
        let sound = Request::read(&request(&PKCS_ED25519)).expect("read");
        let mut der = sound.der().to_vec();
        *der.last_mut().expect("a byte") ^= 1;
        let said = Request(CertificateSigningRequestDer::from(der)).key().expect_err("refused").to_string();
        assert!(said.contains("not signed by the key it is for"), "{said}");
    }
}
