//! The laws of the plan, and the engine over a real store.

use std::{collections::HashMap, sync::Arc};

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Jobs, Ports,
    definition::Definition,
    plan::{Ended, Plan, Reach},
    start,
};
use crate::{
    bus::{Order, OrderKind, Orders, Outcome, Question, Questions},
    model::{
        command::{CommandResponse, CommandStatus, Door, Refusal, RefusalCode},
        device::{Device, Lifecycle, Presence, Protocol},
        ids::DeviceId,
        jobs::{Job, JobControl, JobOrder, JobState, JobStatus, TargetStatus},
        record::Lane,
        time::Millis,
        view::DeviceRow,
    },
    store::Store,
    tasks::Tasks,
};

fn id(n: usize) -> DeviceId {
    DeviceId::new(&format!("d{n:03}")).expect("id")
}

fn plan(job: Json, devices: usize) -> Plan {
    let order: JobOrder = serde_json::from_value(job).expect("order");
    let state = JobState {
        status: JobStatus::Pending,
        chosen: false,
        stage: 0,
        soak_until: None,
        last_order: None,
        reason: None,
        created: Millis(0),
        changed: Millis(0),
    };
    let definition = Definition::read(&order).expect("good");
    let mut plan = Plan::new(definition, Job { order, state, targets: Vec::new() }, true);
    plan.choose((0..devices).map(id), Millis(0));
    plan
}

proptest! {
    /// Whatever devices answer, a job keeps to its caps and its stages, and ends with every device accounted for.
    #[test]
    fn a_job_keeps_its_limits_and_ends(
        devices in 1usize..40,
        parallel in 1u64..6,
        attempts in 1u64..4,
        stages in prop::collection::btree_set(1u64..100, 0..3),
        rate in prop::option::of(0.0f64..1.0),
        fates in prop::collection::vec(0u8..5, 400),
    ) {
        let stages: Vec<Json> = stages
            .into_iter()
            .map(|percent| json!({"percent": percent, "soak": "1m", "maxErrorRate": rate.unwrap_or(1.0)}))
            .collect();
        let mut plan = plan(json!({
            "jobId": "j", "type": "restart",
            "schedule": {"maxParallel": parallel, "retryPolicy": {"maxAttempts": attempts}},
            "rollout": {"stages": stages, "abort": true},
        }), devices);
        let (mut now, mut fates) = (Millis(1), fates.into_iter().cycle());
        let mut orders: HashMap<DeviceId, u64> = HashMap::new();
        for _ in 0..5000 {
            if plan.job.state.status.is_final() && plan.in_progress().next().is_none() {
                break;
            }
            let away = fates.next() == Some(4);
            let ordered = plan.advance(now, true, |_| if away { Reach::Later } else { Reach::Now });
            for target in &ordered {
                *orders.entry(target.device.clone()).or_default() += 1;
            }
            prop_assert!(plan.in_progress().count() <= parallel as usize);
            let size = plan.stage_size();
            for (index, target) in plan.job.targets.iter().enumerate() {
                prop_assert!(index < size || target.attempt == 0, "ordered outside its stage");
            }
            let running: Vec<_> = plan.in_progress().map(|t| (t.device.clone(), plan.attempt_id(t))).collect();
            for (device, attempt) in running {
                match fates.next() {
                    Some(0) => prop_assert!(plan.ended(&device, &attempt, Ended::Badly("bad".into()), now)),
                    Some(1) => prop_assert!(plan.ended(&device, &attempt, Ended::ForGood("bad".into()), now)),
                    Some(2) => {} // silence: it lapses
                    _ => prop_assert!(plan.ended(&device, &attempt, Ended::Well, now)),
                }
            }
            now = now.plus(20_000);
        }
        prop_assert!(plan.job.state.status.is_final(), "{:?}", plan.job.state);
        prop_assert!(orders.values().all(|n| *n <= attempts));
        let open = |s| matches!(s, TargetStatus::Queued | TargetStatus::InProgress);
        prop_assert!(plan.job.targets.iter().all(|t| !open(t.status)));
        let good = plan.job.targets.iter().all(|t| t.status != TargetStatus::Failed);
        prop_assert_eq!(plan.job.state.status == JobStatus::Succeeded, good);
    }
}

