//! Passwords that people chose: which are accepted, and argon2id with a bound on how many are hashed at once.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash::phc::PasswordHash};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::guess::guessable;

/// OWASP ASVS 5.0, 11.4.2 and the argon2id line of its appendix: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// What memory is asked for, in blocks of 1 KiB; only what the hash needs of it is ever touched. From 32 MiB on glibc
/// gives a piece back when it is freed. A smaller one stays with the thread that hashed: a few wrong passwords and the
/// gateway held 140 MiB for good.
const ROOM: usize = 33 * 1024;
/// Hashes at once: 38 MiB at most, and a core is left for everything else.
const AT_ONCE: usize = 2;
/// Logins that may wait for a hash; more are turned away.
const WAITING: usize = 64;
/// Shortest and longest password, in characters and bytes.
const SHORTEST: usize = 12;
const LONGEST: usize = 256;

/// The hashing of passwords. Clones share the bound.
#[derive(Clone)]
pub(super) struct Hashing {
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Too many logins wait for their hash.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crowded;

impl Hashing {
    pub fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(AT_ONCE)), waiting: Arc::default() }
    }

    /// The PHC string of `password`.
    pub async fn hash(&self, password: &[u8]) -> Result<String, Crowded> {
        let password = Zeroizing::new(password.to_vec());
        self.run(move || fresh(&password)).await
    }

    /// Whether `password` is the one behind `stored`. Without a stored hash the answer is no, after the same time.
    pub async fn verify(&self, password: &[u8], stored: Option<&str>) -> Result<bool, Crowded> {
        static NOBODY: LazyLock<String> = LazyLock::new(|| fresh(&super::secret::random::<16>()));
        let password = Zeroizing::new(password[..password.len().min(LONGEST + 1)].to_vec());
        let stored = stored.map(str::to_owned);
        self.run(move || {
            let known = stored.is_some();
            let right = is_behind(&password, stored.as_deref().unwrap_or(&NOBODY)).unwrap_or(false);
            known && right
        })
        .await
    }

    async fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<R, Crowded> {
        struct Waits(Arc<AtomicUsize>);
        impl Drop for Waits {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = Waits(self.waiting.clone());
        if before >= WAITING {
            return Err(Crowded);
        }
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let done = tokio::task::spawn_blocking(move || {
            // Held until the work ends, even when whoever asked has hung up.
            let _held = (permit, waits);
            work()
        });
        done.await.map_err(|_| Crowded)
    }
}

/// Whether `stored` was made with weaker or other parameters than are used now.
pub(super) fn outdated(stored: &str) -> bool {
    !stored.starts_with(&format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1$"))
}

/// The PHC string of `password` with a salt of its own.
fn fresh(password: &[u8]) -> String {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("the parameters are within argon2's bounds");
    let salt = super::secret::random::<16>();
    let mut hash = [0; Params::DEFAULT_OUTPUT_LEN];
    argon2id(params, password, &salt, &mut hash).expect("a password of accepted length can be hashed");
    let [salt, hash] = [&salt[..], &hash].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1${salt}${hash}")
}

/// Whether `password` is behind a PHC string of argon2id; `None` where it is none.
fn is_behind(password: &[u8], stored: &str) -> Option<bool> {
    let stored = PasswordHash::new(stored).ok().filter(|stored| stored.algorithm.as_str() == "argon2id")?;
    let (salt, wanted) = (stored.salt.as_ref()?, stored.hash.as_ref()?);
    let mut hash = vec![0; wanted.as_bytes().len()];
    argon2id(Params::try_from(&stored).ok()?, password, salt, &mut hash).ok()?;
    Some(super::secret::same(&hash, wanted.as_bytes()))
}

fn argon2id(params: Params, password: &[u8], salt: &[u8], out: &mut [u8]) -> argon2::Result<()> {
    let mut room = Vec::with_capacity(ROOM.max(params.block_count()));
    room.resize(params.block_count(), Block::default());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into_with_memory(password, salt, out, &mut room)
}

/// Why a password is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPassword {
    #[error("the password has {0} characters; use at least 12 (three unrelated words are easy to keep)")]
    TooShort(usize),
    #[error("the password has {0} bytes; at most 256 are allowed")]
    TooLong(usize),
    #[error("the password is easy to guess ({0}); use at least three unrelated words, or a generated one")]
    Common(&'static str),
}

/// Checks a new password of `name`: length and guessability, no rules about which characters it must have.
pub fn check_password(password: &str, name: &str) -> Result<(), BadPassword> {
    let characters = password.chars().count();
    if characters < SHORTEST {
        return Err(BadPassword::TooShort(characters));
    }
    if password.len() > LONGEST {
        return Err(BadPassword::TooLong(password.len()));
    }
    match guessable(password, name) {
        Some(why) => Err(BadPassword::Common(why)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everybody_tries_first_is_refused_and_a_phrase_is_not() {
        for bad in [
            "short",
            "password1234",
            "P@ssw0rd2026!",
            "aaaaaaaaaaaa",
            "abcdefghijkl",
            "123456789012",
            "headgate2026!",
            "qwertyuiop12",
            "abcabcabcabc",
            "anna-technician1",
            "letmein-please-1",
        ] {
            assert!(check_password(bad, "anna").is_err(), "{bad} was accepted");
        }
        for good in ["correct horse battery", "zwölf boxkämpfer jagen", "x9$Kp2vQ!mR7t", &"long enough ".repeat(8)] {
            assert_eq!(check_password(good, "anna"), Ok(()), "{good}");
        }
        assert!(matches!(check_password(&"ab cd ef ".repeat(40), "a"), Err(BadPassword::TooLong(_))));
    }

    #[tokio::test]
    async fn only_the_right_password_is_right_and_nobody_has_none() {
        let hashing = Hashing::new();
        let stored = hashing.hash(b"correct horse battery").await.expect("hash");
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(!outdated(&stored));
        assert_eq!(hashing.verify(b"correct horse battery", Some(&stored)).await, Ok(true));
        assert_eq!(hashing.verify(b"correct horse batterz", Some(&stored)).await, Ok(false));
        assert_eq!(hashing.verify(b"correct horse battery", None).await, Ok(false));
        assert_eq!(hashing.verify(b"x", Some("rubbish")).await, Ok(false));
    }

    #[test]
    fn a_hash_that_others_made_is_understood() {
        // Made with the reference implementation, as argon2-cffi ships it.
        let theirs =
            "$argon2id$v=19$m=19456,t=2,p=1$c2l4dGVlbiBieXRlIHNhbA$ZJ4FUbptHT0O321/29MZjzSO5FrbsClqx9/BbsxE0RA";
        assert_eq!(is_behind(b"correct horse battery", theirs), Some(true));
        assert_eq!(is_behind(b"correct horse batterz", theirs), Some(false));
        assert_eq!(is_behind(b"correct horse battery", "$2b$12$a.bcrypt.hash"), None);
    }
}
