//! Requests and answers over a real store.

use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, oneshot};

use super::{Diagnostics, Ports, Restart, Settings, start};
use crate::{
    bus::{LocalMessage, Order, OrderKind, Question, Questions},
    model::{
        command::{Door, Refusal, RefusalCode},
        ids::DeviceId,
        record::{Kind, Lane},
        time::Millis,
        view::LogLine,
    },
    store::Store,
    tasks::Tasks,
};

struct Bench {
    orders: mpsc::Sender<Order>,
    local: mpsc::Receiver<LocalMessage>,
    restarts: mpsc::Receiver<Restart>,
    store: Store,
    tasks: Tasks,
    diagnostics: Diagnostics,
    _folder: tempfile::TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().expect("folder");
    let (store, _thread) = Store::open(folder.path()).expect("store");
    let tasks = Tasks::new();
    let (orders, inbox) = mpsc::channel(8);
    let (keeper, _) = mpsc::channel(8);
    let (local_in, local) = mpsc::channel(8);
    let (restart, restarts) = mpsc::channel(8);
    let (questions, mut asked) = Questions::new();
    let stop = tasks.stopping();
    tasks.spawn("answers", async move {
        while let Some(Some(question)) = stop.run_until_cancelled(asked.recv()).await {
            let unknown = || Refusal::new(RefusalCode::UnknownDevice, "no device is called ghost");
            match question {
                Question::LogTail { lines, reply, .. } => {
                    let line = |n: usize| LogLine {
                        at: Millis(n as i64),
                        level: "info".into(),
                        target: "headgate::store".into(),
                        text: format!("line {n} says \"everything is well\""),
                    };
                    let _ = reply.send(Ok((0..lines).map(line).collect()));
                }
                Question::Device(_, reply) => drop(reply.send(Err(unknown()))),
                other => drop(other),
            }
        }
    });
    let settings = Settings {
        gateway: DeviceId::new("gw").expect("id"),
        state: folder.path().to_owned(),
        config: None,
        chunk: 16 * 1024,
    };
    let ports =
        Ports { orders: inbox, keeper, local: local_in, questions, restart, outcomes: None, store: store.clone() };
    let diagnostics = start(settings, ports, &tasks);
    Bench { orders, local, restarts, store, tasks, diagnostics, _folder: folder }
}

impl Bench {
    async fn ask(&self, device: &str, document: Json) -> Result<Json, Refusal> {
        let (reply, answer) = oneshot::channel();
        let device = DeviceId::new(device).expect("id");
        let order = Order { device, door: Door::Cloud, what: OrderKind::Diagnostics(document), reply };
        self.orders.send(order).await.expect("open");
        answer.await.expect("answered")
    }

    async fn answers(&self) -> Vec<Json> {
        let records = self.store.read_after(Lane::Logs, 0, 1000, 10_000_000).await.expect("read");
        assert!(records.iter().all(|r| r.record.kind == Kind::DiagnosticsResponse));
        records.iter().map(|r| serde_json::from_slice(&r.record.body).expect("json")).collect()
    }
}

#[tokio::test]
async fn a_long_answer_comes_in_chunks_and_a_repeated_request_is_answered_once() {
    let bench = bench();
    let request = json!({"requestId": "r1", "type": "log-tail", "params": {"lines": 1000}});
    bench.ask("gw", request.clone()).await.expect("accepted");
    assert_eq!(bench.ask("gw", request).await.expect("accepted")["repeated"], true);
    let answers = bench.answers().await;
    assert!(answers.len() > 3, "{}", answers.len());
    let text: String = answers.iter().filter_map(|a| a["payload"].as_str()).collect();
    let whole: Json = serde_json::from_str(&text).expect("whole");
    assert_eq!(whole["lines"].as_array().map(Vec::len), Some(1000));
    bench.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn what_cannot_be_answered_is_answered_with_an_error() {
    let mut bench = bench();
    assert_eq!(
        bench.ask("gw", json!({"requestId": "a", "type": "pong"})).await.expect_err("no").code,
        RefusalCode::PayloadInvalid
    );
    let expired = json!({"requestId": "b", "type": "ping", "expiresAt": 1});
    assert_eq!(bench.ask("gw", expired).await.expect_err("no").code, RefusalCode::Expired);
    bench.ask("ghost", json!({"requestId": "c", "type": "ping"})).await.expect("answered");
    let answers = bench.answers().await;
    assert_eq!(answers.iter().map(|a| a["status"].as_str()).collect::<Vec<_>>(), vec![Some("error"); 3]);
    assert_eq!(answers.iter().filter_map(|a| a["requestId"].as_str()).collect::<String>(), "abc");
    assert!(bench.local.try_recv().is_err());
    bench.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn a_reboot_needs_the_token_of_an_earlier_answer() {
    let mut bench = bench();
    bench.ask("gw", json!({"requestId": "1", "type": "reboot"})).await.expect("answered");
    let first = bench.answers().await.remove(0);
    assert_eq!(first["status"], "error");
    assert!(bench.restarts.try_recv().is_err());
    let token = first["payload"]["confirmationToken"].clone();
    let second = json!({"requestId": "2", "type": "reboot", "confirmationToken": token});
    bench.ask("gw", second).await.expect("answered");
    assert_eq!(bench.restarts.recv().await, Some(Restart::Service));
    assert_eq!(bench.answers().await[1]["status"], "ok");
    bench.tasks.stop_and_wait().await;
}

#[tokio::test]
async fn the_page_is_answered_whole() {
    let bench = bench();
    let answer = bench.diagnostics.answer(&json!({"requestId": "1", "type": "system-info"})).await.expect("answer");
    assert_eq!(answer["gateway"], "gw");
    let ping = json!({"requestId": "2", "type": "ping", "params": {"timestamp": 42}});
    assert_eq!(bench.diagnostics.answer(&ping).await.expect("answer")["timestamp"], 42);
    bench.tasks.stop_and_wait().await;
}
