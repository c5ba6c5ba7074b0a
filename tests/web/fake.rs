//! A plant that does not exist: answers the page's questions and carries out its orders as the daemon's rooms would.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use headgate::{
    bus::{ConfigReport, Events, Order, OrderKind, Orders, Question, Questions, Reply, ToDriver, ToDriverSender},
    clock,
    config::problem::Problem,
    model::{
        command::{Door, Refusal, RefusalCode},
        device::{Device, Lifecycle, Presence, Protocol},
        event::{Event, LinkState},
        ids::DeviceId,
        reading::{Quality, Reading, Sample, Value},
        record::Lane,
        time::Millis,
        update::{UpdateProgress, UpdateStatus},
        view::*,
    },
    tasks::Tasks,
};
use serde_json::{Map, Value as Json, json};
use tokio::sync::mpsc;

pub struct Fake {
    pub questions: Questions,
    pub orders: Orders,
    pub events: Events,
    pub modbus: ToDriverSender,
}

struct Twin {
    row: DeviceRow,
    points: Vec<Point>,
    desired: Map<String, Json>,
    reported: Map<String, Json>,
    version: u64,
    problems: Map<String, Json>,
    history: Vec<Change>,
    commands: Vec<CommandView>,
}

struct Plant {
    twins: BTreeMap<DeviceId, Twin>,
    events: Events,
    started: Millis,
    updates: Vec<UpdateView>,
}

/// Something hostile for every text that a child, a profile or the cloud can choose.
pub const HOSTILE: &str =
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>';--\u{202e}";

pub fn start(tasks: &Tasks, hostile: bool) -> Fake {
    let (questions, mut asked) = Questions::new();
    let (keeper, mut orders) = mpsc::channel(16);
    let (elsewhere, mut others) = mpsc::channel::<Order>(16);
    let (modbus, mut tools) = mpsc::channel(4);
    let events = Events::new();
    let orders_out =
        Orders { keeper, updates: elsewhere.clone(), diagnostics: elsewhere.clone(), jobs: elsewhere.clone() };
    let fake = Fake { questions, orders: orders_out, events: events.clone(), modbus };
    let mut plant = Plant::new(events, hostile);
    let stopping = tasks.stopping();
    tasks.spawn("fake plant", async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut late: Vec<(Millis, DeviceId)> = Vec::new();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = tick.tick() => {
                    plant.measure();
                    late.retain(|(at, id)| if clock::now() > *at { plant.carry_out(id); false } else { true });
                }
                Some(question) = asked.recv() => plant.answer(question),
                Some(order) = orders.recv() => {
                    late.push((clock::now().plus(1500), order.device.clone()));
                    plant.obey(order);
                }
                Some(order) = others.recv() => { let _ = order.reply.send(Ok(json!({}))); }
                Some(tool) = tools.recv() => commission(tool).await,
            }
        }
    });
    fake
}

async fn commission(tool: ToDriver) {
    let ToDriver::Tool { request, progress, reply } = tool else { return };
    if let Some(progress) = progress {
        for unit in 1..=3 {
            let _ = progress.send(json!({ "unit": unit, "of": 3 })).await;
        }
    }
    let _ = reply.send(match request["tool"].as_str() {
        Some("scan") => Ok(json!({ "found": [{ "unit": 2 }] })),
        _ => Err(Refusal::new(RefusalCode::PayloadInvalid, "this tool is not known")),
    });
}

fn id(text: &str) -> DeviceId {
    DeviceId::new(text).expect("id")
}

