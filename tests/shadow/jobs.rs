//! The jobs service for children, as `docs/shadow.md` part 2 has it.

use headgate::{
    bus::Outcome,
    model::executions::{Given, Status},
};
use serde_json::{Value as Json, json};

use crate::harness::{Gateway, id};

const J: &str = "$aws/things/d/jobs";

async fn give(gateway: &Gateway, job_id: &str, retries: u32) -> bool {
    let given = Given { job_id: job_id.into(), document: json!({"op": job_id}), minutes: Some(5), retries };
    gateway.keeper.queue_execution(&id("d"), given).await.expect("a good job")
}

async fn ask(gateway: &mut Gateway, request: &str, payload: Json) -> Vec<(String, Json)> {
    let payload = if payload.is_null() { String::new() } else { payload.to_string() };
    gateway.publish(&format!("{J}/{request}"), payload).await.expect("acknowledged");
    let prefix = format!("{J}/");
    let said = gateway.said().await.into_iter();
    said.filter_map(|(topic, json)| Some((topic.strip_prefix(&prefix)?.to_owned(), json))).collect()
}

fn topics(said: &[(String, Json)]) -> Vec<&str> {
    said.iter().map(|(topic, _)| topic.as_str()).collect()
}

#[tokio::test]
async fn a_job_goes_from_queued_to_its_end_with_every_answer_and_notification() {
    let mut gateway = Gateway::start();
    let said = ask(&mut gateway, "get", json!({"clientToken": "t"})).await;
    assert_eq!((topics(&said), &said[0].1["queuedJobs"]), (vec!["get/accepted"], &json!([])));
    assert_eq!((&said[0].1["inProgressJobs"], &said[0].1["clientToken"]), (&json!([]), &json!("t")));
    let said = ask(&mut gateway, "$next/get", Json::Null).await;
    assert_eq!((topics(&said), said[0].1.get("execution")), (vec!["$next/get/accepted"], None));

    assert!(give(&gateway, "one", 0).await);
    assert!(!give(&gateway, "one", 0).await, "the same id is the same job");
    let notified = gateway.expect(&format!("{J}/notify")).await;
    let queued = &notified["jobs"]["QUEUED"][0];
    assert_eq!(
        (&queued["jobId"], &queued["versionNumber"], &queued["executionNumber"]),
        (&json!("one"), &json!(1), &json!(1))
    );
    assert!(notified["jobs"].get("IN_PROGRESS").is_none() && queued["queuedAt"].as_i64() < Some(99_999_999_999));
    let next = gateway.expect(&format!("{J}/notify-next")).await;
    assert_eq!(
        (&next["execution"]["jobDocument"], &next["execution"]["status"]),
        (&json!({"op": "one"}), &json!("QUEUED"))
    );
    give(&gateway, "two", 0).await;
    assert_eq!(gateway.said().await.len(), 1, "the list changed, the next did not");

    let said = ask(&mut gateway, "start-next", json!({"statusDetails": {"step": "1"}, "clientToken": "s"})).await;
    assert_eq!(topics(&said), ["start-next/accepted"], "QUEUED to IN_PROGRESS notifies nobody");
    let execution = &said[0].1["execution"];
    assert_eq!(
        (&execution["jobId"], &execution["status"], &execution["versionNumber"]),
        (&json!("one"), &json!("IN_PROGRESS"), &json!(2))
    );
    assert_eq!(execution["statusDetails"], json!({"step": "1"}));
    assert!((270..=300).contains(&execution["approximateSecondsBeforeTimedOut"].as_i64().expect("a timer runs")));
    let again = ask(&mut gateway, "start-next", json!({"statusDetails": {"step": "9"}})).await;
    assert_eq!(
        (&again[0].1["execution"]["versionNumber"], &again[0].1["execution"]["statusDetails"]),
        (&json!(2), &json!({"step": "1"}))
    );

    let update = json!({"status": "IN_PROGRESS", "expectedVersion": "2", "includeJobExecutionState": true, "includeJobDocument": true});
    let said = ask(&mut gateway, "one/update", update).await;
    assert_eq!(
        said[0].1["executionState"],
        json!({"status": "IN_PROGRESS", "versionNumber": 3, "statusDetails": {"step": "1"}})
    );
    assert_eq!(said[0].1["jobDocument"], json!({"op": "one"}));
    let mut gateway = gateway.restart().await;
    let said = ask(&mut gateway, "one/update", json!({"status": "SUCCEEDED", "statusDetails": {"ok": "yes"}})).await;
    assert_eq!(topics(&said), ["one/update/accepted", "notify", "notify-next"]);
    assert!(said[0].1.get("executionState").is_none());
    assert_eq!(said[2].1["execution"]["jobId"], "two");
    let Some(Outcome::Execution { execution, .. }) = gateway.outcomes.recv().await else { panic!("no outcome") };
    assert_eq!((execution.status, execution.job_id.as_str()), (Status::Succeeded, "one"));
    let said = ask(&mut gateway, "two/update", json!({"status": "REJECTED"})).await;
    assert_eq!(said[1].1["jobs"], json!({}), "an empty list");
    assert_eq!(said[2].1.as_object().map(|o| o.len()), Some(1), "no next one: the timestamp alone");
}

