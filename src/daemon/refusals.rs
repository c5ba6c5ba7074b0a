//! Whom a door turned away that knows no identity: listed, counted and logged like those whom the broker refused.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::TurnedAway,
    identity::{self, Identity},
    model::ids::DeviceId,
};

/// Until `stop`, or until nobody is turned away any more.
pub async fn list_refusals(mut refusals: mpsc::Receiver<TurnedAway>, identity: Identity, stop: CancellationToken) {
    while let Some(Some(refused)) = stop.run_until_cancelled(refusals.recv()).await {
        let TurnedAway { device, address, reason, text } = refused;
        // People put tokens where names belong.
        let device = Some(device).filter(|device| identity::shown(device.as_str()) == device.as_str());
        let name = device.as_ref().map(DeviceId::as_str);
        if identity.turned_away(address, device.as_ref(), reason, text.clone()).await {
            tracing::info!(peer = %address, device = name, text, "a request is refused");
        } else {
            tracing::debug!(peer = %address, device = name, text, "a request is refused");
        }
    }
}