impl Plant {
    fn new(events: Events, hostile: bool) -> Self {
        let mut plant =
            Plant { twins: BTreeMap::new(), events, started: clock::now().plus(-372_400_000), updates: Vec::new() };
        let modbus = Protocol::Modbus;
        plant.add(
            "meter-main",
            modbus,
            "eastron-sdm630",
            Lifecycle::Active,
            Presence::Online,
            &[
                ("voltage_l1", 230.4, "V"),
                ("voltage_l2", 231.1, "V"),
                ("voltage_l3", 229.8, "V"),
                ("power", 18_420.0, "W"),
                ("current_l1", 27.4, "A"),
                ("current_l2", 26.1, "A"),
                ("current_l3", 28.0, "A"),
                ("power_factor", 0.983, ""),
                ("frequency", 50.01, "Hz"),
                ("import_energy", 184_233.7, "kWh"),
            ],
        );
        plant.add(
            "pv-inverter",
            modbus,
            "sunspec-inverter",
            Lifecycle::Active,
            Presence::Online,
            &[
                ("ac_power", 6_210.0, "W"),
                ("dc_voltage", 612.0, "V"),
                ("dc_current", 10.4, "A"),
                ("temperature", 48.2, "°C"),
            ],
        );
        plant.add(
            "cold-room-3",
            modbus,
            "xy-md02",
            Lifecycle::Active,
            Presence::Online,
            &[("temperature", -18.6, "°C"), ("humidity", 61.0, "%")],
        );
        plant.add(
            "hvac-roof",
            modbus,
            "abb-acs355",
            Lifecycle::Active,
            Presence::Online,
            &[("speed", 1_180.0, "rpm"), ("setpoint", 21.5, "°C"), ("supply_air", 19.2, "°C"), ("mode", 2.0, "")],
        );
        plant.add(
            "press-2",
            modbus,
            "wago-750",
            Lifecycle::Active,
            Presence::Offline,
            &[("oil_pressure", 142.0, "bar"), ("cycles", 88_213.0, "")],
        );
        plant.add(
            "soil-west",
            Protocol::Coap,
            "soil-probe",
            Lifecycle::Active,
            Presence::Late,
            &[("moisture", 31.2, "%"), ("battery", 3.61, "V")],
        );
        plant.add(
            "tracker-12",
            Protocol::Mqtt,
            "tracker",
            Lifecycle::Active,
            Presence::Online,
            &[("lat", 47.3769, ""), ("lon", 8.5417, ""), ("rssi", -71.0, "dBm")],
        );
        plant.add("tracker-13", Protocol::Mqtt, "tracker", Lifecycle::Pending, Presence::NeverSeen, &[]);
        if hostile {
            plant.add(
                "victim",
                Protocol::Mqtt,
                HOSTILE,
                Lifecycle::Active,
                Presence::Offline,
                &[(HOSTILE, 1.0, HOSTILE)],
            );
            let twin = plant.twins.get_mut(&id("victim")).expect("there");
            twin.row.device.reason = Some(HOSTILE.into());
            twin.row.device.tags = vec![HOSTILE.into()];
            twin.row.values.push(Live {
                name: "text".into(),
                value: Some(Value::Text(HOSTILE.into())),
                quality: Quality::Bad { reason: HOSTILE.into() },
                ts: clock::now(),
            });
            twin.reported.insert(HOSTILE.into(), json!(HOSTILE));
            twin.desired.insert(HOSTILE.into(), json!({ HOSTILE: [HOSTILE] }));
        }
        plant.furnish();
        plant
    }

    fn add(
        &mut self,
        name: &str,
        protocol: Protocol,
        kind: &str,
        lifecycle: Lifecycle,
        presence: Presence,
        values: &[(&str, f64, &str)],
    ) {
        let now = clock::now();
        let seen = match presence {
            Presence::Offline => Some(now.plus(-4_320_000)),
            Presence::NeverSeen => None,
            _ => Some(now.plus(-800)),
        };
        let offline = presence == Presence::Offline;
        let quality = |at| if offline { Quality::Stale { since: at, reason: "timeout".into() } } else { Quality::Good };
        let live = |(name, value, _): &(&str, f64, &str)| Live {
            name: (*name).into(),
            value: Some(Value::Float(*value)),
            quality: quality(seen.unwrap_or(now)),
            ts: seen.unwrap_or(now),
        };
        let device = Device {
            id: id(name),
            protocol,
            kind: kind.into(),
            lifecycle,
            presence,
            presence_since: seen,
            reason: offline.then(|| "no answer to 14 requests in a row (timeout 1 s)".into()),
            first_seen: Some(now.plus(-8_640_000_000)),
            last_seen: seen,
            firmware_version: (protocol == Protocol::Mqtt).then(|| "1.0.3".into()),
            tags: vec![],
            groups: vec![],
        };
        let units = values.iter().filter(|v| !v.2.is_empty()).map(|v| (v.0.to_owned(), v.2.to_owned())).collect();
        let row = DeviceRow { device, values: values.iter().map(live).collect(), units, open: vec![], update: None };
        let points = if protocol == Protocol::Modbus { points(values) } else { vec![] };
        let reported = values.iter().map(|(name, value, _)| ((*name).to_owned(), json!(value))).collect();
        let twin = Twin {
            row,
            points,
            desired: Map::new(),
            reported,
            version: 7,
            problems: Map::new(),
            history: vec![],
            commands: vec![],
        };
        self.twins.insert(id(name), twin);
    }