#[test]
fn a_failing_canary_pauses_the_rollout_and_a_person_may_go_on() {
    let stages = json!({"stages": [{"percent": 10, "soak": "4h", "maxErrorRate": 0.1}]});
    let mut plan = plan(json!({"jobId": "j", "type": "restart", "rollout": stages}), 10);
    let orders = plan.advance(Millis(0), true, |_| Reach::Now);
    assert_eq!(orders.len(), 1, "the canary alone");
    plan.ended(&id(0), "j", Ended::Badly("bricked".into()), Millis(1));
    assert!(plan.advance(Millis(2), true, |_| Reach::Now).is_empty());
    assert_eq!(plan.job.state.status, JobStatus::Paused);
    plan.control(JobControl::Resume, Millis(3)).expect("resumed");
    assert!(plan.advance(Millis(4), true, |_| Reach::Now).is_empty(), "it soaks first");
    let later = Millis(4 * 3_600_000 + 5);
    assert_eq!(plan.advance(later, true, |_| Reach::Now).len(), 4);
    plan.control(JobControl::Abort, later).expect("aborted");
    assert!(plan.ended(&id(1), "j", Ended::Well, later), "what was under way is still heard");
    assert_eq!(plan.job.progress()["skipped"], 5);
    assert_eq!(plan.control(JobControl::Pause, later).expect_err("over").code, RefusalCode::OutOfRange);
    plan.control(JobControl::Retry, later).expect("again");
    assert_eq!(plan.job.targets.iter().filter(|t| t.status == TargetStatus::Queued).count(), 6);
}

#[test]
fn a_document_that_is_given_up_is_withdrawn_under_the_name_of_its_attempt() {
    let payload = json!({"document": {}, "timeoutMs": 60_000});
    let retries = json!({"maxParallel": 2, "retryPolicy": {"maxAttempts": 2}});
    let job = json!({"jobId": "j", "type": "job-document", "payload": payload, "schedule": retries});
    let mut plan = plan(job, 2);
    assert_eq!(plan.advance(Millis(0), true, |_| Reach::Now).len(), 2);
    plan.ended(&id(1), "j", Ended::Well, Millis(1));
    plan.advance(Millis(60_000), true, |_| Reach::Now);
    assert_eq!(plan.take_given_up(), [(id(0), "j".into())], "its time is over");
    let again = plan.advance(Millis(3_600_000), true, |_| Reach::Now);
    assert_eq!((again.len(), again[0].attempt), (1, 2));
    assert!(!plan.ended(&id(0), "j", Ended::Withdrawn, Millis(3_600_000)), "the second attempt goes on");
    plan.control(JobControl::Abort, Millis(3_600_001)).expect("aborted");
    assert_eq!(plan.take_given_up(), [(id(0), "j-2".into())]);
    let mut after = Plan::new(plan.definition.clone(), plan.job.clone(), false);
    assert_eq!(after.take_given_up(), [(id(0), "j-2".into())], "after a restart once more");
    assert!(plan.ended(&id(0), "j-2", Ended::Withdrawn, Millis(3_600_002)));
    assert_eq!(plan.job.progress()["skipped"], 1);
    assert_eq!(plan.take_given_up(), []);
}

#[test]
fn outside_its_window_and_between_staggered_orders_a_job_waits() {
    let mut plan = plan(json!({"jobId": "j", "type": "restart", "schedule": {"staggerMs": 5000}}), 3);
    assert!(plan.advance(Millis(0), false, |_| Reach::Now).is_empty());
    assert_eq!(plan.advance(Millis(1000), true, |_| Reach::Now).len(), 1);
    assert!(plan.advance(Millis(5999), true, |_| Reach::Now).is_empty());
    assert_eq!(plan.advance(Millis(6000), true, |_| Reach::Now).len(), 1);
    let never = plan.advance(Millis(11_000), true, |_| Reach::Never("suspended".into()));
    assert!(never.is_empty());
    assert_eq!(plan.job.progress()["skipped"], 1);
}

struct Bench {
    orders: mpsc::Sender<Order>,
    outcomes: mpsc::Sender<Outcome>,
    keeper: mpsc::Receiver<Order>,
    tasks: Tasks,
    jobs: Jobs,
}

