//! Applies a changed configuration to the running rooms: planned first, so that it happens all or not at all.

use std::sync::Arc;

use super::build::{Built, configured};
use crate::config::{Config, problem::Problem};

impl Built {
    /// Goes from `old` to `new` and says what changed, for people. What cannot change while the daemon runs is
    /// refused by name, before anything is touched.
    pub async fn apply(&mut self, old: &Config, new: &Config) -> Result<Vec<String>, Vec<Problem>> {
        let refused = needs_restart(old, new);
        if !refused.is_empty() {
            return Err(refused);
        }
        let mut changes = Vec::new();
        if old.gateway.log_level != new.gateway.log_level {
            match self.rooms.logs.set_level(&new.gateway.log_level) {
                Ok(()) => changes.push(format!("log level is {}", new.gateway.log_level)),
                Err(why) => return Err(vec![fixed("gateway.log_level", &why, "write a level such as \"info\"")]),
            }
        }
        if old.identity != new.identity {
            if let Err(error) = self.rooms.identity.configure(&new.identity) {
                return Err(vec![fixed("identity", &error.to_string(), "the old certificates stay in use")]);
            }
            changes.push("certificates and credentials follow the new [identity]".into());
        }
        if old.access != new.access {
            self.rooms.broker.set_access(new.access.clone());
            changes.push(format!("{} grants on the local broker", new.access.grants.len()));
        }
        if old.uplink != new.uplink {
            // Everything that can be wrong is found before the old road is closed.
            self.road
                .change(new)
                .await
                .map_err(|error| vec![fixed("uplink", &format!("{error:#}"), "the old connection stays in use")])?;
            changes.push("the road to the cloud was opened anew".into());
        }
        if configured(old) != configured(new) || old.presence != new.presence {
            self.rooms.identity.admit_newcomers_as(new.presence.admit);
            let presence = (old.presence != new.presence).then(|| new.presence.clone());
            self.rooms.registry.sync(configured(new), presence).await;
            self.rooms.broker.look_again().await;
            changes.push(format!("{} devices are configured", new.devices().len()));
        }
        if old.coap != new.coap {
            self.coap.send_replace(Arc::new(new.coap.clone()));
            changes.push("the CoAP door follows the new [coap]".into());
        }
        if old.rules != new.rules {
            self.rules.send_replace(Arc::new(new.rules.clone()));
            changes.push(format!("{} rules for alarms", new.rules.len()));
        }
        changes.extend(self.drivers.apply(new).await);
        self.config.send_replace(Arc::new(new.clone()));
        Ok(changes)
    }
}

/// Sections that are wired in at start.
fn needs_restart(old: &Config, new: &Config) -> Vec<Problem> {
    let hint = "restart the service to change it: systemctl restart headgate";
    let mut refused = Vec::new();
    let mut check = |key: &str, same: bool| {
        if !same {
            refused.push(fixed(key, "cannot change while the gateway runs", hint));
        }
    };
    check("gateway.id", old.gateway.id == new.gateway.id);
    check("gateway.state", old.gateway.state == new.gateway.state);
    check("log", old.log == new.log);
    check("broker", old.broker == new.broker);
    check("web", old.web == new.web);
    check("shadows", old.shadows == new.shadows);
    check("updates", old.updates == new.updates);
    refused
}

fn fixed(key: &str, found: &str, hint: &str) -> Problem {
    Problem { file: "headgate.toml".into(), line: 0, key: key.into(), found: found.into(), hint: hint.into() }
}
