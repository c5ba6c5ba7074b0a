//! The laws of a shadow, for any document and any row of requests.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::*;

const LIMITS: Limits = Limits { state_bytes: 2048, depth: 8 };

fn leaf() -> impl Strategy<Value = Json> {
    prop_oneof![
        (-3..3_i64).prop_map(Json::from),
        any::<f64>().prop_filter("a number of JSON", |f| f.is_finite()).prop_map(|f| json!(f)),
        any::<f32>().prop_filter("a number of JSON", |f| f.is_finite()).prop_map(|f| json!(f)),
        "[a-zé\"\\\\]{0,6}".prop_map(Json::from),
        any::<bool>().prop_map(Json::from),
        Just(json!([])),
        Just(json!([1, [2, {"x": true}]])),
        Just(json!({})),
    ]
}

/// A value, with nulls among its members where `nulls`.
fn value(nulls: bool) -> BoxedStrategy<Json> {
    let leaf = match nulls {
        true => prop_oneof![4 => leaf(), 1 => Just(Json::Null)].boxed(),
        false => leaf().boxed(),
    };
    leaf.prop_recursive(4, 16, 3, |below| {
        prop::collection::btree_map("[abc]", below, 0..3).prop_map(|map| Json::Object(map.into_iter().collect()))
    })
    .boxed()
}

fn section(nulls: bool) -> impl Strategy<Value = Json> {
    let members = prop::collection::btree_map("[abcd]", value(nulls), 0..4);
    members.prop_map(|map| Json::Object(map.into_iter().collect()))
}

fn state() -> impl Strategy<Value = Json> {
    let patch = || prop_oneof![8 => section(true).prop_map(Some), 1 => Just(Some(Json::Null)), 3 => Just(None)];
    let sections = (patch(), patch()).prop_map(|(desired, reported)| {
        let named = [("desired", desired), ("reported", reported)];
        Json::Object(named.into_iter().filter_map(|(name, patch)| Some((name.to_owned(), patch?))).collect())
    });
    prop_oneof![12 => sections, 1 => Just(Json::Null)]
}

fn request(state: &Json) -> Request {
    Request::parse(json!({ "state": state }).to_string().as_bytes(), &LIMITS)
        .expect("a request that is right in itself")
}

fn put(slot: &Slot, state: &Json, now: i64) -> Result<Outcome, Rejection> {
    merge(slot, request(state), Millis(now * 1000), &LIMITS)
}

fn live(states: &[Json]) -> Slot {
    let mut slot = Slot::Absent;
    for (at, state) in states.iter().enumerate() {
        if let Ok(outcome) = put(&slot, state, at as i64) {
            slot = Slot::Live(outcome.current);
        }
    }
    slot
}

/// The metadata a document should show: its structure, with a stamp in place of each value.
fn follows(values: &Json, metadata: &Json) -> bool {
    match (values, metadata) {
        (Json::Object(values), Json::Object(metadata)) => {
            values.len() == metadata.len()
                && values.iter().all(|(name, value)| metadata.get(name).is_some_and(|below| follows(value, below)))
        }
        (Json::Array(values), Json::Array(metadata)) => {
            values.len() == metadata.len() && values.iter().zip(metadata).all(|(value, below)| follows(value, below))
        }
        (_, Json::Object(stamp)) => stamp.len() == 1 && stamp.get("timestamp").is_some_and(Json::is_i64),
        _ => false,
    }
}

fn nulls_are_gone(values: &Json) -> bool {
    match values {
        Json::Null => false,
        Json::Object(members) => members.values().all(nulls_are_gone),
        _ => true,
    }
}

