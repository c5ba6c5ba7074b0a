//! Request and answer vectors of the shadow service (`docs/shadow.md`).

use headgate::bus::OrderKind;
use serde_json::{Value as Json, json};

use crate::harness::Gateway;

const D: &str = "$aws/things/d/shadow";

async fn ask(gateway: &mut Gateway, operation: &str, payload: impl ToString) -> Vec<(String, Json)> {
    gateway.publish(&format!("{D}/{operation}"), payload.to_string()).await.expect("acknowledged");
    let said = gateway.said().await;
    let prefix = format!("{D}/");
    said.into_iter().filter_map(|(topic, json)| Some((topic.strip_prefix(&prefix)?.to_owned(), json))).collect()
}

fn topics(said: &[(String, Json)]) -> Vec<&str> {
    said.iter().map(|(topic, _)| topic.as_str()).collect()
}

/// Sends an update that must be rejected with `code`, alone.
async fn rejected(gateway: &mut Gateway, payload: impl ToString, code: u16, message: &str) -> Json {
    let text = payload.to_string();
    let said = ask(gateway, "update", payload).await;
    assert_eq!(topics(&said), ["update/rejected"], "{text}");
    assert_eq!(said[0].1["code"], code, "{text}: {}", said[0].1);
    if !message.is_empty() {
        assert_eq!(said[0].1["message"], message, "{text}");
    }
    said[0].1.clone()
}

#[tokio::test]
async fn the_first_update_says_documents_and_accepted_and_a_difference_says_delta_first() {
    let mut gateway = Gateway::start();
    let said =
        ask(&mut gateway, "update", json!({"state": {"reported": {"color": "blue"}}, "clientToken": "t1"})).await;
    assert_eq!(topics(&said), ["update/documents", "update/accepted"]);
    let now = said[1].1["timestamp"].as_i64().expect("whole seconds");
    assert_eq!(
        said[0].1,
        json!({"previous": null, "timestamp": now, "clientToken": "t1", "current": {
            "state": {"reported": {"color": "blue"}}, "version": 1,
            "metadata": {"reported": {"color": {"timestamp": now}}}}})
    );
    assert_eq!(
        said[1].1,
        json!({"state": {"reported": {"color": "blue"}}, "version": 1, "timestamp": now, "clientToken": "t1",
            "metadata": {"reported": {"color": {"timestamp": now}}}})
    );

    let said = ask(&mut gateway, "update", json!({"state": {"desired": {"color": "red", "n": [1, {"a": 2}]}}})).await;
    assert_eq!(topics(&said), ["update/delta", "update/documents", "update/accepted"]);
    let now = said[2].1["timestamp"].as_i64().expect("whole seconds");
    let stamp = json!({"timestamp": now});
    assert_eq!(
        said[0].1,
        json!({"version": 2, "timestamp": now, "state": {"color": "red", "n": [1, {"a": 2}]},
            "metadata": {"color": stamp, "n": [stamp, {"a": stamp}]}})
    );
    assert_eq!(said[1].1["previous"]["version"], 1);
    assert!(said[2].1.get("clientToken").is_none());

    let said = ask(&mut gateway, "get", "").await;
    assert_eq!(topics(&said), ["get/accepted"]);
    let got = &said[0].1;
    assert_eq!(got["state"]["delta"], json!({"color": "red", "n": [1, {"a": 2}]}));
    assert!(got["metadata"].get("delta").is_none());
    assert_eq!(got["version"], 2);

    // Reported agrees: no delta any more.
    let said =
        ask(&mut gateway, "update", json!({"state": {"reported": {"color": "red", "n": [1.0, {"a": 2}]}}})).await;
    assert_eq!(topics(&said), ["update/documents", "update/accepted"]);
    let said = ask(&mut gateway, "get", json!({"clientToken": "x"})).await;
    assert!(said[0].1["state"].get("delta").is_none());
    assert_eq!(said[0].1["clientToken"], "x");
}

#[tokio::test]
async fn what_is_missing_is_404_and_versions_go_on_after_a_deletion() {
    let mut gateway = Gateway::start();
    let said = ask(&mut gateway, "get", json!({"clientToken": "g"})).await;
    assert_eq!(topics(&said), ["get/rejected"]);
    assert_eq!((&said[0].1["code"], &said[0].1["clientToken"]), (&json!(404), &json!("g")));
    assert_eq!(said[0].1["message"], "No shadow exists with name: 'd'");
    assert_eq!(ask(&mut gateway, "delete", "").await[0].1["code"], 404);

    for _ in 0..3 {
        ask(&mut gateway, "update", json!({"state": {}})).await;
    }
    let said = ask(&mut gateway, "delete", json!({"clientToken": "x"})).await;
    assert_eq!(topics(&said), ["delete/accepted"]);
    assert_eq!((&said[0].1["version"], &said[0].1["clientToken"]), (&json!(3), &json!("x")));
    assert_eq!(ask(&mut gateway, "get", "").await[0].1["code"], 404);
    rejected(&mut gateway, json!({"state": {}, "version": 4}), 409, "Version conflict").await;
    let mut gateway = gateway.restart().await;
    let said = ask(&mut gateway, "update", json!({"state": {"reported": {"a": 1}}, "version": 0})).await;
    assert_eq!(said[1].1["version"], 5);
    assert_eq!(said[0].1["previous"], Json::Null);
}

