//! Reads a configuration folder: `headgate.toml`, `access.toml`, every `devices.d/*.toml` and `profiles/*.toml`; a checked [`Config`] or
//! all problems of all files.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Config, Understood, modbus::profile::Profiles, problem::Problem};

/// File name and text, as found on disk.
pub struct Source {
    pub name: String,
    pub text: String,
}

/// What a folder holds, before it means anything.
pub struct Sources {
    pub main: Option<Source>,
    pub access: Option<Source>,
    pub devices: Vec<Source>,
    /// The shipped profiles and those below `profiles/`.
    pub profiles: Profiles,
    pub problems: Vec<Problem>,
}

impl Default for Sources {
    /// No files at all: the shipped profiles only.
    fn default() -> Self {
        Self { main: None, access: None, devices: Vec::new(), profiles: Profiles::shipped(), problems: Vec::new() }
    }
}

impl Sources {
    /// Reads the files below `folder`. A missing file means its defaults; a missing folder is a problem.
    pub fn gather(folder: &Path) -> Sources {
        let mut sources = Sources::default();
        if !folder.is_dir() {
            sources.problems.push(unreadable(
                folder,
                "is not a folder that can be read",
                "name an existing folder with --config",
            ));
            return sources;
        }
        let (profiles, problems) = Profiles::with_overlay(&folder.join("profiles"));
        sources.profiles = profiles;
        sources.problems.extend(problems);
        sources.main = sources.file(&folder.join("headgate.toml"));
        sources.access = sources.file(&folder.join("access.toml"));
        let devices = folder.join("devices.d");
        match fs::read_dir(&devices) {
            Ok(entries) => {
                let mut paths: Vec<PathBuf> = entries
                    .filter_map(Result::ok)
                    .map(|entry| entry.path())
                    .filter(|path| path.extension().is_some_and(|e| e == "toml"))
                    .collect();
                paths.sort();
                for path in paths {
                    let source = sources.file(&path);
                    sources.devices.extend(source);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                sources.problems.push(unreadable(
                    &devices,
                    &error.to_string(),
                    "make the folder readable for this user",
                ));
            }
        }
        sources
    }

    fn file(&mut self, path: &Path) -> Option<Source> {
        match fs::read_to_string(path) {
            Ok(text) => Some(Source { name: path.display().to_string(), text }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.problems.push(unreadable(
                    path,
                    &error.to_string(),
                    "make it a UTF-8 text file readable for this user",
                ));
                None
            }
        }
    }
}

fn unreadable(path: &Path, found: &str, hint: &str) -> Problem {
    Problem {
        file: path.display().to_string(),
        line: 0,
        key: String::new(),
        found: found.to_owned(),
        hint: hint.to_owned(),
    }
}

/// The whole configuration below `folder`; without a folder the defaults. Whether the keys it names fit is not looked at.
pub fn load(folder: Option<&Path>) -> Result<Config, Vec<Problem>> {
    understand(folder).whole()
}

/// The same, with what is wrong beside what could be understood.
pub fn understand(folder: Option<&Path>) -> Understood {
    Config::understand(folder.map(Sources::gather).unwrap_or_default())
}

/// The state folder that a `headgate.toml` names, whatever else is wrong in it.
pub fn state_in(text: &str) -> Option<PathBuf> {
    let mut section = "";
    text.lines().map(str::trim).find_map(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let key = line.split('=').next().unwrap_or_default().trim();
        let written =
            (section.starts_with("[gateway]") && key == "state").then(|| line.parse::<toml::Table>().ok())??;
        written["state"].as_str().map(PathBuf::from)
    })
}

/// Ids that stand in more than one place, as problems.
pub fn doubles<'a>(ids: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Problem> {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for (id, place) in ids {
        if let Some(before) = first.insert(id, place) {
            problems.push(Problem {
                file: place.to_owned(),
                line: 0,
                key: "device.id".into(),
                found: format!("{id:?} stands here and in {before}"),
                hint: "every device needs an id of its own".into(),
            });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_folder_is_found_in_a_file_with_mistakes() {
        let text = "x = [\n[gateway]\nid = \"a b\"\nstate = \"/tmp/s\" # here\n[log]\nstate = \"no\"\n";
        assert_eq!(state_in(text), Some(PathBuf::from("/tmp/s")));
        for other in ["", "[gateway]\nstate = 7\n", "[gateway]\nstate = \"open\n", "[log]\nstate = \"no\"\n"] {
            assert_eq!(state_in(other), None, "{other}");
        }
    }
}
