//! Everything that plays in the demo, started in the order in which it is needed: devices, the cloud with its own
//! broker behind a wire that can be cut, the gateway with a configuration as a person would write it, an MQTT child.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    cloud::{self, Cloud},
    wire::Wire,
};
use crate::{
    broker,
    bus::{ChildEvents, Inbound, WORK},
    config::{
        self, Config,
        identity::IdentityConfig,
        load::{Source, Sources},
        modbus::profile::Profiles,
    },
    daemon::{Daemon, Rooms, Start},
    drivers::{
        coap,
        modbus::simulate::{Modbus, Unit},
        mqtt::simulate::{self, Child, State},
    },
    identity::{self, Identity, Issue},
    logging::Logs,
    model::{
        access::{Access, Filter, Grant, Grantee},
        ids::DeviceId,
    },
    store::Store,
    tasks::Tasks,
};

/// The gateway's id, and the root under which the cloud sees its children.
pub const GATEWAY: &str = "demo-gateway";
const ROOT: &str = "gateways/demo-gateway/devices/{device}";

pub const METER: &str = "meter-1";
pub const CLIMATE: &str = "climate-2";
pub const ROOM: &str = "room-3";
pub const PUMP: &str = "pump-4";
pub const DEVICES: [(&str, &str); 4] =
    [(METER, "Modbus TCP, Eastron SDM630"), (CLIMATE, "Modbus RTU, XY-MD02"), (ROOM, "CoAP, observed"), (PUMP, "MQTT")];

/// All actors. Dropping the folder removes every trace.
pub struct Stage {
    pub gateway: Rooms,
    pub urls: Vec<String>,
    /// The code of the first login to the page.
    pub code: String,
    /// Polling and observing; stopping them stops what is measured, nothing else.
    pub drivers: Tasks,
    /// The gateway's main loop, until [`Stage::stop_gateway`].
    running: Tasks,
    end: Option<oneshot::Sender<()>>,
    pub cloud: Cloud,
    pub wire: Wire,
    pub climate: Modbus,
    pub pump: watch::Receiver<State>,
    pub pump_tasks: Tasks,
    _meter: Modbus,
    /// Devices and cloud; stopped after the gateway.
    pub others: Tasks,
    _cloud_store: Store,
    _folder: Folder,
}

