//! The credentials in memory: found by id, by device, by fingerprint. What is on disk is written first.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    model::{ids::DeviceId, time::Millis},
    store::credentials::{CredentialKind, StoredCredential},
};

/// A credential, and the keyed hash of a password that was right once: a child that comes back is not hashed again.
#[derive(Clone)]
pub(super) struct Entry {
    pub stored: StoredCredential,
    pub quick: Option<[u8; 32]>,
}

impl Entry {
    pub fn active(&self, now: Millis) -> bool {
        self.stored.revoked.is_none() && self.stored.expires.is_none_or(|expires| expires > now)
    }
}

#[derive(Default)]
pub(super) struct Table {
    by_id: HashMap<Arc<str>, Entry>,
    by_device: HashMap<DeviceId, BTreeSet<Arc<str>>>,
    by_fingerprint: HashMap<Vec<u8>, Arc<str>>,
    /// Devices that lost the right to talk while they may have been connected; a login asks the store.
    barred: BTreeSet<DeviceId>,
}

impl Table {
    pub fn new(all: Vec<StoredCredential>) -> Self {
        let mut table = Self::default();
        all.into_iter().for_each(|stored| table.add(stored));
        table
    }

    pub fn add(&mut self, stored: StoredCredential) {
        if stored.kind == CredentialKind::Certificate {
            self.by_fingerprint.insert(stored.proof.clone(), stored.id.clone());
        }
        self.by_device.entry(stored.device.clone()).or_default().insert(stored.id.clone());
        self.by_id.insert(stored.id.clone(), Entry { stored, quick: None });
    }

    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.by_id.get(id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Entry> {
        self.by_id.get_mut(id)
    }

    pub fn by_fingerprint(&self, fingerprint: &[u8]) -> Option<&Entry> {
        self.by_fingerprint.get(fingerprint).and_then(|id| self.get(id))
    }

    pub fn of<'t>(&'t self, device: &DeviceId) -> impl Iterator<Item = &'t Entry> + use<'t> {
        self.by_device.get(device).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    pub fn knows(&self, device: &DeviceId) -> bool {
        self.by_device.contains_key(device)
    }

    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.by_id.values()
    }

    pub fn bar(&mut self, device: &DeviceId, barred: bool) {
        if barred {
            self.barred.insert(device.clone());
        } else {
            self.barred.remove(device);
        }
    }

    pub fn barred(&self, device: &DeviceId) -> bool {
        self.barred.contains(device)
    }

    /// Marks as revoked; returns the device of each that was not yet.
    pub fn revoke(&mut self, ids: &[Arc<str>], at: Millis, reason: &str) -> BTreeSet<DeviceId> {
        let mut devices = BTreeSet::new();
        for id in ids {
            if let Some(entry) = self.by_id.get_mut(id).filter(|entry| entry.stored.revoked.is_none()) {
                entry.stored.revoked = Some(at);
                entry.stored.reason = Some(reason.to_owned());
                entry.quick = None;
                devices.insert(entry.stored.device.clone());
            }
        }
        devices
    }

    /// Our certificates on the revocation list: revoked, and not yet run out.
    pub fn revoked_serials(&self, now: Millis) -> Vec<(Vec<u8>, Millis)> {
        let mut list: Vec<(Vec<u8>, Millis)> = self
            .by_id
            .values()
            .filter(|entry| entry.stored.expires.is_none_or(|expires| expires > now))
            .filter_map(|entry| Some((entry.stored.serial.clone()?, entry.stored.revoked?)))
            .collect();
        list.sort();
        list
    }
}
