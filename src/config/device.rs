//! What every device entry has, whatever its wire, and MQTT children, which have nothing more.

use std::time::Duration;

use super::read::Section;
use crate::model::ids::DeviceId;

/// The common part of a `[[device]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    pub id: DeviceId,
    /// The device type; job filters match it.
    pub kind: String,
    pub tags: Vec<String>,
    pub groups: Vec<String>,
    /// How often a sign of life is expected: late after 1.5 times this, offline after 3 times.
    pub expect_every: Option<Duration>,
    /// The serial number of the unit that should be there, as it reports it.
    pub serial_number: Option<String>,
}

impl Common {
    /// `None` where the id is missing or wrong, which is then a problem of the section.
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let hint = "1 to 64 of A-Z a-z 0-9 . _ : -, for example \"pump-7\"";
        if !section.has("id") {
            section.problem("id", "is missing", format!("give the device a name: {hint}"));
        }
        let id = section.parsed("id", hint, |text| DeviceId::new(text).map_err(|e| e.to_string()));
        let common = Self {
            id: id.clone().unwrap_or_else(|| DeviceId::new("unnamed").expect("a valid id")),
            kind: section.text("type").unwrap_or_default(),
            tags: section.texts("tags"),
            groups: section.texts("groups"),
            expect_every: section.duration("expect_every"),
            serial_number: section.text("serial_number"),
        };
        id.map(|_| common)
    }
}
