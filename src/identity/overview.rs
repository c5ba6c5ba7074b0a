//! Credentials as they may be shown, and what runs out soon.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Identity,
    child::CredentialId,
    table::{Entry, Table},
};
use crate::{
    clock,
    model::{event::Severity, ids::DeviceId, time::Millis},
    store::credentials::CredentialKind,
};

const DAY: i64 = 86_400_000;

/// How a credential stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    Active,
    /// Active, and in its renewal window.
    Due,
    Expired,
    Revoked,
}

/// A credential as it may be shown.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialView {
    pub id: CredentialId,
    pub device: DeviceId,
    pub kind: CredentialKind,
    pub standing: Standing,
    pub created: Millis,
    pub created_by: String,
    pub expires: Option<Millis>,
    /// From when on it is to be renewed: a moment of the device's own within the renewal window.
    pub renew_after: Option<Millis>,
    pub revoked: Option<Millis>,
    pub reason: Option<String>,
    /// To the hour.
    pub last_used: Option<Millis>,
    /// SHA-256 of the certificate, in hex.
    pub fingerprint: Option<String>,
}

/// Something that runs out, or has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expiring {
    /// `None` for the gateway's own certificates.
    pub device: Option<DeviceId>,
    pub credential: Option<CredentialId>,
    pub expires: Millis,
    pub severity: Severity,
    pub text: String,
}

impl Identity {
    /// All credentials, or those of one device; newest last.
    pub fn credentials(&self, device: Option<&DeviceId>) -> Vec<CredentialView> {
        let now = clock::now();
        let table = self.table();
        let mut views: Vec<CredentialView> = table
            .all()
            .filter(|entry| device.is_none_or(|device| entry.stored.device == *device))
            .map(|entry| view(entry, now, self.due(entry)))
            .collect();
        views.sort_by(|a, b| (&a.device, a.created, &a.id).cmp(&(&b.device, b.created, &b.id)));
        views
    }

    /// Devices with a credential that was to be renewed by now, or has run out, and that have no later one.
    pub fn overdue(&self, now: Millis) -> BTreeMap<DeviceId, String> {
        let (table, mut found) = (self.table(), BTreeMap::new());
        for entry in table.all().filter(|entry| entry.stored.revoked.is_none()) {
            let (stored, Some(due)) = (&entry.stored, self.due(entry)) else { continue };
            let Some(expires) = stored.expires.filter(|_| due <= now) else { continue };
            if !renewed(&table, entry, expires) {
                let what = stored.kind.as_str();
                let text = match expires <= now {
                    true => format!("the {what} has run out and was not renewed"),
                    false => format!("the {what} is due and was not renewed"),
                };
                found.insert(stored.device.clone(), text);
            }
        }
        found
    }

    /// What runs out or has run out and was not renewed: the gateway's own certificates, and every certificate of a
    /// child that has no later one. Worst first.
    pub fn expiring(&self) -> Vec<Expiring> {
        let now = clock::now();
        let mut found = self.own_expiring(now);
        let table = self.table();
        for entry in table.all().filter(|entry| entry.stored.revoked.is_none()) {
            let stored = &entry.stored;
            let Some(expires) = stored.expires else { continue };
            let renewed = renewed(&table, entry, expires);
            // Who is not due yet is in time, however near its end may be.
            let early = self.due(entry).is_some_and(|due| due > now);
            let urgent =
                urgency(expires, now).filter(|(severity, _)| !(renewed || early && *severity == Severity::Info));
            if let Some((severity, when)) = urgent {
                found.push(Expiring {
                    device: Some(stored.device.clone()),
                    credential: Some(CredentialId(stored.id.clone())),
                    expires,
                    severity,
                    text: format!("the {} of {} {when}", stored.kind.as_str(), stored.device),
                });
            }
        }
        found.sort_by(|a, b| (b.severity, a.expires).cmp(&(a.severity, b.expires)));
        found
    }
}

/// Whether the device has a later credential than this one, or one that does not end.
fn renewed(table: &Table, entry: &Entry, expires: Millis) -> bool {
    table
        .of(&entry.stored.device)
        .any(|other| other.stored.revoked.is_none() && other.stored.expires.is_none_or(|later| later > expires))
}

/// How bad it is that something runs out then, and the words for it; `None` while there is time.
pub(super) fn urgency(expires: Millis, now: Millis) -> Option<(Severity, String)> {
    let left = expires.since(now);
    let severity = match left {
        ..=DAY => Severity::Critical,
        left if left <= 7 * DAY => Severity::Major,
        left if left <= 14 * DAY => Severity::Minor,
        left if left <= 30 * DAY => Severity::Info,
        _ => return None,
    };
    let when = match left {
        ..=0 => "has run out".to_owned(),
        left if left <= DAY => format!("runs out in {} h", left / 3_600_000),
        left => format!("runs out in {} days", left / DAY),
    };
    Some((severity, when))
}

fn view(entry: &Entry, now: Millis, due: Option<Millis>) -> CredentialView {
    let stored = &entry.stored;
    let standing = match (stored.revoked, stored.expires) {
        (Some(_), _) => Standing::Revoked,
        (None, Some(expires)) if expires <= now => Standing::Expired,
        (None, Some(_)) if due.is_some_and(|due| due <= now) => Standing::Due,
        _ => Standing::Active,
    };
    CredentialView {
        id: CredentialId(stored.id.clone()),
        device: stored.device.clone(),
        kind: stored.kind,
        standing,
        created: stored.created,
        created_by: stored.created_by.clone(),
        expires: stored.expires,
        renew_after: due.filter(|_| stored.revoked.is_none()),
        revoked: stored.revoked,
        reason: stored.reason.clone(),
        last_used: stored.last_used,
        fingerprint: (stored.kind == CredentialKind::Certificate).then(|| hex::encode(&stored.proof)),
    }
}
