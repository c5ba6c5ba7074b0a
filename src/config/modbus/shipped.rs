//! The profiles that come with the program. A new one: put the file into `config/profiles` and its name here.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$((concat!($name, ".toml"), include_str!(concat!("../../../config/profiles/", $name, ".toml")))),*]
    };
}

/// File name and text.
pub(super) const FILES: &[(&str, &str)] = files!["eastron-sdm630", "xy-md02"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::modbus::profile::Profile;

    #[test]
    fn every_shipped_profile_is_clean_and_named_like_its_file() {
        for (file, text) in FILES {
            let (profile, problems) = Profile::parse(file, text);
            assert!(problems.is_empty(), "{problems:#?}");
            let profile = profile.expect("a profile");
            assert_eq!(format!("{}.toml", profile.name), *file);
            assert!(!profile.source.is_empty() && !profile.maker.is_empty(), "{file}");
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
}
