//! Answers what page, API and command line ask, by asking the rooms that know. Each question is a task of its own, so
//! that a slow answer holds up no other.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::{
    build::Rooms,
    devices::{about, statuses},
    points::{self, Shape, described},
};
use crate::{
    bus::Question,
    clock,
    model::{
        alarm::Alarm,
        command::{Door, Lock, Refusal, RefusalCode},
        device::{Device, Lifecycle},
        drift::Compliance,
        event::Severity,
        ids::DeviceId,
        shadow::{self, Document},
        update::{ChildUpdate, Stage, UpdateStatus},
        view::{
            CommandView, ConfigStatus, DeviceCounts, DeviceRow, DeviceView, LinkStatus, Live, LogStatus, Notice,
            Overview, UpdateView,
        },
    },
    registry::drift,
    store::StoreError,
    systemd,
};

/// Refused logins that are worth a line were within this many milliseconds.
const LATELY: i64 = 600_000;
/// Commands of a device that are shown, newest first.
const COMMANDS: usize = 100;

/// Answers `question`; `config` is how the configuration stands. Loading it again is the main loop's business.
pub async fn answer(rooms: Rooms, config: ConfigStatus, question: Question) {
    // Whoever asked may have gone; nothing is owed to them then.
    match question {
        Question::Overview(reply) => drop(reply.send(rooms.overview(config).await)),
        Question::Log(reply) => drop(reply.send(rooms.log().await)),
        Question::Devices(reply) => drop(reply.send(rooms.rows().await)),
        Question::Device(id, reply) => drop(reply.send(rooms.device(id).await)),
        Question::Shadows(id, reply) => drop(reply.send(rooms.shadows(id).await)),
        Question::Shadow { device, name, reply } => drop(reply.send(rooms.shadow(device, name).await)),
        Question::History { device, before, limit, reply } => {
            drop(reply.send(rooms.keeper.history(&device, before, limit).await.map_err(unavailable)));
        }
        Question::Trend { device, name, from, to, points, reply } => {
            drop(reply.send(Ok(rooms.keeper.trend(&device, &name, from, to, points).await)));
        }
        Question::Commands(id, reply) => drop(reply.send(rooms.commands(&id).await)),
        Question::Alarms(reply) => drop(reply.send(rooms.alarms.list().await.map_err(unavailable))),
        Question::Acknowledge { device, kind, by, reply } => {
            drop(reply.send(rooms.acknowledge(&device, &kind, &by).await));
        }
        Question::Jobs(reply) => {
            drop(reply.send(Ok(rooms.jobs.list().iter().rev().cloned().collect())));
        }
        Question::Updates(reply) => drop(reply.send(Ok(rooms.updates()))),
        Question::Connections(reply) => drop(reply.send(Ok(rooms.broker.status()))),
        Question::Buses(reply) => drop(reply.send(Ok(statuses(&rooms.buses)))),
        Question::SetLifecycle { device, lifecycle, door, reply } => {
            drop(reply.send(rooms.set_lifecycle(&device, lifecycle, door).await));
        }
        Question::SetLock { device, name, lock, door, reply } => {
            drop(reply.send(rooms.lock(device, name, lock, door).await));
        }
        Question::Diagnose { request, reply } => drop(reply.send(rooms.diagnostics.answer(&request).await)),
        Question::LogTail { lines, level, reply } => drop(reply.send(Ok(rooms.logs.tail(lines, &level)))),
        Question::Config(_) | Question::Reload(_) => {}
    }
}

fn unavailable(error: StoreError) -> Refusal {
    Refusal::new(RefusalCode::StoreUnavailable, error.to_string())
}

fn unknown(id: &DeviceId) -> Refusal {
    Refusal::new(RefusalCode::UnknownDevice, format!("there is no device {id}; /v1/devices lists those there are"))
}

impl Rooms {
    /// The gateway at a glance.
    pub async fn overview(&self, config: ConfigStatus) -> Result<Overview, Refusal> {
        let mut devices = DeviceCounts::default();
        let all = self.registry.list().await;
        for device in all.iter().filter(|device| device.id != self.gateway) {
            devices.count(device.lifecycle, device.presence);
        }
        let compliance = self.compliance(&all);
        let log = self.log().await?;
        Ok(Overview {
            gateway: self.gateway.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: clock::now(),
            started: self.started,
            clock_trusted: clock::trusted(),
            link: self.link(),
            notices: self.notices(&log),
            log,
            devices,
            compliance,
            connections: self.broker.status().iter().filter(|connection| connection.connected).count(),
            config,
            memory: resident(),
        })
    }

    /// How many of `all` devices are what they should be.
    pub(super) fn compliance(&self, all: &[Device]) -> Compliance {
        self.drift.compliance(all.iter().filter(|device| drift::takes_part(device)).count())
    }