#[tokio::test]
async fn null_removes_and_empty_objects_stay() {
    let mut gateway = Gateway::start();
    let state = json!({"desired": {"a": {"b": 1, "c": null}, "d": {}, "gone": null}, "reported": {"a": 5}});
    let said = ask(&mut gateway, "update", json!({ "state": state })).await;
    assert_eq!(said[2].1["state"], state, "repeated exactly as sent");
    let now = json!({"timestamp": said[2].1["timestamp"]});
    assert_eq!(said[2].1["metadata"]["desired"], json!({"a": {"b": now, "c": now}, "d": {}, "gone": now}));
    let current = &said[1].1["current"];
    assert_eq!(current["state"]["desired"], json!({"a": {"b": 1}, "d": {}}));
    assert_eq!(current["metadata"]["desired"], json!({"a": {"b": now}, "d": {}}));
    assert_eq!(said[0].1["state"], json!({"a": {"b": 1}, "d": {}}), "an empty object counts for the delta");

    let said = ask(&mut gateway, "update", json!({"state": {"desired": {}}})).await;
    assert_eq!(said[1].1["current"]["state"]["desired"], json!({"a": {"b": 1}, "d": {}}), "{{}} does not clear");
    let said = ask(&mut gateway, "update", json!({"state": {"desired": null}})).await;
    assert_eq!(topics(&said), ["update/documents", "update/accepted"]);
    assert_eq!(said[1].1["metadata"], json!({"desired": {"timestamp": said[1].1["timestamp"]}}));
    assert_eq!(said[0].1["current"]["state"], json!({"reported": {"a": 5}}));
    let said = ask(&mut gateway, "update", json!({"state": null})).await;
    assert_eq!(said[1].1["state"], Json::Null);
    assert_eq!(said[1].1["metadata"], json!({"timestamp": said[1].1["timestamp"]}));
    let said = ask(&mut gateway, "get", "").await;
    assert_eq!(
        (&said[0].1["state"], &said[0].1["metadata"], &said[0].1["version"]),
        (&json!({}), &json!({}), &json!(4))
    );
}

