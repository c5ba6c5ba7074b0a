//! Who is there: device identification (43/14), the SunSpec marker and its chain of models, fingerprints of profiles.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value as Json, json};

use super::{
    ask::{Fault, exception},
    codec,
    owner::Owner,
    pdu::{self, Request},
    schedule::UnitKey,
    wire::WireError,
};
use crate::{
    config::modbus::{
        kind::Table,
        point::Point,
        profile::{Detect, Profiles},
    },
    model::reading::Value,
};

/// "SunS" (SunSpec Device Information Model Specification, 6.2), and where it may lie.
const MARKER: [u16; 2] = [0x5375, 0x6E53];
const BASES: [u16; 3] = [40_000, 50_000, 0];
/// More models than any device has.
const MOST_MODELS: usize = 80;

impl Owner<'_> {
    /// Asks for all identification objects; where there are none, for the server id (function 17).
    pub async fn identify(&mut self, unit: u8, timeout: Duration) -> Result<Json, WireError> {
        let mut objects = Map::new();
        for category in [3, 2, 1] {
            let mut next = 0;
            for _ in 0..16 {
                let answer = self.exchange(unit, &Request::identify(category, next), timeout, Duration::ZERO).await?;
                let Some(part) = pdu::identification(&answer.pdu) else { break };
                for (object, text) in part.objects {
                    objects.insert(pdu::object_name(object), Json::String(text));
                }
                match part.next {
                    Some(object) if object > next => next = object,
                    _ => break,
                }
            }
            if !objects.is_empty() {
                break;
            }
        }
        if objects.is_empty() {
            let answer = self.exchange(unit, &Request::server_id(), timeout, Duration::ZERO).await?;
            objects.extend(pdu::server_id(&answer.pdu).map(|text| ("serverId".into(), Json::String(text))));
        }
        Ok(Json::Object(objects))
    }

    /// Finds where the SunSpec models of a unit lie. `false` where no marker or none of the wanted models is there.
    pub async fn locate(&mut self, key: UnitKey) -> Result<bool, Fault> {
        let Some(unit) = self.units.get(&key) else { return Ok(false) };
        let (id, timeout) = (unit.device.unit, unit.device.timeout);
        let wanted: Vec<u16> = unit.device.points.iter().filter_map(|p| p.model).collect();
        let models = self.sunspec(id, timeout).await.map_err(|error| Fault::Silent(error.to_string().into()))?;
        let found = models.keys().any(|model| wanted.contains(model));
        if let (true, Some(unit)) = (found, self.units.get_mut(&key)) {
            unit.locate(&models);
        } else {
            tracing::warn!(unit = id, "no SunSpec model of the profile was found");
        }
        Ok(found)
    }

    /// Model numbers and the addresses of their first registers (their id).
    pub async fn sunspec(&mut self, unit: u8, timeout: Duration) -> Result<BTreeMap<u16, u16>, WireError> {
        let mut models = BTreeMap::new();
        for base in BASES {
            let Some(words) = self.peek(unit, Table::Holding, base, 2, timeout).await? else { continue };
            if words != MARKER {
                continue;
            }
            let mut at = u32::from(base) + 2;
            for _ in 0..MOST_MODELS {
                let Ok(address) = u16::try_from(at) else { break };
                let Some(words) = self.peek(unit, Table::Holding, address, 2, timeout).await? else { break };
                let &[model, length] = words.as_slice() else { break };
                if model == 0xFFFF || length == 0 {
                    break;
                }
                models.entry(model).or_insert(address);
                at += 2 + u32::from(length);
            }
            break;
        }
        Ok(models)
    }

    /// Registers, or `None` where the unit answers with an exception.
    pub async fn peek(
        &mut self,
        unit: u8,
        table: Table,
        address: u16,
        count: u16,
        timeout: Duration,
    ) -> Result<Option<Vec<u16>>, WireError> {
        let answer = self.exchange(unit, &Request::read(table, address, count), timeout, Duration::ZERO).await?;
        Ok(exception(&answer.pdu).is_none().then(|| {
            if table.is_bits() {
                (0..usize::from(count)).filter_map(|n| pdu::bit(&answer.pdu, n).map(u16::from)).collect()
            } else {
                pdu::registers(&answer.pdu)
            }
        }))
    }

    /// Fails where a unit answers to nothing that every device has something of.
    async fn anything(&mut self, unit: u8, timeout: Duration) -> Result<(), WireError> {
        let mut silence = Ok(());
        for (table, address) in [(Table::Holding, 0), (Table::Input, 0), (Table::Input, 1), (Table::Coil, 0)] {
            match self.peek(unit, table, address, 1, timeout).await {
                Ok(_) => return Ok(()),
                Err(error) => silence = Err(error),
            }
        }
        silence
    }

    /// Everything that tells what a unit is: identification, SunSpec models, and the profiles that match.
    pub async fn recognise(&mut self, unit: u8, timeout: Duration, profiles: &Profiles) -> Result<Json, WireError> {
        // Many cheap devices are silent where they should refuse: silence to one question is no absence.
        let identity = match heard(self.identify(unit, timeout).await)? {
            Some(identity) => identity,
            None => {
                self.anything(unit, timeout).await?;
                json!({})
            }
        };
        let models = heard(self.sunspec(unit, timeout).await)?.unwrap_or_default();
        let mut seen: BTreeMap<(Table, u16, u16), Option<Vec<u16>>> = BTreeMap::new();
        let mut matches = Vec::new();
        for profile in profiles.iter().filter(|profile| !profile.detect.is_empty()) {
            let mut fits = true;
            for detect in &profile.detect {
                fits = match detect {
                    Detect::Object { object, contains } => {
                        let text = identity.get(pdu::object_name(*object)).and_then(Json::as_str).unwrap_or("");
                        text.to_lowercase().contains(contains)
                    }
                    Detect::SunSpec { models: wanted } => wanted.iter().any(|model| models.contains_key(model)),
                    Detect::Between { point, .. } | Detect::Text { point, .. } => {
                        let place = (point.table, point.address, point.len());
                        if let std::collections::btree_map::Entry::Vacant(e) = seen.entry(place) {
                            e.insert(heard(self.peek(unit, place.0, place.1, place.2, timeout).await)?.flatten());
                        }
                        let words = seen.get(&place).and_then(Option::as_ref);
                        words.is_some_and(|words| shows(detect, point, words))
                    }
                };
                if !fits {
                    break;
                }
            }
            if fits {
                matches.push((names(&identity, &profile.name), profile.detect.len(), profile.name.clone()));
            }
        }
        // The one the device names itself, then whoever asked for more and was right.
        matches.sort_by(|a, b| (b.0, b.1, &a.2).cmp(&(a.0, a.1, &b.2)));
        let profiles: Vec<&str> = matches.iter().map(|(_, _, name)| &**name).collect();
        let sunspec: Vec<u16> = models.keys().copied().collect();
        Ok(json!({ "unit": unit, "identity": identity, "sunspec": sunspec, "profiles": profiles }))
    }
}

