//! The profiles that come with the program. A new one: put the file into `config/profiles` and its name here.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$((concat!($name, ".toml"), include_str!(concat!("../../../config/profiles/", $name, ".toml")))),*]
    };
}

/// File name and text.
pub(super) const FILES: &[(&str, &str)] = files![
    "abb-b21",
    "abb-b23",
    "carlo-gavazzi-em24-e1",
    "danfoss-vlt-fc",
    "eastron-sdm120",
    "eastron-sdm230",
    "eastron-sdm630",
    "epever-tracer",
    "janitza-umg604",
    "nibe-f-modbus40",
    "schneider-iem3155",
    "siemens-pac3200",
    "sma-inverter",
    "sunspec-inverter-single-phase",
    "sunspec-inverter-three-phase-float",
    "sunspec-inverter-three-phase",
    "systemair-save",
    "victron-evcs",
    "wago-879-30xx",
    "waveshare-relay-8",
    "xy-md02",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::modbus::{kind::Table, profile::Profile, profile::Profiles};

    #[test]
    fn every_shipped_profile_is_clean_and_named_like_its_file() {
        for (file, text) in FILES {
            let (profile, problems) = Profile::parse(file, text);
            assert!(problems.is_empty(), "{problems:#?}");
            let profile = profile.expect("a profile");
            assert_eq!(format!("{}.toml", profile.name), *file);
            assert!(!profile.source.is_empty() && !profile.maker.is_empty(), "{file}");
            // What the documentation says of it is what it says itself.
            let checked = profile.checked.unwrap_or_else(|| panic!("{file} does not say what it was held against"));
            let row = format!("| `{}` | {} | {checked} |", profile.name, profile.title);
            assert!(include_str!("../../../docs/profiles.md").contains(&row), "docs/profiles.md lacks {row}");
        }
    }

    #[test]
    fn every_file_of_the_folder_is_shipped() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config/profiles");
        for entry in std::fs::read_dir(folder).expect("folder") {
            let name = entry.expect("entry").file_name().to_string_lossy().into_owned();
            assert!(FILES.iter().any(|(file, _)| *file == name), "{name} is not in the table");
        }
    }

    /// "IR" in Systemair's variable list rev. 2.0-003, 11.1.
    #[test]
    fn the_sensors_of_a_ventilation_unit_are_asked_for_as_input_registers() {
        let profiles = Profiles::shipped();
        let unit = profiles.get("systemair-save").expect("the profile");
        for (name, address) in [("outdoorTemperature", 12101), ("supplyTemperature", 12102)] {
            let point = unit.point(name).expect("a sensor");
            assert_eq!((point.table, point.address), (Table::Input, address), "{name}");
        }
    }

    /// SMA's lists have "16777213: Information not available" for it.
    #[test]
    fn an_inverter_without_information_has_no_condition() {
        let profiles = Profiles::shipped();
        let condition = profiles.get("sma-inverter").and_then(|p| p.point("condition")).expect("the condition");
        assert!(condition.invalid.contains(&16_777_213), "{:?}", condition.invalid);
    }
}