    /// The registry has it on disk before anybody is sent away.
    async fn set_lifecycle(&self, device: &DeviceId, lifecycle: Lifecycle, door: Door) -> Result<(), Refusal> {
        self.registry.set_lifecycle(device, lifecycle, door).await?;
        let told = self.identity.lifecycle_changed(device, lifecycle).await;
        if lifecycle == Lifecycle::Decommissioned {
            self.broker.forget(device).await;
        }
        told.map_err(Refusal::from)
    }

    async fn lock(&self, device: DeviceId, name: String, lock: Option<Lock>, door: Door) -> Result<(), Refusal> {
        if self.registry.get(&device).await.is_none() {
            return Err(unknown(&device));
        }
        self.keeper.lock(device, name, lock, door).await;
        Ok(())
    }

    fn link(&self) -> LinkStatus {
        self.uplink.borrow().link_status()
    }

    async fn log(&self) -> Result<LogStatus, Refusal> {
        let uplink = self.uplink.borrow().clone();
        uplink.log_status().await.map_err(unavailable)
    }

    /// What deserves a look, most urgent first.
    fn notices(&self, log: &LogStatus) -> Vec<Notice> {
        let mut notices = Vec::new();
        if let Some(reason) = &log.refusing {
            let text = format!("Nothing can be stored, so nothing is acknowledged: {reason}");
            notices.push(Notice { urgent: true, text });
        }
        let aside = self.store.set_aside_files();
        if !aside.is_empty() {
            let text = format!(
                "The database was damaged; what could be read of it was taken over, and the loss is declared. The last few \
                 damaged files are kept in the state folder until somebody removes them: {}",
                aside.join(", ")
            );
            notices.push(Notice { urgent: true, text });
        }
        for ending in self.identity.expiring() {
            notices.push(Notice { urgent: ending.severity >= Severity::Major, text: ending.text });
        }
        notices.extend(self.refused_lately());
        let shadows = self.link().shadows.unwrap_or_default();
        if let Some((device, name, reason)) = shadows.reasons.first() {
            let name = name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            let text = format!(
                "{} of the shadows cannot be made equal with the cloud: {device}{name}: {reason}",
                shadows.refused
            );
            notices.push(Notice { urgent: false, text });
        }
        for (name, health) in self.supervisor.health().iter().filter(|(_, health)| !health.running) {
            let error = health.last_error.as_deref().unwrap_or("no reason given");
            notices.push(Notice { urgent: false, text: format!("{name} ended and is started again: {error}") });
        }
        notices.sort_by_key(|notice| !notice.urgent);
        notices
    }

    /// Logins that were refused within the last minutes, in one line.
    fn refused_lately(&self) -> Option<Notice> {
        let now = clock::now();
        let refused = self.identity.refusals();
        let lately: Vec<_> = refused.iter().filter(|refused| now.since(refused.last) < LATELY).collect();
        let last = lately.first()?;
        let who = last.device.as_deref().unwrap_or("somebody");
        let from = last.address.map(|address| format!(" from {address}")).unwrap_or_default();
        let n = lately.len();
        let clients = if n == 1 { "One client was".to_owned() } else { format!("{n} clients were") };
        let often = if last.count == 1 { "once".to_owned() } else { format!("{} times", last.count) };
        let text = format!(
            "{clients} refused at the door in the last minutes; the latest is {who}{from}, {often}: {}",
            last.text
        );
        Some(Notice { urgent: false, text })
    }

    /// All devices with their latest values, without the gateway itself.
    pub async fn rows(&self) -> Result<Vec<DeviceRow>, Refusal> {
        let mut latest: HashMap<DeviceId, Vec<Live>> = self.keeper.all_latest().await.into_iter().collect();
        let config = self.config.borrow().clone();
        let shapes = points::index(&config);
        let mut rows = Vec::new();
        for device in self.registry.list().await.into_iter().filter(|device| device.id != self.gateway) {
            let values = latest.remove(&device.id).unwrap_or_default();
            let shape = shapes.get(&device.id);
            rows.push(self.row(device, values, shape).await?);
        }
        Ok(rows)
    }

    async fn row(
        &self,
        device: Device,
        mut values: Vec<Live>,
        shape: Option<&Shape<'_>>,
    ) -> Result<DeviceRow, Refusal> {
        let document = self.keeper.shadow(&device.id, None).await.map_err(unavailable)?;
        let open = document.map(|d| d.delta().iter().map(|(name, _)| name.clone()).collect()).unwrap_or_default();
        let update = self.updates.status().iter().find(|update| update.device == device.id).map(progress);
        // As the profile lists them: what matters most stands first there.
        let place: HashMap<&str, usize> =
            shape.into_iter().flat_map(Shape::names).enumerate().map(|(place, name)| (name, place)).collect();
        values.sort_by_key(|live| place.get(live.name.as_str()).copied().unwrap_or(usize::MAX));
        let units = shape.map(Shape::units).unwrap_or_default();
        Ok(DeviceRow { device, values, open, update, units })
    }

