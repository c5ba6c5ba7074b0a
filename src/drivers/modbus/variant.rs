//! Which of its device's points a unit has: those of SunSpec models that are there, and those of the firmware it runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, json};
use tokio::time::Instant;

use super::{
    ask::Fault,
    codec,
    owner::Owner,
    pdu::{self, Request},
    plan::Learned,
    schedule::UnitKey,
    unit::Unit,
};
use crate::{
    bus::FromDriver,
    clock,
    config::modbus::{
        firmware::Source,
        point::{Class, Point},
    },
    model::{
        reading::{Quality, Reading, Sample, Value},
        version::Version,
    },
};

/// Under which name the shadow and the registry know a version.
const FIRMWARE_VERSION: &str = "firmwareVersion";
/// After how long a unit that would not tell is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What is known of a unit's firmware.
#[derive(Debug, Clone, Default)]
pub struct Firmware {
    pub version: Option<Version>,
    /// Why it is not known, once it was asked for.
    reason: Option<Arc<str>>,
    /// When the unit is asked next.
    due: Option<Instant>,
}

impl Firmware {
    pub fn new(source: Option<&Source>, now: Instant) -> Self {
        match source {
            None => Self::default(),
            Some(Source::Said(version)) => Self { version: Some(version.clone()), ..Self::default() },
            Some(_) => Self { due: Some(now), ..Self::default() },
        }
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// The unit may be another than it was: its version is read before anything else.
    pub fn doubt(&mut self, source: Option<&Source>, now: Instant) {
        if !matches!(source, None | Some(Source::Said(_))) {
            self.due = Some(now);
        }
    }

    /// Nothing can be planned before the unit was asked.
    pub fn is_open(&self) -> bool {
        self.due.is_some() && self.version.is_none() && self.reason.is_none()
    }
}

impl Unit {
    /// SunSpec models were found at these addresses: points of models that are not there are dropped.
    pub fn locate(&mut self, models: &BTreeMap<u16, u16>) {
        self.models = models.clone();
        self.located = true;
        self.settle();
    }

    /// The points there are with the models and the firmware as they are known.
    pub fn settle(&mut self) {
        let points = self.device.points.iter().filter(|point| {
            let version = self.firmware.version.as_ref();
            point.firmware.as_ref().is_none_or(|condition| version.is_some_and(|version| condition.holds(version)))
        });
        let points: Vec<Arc<Point>> = points.filter_map(|point| self.located_at(point)).collect();
        self.has(with_factors_in_time(points));
    }

    fn located_at(&self, point: &Arc<Point>) -> Option<Arc<Point>> {
        // Before the models were looked for nothing is read.
        let (true, Some(model)) = (self.located, point.model) else { return Some(point.clone()) };
        let address = self.models.get(&model)?.checked_add(point.address)?;
        let mut point = Arc::clone(point);
        Arc::make_mut(&mut point).address = address;
        Some(point)
    }

    /// Why a value of its device is none of this unit now.
    pub fn lacks(&self, name: &str) -> Option<String> {
        let mut forms = self.device.points.iter().filter(|point| &*point.name == name).peekable();
        forms.peek()?;
        if self.point(name).is_some() {
            return None;
        }
        let wanted: Vec<String> = forms.filter_map(|point| point.firmware.as_ref()).map(ToString::to_string).collect();
        let runs = match (&self.firmware.version, &self.firmware.reason) {
            _ if wanted.is_empty() => return Some("its SunSpec model is not there".into()),
            (Some(version), _) => format!("this is {version}"),
            (None, Some(reason)) => format!("which it runs is not known: {reason}"),
            (None, None) => "which it runs was not read yet".into(),
        };
        Some(format!("needs firmware {}; {runs}", wanted.join(" or ")))
    }

    /// Values of its device that it lacks, each once.
    pub fn lacking(&self) -> BTreeMap<Arc<str>, String> {
        let conditional = self.device.points.iter().filter(|point| point.firmware.is_some());
        conditional.filter_map(|point| Some((point.name.clone(), self.lacks(&point.name)?))).collect()
    }

    /// The register that tells the version was read along: another version than is known raises doubt.
    pub fn heed(&mut self, point: &Point, value: &Value, now: Instant) {
        if let (Some(source @ Source::Register { point: telling, .. }), Some(known)) =
            (&self.device.firmware, &self.firmware.version)
            && telling.name == point.name
            && source.version(value).is_none_or(|version| version != *known)
        {
            self.firmware.doubt(Some(source), now);
        }
    }

