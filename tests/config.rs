//! Every configuration that is shipped parses and means what it says; bad ones are told whole, to people.

use std::{fs, path::Path};

use headgate::config::{
    Config, DOCUMENTED,
    load::{Source, Sources},
};

fn shipped(name: &str, text: &str) -> Result<Config, String> {
    let sources = Sources { main: Some(Source { name: name.into(), text: text.into() }), ..Sources::default() };
    Config::check(sources).map_err(|problems| problems.iter().map(|p| format!("{p}\n")).collect())
}

#[test]
fn the_documented_file_means_the_defaults() {
    let config = shipped("headgate.toml", DOCUMENTED).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config, Config::default());
}

/// `tests/bad/*.toml` are wrong in many ways; what a person sees of each stands beside it in `*.txt`.
#[test]
fn bad_files_are_told_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut seen = 0;
    for entry in fs::read_dir(&folder).expect("tests/bad") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        seen += 1;
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("text");
        let source = Source { name: name.clone(), text };
        let sources = match name.starts_with("device") {
            true => Sources { devices: vec![source], ..Sources::default() },
            false => Sources { main: Some(source), ..Sources::default() },
        };
        let problems = Config::check(sources).expect_err("it is bad");
        let told: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
        let expected = path.with_extension("txt");
        if std::env::var_os("REWRITE_SNAPSHOTS").is_some() {
            fs::write(&expected, &told).expect("written");
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(told, expected, "{name}: REWRITE_SNAPSHOTS=1 writes what is told now");
    }
    assert!(seen > 0, "there are bad files to show");
}
