//! Clients that say who they are and prove nothing, where the broker lets such in: whose name none of them may take.

use super::{
    Identity,
    child::{Login, LoginRefused},
};
use crate::model::{
    device::{Lifecycle, Protocol},
    ids::DeviceId,
};

impl Identity {
    /// May a client without credentials come in as `device`? Whoever refuses it tells it why; the trace is left here.
    pub async fn admit_unproved(&self, login: Login<'_>, device: &DeviceId) -> Result<(), LoginRefused> {
        let judged = self.unproved_stands(device, login.client_id).await;
        if let Err(refused) = &judged {
            self.trace_refused(&login, refused).await;
        }
        judged
    }

    /// The same for one that is in already. Its client id must be free too: whoever that belongs to could not use it.
    pub async fn unproved_stands(&self, device: &DeviceId, client_id: &str) -> Result<(), LoginRefused> {
        let owner = client_id.split('/').next().and_then(|owner| DeviceId::new(owner).ok());
        if let Some(owner) = owner.filter(|owner| owner != device) {
            // Nobody comes in as the owner: an unknown one has nothing to wait for.
            self.needs_no_proof(&owner, Lifecycle::Active).await?;
        }
        self.needs_no_proof(device, self.newcomers()).await
    }

    async fn needs_no_proof(&self, device: &DeviceId, newcomer: Lifecycle) -> Result<(), LoginRefused> {
        // Also where none of them counts any more: a revoked one must not open the door to everybody.
        if self.table().knows(device) {
            return Err(LoginRefused::Unproved { device: device.clone() });
        }
        let no_client = |protocol| LoginRefused::NoClient { device: device.clone(), protocol };
        if device.as_str() == self.inner.name {
            return Err(no_client(Protocol::Gateway));
        }
        let known = self.inner.store.device(device).await;
        match known.map_err(|error| LoginRefused::Unavailable(error.to_string()))? {
            Some(known) if known.protocol != Protocol::Mqtt => Err(no_client(known.protocol)),
            known => match known.map_or(newcomer, |known| known.lifecycle) {
                lifecycle if lifecycle.may_talk() => Ok(()),
                lifecycle => Err(LoginRefused::NotActive { device: device.clone(), lifecycle }),
            },
        }
    }
}
