//! How the plant that does not exist is furnished: its devices, their past, and the gateway at a glance.

use std::collections::BTreeMap;

use headgate::{
    bus::Events,
    clock,
    model::{
        command::Door,
        device::{Device, Lifecycle, Presence, Protocol},
        drift::Compliance,
        event::LinkState,
        ids::DeviceId,
        jobs::{Job, JobOrder, JobState, JobStatus, Target, TargetStatus},
        reading::{Quality, Value},
        record::Lane,
        time::Millis,
        update::{UpdateProgress, UpdateStatus},
        view::*,
    },
};
use serde_json::{Map, Value as Json, json};

use super::fake::{Plant, Twin};

/// Something hostile for every text that a child, a profile or the cloud can choose.
pub const HOSTILE: &str =
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>';--\u{202e}";
pub fn id(text: &str) -> DeviceId {
    DeviceId::new(text).expect("id")
}

impl Plant {
    pub fn new(events: Events, hostile: bool) -> Self {
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
        let change = |ago: i64, door: Door, section: &str, before: Json, change: Json| Change {
            at: now.plus(-ago),
            door,
            shadow: None,
            section: section.into(),
            change,
            before: Some(before),
            note: None,
            version: Some(6),
            refusal: None,
        };
        hvac.history = vec![
            change(
                60_000,
                Door::Technician("anna".into()),
                "desired",
                json!({ "setpoint": 21.5 }),
                json!({ "setpoint": 22.5 }),
            ),
            change(7_200_000, Door::Device, "reported", json!({ "mode": 1.0 }), json!({ "mode": 2.0 })),
            change(7_203_000, Door::Cloud, "desired", json!({ "mode": 1.0 }), json!({ "mode": 2.0 })),
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

    pub fn overview(&self) -> Overview {
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
                bytes_per_record: Some(64.0),
                budgets: Vec::new(),
                last_error: None,
                shadows: None,
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
            compliance: Compliance { devices: devices.total, compliant: devices.total, ..Compliance::default() },
            devices,
            connections: 3,
            config: ConfigStatus { loaded: Some(self.started), problems: 2 },
            memory: Some(17_400_000),
            notices: vec![Notice { urgent: false, text: "The certificate of tracker-12 ends in 12 days.".into() }],
        }
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

pub fn connection(now: Millis) -> Connection {
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
        last_error_at: None,
        ended: false,
    }
}

/// A roll-out under way: one device done, one at work, one failed, one still to come.
pub fn job(now: Millis) -> Job {
    let target = |name: &str, status, attempt, error: Option<&str>| Target {
        device: id(name),
        status,
        attempt,
        at: None,
        error: error.map(str::to_owned),
        forgiven: false,
    };
    Job {
        order: JobOrder {
            job_id: "spring-setpoints".into(),
            kind: "command".into(),
            device_filter: json!({}),
            payload: json!({"command": "apply"}),
            schedule: json!({"maxParallel": 1}),
            rollout: None,
        },
        state: JobState {
            status: JobStatus::Running,
            chosen: true,
            stage: 0,
            soak_until: None,
            last_order: Some(now.plus(-4_000)),
            reason: None,
            created: now.plus(-600_000),
            changed: now.plus(-4_000),
        },
        targets: vec![
            target("hvac-roof", TargetStatus::Succeeded, 1, None),
            target("tracker-12", TargetStatus::InProgress, 2, None),
            target("meter-main", TargetStatus::Failed, 3, Some("no answer within 30 s")),
            target("pump-7", TargetStatus::Queued, 0, None),
        ],
    }
}
