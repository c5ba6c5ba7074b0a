//! The laws of the three-way merge: both sides end equal, nothing that only one side changed is lost.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        (0..3_i64).prop_map(Json::from),
        Just(json!("t")),
        Just(json!(true)),
        Just(json!([1, 2])),
        Just(json!([])),
    ];
    leaf.prop_recursive(3, 12, 3, |below| {
        prop::collection::btree_map("[abc]", below, 0..3).prop_map(|map| Json::Object(map.into_iter().collect()))
    })
}

fn section() -> impl Strategy<Value = Map<String, Json>> {
    prop::collection::btree_map("[abcd]", value(), 0..4).prop_map(|map| map.into_iter().collect())
}

fn sections() -> impl Strategy<Value = Sections> {
    (section(), section()).prop_map(|(desired, reported)| Sections { desired, reported })
}

fn policy() -> impl Strategy<Value = Policy> {
    let side = || prop_oneof![Just(Side::Here), Just(Side::There)];
    (side(), side()).prop_map(|(desired, reported)| Policy { desired, reported })
}

/// What a side holds after a step.
fn after(side: Option<&Sections>, step: &Option<Step>) -> Option<Sections> {
    match step {
        None => side.cloned(),
        Some(Step::Delete) => None,
        Some(Step::Update(state)) => {
            let mut values = side.cloned().unwrap_or_default();
            values.apply(state);
            Some(values)
        }
    }
}

proptest! {
    #[test]
    fn both_sides_end_with_what_was_merged_and_a_second_time_nothing_is_left_to_do(
        base in prop::option::of(sections()), here in prop::option::of(sections()),
        there in prop::option::of(sections()), policy in policy()
    ) {
        let done = reconcile(base.as_ref(), here.as_ref(), there.as_ref(), policy);
        let (mine, theirs) = (after(here.as_ref(), &done.here), after(there.as_ref(), &done.there));
        prop_assert_eq!(&mine, &done.merged);
        prop_assert_eq!(&theirs, &done.merged);
        let again = reconcile(done.merged.as_ref(), mine.as_ref(), theirs.as_ref(), policy);
        prop_assert_eq!((again.here, again.there, again.conflicts.len()), (None, None, 0));
        // Also against what both agree on, whatever it was before.
        let agreed = Sections::agreed(&base.unwrap_or_default(), &mine.clone().unwrap_or_default(), &theirs.unwrap_or_default());
        prop_assert!(agreed.same(&mine.unwrap_or_default()));
    }

    #[test]
    fn what_only_one_side_changed_is_what_both_will_hold(base in sections(), edited in sections(), policy in policy()) {
        for (here, there) in [(&edited, &base), (&base, &edited)] {
            let done = reconcile(Some(&base), Some(here), Some(there), policy);
            prop_assert_eq!(done.merged.as_ref(), Some(&edited));
            prop_assert!(done.conflicts.is_empty());
        }
    }

    #[test]
    fn an_update_request_makes_one_document_of_the_other(from in sections(), to in sections()) {
        let mut values = from.clone();
        match from.update_to(&to) {
            Some(state) => values.apply(&state),
            None => prop_assert!(from.same(&to)),
        }
        prop_assert!(values.same(&to), "{:?}", values);
    }

    #[test]
    fn the_values_of_an_update_are_those_the_store_would_hold(from in sections(), to in sections()) {
        use super::super::{Limits, Request, Slot, merge};
        use crate::model::time::Millis;
        let limits = Limits { state_bytes: 1 << 20, depth: 64 };
        let put = |slot: &Slot, state: Json| {
            let request = Request::from_json(json!({ "state": state }), &limits).expect("a request");
            merge(slot, request, Millis(0), &limits).expect("accepted").current
        };
        let first = put(&Slot::Absent, json!({ "desired": from.desired, "reported": from.reported }));
        prop_assert!(Sections::from(&*first).same(&from));
        if let Some(state) = from.update_to(&to) {
            let second = put(&Slot::Live(first), state);
            prop_assert!(Sections::from(&*second).same(&to));
        }
    }
}

#[test]
fn each_section_has_its_own_winner_and_members_beside_it_are_kept() {
    let of = |desired: Json, reported: Json| Sections::from_state(&json!({ "desired": desired, "reported": reported }));
    let base = of(json!({"setpoint": 20, "mode": {"a": 1, "b": 1}}), json!({"temp": 1, "gone": 1}));
    let here = of(json!({"setpoint": 21, "mode": {"a": 2, "b": 1}}), json!({"temp": 2, "gone": 1, "new": 1}));
    let there = of(json!({"setpoint": 22, "mode": {"a": 1, "b": 3}}), json!({"temp": 3}));
    let done = reconcile(Some(&base), Some(&here), Some(&there), Policy::default());
    assert_eq!(done.merged, Some(of(json!({"setpoint": 22, "mode": {"a": 2, "b": 3}}), json!({"temp": 2, "new": 1}))));
    assert_eq!(
        done.here,
        Some(Step::Update(json!({"desired": {"setpoint": 22, "mode": {"b": 3}}, "reported": {"gone": null}})))
    );
    assert_eq!(
        done.there,
        Some(Step::Update(json!({"desired": {"mode": {"a": 2}}, "reported": {"new": 1, "temp": 2}})))
    );
    let paths: Vec<_> = done.conflicts.iter().map(|c| (c.path.as_str(), c.winner)).collect();
    assert_eq!(paths, [("desired/setpoint", Side::There), ("reported/temp", Side::Here)]);
}

#[test]
fn a_deletion_reaches_the_other_side_unless_that_one_wrote_meanwhile() {
    let values = |n: i64| Sections::from_state(&json!({"reported": {"n": n, "still": 1}}));
    let done = reconcile(Some(&values(1)), Some(&values(1)), None, Policy::default());
    assert_eq!((done.merged, done.here, done.there), (None, Some(Step::Delete), None));
    let done = reconcile(Some(&values(1)), None, Some(&values(1)), Policy::default());
    assert_eq!((done.merged, done.here, done.there), (None, None, Some(Step::Delete)));
    // Deleted there while the device reported here: what it reported since comes back, and only that.
    let done = reconcile(Some(&values(1)), Some(&values(2)), None, Policy::default());
    assert_eq!(done.merged, Some(Sections::from_state(&json!({"reported": {"n": 2}}))));
    assert_eq!(done.there, Some(Step::Update(json!({"reported": {"n": 2}}))));
    let done = reconcile(None, Some(&Sections::default()), None, Policy::default());
    assert_eq!(done.there, Some(Step::Update(json!({}))), "an empty shadow is a shadow");
}
