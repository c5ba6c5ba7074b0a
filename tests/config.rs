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

/// `config/**/*.example` are copied by people: each is right as it stands, and all of them together.
#[test]
fn the_examples_are_right_as_they_stand() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let source = |path: &Path| Source {
        name: path.display().to_string(),
        text: fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    };
    let entries = fs::read_dir(folder.join("devices.d")).expect("config/devices.d");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    assert!(paths.iter().all(|path| path.to_string_lossy().ends_with(".toml.example")), "{paths:?}");
    let sources = Sources {
        devices: paths.iter().map(|path| source(path)).collect(),
        access: Some(source(&folder.join("access.toml.example"))),
        ..Sources::default()
    };
    let config = Config::check(sources)
        .unwrap_or_else(|problems| panic!("{}", problems.iter().map(|p| format!("{p}\n")).collect::<String>()));
    let ids: Vec<&str> = config.devices().iter().map(|device| device.id.as_str()).collect();
    assert_eq!(ids, ["meter-main", "cold-room-3", "pump-7", "greenhouse-3"]);
    assert_eq!((config.access.grants.len(), config.access.denials.len()), (2, 1));
}

/// The pieces of TOML in `docs/configuration.md` are copied too: together they are a site.
#[test]
fn the_pieces_in_the_guide_are_right() {
    let guide = include_str!("../docs/configuration.md");
    let pieces: Vec<&str> =
        guide.split("```toml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
    let [main, mqtt, coap, bus, access] = pieces[..] else { panic!("{} pieces", pieces.len()) };
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
    let sources = Sources {
        main: Some(source("headgate.toml", main)),
        access: Some(source("access.toml", access)),
        devices: vec![source("mqtt.toml", mqtt), source("coap.toml", coap), source("bus.toml", bus)],
        ..Sources::default()
    };
    let config = Config::check(sources)
        .unwrap_or_else(|problems| panic!("{}", problems.iter().map(|p| format!("{p}\n")).collect::<String>()));
    assert_eq!((config.devices().len(), config.rules.len()), (3, 1));
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
