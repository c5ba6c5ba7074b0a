//! What the keeper's handle asks of its task, and what it is answered; what a child asks of the update room.

use tokio::sync::oneshot;

use super::{
    Ask,
    done::{Done, Purpose},
    jobs::Asker,
    keeper::Keeping,
    voice,
};
use crate::{
    bus::{Inbound, UpdateAsk},
    clock,
    model::{
        command::{Refusal, RefusalCode},
        shadow::OWN_SHADOW,
    },
};

impl Keeping {
    /// Answers what the handle asks.
    pub(super) async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Attach(device, driver) => {
                let child = self.child(&device);
                child.driver = Some(driver);
                child.pursuit.refresh(true, clock::now());
                self.read_shadow(device, OWN_SHADOW.into(), Purpose::Remarks).await;
            }
            Ask::Detach(device) => {
                if let Some(child) = self.children.get_mut(&device) {
                    (child.driver, child.reachable) = (None, None);
                }
            }
            Ask::Latest(device, reply) => {
                let latest = self.children.get(&device).map(|child| child.latest.all());
                let _ = reply.send(latest.unwrap_or_default());
            }
            Ask::AllLatest(reply) => {
                let all = self.children.iter().map(|(device, child)| (device.clone(), child.latest.all()));
                let _ = reply.send(all.collect());
            }
            Ask::Trend { device, name, reply } => {
                let trend = self.children.get(&device).map(|child| child.latest.trend(&name, self.budget.step));
                let _ = reply.send(trend.unwrap_or_default());
            }
            Ask::Lock { device, member, lock, door } => self.lock(device, member, lock, door).await,
            Ask::Give { device, given, reply } => self.give_job(device, given, Asker::Gateway(reply)).await,
            Ask::CancelJob { device, job_id, force, reply } => {
                self.cancel_job(device, job_id, force, Asker::Gateway(reply)).await;
            }
            Ask::Config { scope, name, document, reply } => self.config_order(scope, name, document, reply),
            Ask::Pulse(reply) => drop(reply.send(())),
        }
    }
    /// A piece of the offered image. The update room's refusal is said on `errors` like every other.
    pub(super) fn ask_for_chunk(&mut self, inbound: Inbound) {
        let Inbound { device, topic, payload, reply, .. } = inbound;
        let heard = voice::heard(&device, &topic);
        let (answer, answered) = oneshot::channel();
        if self.asks.try_send(UpdateAsk::Chunk { device: device.clone(), payload, reply: answer }).is_err() {
            let busy = Refusal::new(RefusalCode::Busy, "too many pieces are being asked for; ask again");
            return self.refuse(&device, &heard, busy, reply);
        }
        let done = self.loose_end();
        self.aside_task("piece of an image", async move {
            match answered.await {
                Ok(Err(refusal)) => drop(done.send(Done::Refused { device, heard, refusal, reply })),
                Ok(Ok(())) => drop(reply.send(Ok(()))),
                Err(_) => {} // the room is gone, and so is the answer
            }
        });
    }
}
