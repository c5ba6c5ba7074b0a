//! Confirmation tokens: what cannot be undone is asked for twice.

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::rand;

use crate::model::time::Millis;

/// How long a token is good for.
pub const GOOD_FOR: Duration = Duration::from_secs(300);
/// Tokens that may be open at once; the oldest go first.
const MOST: usize = 32;

/// Open tokens, each for one purpose and one use. In memory: after a restart everything must be asked for again.
#[derive(Debug, Default)]
pub struct Confirmations(HashMap<String, (String, Millis)>);

impl Confirmations {
    /// A fresh token for `purpose` and when it ends; `None` where the system has no randomness to give.
    pub fn hand_out(&mut self, purpose: &str, now: Millis) -> Option<(String, Millis)> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).ok()?;
        let (token, until) = (hex::encode(bytes), now.plus(GOOD_FOR.as_millis() as i64));
        self.0.retain(|_, (_, until)| *until > now);
        while self.0.len() >= MOST {
            let oldest = self.0.iter().min_by_key(|(_, (_, until))| *until).map(|(token, _)| token.clone());
            self.0.remove(&oldest?);
        }
        self.0.insert(token.clone(), (purpose.to_owned(), until));
        Some((token, until))
    }

    /// Whether `token` confirms `purpose` now. A token that was shown is used up, whatever the answer.
    pub fn accept(&mut self, token: &str, purpose: &str, now: Millis) -> bool {
        // The clock may have gone back since; a token from the future is not good either.
        let longest = now.plus(GOOD_FOR.as_millis() as i64);
        self.0.remove(token).is_some_and(|(meant, until)| meant == purpose && until > now && until <= longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once_for_its_purpose_and_for_minutes() {
        let mut open = Confirmations::default();
        let (token, until) = open.hand_out("reboot service", Millis(0)).expect("random");
        assert_eq!(until, Millis(300_000));
        assert!(!open.accept("guess", "reboot service", Millis(1)));
        assert!(open.accept(&token, "reboot service", Millis(1)));
        assert!(!open.accept(&token, "reboot service", Millis(2)));
        let (token, _) = open.hand_out("reboot service", Millis(0)).expect("random");
        assert!(!open.accept(&token, "reboot gateway", Millis(1)));
        let (token, _) = open.hand_out("reboot service", Millis(0)).expect("random");
        assert!(!open.accept(&token, "reboot service", Millis(300_000)));
        for _ in 0..100 {
            open.hand_out("x", Millis(0));
        }
        assert!(open.0.len() <= MOST);
    }
}