    fn furnish(&mut self) {
        let now = clock::now();
        let hvac = self.twins.get_mut(&id("hvac-roof")).expect("there");
        for point in &mut hvac.points {
            match point.name.as_str() {
                "setpoint" => {
                    (point.writable, point.min, point.max, point.title) =
                        (true, Some(16.0), Some(26.0), Some("Room setpoint".into()))
                }
                "speed" => (point.writable, point.min, point.max) = (true, Some(0.0), Some(1500.0)),
                "mode" => {
                    point.writable = true;
                    point.title = Some("Operating mode".into());
                    let choice = |(value, title): (f64, &str)| Choice { value: json!(value), title: title.into() };
                    point.choices =
                        [(0.0, "Off"), (1.0, "Heat"), (2.0, "Cool"), (3.0, "Automatic")].map(choice).to_vec();
                }
                _ => {}
            }
        }
        hvac.desired.insert("setpoint".into(), json!(22.5));
        hvac.row.open = vec!["setpoint".into()];
        hvac.problems.insert("setpoint".into(), json!({ "code": "device-failed", "message": "exception 4 (device failure) on write of register 105", "value": 22.5, "at": now.plus(-60_000) }));
        let change = |ago: i64, door: Door, section: &str, change: Json| Change {
            at: now.plus(-ago),
            door,
            shadow: None,
            section: section.into(),
            change,
            version: Some(6),
            refusal: None,
        };
        hvac.history = vec![
            change(
                60_000,
                Door::Technician("anna".into()),
                "desired",
                json!({ "setpoint": { "from": 21.5, "to": 22.5 } }),
            ),
            change(7_200_000, Door::Device, "reported", json!({ "mode": { "from": 1.0, "to": 2.0 } })),
            change(7_203_000, Door::Cloud, "desired", json!({ "mode": { "from": 1.0, "to": 2.0 } })),
        ];
        hvac.commands.push(CommandView {
            name: "reset-fault".into(),
            command_id: "c1".into(),
            door: Some(Door::Technician("anna".into())),
            at: now.plus(-3_600_000),
            status: "succeeded".into(),
            params: json!({}),
            result: Some(json!({ "register": 12 })),
        });
        let progress = UpdateProgress {
            device: Some(id("tracker-12")),
            job_id: Some("job-77".into()),
            from: Some("1.0.3".into()),
            to: Some("1.1.0".into()),
            status: UpdateStatus::Downloading,
            progress: Some(20),
            error: None,
        };
        self.twins.get_mut(&id("tracker-12")).expect("there").row.update = Some(progress.clone());
        self.updates = vec![
            UpdateView {
                device: id("tracker-12"),
                progress,
                size: Some(412_300),
                fetched: Some(412_300),
                started: Some(now.plus(-40_000)),
                changed: Some(now),
                attempts: 1,
            },
            UpdateView {
                device: id("press-2"),
                progress: UpdateProgress {
                    device: None,
                    job_id: Some("job-71".into()),
                    from: Some("2.4".into()),
                    to: Some("2.5".into()),
                    status: UpdateStatus::Failed,
                    progress: Some(60),
                    error: Some("the device stopped asking for chunks; nothing was changed".into()),
                },
                size: Some(1_204_000),
                fetched: Some(1_204_000),
                started: Some(now.plus(-90_000_000)),
                changed: Some(now.plus(-86_400_000)),
                attempts: 3,
            },
        ];
    }

