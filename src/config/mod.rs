//! Text to checked values: read what was written, check what it means, or say *all* problems at once.

pub mod access;
pub mod amount;
pub mod broker;
pub mod change;
pub mod coap;
pub mod device;
pub mod gateway;
pub mod identity;
pub mod load;
pub mod log;
pub mod modbus;
mod nearest;
pub mod pem;
pub mod presence;
pub mod problem;
pub mod read;
pub mod rules;
pub mod shadow_sync;
pub mod shadows;
pub mod updates;
pub mod uplink;
pub mod web;

use std::sync::Arc;

use device::Common;
use load::{Source, Sources};
use modbus::profile::Profiles;
use pem::Pem;
use problem::Problem;
use read::{Document, Section};

use crate::model::access::Access;

/// `config/headgate.toml`: every key with its default, for people; a test proves that it means the defaults.
pub const DOCUMENTED: &str = include_str!("../../config/headgate.toml");

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    pub gateway: gateway::Gateway,
    pub log: log::LogConfig,
    pub broker: broker::Broker,
    /// `access.toml`: grants beside each child's own subtree.
    pub access: Access,
    pub uplink: uplink::UplinkConfig,
    pub web: web::WebConfig,
    pub identity: identity::IdentityConfig,
    pub presence: presence::Presence,
    pub shadows: shadows::Shadows,
    pub coap: coap::Server,
    pub updates: updates::Updates,
    /// What raises alarms.
    pub rules: Vec<rules::Rule>,
    /// Modbus buses with the units on them.
    pub buses: Vec<Arc<modbus::Bus>>,
    /// Children that speak MQTT.
    pub mqtt: Vec<Common>,
    /// Children that are CoAP servers; the gateway observes or polls them.
    pub coap_devices: Vec<Arc<coap::Device>>,
}

/// What files mean as far as they can be understood, and what is wrong with them.
#[derive(Debug, Default)]
pub struct Understood {
    /// Complete only where there are no problems.
    pub config: Config,
    pub problems: Vec<Problem>,
    /// What the text alone does not tell: whether these are what they should be.
    pub pems: Vec<Pem>,
}

impl Understood {
    /// The configuration, or every problem with it.
    pub fn whole(self) -> Result<Config, Vec<Problem>> {
        if self.problems.is_empty() { Ok(self.config) } else { Err(self.problems) }
    }
}

impl Config {
    /// What the files mean, or every problem in all of them.
    pub fn check(sources: Sources) -> Result<Config, Vec<Problem>> {
        Config::understand(sources).whole()
    }

    pub fn understand(sources: Sources) -> Understood {
        let mut config = Config::default();
        let mut found = Understood { problems: sources.problems, ..Understood::default() };
        if let Some(source) = &sources.main {
            found.with_root(source, |root| config.read_main(root));
        }
        if let Some(source) = &sources.access {
            found.with_root(source, |root| config.access = access::read(root));
        }
        for source in &sources.devices {
            found.with_root(source, |root| config.read_devices(root, &sources.profiles));
        }
        let ids = config.devices();
        found.problems.extend(load::doubles(ids.iter().map(|device| (device.id.as_str(), "devices.d"))));
        Understood { config, ..found }
    }

    fn read_main(&mut self, root: &Section<'_>) {
        /// Reads the section of that name, where there is one.
        fn take<T>(root: &Section<'_>, name: &'static str, into: &mut T, read: impl FnOnce(&Section<'_>) -> T) {
            if let Some(section) = root.section(name) {
                *into = read(&section);
            }
        }
        take(root, "gateway", &mut self.gateway, gateway::Gateway::read);
        take(root, "log", &mut self.log, log::LogConfig::read);
        take(root, "broker", &mut self.broker, broker::Broker::read);
        take(root, "uplink", &mut self.uplink, uplink::UplinkConfig::read);
        take(root, "web", &mut self.web, web::WebConfig::read);
        take(root, "identity", &mut self.identity, identity::IdentityConfig::read);
        take(root, "presence", &mut self.presence, presence::Presence::read);
        take(root, "shadows", &mut self.shadows, shadows::Shadows::read);
        take(root, "coap", &mut self.coap, coap::Server::read);
        self.rules = rules::read(root);
        take(root, "updates", &mut self.updates, updates::Updates::read);
    }

    /// A file of `devices.d`: a bus with its units, or devices that stand alone.
    fn read_devices(&mut self, root: &Section<'_>, profiles: &Profiles) {
        if root.has("bus") {
            let buses = modbus::read(root, profiles).into_iter().flat_map(modbus::Bus::dealt);
            self.buses.extend(buses.map(Arc::new));
            return;
        }
        for section in root.sections("device") {
            #[derive(Clone)]
            enum Wire {
                Mqtt,
                Coap,
            }
            if !section.has("protocol") {
                section.problem(
                    "protocol",
                    "is missing",
                    "say \"mqtt\" or \"coap\", or put a [bus] above for Modbus units",
                );
            }
            match section.choice("protocol", &[("mqtt", Wire::Mqtt), ("coap", Wire::Coap)]) {
                Some(Wire::Mqtt) => self.mqtt.extend(Common::read(&section)),
                Some(Wire::Coap) => self.coap_devices.extend(coap::Device::read(&section).map(Arc::new)),
                None => {}
            }
        }
    }

    /// The common part of every device, whatever its wire.
    pub fn devices(&self) -> Vec<&Common> {
        let units = self.buses.iter().flat_map(|bus| bus.devices.iter().map(|device| &device.common));
        units.chain(&self.mqtt).chain(self.coap_devices.iter().map(|device| &device.common)).collect()
    }
}

impl Understood {
    fn with_root(&mut self, source: &Source, read: impl FnOnce(&Section<'_>)) {
        let document = Document::parse(&source.name, &source.text);
        read(&document.root());
        self.pems.extend(document.take_pems());
        self.problems.extend(document.into_problems());
    }
}
