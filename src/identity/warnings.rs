//! What runs out becomes an alarm, graver as the end comes nearer, and is cleared when it was renewed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Identity, overview::Expiring};
use crate::{
    bus::Events,
    model::{
        alarm::CERTIFICATE_EXPIRY,
        event::{Event, Severity},
        ids::DeviceId,
        time::Millis,
    },
    store::{StoreError, alarms::AlarmStep},
};

impl Identity {
    /// Raises, worsens and clears the alarms of what runs out.
    pub(super) async fn warn(&self, events: &Events, now: Millis) {
        if let Err(error) = self.try_warn(events, now).await {
            tracing::warn!(%error, "alarms of certificates that run out were not written; tried again");
        }
    }

    async fn try_warn(&self, events: &Events, now: Millis) -> Result<(), StoreError> {
        // One alarm per device: the worst, which stands first.
        let mut worst: BTreeMap<DeviceId, Expiring> = BTreeMap::new();
        for expiring in self.expiring() {
            let Some(device) = expiring.device.clone().or_else(|| DeviceId::new(&self.inner.name).ok()) else {
                continue;
            };
            worst.entry(device).or_insert(expiring);
        }
        let known = self.inner.store.alarms().await?;
        let active: BTreeMap<DeviceId, Severity> = known
            .into_iter()
            .filter(|alarm| alarm.active && alarm.kind == CERTIFICATE_EXPIRY)
            .map(|alarm| (alarm.device, alarm.severity))
            .collect();
        let devices: BTreeSet<&DeviceId> = worst.keys().chain(active.keys()).collect();
        for device in devices {
            let (is, was) = (worst.get(device), active.get(device));
            if is.map(|expiring| expiring.severity) == was.copied() {
                continue;
            }
            let steps = [
                was.map(|_| AlarmStep::Clear),
                is.map(|e| AlarmStep::Raise { severity: e.severity, text: e.text.clone() }),
            ];
            for step in steps.into_iter().flatten() {
                if let Some(alarm) = self.inner.store.step_alarm(device, CERTIFICATE_EXPIRY, step, now).await? {
                    let text = if alarm.active { alarm.text } else { format!("{CERTIFICATE_EXPIRY}: cleared") };
                    tracing::info!(%device, severity = alarm.severity.word(), active = alarm.active, text, "alarm");
                    events.tell(Event::Alarm { device: device.clone(), severity: alarm.severity, text, at: now });
                }
            }
        }
        Ok(())
    }
}