    fn measure(&mut self) {
        let now = clock::now();
        for (id, twin) in &mut self.twins {
            if twin.row.device.presence != Presence::Online {
                continue;
            }
            let phase = now.0 as f64 / 9000.0;
            for (index, live) in twin.row.values.iter_mut().enumerate() {
                let Some(Value::Float(base)) =
                    twin.reported.get(&live.name).and_then(Value::from_json).and_then(|v| v.as_f64()).map(Value::Float)
                else {
                    continue;
                };
                let calm = matches!(live.name.as_str(), "mode" | "setpoint" | "lat" | "lon");
                let wave = if calm {
                    0.0
                } else {
                    base * 0.012 * (phase + index as f64).sin() + base * 0.004 * (phase * 7.3).cos()
                };
                (live.value, live.ts) = (Some(Value::Float(base + wave)), now);
            }
            twin.row.device.last_seen = Some(now);
            let samples = twin
                .row
                .values
                .iter()
                .map(|v| Sample::good(v.name.as_str(), v.value.clone().expect("value")))
                .collect();
            self.events.tell(Event::Reading(Arc::new(Reading { device: id.clone(), ts: now, samples })));
        }
        let tracker = self.twins.get_mut(&id("tracker-12")).expect("there");
        if let Some(update) = &mut tracker.row.update {
            let done = update.progress.unwrap_or(0).saturating_add(1).min(99);
            update.progress = Some(done);
            self.updates[0].progress.progress = Some(done);
            self.events.tell(Event::Update(Arc::new(update.clone())));
        }
    }

    fn carry_out(&mut self, id: &DeviceId) {
        let Some(twin) = self.twins.get_mut(id).filter(|twin| twin.row.device.presence == Presence::Online) else {
            return;
        };
        twin.problems.clear();
        for (name, value) in twin.desired.clone() {
            if name == "speed" {
                let problem = json!({ "code": "device-failed", "message": "exception 3 (illegal data value) on write of register 2", "value": value, "at": clock::now() });
                twin.problems.insert(name, problem);
            } else {
                twin.reported.insert(name, value);
            }
        }
        twin.version += 1;
        twin.row.open = twin
            .desired
            .iter()
            .filter(|(name, value)| twin.reported.get(*name) != Some(value))
            .map(|(n, _)| n.clone())
            .collect();
        self.events.tell(Event::Shadow { device: id.clone(), name: None, version: twin.version });
    }

    fn obey(&mut self, order: Order) {
        let Some(twin) = self.twins.get_mut(&order.device) else {
            let _ = order.reply.send(Err(unknown(&order.device)));
            return;
        };
        let answer = match order.what {
            OrderKind::Desired(document) => {
                let wanted = document["desired"].as_object().cloned().unwrap_or_default();
                let limit = |name: &str| twin.points.iter().find(|point| point.name == name);
                let over = wanted.iter().find(|(name, value)| {
                    limit(name).and_then(|p| p.max).is_some_and(|max| value.as_f64().is_some_and(|v| v > max))
                });
                if let Some((name, value)) = over {
                    let _ = order.reply.send(Err(Refusal::new(
                        RefusalCode::OutOfRange,
                        format!("{name}: {value} is more than the profile allows"),
                    )));
                    return;
                }
                for (name, value) in wanted {
                    let from = twin.desired.get(&name).cloned();
                    let change = json!({ name.clone(): { "from": from, "to": value } });
                    twin.history.insert(
                        0,
                        Change {
                            at: clock::now(),
                            door: order.door.clone(),
                            shadow: None,
                            section: "desired".into(),
                            change,
                            version: Some(twin.version + 1),
                            refusal: None,
                        },
                    );
                    if value.is_null() {
                        twin.desired.remove(&name);
                    } else {
                        twin.desired.insert(name, value);
                    }
                }
                twin.version += 1;
                json!({ "version": twin.version })
            }
            OrderKind::Command(command) => {
                twin.commands.insert(
                    0,
                    CommandView {
                        name: command.name,
                        command_id: command.command_id,
                        door: Some(order.door),
                        at: clock::now(),
                        status: "sent".into(),
                        params: command.params,
                        result: None,
                    },
                );
                json!({})
            }
            _ => json!({}),
        };
        let _ = order.reply.send(Ok(answer));
        self.events.tell(Event::Shadow { device: order.device, name: None, version: 0 });
    }

