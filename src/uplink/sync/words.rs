//! What a pair of shadows is told and what it answers: the words between it, the desk and a dialect.

use serde_json::Value as Json;

use crate::{model::shadow::reconcile::Sections, store::sync::Refused};

/// What the cloud said of one shadow.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// `update/accepted`: somebody's request, maybe ours.
    Updated {
        version: u64,
        state: Json,
        token: Option<Token>,
    },
    /// `delete/accepted`, with the version that was deleted.
    Deleted {
        version: u64,
        token: Option<Token>,
    },
    /// `get/accepted`: the whole document.
    Got {
        version: u64,
        values: Sections,
        token: Option<Token>,
    },
    Rejected {
        code: u16,
        message: String,
        token: Option<Token>,
    },
}

/// A client token that this gateway made, now or in an earlier life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub number: u64,
    /// Made since this process began.
    pub ours_now: bool,
}

/// Something to be worked in.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// All that the cloud holds; `None` where it holds no such shadow.
    Whole(Option<Sections>),
    /// A change to what was agreed on; `own` where it was ours and is heard late.
    Patch { state: Json, own: bool },
}

/// What is asked of the cloud.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    Get,
    /// `version` where the cloud is known to hold the shadow. `bytes`: the values both will then hold.
    Update {
        state: Json,
        version: Option<u64>,
        bytes: u64,
    },
    Delete,
}

/// What is to be done with a pair.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Ask the cloud for the whole document.
    Ask,
    /// Compare both sides; `version` is the cloud's.
    Look { news: Option<News>, version: u64 },
}

/// What the store has to be told after something was heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Settle {
    /// The cloud took what was sent.
    Confirm { version: u64 },
    /// The cloud deleted it as we asked.
    Gone { version: u64 },
    /// The cloud will not take it.
    Refuse(Refused),
}

/// What came of a look.
#[derive(Debug, Clone, PartialEq)]
pub enum Looked {
    /// Nothing has to be sent. `exact`: what is agreed on is what the cloud holds; `kept_out`: why this gateway does not
    /// take what the cloud holds.
    Settled { exact: bool, kept_out: Option<Refused> },
    /// Written down, and to be sent now.
    Send(Request),
    /// Not now: the store or the keeper is busy.
    Later,
}

/// How long what takes. Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For an answer.
    pub answer: i64,
    /// Between two updates of one shadow; what changes meanwhile is merged.
    pub interval: i64,
    /// Between two looks at a shadow of which nothing is heard.
    pub verify: i64,
    /// The first pause after a failure, and the longest.
    pub pause: (i64, i64),
    /// Failures in a row after which the next connection is waited for.
    pub attempts: u32,
}
