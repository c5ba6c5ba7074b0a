//! `[gateway]`: who this gateway is and where it keeps its state.

use std::path::PathBuf;

use super::read::Section;
use crate::model::ids::DeviceId;

#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// The gateway is a device too; this is its id on every topic.
    pub id: DeviceId,
    /// Database, keys, firmware cache and control socket live here. Relative to the working folder.
    pub state: PathBuf,
    /// What is logged: `error`, `warn`, `info`, `debug`, or a filter such as `info,headgate::uplink=debug`.
    pub log_level: String,
}

impl Default for Gateway {
    fn default() -> Self {
        // systemd hands out the folder it made for the service.
        let state = std::env::var_os("STATE_DIRECTORY").map_or_else(|| PathBuf::from("state"), PathBuf::from);
        Self { id: DeviceId::new("gateway").expect("a valid id"), state, log_level: "info".into() }
    }
}

impl Gateway {
    pub fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let hint = "1 to 64 of A-Z a-z 0-9 . _ : -, for example \"site-042\"";
        Self {
            id: section.parsed("id", hint, |text| DeviceId::new(text).map_err(|e| e.to_string())).unwrap_or(default.id),
            state: section.text("state").map_or(default.state, PathBuf::from),
            log_level: section.text("log_level").unwrap_or(default.log_level),
        }
    }
}
