//! Devices that are let in by their client id alone (`anonymous = "by_client_id"`): each is registered for good, so there
//! is a bound to how many there may be.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::wire::{Fault, reason};
use crate::{
    identity::Identity,
    model::{
        device::{Device, Lifecycle, Protocol},
        ids::DeviceId,
    },
    store::{Store, StoreError},
};

pub struct Newcomers {
    most: usize,
    store: Store,
    /// Those that take a place. The registry writes them down a moment after they came in.
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    devices: HashSet<DeviceId>,
    refused: u64,
}

impl Newcomers {
    /// Those of before: MQTT devices that have no credential and were not decommissioned.
    pub async fn load(most: usize, store: Store, identity: &Identity) -> Result<Self, StoreError> {
        let takes_place = |device: &Device| {
            device.protocol == Protocol::Mqtt
                && device.lifecycle != Lifecycle::Decommissioned
                && !identity.knows(&device.id)
        };
        let devices = store.devices().await?.into_iter().filter(takes_place).map(|device| device.id).collect();
        Ok(Self { most, store, inside: Mutex::new(Inside { devices, refused: 0 }) })
    }

    /// Gives a place to `device`, unless it has one or needs none because the gateway knows it.
    pub async fn admit(&self, device: &DeviceId) -> Result<(), Fault> {
        if self.inside().devices.contains(device) {
            return Ok(());
        }
        let known = self.store.device(device).await;
        if known.map_err(|error| Fault::new(reason::UNAVAILABLE, error.to_string()))?.is_some() {
            return Ok(());
        }
        let most = self.most;
        let mut inside = self.inside();
        if inside.devices.len() < most || inside.devices.contains(device) {
            inside.devices.insert(device.clone());
            return Ok(());
        }
        inside.refused += 1;
        let refused = inside.refused;
        drop(inside);
        if refused.is_power_of_two() {
            tracing::warn!(%device, most, refused, "a new device is not let in: there are as many without credentials as [broker.limits] anonymous_devices allows");
        }
        let text = format!(
            "{device} is new, and the gateway has its {most} devices without credentials (anonymous_devices); give it \
             a credential"
        );
        Err(Fault::new(reason::QUOTA, text))
    }

    /// `device` was decommissioned: its place is free.
    pub fn forget(&self, device: &DeviceId) {
        self.inside().devices.remove(device);
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
