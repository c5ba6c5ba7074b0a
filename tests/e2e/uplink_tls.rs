//! The road to the cloud over TLS, against a mosquitto that demands it: the broker proves itself, and where it asks so
//! does the gateway.

use std::{fs, path::Path};

use super::{
    eventually,
    gateway::Gateway,
    peers::{Heard, Process, free_port, mosquitto},
    site::{Child, assert_gap_free, telemetry},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// An authority, and what it signed: written as PEM files into a folder.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Authority {
        let key = KeyPair::generate().expect("key");
        let mut params = named(name, Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed");
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("written");
        Authority { issuer: Issuer::new(params, key) }
    }

    fn sign(&self, folder: &Path, name: &str, usage: ExtendedKeyUsagePurpose) {
        let key = KeyPair::generate().expect("key");
        let mut params = named(name, vec!["127.0.0.1".into()]);
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("written");
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("written");
    }
}

/// Whose certificate it is stands in it: an issuer is looked for by this name, so two authorities must not share one.
fn named(name: &str, hosts: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(hosts).expect("params");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A cloud whose broker speaks TLS on one port, and without it, for the observer, on another.
struct Cloud {
    folder: tempfile::TempDir,
    tls: u16,
    heard: Heard,
    _broker: Process,
}

impl Cloud {
    fn start(more: &str) -> Cloud {
        let folder = tempfile::tempdir().expect("folder");
        let authority = Authority::new(folder.path(), "authority");
        authority.sign(folder.path(), "broker", ExtendedKeyUsagePurpose::ServerAuth);
        authority.sign(folder.path(), "gateway", ExtendedKeyUsagePurpose::ClientAuth);
        Authority::new(folder.path(), "stranger");
        let (plain, tls) = (free_port(), free_port());
        let at = |name: &str| folder.path().join(name).display().to_string();
        let text = format!(
            "user root\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\nlistener {plain} 127.0.0.1\n\
             listener {tls} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n{more}\n",
            at("authority.pem"),
            at("broker.pem"),
            at("broker.key"),
        );
        fs::write(folder.path().join("mosquitto.conf"), text).expect("written");
        let broker = mosquitto(&folder.path().join("mosquitto.conf"), plain);
        let heard = Heard::subscribe(plain, "devices/#", &[]);
        Cloud { folder, tls, heard, _broker: broker }
    }

    /// The `[uplink]` of a gateway that trusts `authority`; with a certificate of its own where `proves`.
    fn uplink(&self, authority: &str, proves: bool) -> String {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let own = format!("certificate = \"{}\"\nkey = \"{}\"\n", at("gateway.pem"), at("gateway.key"));
        format!(
            "[uplink]\nbroker = \"mqtts://127.0.0.1:{}\"\nretry_first = \"100ms\"\nretry_most = \"500ms\"\n[uplink.tls]\nca = \"{}\"\n{}",
            self.tls,
            at(authority),
            if proves { own.as_str() } else { "" },
        )
    }
}

fn local(mqtt: u16) -> String {
    format!("[broker]\ntcp = [\"127.0.0.1:{mqtt}\"]\ntls = []\n[web]\nlisten = [\"127.0.0.1:{}\"]\n", free_port())
}

/// Why there is no road, as the status tells it.
fn reason(gateway: &Gateway) -> Option<String> {
    gateway.get("/v1/status")["link"]["lastError"].as_str().map(str::to_owned)
}

#[test]
fn readings_reach_a_cloud_that_proves_itself_and_no_other() {
    let (cloud, mqtt) = (Cloud::start(""), free_port());
    let main = |authority: &str| format!("{}{}", local(mqtt), cloud.uplink(authority, false));
    let gateway = Gateway::builder().toml(&main("stranger.pem")).start();
    let child = Child::of(&gateway, "room", mqtt);
    assert!(child.measures(1..=50), "no cloud is needed for that");
    let why = eventually("the reason", || reason(&gateway).filter(|why| why.contains("certificate")));
    assert!(why.contains("UnknownIssuer"), "{why}");
    assert!(telemetry(&cloud.heard, "room").is_empty());

    let path = gateway.config_folder().join("headgate.toml");
    let text = fs::read_to_string(&path).expect("read");
    fs::write(&path, text.replace("stranger.pem", "authority.pem")).expect("written");
    gateway.hup();
    eventually("50 readings", || (telemetry(&cloud.heard, "room").len() >= 50).then_some(()));
    assert_gap_free(&telemetry(&cloud.heard, "room"));
}

#[test]
fn a_cloud_that_asks_for_it_is_shown_a_certificate() {
    let (cloud, mqtt) = (Cloud::start("require_certificate true"), free_port());
    let gateway = Gateway::builder().toml(&format!("{}{}", local(mqtt), cloud.uplink("authority.pem", false))).start();
    let child = Child::of(&gateway, "room", mqtt);
    assert!(child.measures(1..=50));
    eventually("the reason", || reason(&gateway));
    assert!(telemetry(&cloud.heard, "room").is_empty(), "let in without a certificate");

    let path = gateway.config_folder().join("headgate.toml");
    let text = fs::read_to_string(&path).expect("read");
    let (before, _) = text.split_once("[uplink]").expect("a section");
    fs::write(&path, format!("{before}{}", cloud.uplink("authority.pem", true))).expect("written");
    gateway.hup();
    eventually("50 readings", || (telemetry(&cloud.heard, "room").len() >= 50).then_some(()));
    assert_gap_free(&telemetry(&cloud.heard, "room"));
    eventually("live", || (gateway.get("/v1/status")["link"]["state"] == "live").then_some(()));
}
