//! A plant that does not exist: answers the page's questions and carries out its orders as the daemon's rooms would.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use headgate::{
    bus::{ConfigReport, Events, Order, OrderKind, Orders, Question, Questions, Reply, ToDriver, ToDriverSender},
    clock,
    config::problem::Problem,
    model::{
        command::{Refusal, RefusalCode},
        device::{Presence, Protocol},
        event::Event,
        ids::DeviceId,
        reading::{Reading, Sample, Value},
        time::Millis,
        view::*,
    },
    tasks::Tasks,
};
use serde_json::{Map, Value as Json, json};
use tokio::sync::mpsc;

use super::furniture::{connection, id, job};

pub struct Fake {
    pub questions: Questions,
    pub orders: Orders,
    pub events: Events,
    pub modbus: ToDriverSender,
}

pub struct Twin {
    pub row: DeviceRow,
    pub points: Vec<Point>,
    pub desired: Map<String, Json>,
    pub reported: Map<String, Json>,
    pub version: u64,
    pub problems: Map<String, Json>,
    pub history: Vec<Change>,
    pub commands: Vec<CommandView>,
}

pub struct Plant {
    pub twins: BTreeMap<DeviceId, Twin>,
    pub events: Events,
    pub started: Millis,
    pub updates: Vec<UpdateView>,
}

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
    if let Some(progress) = progress.filter(|_| request["tool"] == "scan") {
        for unit in 1..=3 {
            let _ = progress.send(json!({ "unit": unit, "of": 3 })).await;
        }
    }
    let _ = reply.send(match request["tool"].as_str() {
        Some("scan") => Ok(json!({ "found": [{ "unit": 2 }] })),
        _ => Err(Refusal::new(RefusalCode::PayloadInvalid, "this tool is not known")),
    });
}

impl Plant {
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
                    let before = twin.desired.get(&name).map(|from| json!({ name.clone(): from }));
                    let change = json!({ name.clone(): value });
                    twin.history.insert(
                        0,
                        Change {
                            at: clock::now(),
                            door: order.door.clone(),
                            shadow: None,
                            section: "desired".into(),
                            change,
                            before,
                            note: None,
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
            Question::Jobs(reply) => give(reply, vec![job(clock::now())]),
            Question::Updates(reply) => give(reply, self.updates.clone()),
            Question::Connections(reply) => give(reply, vec![connection(now)]),
            Question::Buses(reply) => give(reply, Vec::new()),
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
            Question::SetLock { reply, .. } => give(reply, ()),
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

fn give<T>(reply: Reply<T>, answer: T) {
    let _ = reply.send(Ok(answer));
}

fn unknown(device: &DeviceId) -> Refusal {
    Refusal::new(RefusalCode::UnknownDevice, format!("there is no device {device}"))
}
