//! Answers a client waits for, in order: first the keeper's commit, then the broker's own store.

use std::collections::VecDeque;

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{
    journal::Ticket,
    message::{Message, Queued},
};
use crate::{model::command::Refusal, store::StoreError};
use std::sync::Arc;

/// What is said when all is done.
#[derive(Debug)]
pub enum Ack {
    /// QoS 0, or nobody to tell.
    Nothing,
    /// PUBACK or PUBREC.
    Publish { qos: u8, packet: u16, code: u8, why: Option<String> },
    /// PUBCOMP.
    Complete { packet: u16, code: u8 },
    /// PUBREL: the client has the message.
    Release { packet: u16, code: u8 },
    /// QoS 2 messages whose packet ids had to be stored first.
    LetGo { packets: Vec<u16> },
    /// SUBACK (9) or UNSUBACK (11); then the retained messages.
    Many { kind: u8, packet: u16, codes: Vec<u8>, replay: Vec<Queued>, filters: Vec<String> },
}

type Answer = Result<(), Refusal>;

/// A message the keeper commits, or something behind one that must not overtake it.
pub enum Committing {
    Waiting {
        answer: oneshot::Receiver<Answer>,
        /// Taken from `answer` already.
        taken: Option<Result<Answer, TryRecvError>>,
        message: Arc<Message>,
        packet: u16,
    },
    Passing(Storing),
}

impl Committing {
    pub fn waiting(answer: oneshot::Receiver<Answer>, message: Arc<Message>, packet: u16) -> Self {
        Committing::Waiting { answer, taken: None, message, packet }
    }

    pub fn passing(storing: Storing) -> Self {
        Committing::Passing(storing)
    }

    /// The keeper's answer, if it is there; `Closed` where it will never come.
    pub fn poll(&mut self) -> Result<Answer, TryRecvError> {
        match self {
            Committing::Passing(_) => Ok(Ok(())),
            Committing::Waiting { answer, taken, .. } => taken.take().unwrap_or_else(|| answer.try_recv()),
        }
    }

    /// Resolves when the first in line can be polled; never while the line is empty.
    pub async fn front(line: &mut VecDeque<Committing>) {
        match line.front_mut() {
            None => std::future::pending().await,
            Some(Committing::Passing(_)) => {}
            Some(Committing::Waiting { answer, taken, .. }) => {
                if taken.is_none() {
                    let got = (&mut *answer).await;
                    *taken = Some(got.map_err(|_| TryRecvError::Closed));
                }
            }
        }
    }
}

/// An ack that waits for the store.
pub struct Storing {
    pub ack: Ack,
    ticket: Option<Ticket>,
    taken: Option<Result<(), StoreError>>,
}

impl Storing {
    pub fn new(ack: Ack, ticket: Option<Ticket>) -> Self {
        Self { ack, ticket, taken: None }
    }

    pub fn poll(&mut self) -> Option<Result<(), StoreError>> {
        if let Some(taken) = self.taken.take() {
            return Some(taken);
        }
        match self.ticket.as_mut().map(oneshot::Receiver::try_recv) {
            None => Some(Ok(())),
            Some(Ok(result)) => Some(result),
            Some(Err(TryRecvError::Empty)) => None,
            Some(Err(TryRecvError::Closed)) => Some(Err(StoreError::Stopped)),
        }
    }

    pub async fn front(line: &mut VecDeque<Storing>) {
        match line.front_mut() {
            None => std::future::pending().await,
            Some(Storing { ticket: Some(ticket), taken, .. }) => {
                if taken.is_none() {
                    *taken = Some(ticket.await.unwrap_or(Err(StoreError::Stopped)));
                }
            }
            Some(_) => {}
        }
    }
}
