//! A look at both sides of a shadow: what is to be done is decided here as a plain value, then done: first here, then
//! written down, then sent.

use crate::{
    bus::{OrderKind, Orders},
    clock,
    model::{
        command::{Door, RefusalCode},
        ids::DeviceId,
        shadow::reconcile::{Conflict, Policy, Reconciled, Sections, Side, Step, reconcile},
    },
    store::{
        Store, StoreError,
        history::Note,
        sync::{Refused, Standing, Synced},
    },
};

use super::words::{Looked, News, Request, Settle};

/// Device and shadow name; the classic shadow's name is empty.
pub type Key = (DeviceId, String);

/// How often a look begins anew because the shadow was changed here meanwhile.
const TRIES: usize = 16;

/// What a look has to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub base: Option<Sections>,
    pub there: Option<Sections>,
    pub plan: Reconciled,
}

/// Decides from what is on disk and what was heard. Pure.
pub fn decide(standing: &Standing, news: Option<&News>, policy: Policy) -> Decision {
    let synced = standing.synced.as_ref();
    let mut base = synced.and_then(|synced| synced.document.as_ref()).map(Sections::from);
    let sent =
        synced.and_then(|synced| synced.sent.as_ref()).map(|(document, _)| document.as_ref().map(Sections::from));
    let there = match news {
        None => base.clone(),
        Some(News::Whole(values)) => {
            // Of a request whose answer was never heard: what the cloud has of it, it has from us.
            match (values, sent) {
                (Some(there), Some(Some(sent))) => {
                    base = Some(Sections::agreed(&base.unwrap_or_default(), &sent, there));
                }
                (None, Some(None)) => base = None,
                _ => {}
            }
            values.clone()
        }
        Some(News::Patch { state, own }) => {
            let mut there = base.clone().unwrap_or_default();
            there.apply(state);
            if *own {
                base = Some(there.clone());
            }
            Some(there)
        }
    };
    let here = standing.local.as_ref().map(Sections::from);
    let plan = reconcile(base.as_ref(), here.as_ref(), there.as_ref(), policy);
    Decision { base, there, plan }
}

/// How it stands here after what was decided for here was done, or was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Here {
    pub values: Option<Sections>,
    pub version: u64,
    pub refusal: Option<Refused>,
}

/// What is to be written down, and then sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Conclusion {
    pub synced: Synced,
    pub request: Option<Request>,
    /// What is agreed on is all the cloud holds: what the next change heard may be built on.
    pub exact: bool,
}

impl Decision {
    /// `cloud`: the cloud's version; `refused`: what it refused before; `before`: what was written down so far.
    pub fn conclude(&self, here: Here, cloud: u64, refused: Option<&Refused>, before: Option<&Synced>) -> Conclusion {
        let Here { values, version, mut refusal } = here;
        let wanted = self.request(cloud).filter(|_| refusal.is_none());
        let may = |request: &Request| match request {
            Request::Update { bytes, .. } => {
                refused.is_none_or(|refused| refused.bytes.is_some_and(|too_many| *bytes < too_many))
            }
            _ => true,
        };
        let request = wanted.filter(may);
        if refusal.is_none() && self.plan.there.is_some() && request.is_none() {
            refusal = refused.or(before.and_then(|before| before.refused.as_ref())).cloned();
        }
        let agreed = match (&values, &self.there) {
            (Some(here), Some(there)) => Some(Sections::agreed(&self.base.clone().unwrap_or_default(), here, there)),
            (None, None) => None,
            _ => self.base.clone(),
        };
        let exact = match (&agreed, &self.there) {
            (Some(agreed), Some(there)) => agreed.same(there),
            (None, None) => true,
            _ => false,
        };
        let sent = request.is_some().then(|| {
            let document = self.plan.merged.as_ref().map(|merged| merged.to_document(version));
            (document, version)
        });
        let synced = Synced {
            // Not equal before the cloud has answered.
            local_version: match request {
                Some(_) => before.map_or(0, |before| before.local_version),
                None => version,
            },
            cloud_version: cloud,
            document: agreed.map(|agreed| agreed.to_document(cloud)),
            sent,
            refused: refusal,
        };
        Conclusion { synced, request, exact }
    }