    async fn device(&self, id: DeviceId) -> Result<DeviceView, Refusal> {
        let device = self.registry.get(&id).await.ok_or_else(|| unknown(&id))?;
        let values = self.keeper.latest(&id).await;
        let own = self.broker.status().into_iter().filter(|connection| connection.device == id.as_str());
        // of several the one that is there, or was there last
        let connection = own.max_by_key(|connection| (connection.connected, connection.since));
        let config = self.config.borrow().clone();
        let shape = points::find(&config, &id);
        let row = self.row(device, values, shape.as_ref()).await?;
        let (points, commands) = shape.as_ref().map(described).unwrap_or_default();
        let (address, counters) = about(&self.buses, &config, &id);
        let config = self.keeper.config(&id).await.map_err(unavailable)?;
        let drift = self.drift.of(&id);
        Ok(DeviceView { row, points, commands, connection, config, drift, address, counters })
    }

    async fn shadows(&self, id: DeviceId) -> Result<Vec<String>, Refusal> {
        let listed = self.store.shadows(Some(&id)).await.map_err(unavailable)?;
        Ok(listed.into_iter().map(|listed| listed.name).filter(|name| !name.is_empty()).collect())
    }

    async fn shadow(&self, id: DeviceId, name: Option<String>) -> Result<Option<Json>, Refusal> {
        let document = self.keeper.shadow(&id, name.as_deref()).await.map_err(unavailable)?;
        let Some(document) = document else { return Ok(None) };
        let mut shown = shown(&document);
        let uplink = self.uplink.borrow().clone();
        if let Some(sync) = uplink.shadow_sync(&id, name.as_deref()).await.map_err(unavailable)? {
            shown["sync"] = sync;
        }
        Ok(Some(shown))
    }

    async fn commands(&self, id: &DeviceId) -> Result<Vec<CommandView>, Refusal> {
        self.keeper.commands(id, COMMANDS).await.map_err(unavailable)
    }

    async fn acknowledge(&self, device: &DeviceId, kind: &str, by: &str) -> Result<Alarm, Refusal> {
        let stored = self.alarms.acknowledge(device, kind, by).await.map_err(unavailable)?;
        if let Some(alarm) = stored {
            return Ok(alarm);
        }
        // Seen before is as good as seen now.
        let known = self.alarms.list().await.map_err(unavailable)?;
        let found = known.into_iter().find(|alarm| alarm.device == *device && alarm.kind == kind);
        found.ok_or_else(|| {
            let text = format!("{device} has no alarm {kind:?}; /v1/alarms lists those there are");
            Refusal::new(RefusalCode::PayloadInvalid, text)
        })
    }

    fn updates(&self) -> Vec<UpdateView> {
        let mut views: Vec<UpdateView> = self.updates.status().iter().map(update_view).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.changed));
        views
    }

    /// Tells the init system that store and keeper made progress; says nothing where they do not answer.
    pub async fn feed_watchdog(&self) {
        if self.keeper.pulse().await {
            systemd::alive();
        }
    }
}

/// The document as `get/accepted` shows it.
fn shown(document: &Document) -> Json {
    serde_json::from_slice(&shadow::got(document, clock::now(), None)).unwrap_or_else(|_| json!({}))
}

fn update_view(update: &ChildUpdate) -> UpdateView {
    let fetched = match (update.stage, update.progress) {
        (Stage::Waiting | Stage::Fetching, percent) => update.order.size * u64::from(percent.unwrap_or(0)) / 100,
        _ => update.order.size,
    };
    UpdateView {
        device: update.device.clone(),
        progress: progress(update),
        size: Some(update.order.size),
        fetched: Some(fetched),
        started: Some(update.created_at),
        changed: Some(update.changed_at),
        attempts: update.attempts,
    }
}

fn progress(update: &ChildUpdate) -> crate::model::update::UpdateProgress {
    let status = match update.stage {
        Stage::Waiting | Stage::Fetching | Stage::Offered => UpdateStatus::Started,
        Stage::Installing => update.child.unwrap_or(UpdateStatus::Installing),
        Stage::Completed => UpdateStatus::Completed,
        Stage::RolledBack => UpdateStatus::RolledBack,
        Stage::Failed | Stage::Cancelled | Stage::Superseded => UpdateStatus::Failed,
    };
    update.report(status)
}

/// Resident bytes of this process, from `/proc`.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
