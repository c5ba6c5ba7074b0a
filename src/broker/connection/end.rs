//! How a connection ends, and who is told what of it.

use crate::broker::{
    life::Ending,
    wire::{Fault, reason},
};

/// How it ends.
#[derive(Debug)]
pub enum End {
    /// The client said DISCONNECT; whether it wants its will said.
    Goodbye { will: bool },
    /// The broker sends the client away.
    Fault(Fault),
    /// The socket closed.
    Gone(String),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        End::Fault(fault)
    }
}

impl End {
    /// What the session is told of it, and what the client is told where it is sent away.
    pub(super) fn ending(self) -> (Ending, Option<Fault>) {
        match self {
            End::Goodbye { will } => (Ending { graceful: !will, reason: "disconnected".into(), error: false }, None),
            End::Gone(reason) => (Ending { graceful: false, reason, error: true }, None),
            End::Fault(fault) => {
                let error = fault.code != reason::TAKEN_OVER && fault.code != reason::SHUTTING_DOWN;
                (Ending { graceful: false, reason: fault.text.to_string(), error }, Some(fault))
            }
        }
    }
}
