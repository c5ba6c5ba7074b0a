//! Passwords that people chose: which are accepted, and argon2id with a bound on how many are hashed at once.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc::PasswordHash};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::guess::guessable;

/// OWASP ASVS 5.0, 11.4.2 and the argon2id line of its appendix: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
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
        self.run(move || {
            let hash: PasswordHash =
                argon2().hash_password(&password).expect("a password of accepted length can be hashed");
            hash.to_string()
        })
        .await
    }

    /// Whether `password` is the one behind `stored`. Without a stored hash the answer is no, after the same time.
    pub async fn verify(&self, password: &[u8], stored: Option<&str>) -> Result<bool, Crowded> {
        static NOBODY: LazyLock<String> = LazyLock::new(|| {
            let hash: PasswordHash =
                argon2().hash_password(&super::secret::random::<16>()).expect("random bytes can be hashed");
            hash.to_string()
        });
        let password = Zeroizing::new(password[..password.len().min(LONGEST + 1)].to_vec());
        let stored = stored.map(str::to_owned);
        self.run(move || {
            let known = stored.is_some();
            let stored = stored.as_deref().unwrap_or(&NOBODY);
            let right = PasswordHash::new(stored).is_ok_and(|hash| argon2().verify_password(&password, &hash).is_ok());
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

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("the parameters are within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
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
}