    /// The side that had deleted what the other has written meanwhile, when that is met first.
    fn survived(&self, standing: &Standing) -> Option<Side> {
        let met = standing.synced.as_ref().is_some_and(|synced| synced.sent.is_some());
        let gone = |values: bool, step: &Option<Step>| !values && matches!(step, Some(Step::Update(_)));
        match self.base.is_some() && !met {
            true if gone(self.there.is_some(), &self.plan.there) => Some(Side::There),
            true if gone(standing.local.is_some(), &self.plan.here) => Some(Side::Here),
            _ => None,
        }
    }

    /// What is to be sent was sent before, and its answer was not heard.
    fn is_repeated(&self, standing: &Standing) -> bool {
        let sent = standing.synced.as_ref().and_then(|synced| synced.sent.as_ref());
        match (sent, &self.plan.merged) {
            (Some((Some(sent), _)), Some(merged)) => Sections::from(sent).same(merged),
            (Some((None, _)), None) => true,
            _ => false,
        }
    }

    /// A deletion that was sent has happened, though its answer was not heard.
    fn deleted(&self, standing: &Standing, news: Option<&News>) -> bool {
        let sent = standing.synced.as_ref().and_then(|synced| synced.sent.as_ref());
        matches!((sent, news), (Some((None, _)), Some(News::Whole(None))))
    }

    fn request(&self, version: u64) -> Option<Request> {
        let bytes = self.plan.merged.as_ref().map_or(0, Sections::bytes) as u64;
        match self.plan.there.clone()? {
            Step::Delete => Some(Request::Delete),
            Step::Update(state) => {
                Some(Request::Update { state, version: self.there.is_some().then_some(version), bytes })
            }
        }
    }
}

/// Who does what a look decides.
#[derive(Clone)]
pub struct Hands {
    pub store: Store,
    pub orders: Orders,
    pub cloud: &'static str,
    pub policy: Policy,
}

impl Hands {
    /// Looks, does what is to be done here, and writes down what is to be sent. `refused`: what the cloud refused before.
    pub async fn look(&self, key: &Key, news: Option<News>, version: u64, refused: Option<Refused>) -> Looked {
        match self.try_look(key, news, version, refused).await {
            Ok(looked) => looked,
            Err(why) => {
                tracing::warn!(device = %key.0, shadow = key.1, why, "a shadow waits to be synced");
                Looked::Later
            }
        }
    }

    async fn try_look(
        &self,
        key: &Key,
        news: Option<News>,
        version: u64,
        refused: Option<Refused>,
    ) -> Result<Looked, String> {
        let (device, name) = key;
        for _ in 0..TRIES {
            let standing = self.store.standing_of(self.cloud, device, name).await.map_err(|e| e.to_string())?;
            let decision = decide(&standing, news.as_ref(), self.policy);
            let mut here = Here { values: decision.plan.merged.clone(), version: standing.version, refusal: None };
            if let Some(step) = &decision.plan.here {
                match self.change_here(key, step, &standing).await? {
                    Changed::Version(version) => here.version = version,
                    Changed::Meanwhile => continue,
                    Changed::Refused(why) => {
                        here.values = standing.local.as_ref().map(Sections::from);
                        let reason = format!("not taken by this gateway: {why}");
                        here.refusal = Some(Refused { reason, bytes: None });
                    }
                }
            }
            let (local_version, kept_out) = (here.version, here.refusal.clone());
            let Conclusion { synced, request, exact } =
                decision.conclude(here, version, refused.as_ref(), standing.synced.as_ref());
            if standing.synced.as_ref() != Some(&synced) {
                self.store.set_synced(self.cloud, device, name, synced).await.map_err(|e| e.to_string())?;
            }
            if decision.deleted(&standing, news.as_ref()) {
                self.note(key, local_version, Note::DeletedInCloud).await;
            }
            let known = standing.synced.as_ref().and_then(|synced| synced.refused.as_ref());
            if let Some(refused) = kept_out.as_ref().filter(|refused| known != Some(refused)) {
                tracing::warn!(%device, shadow = name, reason = refused.reason, "what the cloud holds does not fit here");
                self.note(key, local_version, Note::Refused(refused.reason.clone())).await;
            }
            match decision.survived(&standing) {
                Some(side) => self.note(key, local_version, Note::Survived(side)).await,
                None if decision.is_repeated(&standing) => {}
                None => self.note_conflicts(key, local_version, &decision.plan.conflicts).await,
            }
            return Ok(match request {
                Some(request) => Looked::Send(request),
                None => Looked::Settled { exact, kept_out },
            });
        }
        Err("it changes here faster than it can be compared".to_owned())
    }