/// Whether `patch`'s nulls are absent from `values`.
fn removed(patch: &Map<String, Json>, values: &Map<String, Json>) -> bool {
    patch.iter().all(|(name, value)| match (value, values.get(name)) {
        (Json::Null, found) => found.is_none(),
        (Json::Object(below), Some(Json::Object(values))) => removed(below, values),
        (Json::Object(_), _) => false,
        (value, Some(found)) => tree::same(value, found),
        _ => false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_same_request_twice_changes_nothing_more_than_the_version(
        before in prop::collection::vec(state(), 0..4), state in state()
    ) {
        let slot = live(&before);
        let Ok(once) = put(&slot, &state, 10) else { return Ok(()) };
        let twice = put(&Slot::Live(once.current.clone()), &state, 20).expect("as large as before");
        prop_assert_eq!(twice.current.version, once.current.version + 1);
        prop_assert!(twice.current.desired.same_values(&once.current.desired));
        prop_assert!(twice.current.reported.same_values(&once.current.reported));
        prop_assert!(!twice.changed() && twice.changes(64).is_empty());
    }

    #[test]
    fn nothing_is_open_after_what_is_desired_was_reported(before in prop::collection::vec(state(), 0..4)) {
        let Slot::Live(document) = live(&before) else { return Ok(()) };
        let delta = Json::Object(document.delta().to_map());
        // A part of what is desired, and enough to report.
        prop_assert!(document.delta().difference(&document.desired).is_empty());
        let limits = Limits { state_bytes: 1 << 20, ..LIMITS };
        for reported in [delta, Json::Object(document.desired())] {
            let request = Request::from_json(json!({"state": {"reported": reported}}), &limits).expect("right");
            let after = merge(&Slot::Live(document.clone()), request, Millis(0), &limits).expect("accepted").current;
            // Where an object is wanted in which less is reported, only members that are not wanted may be more.
            prop_assert!(after.delta().is_empty(), "{:?}", after);
        }
    }

    #[test]
    fn versions_rise_by_one_whatever_is_asked_and_over_deletions(states in prop::collection::vec(prop::option::of(state()), 1..12)) {
        let (mut slot, mut last) = (Slot::Absent, 0);
        for state in states {
            match (state, &slot) {
                (Some(state), _) => {
                    let wrong = Request { version: Some(last + 7), ..request(&state) };
                    prop_assert_eq!(merge(&slot, wrong, Millis(0), &LIMITS).expect_err("a conflict").code, 409);
                    if let Ok(outcome) = put(&slot, &state, 0) {
                        prop_assert_eq!(outcome.current.version, last + 1);
                        slot = Slot::Live(outcome.current);
                        last += 1;
                    }
                }
                (None, Slot::Live(document)) => {
                    last = document.version + 1;
                    slot = Slot::Tombstone { version: last, at: Millis(0) };
                }
                (None, _) => {}
            }
        }
    }

    #[test]
    fn null_removes_and_is_never_stored(before in prop::collection::vec(state(), 0..4), state in state()) {
        let slot = live(&before);
        let Ok(outcome) = put(&slot, &state, 10) else { return Ok(()) };
        for (name, values) in [("desired", outcome.current.desired()), ("reported", outcome.current.reported())] {
            prop_assert!(nulls_are_gone(&Json::Object(values.clone())));
            match state.get(name) {
                Some(Json::Object(patch)) => prop_assert!(removed(patch, &values), "{patch:?} {values:?}"),
                Some(Json::Null) => prop_assert!(values.is_empty()),
                _ if state.is_null() => prop_assert!(values.is_empty()),
                _ => {}
            }
        }
    }

    #[test]
    fn metadata_has_the_structure_of_the_values_everywhere(before in prop::collection::vec(state(), 0..4), state in state()) {
        let slot = live(&before);
        let Ok(outcome) = put(&slot, &state, 10) else { return Ok(()) };
        let parse = |bytes: Vec<u8>| serde_json::from_slice::<Json>(&bytes).expect("an answer is JSON");
        let accepted = parse(outcome.accepted());
        prop_assert!(follows(&accepted["state"], &accepted["metadata"]), "{}", accepted);
        let got = parse(got(&outcome.current, Millis(0), None));
        let mut shown = got["state"].clone();
        let delta = shown.as_object_mut().and_then(|shown| shown.remove("delta"));
        prop_assert!(follows(&shown, &got["metadata"]), "{}", got);
        prop_assert_eq!(delta.is_none(), outcome.current.delta().is_empty());
        let documents = parse(outcome.documents());
        prop_assert!(follows(&documents["current"]["state"], &documents["current"]["metadata"]));
        prop_assert_eq!(&documents["current"]["state"], &shown);
        if let Some(message) = outcome.delta_message(&outcome.current.delta()) {
            let message = parse(message);
            prop_assert!(follows(&message["state"], &message["metadata"]));
            prop_assert_eq!(Some(&message["state"]), delta.as_ref());
        }
    }

    #[test]
    fn what_is_stored_is_read_back_with_its_stamps(before in prop::collection::vec(state(), 1..5)) {
        let Slot::Live(document) = live(&before) else { return Ok(()) };
        let back = Document::decode(&document.encode(), document.version);
        prop_assert_eq!(back.as_ref(), Ok(&*document));
    }

    #[test]
    fn a_document_grows_beyond_no_limit(states in prop::collection::vec(state(), 1..20), limit in 20..200_usize) {
        let limits = Limits { state_bytes: limit, ..LIMITS };
        let mut slot = Slot::Absent;
        for state in states {
            let before = slot.live().map_or(0, |document| document.state_bytes());
            match merge(&slot, request(&state), Millis(0), &limits) {
                Ok(outcome) => {
                    let text = |map: Map<String, Json>| if map.is_empty() { 0 } else { Json::Object(map).to_string().len() };
                    let bytes = outcome.current.state_bytes();
                    prop_assert_eq!(bytes, text(outcome.current.desired()) + text(outcome.current.reported()));
                    prop_assert!(bytes <= limit || bytes <= before);
                    slot = Slot::Live(outcome.current);
                }
                Err(rejection) => prop_assert_eq!(rejection.code, 413),
            }
        }
    }

    #[test]
    fn no_bytes_are_too_strange_to_be_answered(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,a-z0-9\\\\]{0,60}") {
        for payload in [bytes, text.into_bytes()] {
            let _ = token_of(&payload);
            if let Err(rejection) = Request::parse(&payload, &LIMITS) {
                prop_assert!(matches!(rejection.code, 400 | 415));
                prop_assert!(serde_json::from_slice::<Json>(&rejection.to_bytes(Millis(0))).is_ok());
            }
        }
    }
}
