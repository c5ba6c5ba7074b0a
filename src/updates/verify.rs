//! Which image may be offered: its digest, and who signed it. Pure checks, no files.

use aws_lc_rs::{
    digest::{self, Context, SHA256},
    signature::{ED25519, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{config::updates::PublicKey, model::update::UpdateOrder};

/// A SHA-256 digest; shown as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub fn parse(text: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Digest(bytes))
    }

    pub fn of(data: &[u8]) -> Digest {
        Digest::from(digest::digest(&SHA256, data))
    }
}

impl From<digest::Digest> for Digest {
    fn from(digest: digest::Digest) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Digest(bytes)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// SHA-256 over data that arrives in pieces.
pub struct Hasher(Context);

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl Hasher {
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub fn add(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    pub fn finish(self) -> Digest {
        Digest::from(self.0.finish())
    }
}

/// Why an order is refused before anything is fetched. Trying again cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    #[error("the order's sha256 {0:?} is not 64 hexadecimal digits")]
    Digest(String),
    #[error("the order names a size of 0 bytes")]
    Empty,
    #[error("the image has {size} bytes; this gateway fetches at most {largest} ([updates] largest)")]
    TooLarge { size: u64, largest: u64 },
    #[error("the image's url {0:?} does not begin with http:// or https://")]
    Url(String),
    #[error("the order names an empty {0}")]
    Missing(&'static str),
    #[error("the image is not signed: the order carries no signature, and unsigned images are never offered")]
    Unsigned,
    #[error("the signature is not base64 of 64 bytes (Ed25519)")]
    SignatureForm,
    #[error("this gateway trusts no signing key; add the release key to [updates] keys in headgate.toml")]
    NoKeys,
    #[error("the signature fits none of the {keys} trusted keys: the image is not from whom it should be")]
    Signature { keys: usize },
}

/// Checks everything that can be known without the image: its form, and that a trusted key signed its digest.
/// Returns the digest and the id of the key.
pub fn acceptable(order: &UpdateOrder, keys: &[PublicKey], largest: u64) -> Result<(Digest, String), Unacceptable> {
    if order.job_id.is_empty() {
        return Err(Unacceptable::Missing("jobId"));
    }
    if order.target_version.is_empty() {
        return Err(Unacceptable::Missing("targetVersion"));
    }
    let digest = Digest::parse(&order.sha256).ok_or_else(|| Unacceptable::Digest(shorten(&order.sha256)))?;
    if order.size == 0 {
        return Err(Unacceptable::Empty);
    }
    if order.size > largest {
        return Err(Unacceptable::TooLarge { size: order.size, largest });
    }
    if !(order.url.starts_with("http://") || order.url.starts_with("https://")) {
        return Err(Unacceptable::Url(shorten(&order.url)));
    }
    let signature = order.signature.as_deref().ok_or(Unacceptable::Unsigned)?;
    let signature = STANDARD.decode(signature.trim()).map_err(|_| Unacceptable::SignatureForm)?;
    if signature.len() != 64 {
        return Err(Unacceptable::SignatureForm);
    }
    if keys.is_empty() {
        return Err(Unacceptable::NoKeys);
    }
    let signed = |key: &&PublicKey| UnparsedPublicKey::new(&ED25519, key.0).verify(&digest.0, &signature).is_ok();
    let key = keys.iter().find(signed).ok_or(Unacceptable::Signature { keys: keys.len() })?;
    Ok((digest, key_id(key)))
}

/// Names a key to people: the first 16 digits of its SHA-256.
pub fn key_id(key: &PublicKey) -> String {
    Digest::of(&key.0).to_string()[..16].to_owned()
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    fn signed(image: &[u8], seed: u8) -> (UpdateOrder, PublicKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("seed");
        let digest = Digest::of(image);
        let order = UpdateOrder {
            job_id: "j1".into(),
            target_version: "2.0".into(),
            url: "http://127.0.0.1/fw".into(),
            size: image.len() as u64,
            sha256: digest.to_string(),
            signature: Some(STANDARD.encode(pair.sign(&digest.0))),
            deadline: None,
        };
        (order, PublicKey(pair.public_key().as_ref().try_into().expect("32 bytes")))
    }

    #[test]
    fn only_a_trusted_signature_over_this_digest_is_acceptable() {
        let (order, key) = signed(b"image", 1);
        let (_, other) = signed(b"image", 2);
        let (digest, id) = acceptable(&order, &[other, key], 100).expect("signed");
        assert_eq!((digest, id), (Digest::of(b"image"), key_id(&key)));
        assert_eq!(acceptable(&order, &[other], 100), Err(Unacceptable::Signature { keys: 1 }));
        assert_eq!(acceptable(&order, &[], 100), Err(Unacceptable::NoKeys));
        let changed = UpdateOrder { sha256: Digest::of(b"other").to_string(), ..order.clone() };
        assert_eq!(acceptable(&changed, &[key], 100), Err(Unacceptable::Signature { keys: 1 }));
        let unsigned = UpdateOrder { signature: None, ..order.clone() };
        assert_eq!(acceptable(&unsigned, &[key], 100), Err(Unacceptable::Unsigned));
        assert_eq!(acceptable(&order, &[key], 4), Err(Unacceptable::TooLarge { size: 5, largest: 4 }));
    }

    #[test]
    fn what_openssl_signed_as_the_documentation_says_is_acceptable() {
        let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAxYhYSP4dLcXnechtywSrwVIUiui+nlv92LRJtlFe0LY=\n-----END PUBLIC KEY-----\n";
        let signature = "mfmfUZIAOSDyTAGRi4ADgn+01tVhXUI0cUu1GsmwSsNJgEZPAzPzlOeMGx7R6ZMLrJFtZTDMJCueY4rx3otJDA==";
        let (order, _) = signed(b"firmware image", 1);
        assert_eq!(order.sha256, "1df2f3853d10a305aa52d36fd4a03f5721d7ce7daef6f7e5e8d51074d31361f1");
        let order = UpdateOrder { signature: Some(signature.into()), ..order };
        acceptable(&order, &[key.parse().expect("key")], 100).expect("acceptable");
    }

    #[test]
    fn every_flipped_bit_of_the_signature_is_seen() {
        let (order, key) = signed(b"image", 1);
        let good = STANDARD.decode(order.signature.as_ref().expect("signed")).expect("base64");
        for bit in 0..512 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let order = UpdateOrder { signature: Some(STANDARD.encode(&bad)), ..order.clone() };
            assert!(acceptable(&order, &[key], 100).is_err(), "bit {bit}");
        }
    }
}