async fn bench(store: &Store, devices: usize) -> Bench {
    let tasks = Tasks::new();
    let (orders, inbox) = mpsc::channel(8);
    let (keeper_in, keeper) = mpsc::channel(64);
    let (other, _) = mpsc::channel(1);
    let out = Orders { keeper: keeper_in, updates: other.clone(), diagnostics: other.clone(), jobs: orders.clone() };
    let (outcomes, heard) = mpsc::channel(64);
    let (_, updates) = watch::channel(Arc::default());
    let (questions, mut asked) = Questions::new();
    let stop = tasks.stopping();
    tasks.spawn("devices", async move {
        while let Some(Some(question)) = stop.run_until_cancelled(asked.recv()).await {
            if let Question::Devices(reply) = question {
                let _ = reply.send(Ok((0..devices).map(row).collect()));
            }
        }
    });
    let ports = Ports { orders: inbox, out, outcomes: heard, updates, questions, store: store.clone() };
    let jobs = start(DeviceId::new("gw").expect("id"), ports, &tasks).await.expect("start");
    Bench { orders, outcomes, keeper, tasks, jobs }
}

fn row(n: usize) -> DeviceRow {
    let device = Device {
        id: id(n),
        protocol: Protocol::Mqtt,
        kind: "pump".into(),
        lifecycle: Lifecycle::Active,
        presence: Presence::Online,
        presence_since: None,
        reason: None,
        first_seen: None,
        last_seen: None,
        firmware_version: None,
        tags: vec![if n.is_multiple_of(2) { "even".into() } else { "odd".into() }],
        groups: Vec::new(),
    };
    DeviceRow { device, values: Vec::new(), units: Default::default(), open: Vec::new(), update: None }
}

impl Bench {
    async fn order(&self, what: OrderKind) -> Result<Json, Refusal> {
        let (reply, answer) = oneshot::channel();
        let device = DeviceId::new("gw").expect("id");
        self.orders.send(Order { device, door: Door::Cloud, what, reply }).await.expect("open");
        answer.await.expect("answered")
    }

    /// The next order to a child, accepted.
    async fn next(&mut self) -> (DeviceId, String) {
        let order = self.keeper.recv().await.expect("an order");
        let OrderKind::Command(command) = &order.what else { panic!("no command: {:?}", order.what) };
        assert_eq!(command.name, "identify");
        let _ = order.reply.send(Ok(Json::Null));
        (order.device, command.command_id.clone())
    }

    async fn answer(&self, device: DeviceId, command_id: String) {
        let response = CommandResponse { command_id, status: CommandStatus::Succeeded, result: None };
        self.outcomes.send(Outcome::Command { device, response }).await.expect("heard");
    }
}

#[tokio::test]
async fn a_job_goes_on_after_a_restart_and_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let (store, _thread) = Store::open(folder.path()).expect("store");
    let job = json!({
        "jobId": "j1", "type": "command", "payload": {"name": "identify"},
        "deviceFilter": {"tags": ["even"]}, "schedule": {"maxParallel": 2},
    });
    let job: JobOrder = serde_json::from_value(job).expect("order");
    let mut first = bench(&store, 6).await;
    first.order(OrderKind::Job(job.clone())).await.expect("taken");
    let mut other = job.clone();
    other.payload = json!({"name": "reboot"});
    assert_eq!(first.order(OrderKind::Job(other)).await.expect_err("other").code, RefusalCode::VersionConflict);
    let (device, command) = first.next().await;
    assert_eq!((device.clone(), command.as_str()), (id(0), "j1"));
    first.answer(device, command).await;
    first.jobs.watch().wait_for(|jobs| jobs[0].progress()["succeeded"] == 1).await.expect("heard");
    // Two are under way now; the gateway goes down without having heard of them.
    first.tasks.stop_and_wait().await;

    let mut second = bench(&store, 6).await;
    let mut under_way = vec![second.next().await.0, second.next().await.0];
    under_way.sort();
    assert_eq!(under_way, vec![id(2), id(4)], "the same orders once more, by the same name");
    assert_eq!(second.order(OrderKind::Job(job)).await.expect("known")["repeated"], true);
    for device in under_way {
        second.answer(device, "j1".into()).await;
    }
    second.jobs.watch().wait_for(|jobs| jobs[0].state.status == JobStatus::Succeeded).await.expect("done");
    second.tasks.stop_and_wait().await;

    let records = store.read_after(Lane::Urgent, 0, 100, 1_000_000).await.expect("records");
    let last: Json = serde_json::from_slice(&records.last().expect("a status").record.body).expect("json");
    assert_eq!(last["status"], "succeeded");
    let progress = json!({"total": 3, "succeeded": 3, "failed": 0, "inProgress": 0, "skipped": 0});
    assert_eq!(last["progress"], progress);
    assert_eq!(records.last().and_then(|r| r.record.name.as_deref()), Some("j1"));
}
