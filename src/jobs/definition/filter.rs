//! Which devices a job is for.

use serde_json::Value as Json;

use super::wrong;
use crate::model::{
    command::Refusal,
    device::{Device, Presence, Protocol},
};

/// Every list that is there must match; within a list any entry does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    ids: Option<Vec<String>>,
    tags: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    types: Option<Vec<String>>,
    firmware: Option<Vec<String>>,
    statuses: Option<Vec<String>>,
}

impl Filter {
    pub(super) fn read(json: &Json) -> Result<Filter, Refusal> {
        if !(json.is_null() || json.is_object()) {
            return Err(wrong("deviceFilter", "a JSON object"));
        }
        let known = ["ids", "tags", "groups", "types", "firmwareVersion", "statuses"];
        let keys = json.as_object().into_iter().flat_map(|map| map.keys());
        // A filter that is not understood must not widen the set of devices.
        if let Some(key) = keys.into_iter().find(|key| !known.contains(&key.as_str())) {
            return Err(wrong("deviceFilter", &format!("only {}; found {key:?}", known.join(", "))));
        }
        let list = |key: &str| match &json[key] {
            Json::Null => Ok(None),
            Json::String(one) => Ok(Some(vec![one.clone()])),
            Json::Array(many) => {
                let texts: Option<Vec<String>> = many.iter().map(|one| one.as_str().map(str::to_owned)).collect();
                texts.map(Some).ok_or_else(|| wrong(&format!("deviceFilter.{key}"), "a list of texts"))
            }
            _ => Err(wrong(&format!("deviceFilter.{key}"), "a list of texts")),
        };
        Ok(Filter {
            ids: list("ids")?,
            tags: list("tags")?,
            groups: list("groups")?,
            types: list("types")?,
            firmware: list("firmwareVersion")?,
            statuses: list("statuses")?,
        })
    }

    pub fn matches(&self, device: &Device) -> bool {
        let one = |wanted: &Option<Vec<String>>, has: &str| wanted.as_ref().is_none_or(|w| w.iter().any(|w| w == has));
        let any = |wanted: &Option<Vec<String>>, has: &[String]| {
            wanted.as_ref().is_none_or(|w| w.iter().any(|w| has.contains(w)))
        };
        let presence = match device.presence {
            Presence::Online => "online",
            Presence::Late => "late",
            Presence::Offline => "offline",
            Presence::NeverSeen => "never-seen",
        };
        let lifecycle = format!("{:?}", device.lifecycle).to_lowercase();
        one(&self.ids, device.id.as_str())
            && any(&self.tags, &device.tags)
            && any(&self.groups, &device.groups)
            && one(&self.types, &device.kind)
            && self.firmware.as_ref().is_none_or(|w| w.iter().any(|w| Some(w) == device.firmware_version.as_ref()))
            // The gateway is no child: it is meant only where it is named.
            && (device.protocol != Protocol::Gateway || self.ids.is_some())
            && self.statuses.as_ref().is_none_or(|w| w.iter().any(|w| w == presence || *w == lifecycle))
    }
}