#[tokio::test]
async fn refusals_have_their_code_and_text_and_consume_no_version() {
    let mut gateway = Gateway::start();
    ask(&mut gateway, "update", json!({"state": {"reported": {"a": 1}}})).await;
    let deep = |levels: usize| (0..levels).fold(json!(1), |below, _| json!({ "l": below }));
    let too_deep = "JSON contains too many levels of nesting; maximum is 6";
    for (payload, code, message) in [
        ("{".to_owned(), 400, "Invalid JSON"),
        (String::new(), 400, "Invalid JSON"),
        ("[]".to_owned(), 400, ""),
        (r#"{"clientToken":5}"#.to_owned(), 400, "Invalid clientToken"),
        (json!({"clientToken": "x".repeat(65), "state": {}}).to_string(), 400, "Invalid clientToken"),
        ("{}".to_owned(), 400, "Missing required node: state"),
        (r#"{"state":5}"#.to_owned(), 400, "State node must be an object"),
        (r#"{"state":{"x":{}}}"#.to_owned(), 400, "State contains an invalid node: 'x'"),
        (r#"{"state":{"desired":5}}"#.to_owned(), 400, "Desired node must be an object"),
        (r#"{"state":{"reported":[]}}"#.to_owned(), 400, "Reported node must be an object"),
        (json!({"state": {"desired": deep(9)}}).to_string(), 400, too_deep),
        (format!("{}1{}", "[".repeat(200), "]".repeat(200)), 400, too_deep),
        (r#"{"state":{"desired":{"a":[1,null]}}}"#.to_owned(), 400, ""),
        (r#"{"state":{"desired":{"a":[{"b":null}]}}}"#.to_owned(), 400, ""),
        (r#"{"state":{},"version":"1"}"#.to_owned(), 400, "Invalid version"),
        (r#"{"state":{},"version":-1}"#.to_owned(), 400, "Invalid version"),
        (r#"{"state":{},"version":2}"#.to_owned(), 409, "Version conflict"),
        (r#"{"state":{},"version":0}"#.to_owned(), 409, "Version conflict"),
        (
            json!({"state": {"desired": {"a": "x".repeat(8200)}}}).to_string(),
            413,
            "The payload exceeds the maximum size allowed",
        ),
    ] {
        rejected(&mut gateway, payload, code, message).await;
    }
    gateway.publish(&format!("{D}/update"), &b"{\"state\":\xff}"[..]).await.expect("acknowledged");
    let said = gateway.said().await;
    assert_eq!(said[0].1["code"], 415);
    let answer = rejected(&mut gateway, json!({"clientToken": "tok"}), 400, "Missing required node: state").await;
    assert_eq!(answer["clientToken"], "tok");
    let said = ask(&mut gateway, "update", json!({"state": {"desired": deep(8)}, "version": 1, "more": 1})).await;
    assert_eq!(said[2].1["version"], 2, "eight levels are fine, no version was consumed, unknown members are ignored");
}

#[tokio::test]
async fn a_delta_names_all_that_is_outstanding_each_time_with_the_stamps_of_desired() {
    let mut gateway = Gateway::start();
    ask(
        &mut gateway,
        "update",
        json!({"state": {"desired": {"a": 1, "b": {"x": 1, "y": 2}}, "reported": {"b": {"x": 1}}}}),
    )
    .await;
    let said = ask(&mut gateway, "update", json!({"state": {"reported": {"other": 1}}})).await;
    assert_eq!(said[0].1["state"], json!({"a": 1, "b": {"y": 2}}), "members that agree are left out, the path is kept");
    ask(&mut gateway, "update", json!({"state": {"reported": {"a": 1, "b": {"y": 2}}}})).await;
    let said = ask(&mut gateway, "update", json!({"state": {"reported": {"a": null}}})).await;
    assert_eq!((said[0].0.as_str(), &said[0].1["state"]), ("update/delta", &json!({"a": 1})));
    let said = ask(&mut gateway, "update", json!({"state": {"desired": {"a": null}}})).await;
    assert_eq!(topics(&said), ["update/documents", "update/accepted"]);
    let said = ask(&mut gateway, "update", json!({"state": {"desired": {"b": "1"}}})).await;
    assert_eq!(said[0].1["state"], json!({"b": "1"}), "across types");
}

#[tokio::test]
async fn named_shadows_stand_alone_even_with_the_names_of_operations() {
    let mut gateway = Gateway::start();
    for (index, name) in ["get", "update", "name", "$a:b_c-d"].iter().enumerate() {
        let n = index as u64;
        let payload = json!({"state": {"reported": {"n": n}}}).to_string();
        gateway.publish(&format!("{D}/name/{name}/update"), payload).await.expect("acknowledged");
        let accepted = gateway.expect(&format!("{D}/name/{name}/update/accepted")).await;
        assert_eq!((&accepted["version"], &accepted["state"]["reported"]["n"]), (&json!(1), &json!(n)));
    }
    assert_eq!(ask(&mut gateway, "get", "").await[0].1["code"], 404, "the classic shadow is another");
    for (name, code) in [("x".repeat(65), 400), ("a.b".to_owned(), 400), ("headgate".to_owned(), 403)] {
        gateway.publish(&format!("{D}/name/{name}/update"), r#"{"state":{}}"#).await.expect("acknowledged");
        let rejected = gateway.expect(&format!("{D}/name/{name}/update/rejected")).await;
        assert_eq!(rejected["code"], code, "{name}");
    }
    gateway.publish(&format!("{D}/name/none/get"), "").await.expect("acknowledged");
    assert_eq!(
        gateway.expect(&format!("{D}/name/none/get/rejected")).await["message"],
        "No shadow exists with name: 'd~none'"
    );
}

#[tokio::test]
async fn orders_meet_in_the_same_document_and_repeat_without_effect() {
    let mut gateway = Gateway::start();
    let answer = gateway.order("d", OrderKind::Delta(json!({"setpoint": 21}))).await.expect("stored");
    assert_eq!(answer, json!({"version": 1, "delta": {"setpoint": 21}}));
    let delta = gateway.expect("devices/d/delta").await;
    assert_eq!(delta, json!({"setpoint": 21}));
    let answer = gateway.order("d", OrderKind::Desired(json!({"desired": {"setpoint": 21.0}}))).await.expect("stored");
    assert_eq!(answer["version"], 1, "the same again is no change");
    let conflict = gateway.order("d", OrderKind::Desired(json!({"desired": {"a": 1}, "version": 7}))).await;
    assert_eq!(conflict.expect_err("refused").message, "Version conflict");
    let wrong = gateway.order("d", OrderKind::Desired(json!({"setpoint": 21}))).await;
    assert!(wrong.expect_err("refused").message.contains("expected {\"desired\""));
    let history = gateway.store.history(None, None, 10).await.expect("history");
    assert_eq!(history.len(), 1);
    assert_eq!(
        (history[0].changes[0].path.as_str(), &history[0].changes[0].to),
        ("desired/setpoint", &Some(json!(21)))
    );
}
