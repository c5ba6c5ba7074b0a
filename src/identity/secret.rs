//! Secrets and what they are made of: random bytes, tokens, one-time codes, hashes of them.

use std::fmt;

use aws_lc_rs::{
    constant_time,
    digest::{SHA256, digest},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// A text that must not be seen: wiped when dropped, `***` in Debug.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for the one to whom it is handed out.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Bytes from the system's generator.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Compares in a time that does not depend on where the two differ.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// What a token begins with; secret scanners know it by this.
const PREFIX: &str = "hg1_";
/// Random bytes in a token.
const TOKEN: usize = 32;

/// A new token `hg1_<id>.<secret>` and the hash under which it is stored. 256 random bits need no slow hash.
pub(super) fn new_token(id: &str) -> (Secret, [u8; 32]) {
    let bytes = Zeroizing::new(random::<TOKEN>());
    let token = format!("{PREFIX}{id}.{}", BASE64_URL_SAFE_NO_PAD.encode(*bytes));
    (Secret::new(token), sha256(&*bytes))
}

/// The id and the hash of the secret of something that has the form of a token.
pub(super) fn read_token(text: &[u8]) -> Option<(&str, [u8; 32])> {
    let (id, secret) = std::str::from_utf8(text).ok()?.strip_prefix(PREFIX)?.split_once('.')?;
    let bytes = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(secret).ok()?);
    (bytes.len() == TOKEN).then(|| (id, sha256(&bytes)))
}

/// Letters that are not taken for one another on paper or on the phone (Crockford's base 32).
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Letters of a one-time code: 60 bits, behind a back-off and a short life.
const CODE: usize = 12;

/// A new public id of a credential: 12 letters.
pub(super) fn new_id() -> String {
    random::<CODE>().iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)]).to_ascii_lowercase()).collect()
}

/// A one-time code to be read out or typed, `XXXX-XXXX-XXXX`, and its hash.
pub(super) fn new_code() -> (Secret, [u8; 32]) {
    let letters = random::<CODE>().map(|byte| LETTERS[usize::from(byte % 32)]);
    let text: Vec<&str> = letters.chunks(4).map(|part| std::str::from_utf8(part).expect("ASCII")).collect();
    (Secret::new(text.join("-")), sha256(&letters))
}

/// The hash of a code as somebody typed it: case, dashes and spaces do not matter, O counts as 0, I and L as 1.
pub(super) fn read_code(text: &str) -> Option<[u8; 32]> {
    let letters: Vec<u8> = text
        .bytes()
        .filter(|byte| !matches!(byte, b'-' | b' '))
        .map(|byte| match byte.to_ascii_uppercase() {
            b'O' => b'0',
            b'I' | b'L' => b'1',
            other => other,
        })
        .collect();
    (letters.len() == CODE && letters.iter().all(|byte| LETTERS.contains(byte))).then(|| sha256(&letters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_nothing_else_is_taken_for_one() {
        let (token, hash) = new_token("abc");
        assert_eq!(read_token(token.expose().as_bytes()), Some(("abc", hash)));
        let cut = &token.expose()[..token.expose().len() - 1];
        for wrong in ["", "hg1_", "hg1_abc", "hg1_abc.", "hg1_abc.AAAA", "correct horse battery", cut] {
            assert_eq!(read_token(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(read_token(&[0xff, 0xfe]), None);
        assert_eq!(format!("{token:?}"), "***");
    }

    #[test]
    fn a_code_may_be_typed_carelessly() {
        let (code, hash) = new_code();
        let typed = code.expose().to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
        assert_eq!(read_code(&typed), Some(hash));
        assert_eq!(read_code("ABCD-EFGH"), None);
        assert_eq!(read_code("ABCD-EFGH-JK!!"), None);
    }
}
