//! The session's end of the sync: it tells what it hears, never waits, and takes what is to be asked.

use tokio::sync::mpsc;

use crate::{
    model::{ids::DeviceId, topic::THINGS_ROOT},
    uplink::dialect::aws::Aws,
};

/// What the session tells.
#[derive(Debug)]
pub(super) enum FromCloud {
    Up {
        resumed: bool,
    },
    Down,
    Message {
        topic: String,
        payload: bytes::Bytes,
    },
    /// Some messages found no room.
    Missed,
}

/// The session's end.
pub struct Line {
    aws: Aws,
    tell: mpsc::Sender<FromCloud>,
    outgoing: mpsc::Receiver<(String, Vec<u8>)>,
    missed: bool,
}

impl Line {
    pub(super) fn new(aws: Aws, tell: mpsc::Sender<FromCloud>, outgoing: mpsc::Receiver<(String, Vec<u8>)>) -> Line {
        Line { aws, tell, outgoing, missed: false }
    }

    pub fn filters(&self, children: &[DeviceId]) -> Vec<String> {
        self.aws.filters(children)
    }

    pub fn filters_of(&self, child: &DeviceId) -> Vec<String> {
        self.aws.filters_of(child)
    }

    /// Answers can arrive from now on; `resumed` where the broker kept all since the last connection.
    pub fn up(&mut self, resumed: bool) {
        // What an earlier connection left in the queue is not for this one.
        while self.outgoing.try_recv().is_ok() {}
        self.pass(FromCloud::Up { resumed });
    }

    pub fn down(&mut self) {
        self.pass(FromCloud::Down);
    }

    /// Whether a topic belongs to the shadows; never waits.
    pub fn hear(&mut self, topic: &str, payload: &bytes::Bytes) -> bool {
        let ours = topic.starts_with(THINGS_ROOT);
        if ours {
            self.pass(FromCloud::Message { topic: topic.to_owned(), payload: payload.clone() });
        }
        ours
    }

    /// The next request for the cloud.
    pub async fn outgoing(&mut self) -> (String, Vec<u8>) {
        match self.outgoing.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }

    /// Says that something was missed, as soon as there is room to say it.
    pub fn tick(&mut self) {
        if self.missed {
            self.missed = self.tell.try_send(FromCloud::Missed).is_err();
        }
    }

    fn pass(&mut self, what: FromCloud) {
        self.tick();
        if self.tell.try_send(what).is_err() {
            self.missed = true;
        }
    }
}
