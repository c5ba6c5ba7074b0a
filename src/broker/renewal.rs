//! `devices/{d}/credential/renew`: a child asks for the successor of the certificate that opened its connection.
//!
//! The identity room judges; here the answer is said and the ack waits for it like one of the keeper's.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use super::{hub::Hub, message::Message, session::Session};
use crate::{
    clock,
    model::{
        command::{Refusal, RefusalCode},
        topic::{CHILD_ROOT, RENEWAL},
    },
};

/// What is asked for.
#[derive(Deserialize)]
struct Asked {
    /// PKCS #10 in PEM.
    request: String,
}

impl Hub {
    /// Renews the credential of `session` and says the answer, a refusal only where `aloud`. What the message is
    /// acknowledged with comes when both are done.
    pub(super) fn renew(
        self: &Arc<Self>,
        session: &Arc<Session>,
        payload: &Bytes,
        aloud: bool,
    ) -> oneshot::Receiver<Result<(), Refusal>> {
        let (reply, answer) = oneshot::channel();
        let (hub, session, payload) = (self.clone(), session.clone(), payload.clone());
        self.tasks.spawn("renewal", async move {
            let outcome = hub.renewed(&session, &payload).await;
            let said = match &outcome {
                Ok(handout) => Some(("accepted", handout.clone())),
                Err(Refusal { code, message }) => {
                    let document = json!({ "code": code, "message": message, "ts": clock::now() });
                    aloud.then_some(("rejected", document))
                }
            };
            if let Some((word, document)) = said {
                let message = Message {
                    topic: format!("{CHILD_ROOT}{}/{RENEWAL}/{word}", session.device).into(),
                    payload: Bytes::from(document.to_string()),
                    properties: Bytes::new(),
                    qos: 1,
                    retain: false,
                    expires: None,
                    from: None,
                };
                // who did not hear it asks again
                drop(hub.publish(&Arc::new(message)));
            }
            let _ = reply.send(outcome.map(drop));
        });
        answer
    }

    async fn renewed(&self, session: &Session, payload: &[u8]) -> Result<Json, Refusal> {
        let live = session.state().live.as_ref().and_then(|live| Some((live.principal.clone()?, live.address)));
        let Some((principal, address)) = live else {
            let text = "this connection was opened without a certificate, and only certificates are renewed";
            return Err(Refusal::new(RefusalCode::NotAuthorized, text));
        };
        let Asked { request } = serde_json::from_slice(payload).map_err(|error| {
            let text = format!("{error}; expected {{\"request\": a PKCS #10 request in PEM}}");
            Refusal::new(RefusalCode::PayloadInvalid, text)
        })?;
        Ok(self.identity.renew_connected(&principal, request, address).await?.handout())
    }
}