/// `None` for a question that got no reply; an error only where the wire itself is gone.
fn heard<T>(answer: Result<T, WireError>) -> Result<Option<T>, WireError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(WireError::Timeout(_) | WireError::Damaged) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the device calls itself about as the profile is called: product "SDM630-Modbus", profile "eastron-sdm630".
fn names(identity: &Json, profile: &str) -> bool {
    let plain = |text: &str| -> String { text.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect() };
    let model = profile.split_once('-').map_or(profile, |(_, model)| model);
    let (whole, model) = (plain(profile), plain(model));
    let mut texts =
        identity.as_object().into_iter().flat_map(|object| object.values()).filter_map(Json::as_str).map(plain);
    texts.any(|text| text.contains(&model) || (text.len() > 3 && whole.ends_with(&text)))
}

fn shows(detect: &Detect, point: &Point, words: &[u16]) -> bool {
    let value = if point.table.is_bits() {
        words.first().map(|bit| Value::Bool(*bit != 0))
    } else {
        codec::decode(point, words, None).ok()
    };
    match (detect, value) {
        (Detect::Between { min, max, .. }, Some(value)) => {
            value.as_f64().is_some_and(|number| (*min..=*max).contains(&number))
        }
        (Detect::Text { contains, .. }, Some(Value::Text(text))) => text.to_lowercase().contains(contains),
        _ => false,
    }
}