/// A temporary folder that is removed at the end.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Stage {
    pub async fn set(web: u16, logs: Logs) -> anyhow::Result<Stage> {
        identity::tls::install_provider();
        let folder = Folder(std::env::temp_dir().join(format!("headgate-demo-{}", std::process::id())));
        let others = Tasks::new();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));

        let profiles = Profiles::shipped();
        let unit = |name: &str, id| {
            let profile = profiles.get(name).ok_or_else(|| anyhow!("the profile {name} is not shipped"))?;
            anyhow::Ok((id, Unit::from_profile(profile, id)))
        };
        let meter = Modbus::tcp(&others, loopback, [unit("eastron-sdm630", 1)?]).await?;
        let climate = Modbus::rtu_pty(&others, Some(9600), [unit("xy-md02", 2)?]).context("no pseudo terminal")?;
        let sensor = coap::simulate::Sensor::bind(loopback, Duration::from_secs(1)).await?;
        let room = coap::simulate::device_file(ROOM, sensor.address()?);
        let stop = others.stopping();
        others.spawn("simulated coap sensor", sensor.run(stop));

        let (cloud_store, cloud_port) = cloud_broker(&folder.0.join("cloud"), &others).await?;
        let wire = Wire::start(format!("127.0.0.1:{cloud_port}"), &others).await?;
        let settings = cloud::Settings {
            root: ROOT.replace("demo-gateway/", &format!("{GATEWAY}/")),
            ..cloud::Settings::new("127.0.0.1", cloud_port)
        };
        let cloud = Cloud::start(settings, &others).await.map_err(|error| anyhow!("{error}"))?;

        let mqtt_port = free_port()?;
        let web_port = if web == 0 { free_port()? } else { web };
        let main = format!(
            "[gateway]\nid = \"{GATEWAY}\"\nstate = \"{state}\"\n\
             [broker]\ntcp = [\"127.0.0.1:{mqtt_port}\"]\ntls = []\n\
             [web]\nlisten = [\"127.0.0.1:{web_port}\"]\n\
             [uplink]\nbroker = \"mqtt://{wire}\"\ntopic_root = \"gateways/{{gateway}}/devices/{{device}}\"\nretry_most = \"2s\"\n\
             [updates]\nkeys = [\"{key}\"]\n",
            state = folder.0.join("gateway").display(),
            wire = wire.address(),
            key = cloud.public_key(),
        );
        let buses = [
            format!(
                "[bus]\nname = \"switchboard\"\nprotocol = \"modbus-tcp\"\naddress = \"{}\"\n\n[[device]]\nid = \"{METER}\"\nunit = 1\nprofile = \"eastron-sdm630\"\n",
                meter.address()
            ),
            format!(
                "[bus]\nname = \"greenhouse\"\nprotocol = \"modbus-rtu\"\nport = \"{}\"\nbaud = 9600\n\n[[device]]\nid = \"{CLIMATE}\"\nunit = 2\nprofile = \"xy-md02\"\n",
                climate.path().display()
            ),
            room,
            format!("[[device]]\nid = \"{PUMP}\"\nprotocol = \"mqtt\"\ntype = \"pump\"\n"),
        ];
        let config = as_written(main, buses)?;
        let daemon = Daemon::start(Start { folder: None, config, logs }).await?;

        let gateway = daemon.rooms().clone();
        let urls = daemon.urls();
        let drivers = daemon.drivers();
        let code = gateway.identity.first_code().await?.map(|(code, _)| code.expose().to_owned()).unwrap_or_default();
        let (end, ended) = oneshot::channel::<()>();
        let running = Tasks::new();
        running.spawn("gateway", async move {
            let mut daemon = daemon;
            let ended = Box::pin(async move { drop(ended.await) });
            if let Err(failure) = daemon.serve(ended).await {
                eprintln!("the gateway ended: {failure:?}");
            }
            daemon.stop(std::future::pending()).await;
        });

        let pump = DeviceId::new(PUMP)?;
        let issued = gateway.identity.issue(&pump, Issue::Token, "demo").await?;
        let token = issued.token.as_ref().map(|secret| secret.expose().to_owned()).unwrap_or_default();
        let pump_tasks = Tasks::new();
        let child = Child {
            id: pump,
            host: "127.0.0.1".into(),
            port: mqtt_port,
            login: Some((PUMP.into(), token)),
            every: Duration::from_millis(500),
            firmware: "1.0.0".into(),
            download_rate: Some(120_000),
            readings: None,
        };
        let pump = simulate::start(child, &pump_tasks);
        Ok(Stage {
            gateway,
            urls,
            code,
            drivers,
            running,
            end: Some(end),
            cloud,
            wire,
            climate,
            pump,
            pump_tasks,
            _meter: meter,
            others,
            _cloud_store: cloud_store,
            _folder: folder,
        })
    }

    /// Stops the gateway in its order, everything committed.
    pub async fn stop_gateway(&mut self) {
        drop(self.end.take());
        self.running.stop_and_wait().await;
    }
}

/// The configuration, checked as if it lay on disk.
fn as_written(main: String, devices: [String; 4]) -> anyhow::Result<Config> {
    let source = |name: &str, text| Source { name: name.to_owned(), text };
    let sources = Sources {
        main: Some(source("headgate.toml", main)),
        devices: devices.into_iter().map(|text| source("devices.d", text)).collect(),
        ..Sources::default()
    };
    Config::check(sources).map_err(|problems| {
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow!("{}", told.join("\n"))
    })
}

/// The cloud's broker: a second instance of ours, on which everybody may say and hear everything.
async fn cloud_broker(folder: &std::path::Path, tasks: &Tasks) -> anyhow::Result<(Store, u16)> {
    std::fs::create_dir_all(folder)?;
    let (store, _writer) = Store::open(folder)?;
    let identity = Identity::open(store.clone(), &IdentityConfig::default(), folder, "cloud").await?;
    let (inbound, mut taken) = mpsc::channel::<Vec<Inbound>>(WORK);
    tasks.spawn("cloud intake", async move {
        while let Some(batch) = taken.recv().await {
            batch.into_iter().for_each(|inbound| drop(inbound.reply.send(Ok(()))));
        }
    });
    let (_local, local) = mpsc::channel(1);
    let everything = Filter::new("#").expect("a valid filter");
    let grant = Grant { to: vec![Grantee::Everyone], read: vec![everything.clone()], write: vec![everything] };
    let settings = config::broker::Broker {
        tcp: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        tls: Vec::new(),
        anonymous: config::broker::Anonymous::Guest,
        limits: config::broker::Limits { inflight: 1000, receive: 1000, ..config::broker::Limits::default() },
        ..config::broker::Broker::default()
    };
    let ports = broker::Ports { identity, inbound, local, children: ChildEvents::default(), store: store.clone() };
    let broker =
        broker::start(&settings, Access { grants: vec![grant], ..Access::default() }, None, ports, tasks).await?;
    let port = broker.listening().first().map(|(_, address)| address.port());
    Ok((store, port.ok_or_else(|| anyhow!("the cloud's broker does not listen"))?))
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