    /// Takes what the unit said; `true` where its points are others now.
    fn runs(&mut self, said: Result<Version, Arc<str>>, now: Instant) -> bool {
        let before = std::mem::take(&mut self.firmware);
        self.firmware = match said {
            Ok(version) => Firmware { version: Some(version), ..Firmware::default() },
            Err(reason) => Firmware { reason: Some(reason), due: Some(now + ASK_AGAIN), version: None },
        };
        if before.version == self.firmware.version && !before.is_open() {
            return false;
        }
        if before.version.is_some() && self.firmware.version.is_some() {
            // What was learned of the other firmware's registers may be wrong now.
            self.learned = Learned::default();
            // Its SunSpec models may lie elsewhere.
            self.located = self.device.points.iter().all(|point| point.model.is_none());
        }
        // There may be more to set up than there was.
        self.set_up = false;
        self.settle();
        true
    }
}

impl Owner<'_> {
    /// Asks which firmware a unit runs, and lets its points follow; then its work begins anew.
    pub async fn read_firmware(&mut self, key: UnitKey) {
        let said = self.firmware_of(key).await;
        let answered = said.as_ref().map(|_| ()).map_err(Clone::clone);
        self.after(key, answered).await;
        if let (Ok(said), Some(unit)) = (said, self.units.get_mut(&key)) {
            let relearns = !unit.learned.eq(&Learned::default());
            let changed = unit.runs(said, Instant::now());
            let forgot = relearns && unit.learned == Learned::default();
            self.tell_firmware(key, changed).await;
            if forgot {
                self.keep_lesson(key);
            }
        }
        self.start(key, Instant::now());
    }

    /// What the unit says; an inner error where it answers and tells nothing.
    async fn firmware_of(&mut self, key: UnitKey) -> Result<Result<Version, Arc<str>>, Fault> {
        let Some(unit) = self.units.get(&key) else { return Err(Fault::Silent("removed".into())) };
        let (source, point) = match &unit.device.firmware {
            Some(source @ Source::Register { point, .. }) => (source.clone(), unit.located_at(point)),
            Some(source) => (source.clone(), None),
            None => return Ok(Err("nothing tells it".into())),
        };
        let request = match (&source, &point) {
            (Source::Object(object), _) => {
                let category = if *object <= 2 {
                    1
                } else if *object < 0x80 {
                    2
                } else {
                    3
                };
                Request::identify(category, *object)
            }
            (Source::Register { .. }, Some(point)) => Request::read(point.table, point.address, point.len()),
            _ => return Ok(Err("its SunSpec model is not there".into())),
        };
        let reply = match self.poll(key, &request).await {
            Ok(reply) => reply.pdu,
            Err(Fault::Exception(code)) => return Ok(Err(code.to_string().into())),
            Err(fault) => return Err(fault),
        };
        let said = match (&source, &point) {
            (Source::Object(object), _) => {
                let found =
                    pdu::identification(&reply).and_then(|all| all.objects.into_iter().find(|(o, _)| o == object));
                let Some((_, text)) = found else {
                    return Ok(Err(format!("no object {object} in its identification").into()));
                };
                Value::Text(text.into())
            }
            (_, Some(point)) => match codec::decode(point, &pdu::registers(&reply), None) {
                Ok(value) => value,
                Err(why) => return Ok(Err(why.to_string().into())),
            },
            _ => return Ok(Err("nothing tells it".into())),
        };
        let version = match (&source, &said) {
            (Source::Object(_), Value::Text(text)) => Version::parse(text),
            _ => source.version(&said),
        };
        Ok(version.ok_or_else(|| format!("{} is no version", said.to_json()).into()))
    }

    /// The version goes to the shadow, unless a register of that name does; values that depend on one that is not known
    /// are bad, and say why.
    async fn tell_firmware(&mut self, key: UnitKey, changed: bool) {
        let Some(unit) = self.units.get(&key) else { return };
        let (device, ts) = (unit.device.id.clone(), clock::now());
        if let Some(version) = &unit.firmware.version {
            let (version, own) = (version.to_string(), unit.device.point(FIRMWARE_VERSION).is_some());
            if changed {
                tracing::info!(device = %device, version, left_out = unit.lacking().len(), "firmware known");
            }
            if !own {
                let reported = Map::from_iter([(FIRMWARE_VERSION.to_owned(), json!(version))]);
                self.tell(FromDriver::Reported { device, ts, reported }).await;
            }
            return;
        }
        if !changed {
            return;
        }
        let reason = unit.firmware.reason.as_deref().unwrap_or_default();
        tracing::warn!(device = %device, reason, "firmware not known: values that depend on it are not read");
        let telemetry =
            |name: &str| unit.device.point(name).is_some_and(|point| point.class != Class::State && point.readable());
        let lacking = unit.lacking().into_iter().filter(|(name, _)| telemetry(name));
        let bad = |(name, why): (Arc<str>, String)| Sample {
            name,
            value: None,
            quality: Quality::Bad { reason: why.into() },
        };
        let samples: Vec<Sample> = lacking.map(bad).collect();
        if !samples.is_empty() {
            self.tell(FromDriver::Reading(Reading { device, ts, samples })).await;
        }
    }
}

/// The points, with every scale factor read as often as the values that need it: a factor may change with the value.
fn with_factors_in_time(mut points: Vec<Arc<Point>>) -> Vec<Arc<Point>> {
    for index in 0..points.len() {
        let users = points.iter().filter(|point| point.scale_from.as_ref() == Some(&points[index].name));
        let pace = users.map(|point| (point.interval, point.priority)).min();
        if let Some((interval, priority)) = pace.filter(|(interval, _)| *interval < points[index].interval) {
            let factor = Arc::make_mut(&mut points[index]);
            (factor.interval, factor.priority) = (interval, priority);
        }
    }
    points
}