    async fn change_here(&self, key: &Key, step: &Step, standing: &Standing) -> Result<Changed, String> {
        let name = (!key.1.is_empty()).then(|| key.1.clone());
        let version = standing.local.as_ref().map_or(0, |document| document.version);
        let (what, after) = match step {
            Step::Update(state) => {
                let document = serde_json::json!({ "state": state, "version": version });
                (OrderKind::ShadowUpdate { name, document }, 0)
            }
            Step::Delete => (OrderKind::ShadowDelete { name, version: Some(version) }, 1),
        };
        match self.orders.place(key.0.clone(), Door::Cloud, what).await {
            Ok(answer) => {
                let version = answer.get("version").and_then(serde_json::Value::as_u64);
                Ok(version.map_or(Changed::Meanwhile, |version| Changed::Version(version + after)))
            }
            Err(refusal) => match refusal.code {
                RefusalCode::VersionConflict | RefusalCode::UnknownDevice => Ok(Changed::Meanwhile),
                RefusalCode::Busy | RefusalCode::StoreUnavailable | RefusalCode::Internal => Err(refusal.message),
                _ => Ok(Changed::Refused(refusal.message)),
            },
        }
    }

    /// The history tells what was overruled.
    async fn note_conflicts(&self, key: &Key, version: u64, conflicts: &[Conflict]) {
        let mut notes = Vec::new();
        for conflict in conflicts.iter().filter(|conflict| conflict.winner == Side::Here) {
            notes.push((conflict.path.clone(), conflict.lost.clone(), conflict.won.clone()));
        }
        if !notes.is_empty() {
            self.note(key, version, Note::Overruled(notes)).await;
        }
    }

    async fn note(&self, key: &Key, version: u64, note: Note) {
        let noted = self.store.note_history(&key.0, &key.1, clock::now(), version, note).await;
        if let Err(error) = noted {
            tracing::debug!(%error, "a step of the sync could not be noted in the history");
        }
    }

    /// Writes down what an answer of the cloud means. False where it could not be.
    pub async fn settle(&self, key: &Key, settle: Settle) -> bool {
        let done = self.try_settle(key, settle).await;
        if let Err(error) = &done {
            tracing::warn!(device = %key.0, shadow = key.1, %error, "what the cloud answered could not be written down");
        }
        done.is_ok()
    }

    async fn try_settle(&self, key: &Key, settle: Settle) -> Result<(), StoreError> {
        let (device, name) = key;
        match settle {
            Settle::Confirm { version } => self.store.confirm_sent(self.cloud, device, name, version).await,
            Settle::Gone { version } => {
                let standing = self.store.standing_of(self.cloud, device, name).await?;
                // Made again here meanwhile: that is another change.
                let local_version = if standing.local.is_none() { standing.version } else { 0 };
                let gone = Synced { local_version, cloud_version: version, ..Synced::default() };
                self.store.set_synced(self.cloud, device, name, gone).await?;
                self.note(key, standing.version, Note::DeletedInCloud).await;
                Ok(())
            }
            Settle::Refuse(refused) => {
                tracing::error!(%device, shadow = name, reason = refused.reason, "the cloud refuses this shadow");
                let standing = self.store.standing_of(self.cloud, device, name).await?;
                let synced = standing.synced.unwrap_or_default();
                let news = synced.refused.as_ref() != Some(&refused);
                let reason = refused.reason.clone();
                let refused = Synced { refused: Some(refused), sent: None, ..synced };
                self.store.set_synced(self.cloud, device, name, refused).await?;
                if news {
                    self.note(key, standing.version, Note::Refused(reason)).await;
                }
                Ok(())
            }
        }
    }
}

enum Changed {
    /// Our version after it.
    Version(u64),
    /// Somebody was faster.
    Meanwhile,
    Refused(String),
}