    fn answer(&mut self, question: Question) {
        let now = clock::now();
        match question {
            Question::Overview(reply) => give(reply, self.overview()),
            Question::Log(reply) => give(reply, self.overview().log),
            Question::Devices(reply) => give(reply, self.twins.values().map(|twin| twin.row.clone()).collect()),
            Question::Device(id, reply) => {
                let view = self.twins.get(&id).map(|twin| twin.view(now)).ok_or_else(|| unknown(&id));
                let _ = reply.send(view);
            }
            Question::Shadows(_, reply) => give(reply, vec!["headgate".into()]),
            Question::Shadow { device, name, reply } => {
                let document = self.twins.get(&device).map(|twin| match name.as_deref() {
                    Some("headgate") => {
                        Some(json!({ "state": { "reported": { "problems": twin.problems } }, "version": 1 }))
                    }
                    Some(_) => None,
                    None => Some(twin.document(now)),
                });
                let _ = reply.send(document.ok_or_else(|| unknown(&device)));
            }
            Question::History { device, reply, .. } => {
                give(reply, self.twins.get(&device).map(|t| t.history.clone()).unwrap_or_default())
            }
            Question::Trend { device, name, from, to, points, reply } => {
                let base =
                    self.twins.get(&device).and_then(|t| t.reported.get(&name)).and_then(Json::as_f64).unwrap_or(0.0);
                let step = (to.since(from) / points.max(1) as i64).max(1000);
                let at = |n: i64| {
                    let t = from.plus(n * step);
                    let x = t.0 as f64 / 9000.0;
                    let mean = base + base * 0.012 * x.sin() + base * 0.02 * (t.0 as f64 / 1_200_000.0).sin();
                    (t, mean - base.abs() * 0.006, mean, mean + base.abs() * 0.006)
                };
                let hole = |n: &i64| !(points as i64 / 3..points as i64 * 2 / 5).contains(n);
                let points = (0..points as i64).filter(hole).map(at).filter(|p| p.0 <= to).collect();
                give(reply, Trend { name, from, to, points });
            }
            Question::Commands(id, reply) => {
                give(reply, self.twins.get(&id).map(|t| t.commands.clone()).unwrap_or_default())
            }
            Question::Alarms(reply) => give(reply, Vec::new()),
            Question::Acknowledge { device, reply, .. } => drop(reply.send(Err(unknown(&device)))),
            Question::Jobs(reply) => give(reply, Vec::new()),
            Question::Updates(reply) => give(reply, self.updates.clone()),
            Question::Connections(reply) => give(reply, vec![connection(now)]),
            Question::Config(reply) | Question::Reload(reply) => {
                let problem = |file: &str, line, key: &str, found: &str, hint: &str| Problem {
                    file: file.into(),
                    line,
                    key: key.into(),
                    found: found.into(),
                    hint: hint.into(),
                };
                let problems = vec![
                    problem(
                        "devices.d/meter-bus.toml",
                        14,
                        "device[2].unit",
                        "found 300",
                        "expected a whole number from 1 to 247",
                    ),
                    problem("headgate.toml", 9, "uplink.brocker", "is not a known key", "did you mean \"broker\"?"),
                ];
                give(
                    reply,
                    ConfigReport {
                        loaded: Some(self.started),
                        folder: Some("/etc/headgate".into()),
                        problems,
                        changes: vec![],
                    },
                );
            }
            Question::SetLifecycle { device, lifecycle, reply, .. } => {
                let found = self.twins.get_mut(&device).map(|twin| twin.row.device.lifecycle = lifecycle);
                self.events.tell(Event::Lifecycle { device: device.clone(), lifecycle, at: now });
                let _ = reply.send(found.ok_or_else(|| unknown(&device)));
            }
            Question::Diagnose { request, reply } => give(reply, json!({ "type": request["type"], "status": "ok" })),
            Question::LogTail { reply, .. } => {
                let line = |ago: i64, level: &str, target: &str, text: &str| LogLine {
                    at: now.plus(-ago),
                    level: level.into(),
                    target: target.into(),
                    text: text.into(),
                };
                give(
                    reply,
                    vec![
                        line(92_000, "info", "headgate::daemon", "ready after_ms=212 devices=8"),
                        line(
                            61_000,
                            "warn",
                            "headgate::drivers::modbus",
                            "unit does not answer bus=plant unit=9 device=press-2 error=timeout",
                        ),
                        line(
                            4_000,
                            "error",
                            "headgate::config",
                            "the configuration on disk has problems; the earlier one runs on problems=2",
                        ),
                    ],
                );
            }
        }
    }

