//! What the cloud says of a shadow, worked into what is known of it: answers to what was asked, and changes by others.

use serde_json::Value as Json;

use super::{Asked, Knows, Pair};
use crate::{
    model::{shadow::reconcile::Sections, time::Millis},
    store::sync::Refused,
    uplink::sync::words::{Heard, News, Patience, Settle, Token},
};

impl Pair {
    /// Something was heard. Where the store has to be told, the pair is busy until [`Pair::settled`].
    pub fn hear(&mut self, heard: Heard, now: Millis, patience: &Patience) -> Option<Settle> {
        let settle = match heard {
            Heard::Updated { version, state, token } => self.updated(version, state, token),
            Heard::Deleted { version, token } => self.deleted(version, token),
            Heard::Got { version, values, token } => {
                if self.lands(token, |asked| *asked == Asked::Get).is_some() {
                    self.whole(Some(values), version, now, patience);
                }
                None
            }
            Heard::Rejected { code, message, token } => self.rejected(code, message, token, now, patience),
        };
        self.busy |= settle.is_some();
        settle
    }

    /// The flight that an answer belongs to.
    fn lands(&mut self, token: Option<Token>, kind: impl Fn(&Asked) -> bool) -> Option<Asked> {
        let flight = self.flight.as_ref()?;
        let ours = token.is_some_and(|token| token.ours_now && token.number == flight.token);
        if !ours || !kind(&flight.asked) {
            return None;
        }
        self.flight.take().map(|flight| flight.asked)
    }

    fn updated(&mut self, version: u64, state: Json, token: Option<Token>) -> Option<Settle> {
        self.heard = self.heard.max(version);
        if let Some(Asked::Update { version: based, .. }) = self.lands(token, |a| matches!(a, Asked::Update { .. })) {
            // Made without a version there may have been something before it.
            let certain = based.is_some_and(|based| based + 1 == version) && self.knows != Knows::Nothing;
            self.knows = if certain { Knows::Exactly } else { Knows::Nothing };
            (self.version, self.missing, self.failures, self.refused) = (version, false, 0, None);
            return Some(Settle::Confirm { version });
        }
        if self.missing {
            self.doubt();
        } else if version > self.version {
            let in_turn = version == self.version + 1 && self.knows == Knows::Exactly;
            if in_turn && !self.is_under_way() && self.news.is_none() {
                self.news = Some(News::Patch { state, own: token.is_some() });
            } else {
                self.doubt();
            }
            self.version = version;
        }
        None
    }

    fn deleted(&mut self, version: u64, token: Option<Token>) -> Option<Settle> {
        self.heard = self.heard.max(version + 1);
        if self.lands(token, |asked| *asked == Asked::Delete).is_some() {
            (self.version, self.missing, self.failures) = (version + 1, true, 0);
            return Some(Settle::Gone { version: version + 1 });
        }
        if version >= self.version && !self.missing {
            let idle = self.knows == Knows::Exactly && !self.is_under_way() && self.news.is_none();
            (self.version, self.missing) = (version + 1, true);
            match idle {
                true => self.news = Some(News::Whole(None)),
                false => self.doubt(),
            }
        }
        None
    }

    /// The whole document, asked for: what was heard since the question and is newer makes it old already.
    fn whole(&mut self, values: Option<Sections>, version: u64, now: Millis, patience: &Patience) {
        if self.heard > version {
            self.knows = Knows::Nothing;
            return;
        }
        (self.missing, self.failures) = (values.is_none(), 0);
        if values.is_some() {
            self.version = version;
        }
        (self.knows, self.news) = (Knows::Exactly, Some(News::Whole(values)));
        self.verify_at = now.plus(patience.verify);
    }

    fn rejected(
        &mut self,
        code: u16,
        message: String,
        token: Option<Token>,
        now: Millis,
        patience: &Patience,
    ) -> Option<Settle> {
        let asked = self.lands(token, |_| true)?;
        match (&asked, code) {
            (Asked::Get, 404) => {
                // Nothing that was heard since the question speaks against it, or it is asked again.
                self.whole(None, 0, now, patience);
                None
            }
            (Asked::Delete, 404) => {
                self.missing = true;
                Some(Settle::Gone { version: self.version })
            }
            (_, 409) => {
                self.fail(&format!("409 {message}"), now, patience);
                None
            }
            (_, 400 | 401 | 403 | 404 | 413 | 415) => {
                let bytes = match asked {
                    Asked::Update { bytes, .. } if code == 413 => Some(bytes),
                    _ => None,
                };
                self.mute = asked == Asked::Get;
                self.knows = Knows::Partly;
                let refused = Refused { reason: format!("{code} {message}"), bytes };
                self.refused = Some(refused.clone());
                Some(Settle::Refuse(refused))
            }
            _ => {
                self.fail(&format!("{code} {message}"), now, patience);
                None
            }
        }
    }
}