#[tokio::test]
async fn refusals_have_their_code_and_change_nothing() {
    let mut gateway = Gateway::start();
    give(&gateway, "one", 0).await;
    gateway.said().await;
    let mut refused = Vec::new();
    for (request, payload, code) in [
        ("none/get", json!({"clientToken": "x"}), "ResourceNotFound"),
        ("none/update", json!({"status": "FAILED"}), "ResourceNotFound"),
        ("one/get", json!({"executionNumber": 2}), "ResourceNotFound"),
        ("one/update", json!({}), "InvalidRequest"),
        ("one/update", json!({"status": "DONE"}), "InvalidRequest"),
        ("one/update", json!({"status": "CANCELED"}), "InvalidStateTransition"),
        ("one/update", json!({"status": "FAILED", "expectedVersion": 2}), "VersionMismatch"),
        ("one/update", json!({"status": "FAILED", "statusDetails": {"a b": "c"}}), "InvalidRequest"),
        ("one/update", json!({"status": "FAILED", "statusDetails": {"a": 5}}), "InvalidRequest"),
        ("one/update", json!({"status": "IN_PROGRESS", "stepTimeoutInMinutes": 0}), "InvalidRequest"),
        ("start-next", json!([]), "InvalidJson"),
        ("start-next", json!({"clientToken": "x".repeat(65)}), "InvalidRequest"),
        ("get", json!({"clientToken": {"a": 1}}), "InvalidRequest"),
        ("a.b/update", json!({"status": "FAILED"}), "InvalidRequest"),
    ] {
        let said = ask(&mut gateway, request, payload).await;
        assert_eq!(topics(&said), [format!("{request}/rejected")], "{request}");
        assert_eq!(said[0].1["code"], code, "{}", said[0].1);
        refused.push(said[0].1.clone());
    }
    assert_eq!(refused[0]["clientToken"], "x");
    assert!(refused[11..13].iter().all(|bad| bad.get("clientToken").is_none()), "a bad token is not said again");
    let longest = json!({"clientToken": "x".repeat(64)});
    assert_eq!(ask(&mut gateway, "get", longest.clone()).await[0].1["clientToken"], longest["clientToken"]);
    assert!(refused[3]["message"].as_str().expect("text").contains("Value null at 'status'"));
    assert_eq!(refused[6]["executionState"], json!({"status": "QUEUED", "versionNumber": 1}));
    ask(&mut gateway, "one/update", json!({"status": "SUCCEEDED"})).await;
    let said = ask(&mut gateway, "one/update", json!({"status": "IN_PROGRESS"})).await;
    assert_eq!(
        (&said[0].1["code"], &said[0].1["executionState"]["status"]),
        (&json!("InvalidStateTransition"), &json!("SUCCEEDED"))
    );
}

#[tokio::test]
async fn a_failed_job_is_tried_again_behind_the_others_and_a_later_one_started_first_is_next() {
    let mut gateway = Gateway::start();
    for id in ["one", "two"] {
        give(&gateway, id, 1).await;
    }
    gateway.said().await;
    let said = ask(&mut gateway, "two/update", json!({"status": "IN_PROGRESS"})).await;
    assert_eq!(topics(&said), ["two/update/accepted", "notify-next"], "in progress goes before queued");
    let said = ask(&mut gateway, "two/update", json!({"status": "FAILED", "includeJobExecutionState": true})).await;
    assert_eq!(said[0].1["executionState"]["status"], "FAILED");
    assert_eq!(topics(&said), ["two/update/accepted", "notify", "notify-next"]);
    let said = ask(&mut gateway, "two/get", json!({"includeJobDocument": false})).await;
    let execution = &said[0].1["execution"];
    assert_eq!((&execution["executionNumber"], &execution["status"]), (&json!(2), &json!("QUEUED")));
    assert!(execution.get("jobDocument").is_none());
    assert!(!gateway.keeper.cancel_execution(&id("d"), "none", false).await.expect("answered"));
    assert!(gateway.keeper.cancel_execution(&id("d"), "one", false).await.expect("answered"));
    assert_eq!(gateway.expect(&format!("{J}/notify-next")).await["execution"]["jobId"], "two");
}