    fn overview(&self) -> Overview {
        let now = clock::now();
        let mut devices = DeviceCounts::default();
        self.twins.values().for_each(|twin| devices.count(twin.row.device.lifecycle, twin.row.device.presence));
        let lane = |lane, waiting| LaneStatus { lane, waiting, oldest: Some(now.plus(-7000)) };
        Overview {
            gateway: id("plant-7-gw"),
            version: env!("CARGO_PKG_VERSION").into(),
            now,
            started: self.started,
            clock_trusted: true,
            link: LinkStatus {
                state: LinkState::CatchingUp { backlog: 18_204 },
                since: Some(now.plus(-94_000)),
                broker: Some("mqtts://cloud.example.com:8883".into()),
                in_flight: 64,
                acknowledged: 4_882_113,
                bytes_sent: 812_000_000,
                bytes_received: 9_120_000,
                last_error: None,
            },
            log: LogStatus {
                waiting: 18_204,
                oldest: Some(now.plus(-1_620_000)),
                bytes: 118_200_000,
                quota: 536_870_912,
                rate_in: 41.7 + (now.0 as f64 / 4000.0).sin() * 4.0,
                rate_out: 388.0 + (now.0 as f64 / 7000.0).cos() * 30.0,
                full_in: Some(792_000.0),
                drained_in: Some(53.0),
                lanes: vec![
                    lane(Lane::Urgent, 2),
                    lane(Lane::State, 41),
                    lane(Lane::Telemetry, 18_161),
                    lane(Lane::Logs, 0),
                ],
                dropped: BTreeMap::from([("quota".into(), 0)]),
                written_per_day: Some(412_000_000.0),
                card_years: Some(17.2),
                refusing: None,
            },
            devices,
            connections: 3,
            config: ConfigStatus { loaded: Some(self.started), problems: 2 },
            memory: Some(17_400_000),
            notices: vec![Notice { urgent: false, text: "The certificate of tracker-12 ends in 12 days.".into() }],
        }
    }
}

impl Twin {
    fn view(&self, now: Millis) -> DeviceView {
        let mqtt = self.row.device.protocol == Protocol::Mqtt;
        DeviceView {
            row: self.row.clone(),
            points: self.points.clone(),
            commands: if self.points.is_empty() { vec![] } else { vec!["read-now".into(), "reset-fault".into()] },
            connection: mqtt.then(|| connection(now)),
            config: None,
            drift: vec![],
            address: (!self.points.is_empty()).then(|| "plant bus (tcp 10.0.0.7:502), unit 3".into()),
            counters: (!self.points.is_empty()).then(|| json!({ "requests": 91_233, "timeouts": 14, "exceptions": { "2": 1 }, "latency": { "p50": 18, "p99": 44 } })),
        }
    }

    fn document(&self, now: Millis) -> Json {
        let stamped = |section: &Map<String, Json>| {
            section.keys().map(|name| (name.clone(), json!({ "timestamp": now.seconds() - 61 }))).collect::<Map<_, _>>()
        };
        json!({
            "state": { "desired": self.desired, "reported": self.reported },
            "metadata": { "desired": stamped(&self.desired), "reported": stamped(&self.reported) },
            "version": self.version,
        })
    }
}

fn points(values: &[(&str, f64, &str)]) -> Vec<Point> {
    let register = |index: usize| Register {
        table: "input".into(),
        address: index as u16 * 2,
        kind: "f32".into(),
        order: Some("ABCD".into()),
        scale: None,
        interval: Some(1000),
    };
    let point = |(index, (name, _, unit)): (usize, &(&str, f64, &str))| Point {
        name: (*name).into(),
        unit: (!unit.is_empty()).then(|| (*unit).into()),
        register: Some(register(index)),
        ..Point::default()
    };
    values.iter().enumerate().map(point).collect()
}

fn connection(now: Millis) -> Connection {
    Connection {
        device: "tracker-12".into(),
        client_id: "tracker-12".into(),
        connected: true,
        address: Some("10.0.0.31:50122".into()),
        protocol: "mqtt 5, tls".into(),
        since: Some(now.plus(-4_000_000)),
        messages_in: 8_112,
        messages_out: 44,
        bytes_in: 912_000,
        bytes_out: 4_400,
        rate_in: 2.0,
        rate_out: 0.01,
        queued: 0,
        dropped: BTreeMap::new(),
        last_error: None,
    }
}

fn give<T>(reply: Reply<T>, answer: T) {
    let _ = reply.send(Ok(answer));
}

fn unknown(device: &DeviceId) -> Refusal {
    Refusal::new(RefusalCode::UnknownDevice, format!("there is no device {device}"))
}
