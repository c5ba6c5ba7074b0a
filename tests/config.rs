//! Every configuration that is shipped parses and means what it says; bad ones are told whole, to people.

use std::{fs, path::Path};

use headgate::{
    config::{
        Config, DOCUMENTED,
        load::{Source, Sources},
    },
    daemon,
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

/// A folder with `headgate.toml` and two certificates, `a` and `b`, each with its key.
fn with_certificates(main: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let text = main.replace("DIR", &folder.path().display().to_string());
    fs::write(folder.path().join("headgate.toml"), text).expect("written");
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(vec!["gw".to_owned()]).expect("certificate");
        let file = |end: &str| folder.path().join(format!("{name}.{end}"));
        fs::write(file("pem"), made.cert.pem()).expect("written");
        fs::write(file("key"), made.signing_key.serialize_pem()).expect("written");
    }
    folder
}

/// What is told of it, without the folder's name.
fn told(folder: &tempfile::TempDir) -> Vec<String> {
    let problems = daemon::load::load(Some(folder.path())).err().unwrap_or_default();
    let prefix = format!("{}/", folder.path().display());
    problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
}

#[test]
fn a_key_of_another_certificate_is_told_with_everything_else() {
    let server = "[identity]\nserver_certificate = \"DIR/a.pem\"\nserver_key = \"DIR/b.key\"\n";
    let cloud = "[uplink.tls]\ncertificate = \"DIR/b.pem\"\nkey = \"DIR/a.key\"\n";
    let folder = with_certificates(&format!("{server}[uplink]\nbroker = \"mqtts://cloud\"\nbatchh = 1\n{cloud}"));
    let lines = told(&folder);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[0].starts_with("headgate.toml:6: uplink.batchh"), "{lines:#?}");
    for (line, start) in [
        (&lines[1], "headgate.toml:3: identity.server_key: b.key is not the private key of the certificate in a.pem\n"),
        (&lines[2], "headgate.toml:9: uplink.tls.key: a.key is not the private key of the certificate in b.pem\n"),
    ] {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn certificates_that_fit_are_good_and_those_nobody_looks_at_are_not() {
    let server = "[identity]\nserver_certificate = \"DIR/a.pem\"\nserver_key = \"DIR/a.key\"\n";
    let cloud = |scheme: &str, name: &str| {
        let files = format!("certificate = \"DIR/{name}.pem\"\nkey = \"DIR/{name}.key\"");
        format!("{server}[uplink]\nbroker = \"{scheme}://cloud\"\n[uplink.tls]\n{files}\n")
    };
    let cloudless = cloud("mqtt", "nobody").replace("broker =", "# broker =");
    for text in [cloud("mqtts", "b"), cloudless] {
        let lines = told(&with_certificates(&text));
        assert!(lines.is_empty(), "{lines:#?}");
    }
    let lines = told(&with_certificates(&cloud("mqtt", "b")));
    assert_eq!(lines.len(), 2, "nobody looks at them beside a plain address: {lines:#?}");
    for (line, start) in lines.iter().zip([
        "headgate.toml:7: uplink.tls.certificate: has no effect on a road that is not encrypted (mqtt://)",
        "headgate.toml:8: uplink.tls.key: has no effect",
    ]) {
        assert!(line.starts_with(start) && line.contains("mqtts://"), "{line}");
    }
    let lines = told(&with_certificates(&cloud("mqtts", "nobody")));
    assert_eq!(lines.len(), 2, "both files are missing: {lines:#?}");
    assert!(lines.iter().all(|line| line.contains("cannot be read: No such file")), "{lines:#?}");
}

#[test]
fn files_that_are_no_keys_and_certificates_say_what_is_expected() {
    let server = "[identity]\nserver_certificate = \"DIR/a.key\"\nserver_key = \"DIR/a.pem\"\n";
    let lines = told(&with_certificates(server));
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("server_certificate: a.key") && lines[0].contains("BEGIN CERTIFICATE"), "{lines:#?}");
    assert!(lines[1].contains("server_key: a.pem") && lines[1].contains("BEGIN PRIVATE KEY"), "{lines:#?}");
}

#[test]
fn authorities_are_read_wherever_they_are_named() {
    let main = |clients: &str, cloud: &str, firmware: &str| {
        format!(
            "[identity]\nclient_authorities = \"DIR/{clients}\"\n[uplink]\nbroker = \"mqtts://cloud\"\n\
             [uplink.tls]\nca = \"DIR/{cloud}\"\n[updates]\nca = \"DIR/{firmware}\"\n"
        )
    };
    let lines = told(&with_certificates(&main("a.pem", "b.pem", "a.pem")));
    assert!(lines.is_empty(), "{lines:#?}");
    let folder = with_certificates(&main("nobody.pem", "a.key", "odd.pem"));
    let odd = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    fs::write(folder.path().join("odd.pem"), odd).expect("written");
    let lines = told(&folder);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, start) in lines.iter().zip([
        "headgate.toml:2: identity.client_authorities: nobody.pem cannot be read: No such file",
        "headgate.toml:6: uplink.tls.ca: a.key is not what it should be: none",
        "headgate.toml:8: updates.ca: certificate 1 in odd.pem cannot be used: ",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn certificates_of_a_bus_are_read_as_well() {
    let told = |ca: &str, certificate: &str, key: &str| {
        let folder = with_certificates("");
        let dir = folder.path().display();
        let bus = format!(
            "[bus]\nprotocol = \"modbus-tcp\"\naddress = \"192.0.2.7\"\n[bus.tls]\nca = \"{dir}/{ca}\"\n\
             certificate = \"{dir}/{certificate}\"\nkey = \"{dir}/{key}\"\n"
        );
        fs::create_dir(folder.path().join("devices.d")).expect("folder");
        fs::write(folder.path().join("devices.d/plant.toml"), bus).expect("written");
        told(&folder)
    };
    let lines = told("b.pem", "a.pem", "a.key");
    assert!(lines.is_empty(), "{lines:#?}");
    let lines = told("nobody.pem", "a.pem", "b.key");
    assert_eq!(lines.len(), 2, "{lines:#?}");
    for (line, start) in lines.iter().zip([
        "devices.d/plant.toml:5: bus.tls.ca: nobody.pem cannot be read: No such file",
        "devices.d/plant.toml:7: bus.tls.key: b.key is not the private key of the certificate in a.pem\n",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
}
