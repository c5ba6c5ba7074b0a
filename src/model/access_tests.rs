//! The access rules against a naive model that decides by listing every topic of a small world.

use proptest::{prelude::*, test_runner::Config};

use super::*;

const WORDS: &[&str] = &["", "a", "b", "devices", "$aws", "things", "d1", "d2", "telemetry"];

/// MQTT's matching, said again in the slowest way: by recursion over lists of levels.
fn slow_matches(filter: &[&str], topic: &[&str], first: bool) -> bool {
    let hidden = first && topic.first().is_some_and(|level| level.starts_with('$'));
    match (filter.split_first(), topic.split_first()) {
        (None, None) => true,
        (Some((&"#", _)), _) => !hidden,
        (Some((&"+", rest)), Some((_, topic))) => !hidden && slow_matches(rest, topic, false),
        (Some((word, rest)), Some((found, topic))) => word == found && slow_matches(rest, topic, false),
        _ => false,
    }
}

fn levels(text: &str) -> Vec<&str> {
    text.split('/').collect()
}

/// Every topic of up to three levels over the alphabet and one word that no filter names.
fn world() -> Vec<String> {
    let words: Vec<&str> = WORDS.iter().copied().chain(["?"]).collect();
    let mut topics: Vec<String> = words.iter().map(ToString::to_string).collect();
    let mut last = topics.clone();
    for _ in 0..2 {
        last = last.iter().flat_map(|head| words.iter().map(move |word| format!("{head}/{word}"))).collect();
        topics.extend(last.iter().cloned());
    }
    topics.retain(|topic| !topic.is_empty());
    topics
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![4 => proptest::sample::select(WORDS).prop_map(str::to_owned), 1 => Just("+".to_owned())];
    (proptest::collection::vec(level, 1..=3), proptest::bool::ANY)
        .prop_map(|(mut levels, hash)| {
            if hash {
                levels.pop();
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
        .prop_filter("not empty", |filter| !filter.is_empty())
}

fn topic() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(WORDS), 1..=4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |topic| !topic.is_empty())
}

fn grantee() -> impl Strategy<Value = Grantee> {
    prop_oneof![
        Just(Grantee::Everyone),
        proptest::sample::select(vec!["d1", "d2"]).prop_map(|d| Grantee::Device(DeviceId::new(d).expect("id"))),
        proptest::sample::select(vec!["hmi", "flow"]).prop_map(|g| Grantee::Group(g.into())),
    ]
}

fn grant() -> impl Strategy<Value = Grant> {
    let filters = || proptest::collection::vec(filter().prop_map(|f| Filter::new(&f).expect("filter")), 0..3);
    (proptest::collection::vec(grantee(), 1..3), filters(), filters()).prop_map(|(to, read, write)| Grant {
        to,
        read,
        write,
    })
}

/// The rules, naively: which filters does this identity hold, its own subtrees among them?
fn held(access: &Access, who: Who<'_>, write: bool) -> Vec<String> {
    let mut filters = vec![format!("devices/{}/#", who.device), format!("$aws/things/{}/#", who.device)];
    filters.extend(listed(&access.grants, who, write));
    filters
}

fn listed(grants: &[Grant], who: Who<'_>, write: bool) -> Vec<String> {
    let mut filters = Vec::new();
    for grant in grants {
        let mut given = false;
        for to in &grant.to {
            given |= match to {
                Grantee::Everyone => true,
                Grantee::Device(device) => device.as_str() == who.device.as_str(),
                Grantee::Group(group) => who.groups.iter().any(|g| g == group),
            };
        }
        if given {
            let list = if write { &grant.write } else { &grant.read };
            filters.extend(list.iter().map(ToString::to_string));
        }
    }
    filters
}

proptest! {
    #![proptest_config(Config { cases: 10_000, max_global_rejects: 100_000, ..Config::default() })]

    #[test]
    fn publishing_and_receiving_are_what_the_naive_model_says(
        grants in proptest::collection::vec(grant(), 0..3),
        denials in proptest::collection::vec(grant(), 0..2),
        device in proptest::sample::select(vec!["d1", "d2"]),
        groups in proptest::sample::subsequence(vec!["hmi".to_owned(), "flow".to_owned()], 0..=2),
        topic in topic(),
    ) {
        let access = Access { grants, denials };
        let device = DeviceId::new(device).expect("id");
        let who = Who { device: &device, groups: &groups };
        let root = [format!("devices/{device}"), format!("$aws/things/{device}")].contains(&topic)
            || [format!("devices/{device}/"), format!("$aws/things/{device}/")].contains(&topic);
        let hit = |write: bool| {
            let own = if root { 2 } else { 0 }; // the bare root is no topic of the subtree
            let named = |f: &String| slow_matches(&levels(f), &levels(&topic), true);
            held(&access, who, write).iter().skip(own).any(named) && !listed(&access.denials, who, write).iter().any(named)
        };
        let gateway = matches!(LocalTopic::parse(&topic), LocalTopic::GatewayOnly(_));
        prop_assert_eq!(access.may_publish(who, &topic).is_ok(), hit(true) && !gateway);
        prop_assert_eq!(access.may_receive(who, &topic), hit(false));
    }

    #[test]
    fn a_filter_covers_another_exactly_when_it_names_all_its_topics(grant in filter(), asked in filter()) {
        thread_local!(static WORLD: Vec<String> = world());
        let lacking = WORLD.with(|world| {
            world.iter().find(|topic| {
                slow_matches(&levels(&asked), &levels(topic), true) && !slow_matches(&levels(&grant), &levels(topic), true)
            }).cloned()
        });
        // The world ends at three levels, so a filter with "#" may name more than it shows: one level deeper decides.
        match (covers(&grant, &asked), lacking) {
            (true, Some(topic)) => prop_assert!(false, "{grant} is said to cover {asked}, but does not name {topic}"),
            (false, None) => {
                let deep = asked.replace('#', "x/x/x/x");
                // "+/#" against "#" names the same topics but for the one that has no level at all, which is none
                let same = grant.trim_end_matches("/#") == "+" || asked == "#" || asked.ends_with("/#");
                prop_assert!(same || !slow_matches(&levels(&grant), &levels(&deep), true), "{grant} covers {asked}");
            }
            _ => {}
        }
    }
}

#[test]
fn a_broader_subscription_is_refused_and_a_dollar_needs_its_own_grant() {
    let hmi = DeviceId::new("hmi").expect("id");
    let all = Grant {
        to: vec![Grantee::Everyone],
        read: vec![Filter::new("devices/+/telemetry").expect("f")],
        write: vec![],
    };
    let access = Access { grants: vec![all], ..Access::default() };
    let who = Who { device: &hmi, groups: &[] };
    assert!(access.may_subscribe(who, "devices/+/telemetry").is_ok());
    assert!(access.may_subscribe(who, "devices/d1/telemetry").is_ok());
    for broader in ["devices/#", "#", "devices/+/+", "devices/+/telemetry/#", "$aws/things/d1/#", "$SYS/#"] {
        assert_eq!(access.may_subscribe(who, broader), Err(Denied::Read), "{broader}");
    }
    assert!(access.may_subscribe(who, "devices/hmi/#").is_ok());
    assert!(access.may_subscribe(who, "$aws/things/hmi/shadow/+/accepted").is_ok());
    assert!(access.may_subscribe(who, "$aws/things/+/shadow/+/accepted").is_err());
}

#[test]
fn answers_cannot_be_forged_whatever_was_granted() {
    let flow = DeviceId::new("flow").expect("id");
    let all = ["#", "$aws/#", "$SYS/#"].map(|f| Filter::new(f).expect("filter"));
    let access = Access {
        grants: vec![Grant { to: vec![Grantee::Everyone], read: all.to_vec(), write: all.to_vec() }],
        ..Access::default()
    };
    let who = Who { device: &flow, groups: &[] };
    for topic in
        ["$aws/things/d1/shadow/update/accepted", "devices/flow/delta", "devices/d1/errors", "$SYS/broker/uptime"]
    {
        assert_eq!(access.may_publish(who, topic), Err(Denied::GatewayOnly), "{topic}");
    }
    assert!(access.may_publish(who, "$aws/things/d1/shadow/update").is_ok());
}

#[test]
fn a_filter_may_stand_for_whoever_asks() {
    let d1 = DeviceId::new("d1").expect("id");
    let grant = Grant { to: vec![Grantee::Everyone], read: vec![], write: vec![Filter::new("site/{d}/#").expect("f")] };
    let access = Access { grants: vec![grant], ..Access::default() };
    assert!(access.may_publish(Who { device: &d1, groups: &[] }, "site/d1/x").is_ok());
    assert!(access.may_publish(Who { device: &d1, groups: &[] }, "site/d2/x").is_err());
}

#[test]
fn the_grammar_of_filters_is_kept() {
    for good in ["#", "+", "a/+/b/#", "/", "//", "a//b", "$SYS/#", "é/+"] {
        assert_eq!(Filter::check(good), Ok(()), "{good}");
    }
    for bad in ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a\0", "##", "++"] {
        assert!(Filter::check(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_denial_goes_before_every_grant() {
    let d1 = DeviceId::new("d1").expect("id");
    let filter = |text: &str| Filter::new(text).expect("filter");
    let all = Grant { to: vec![Grantee::Everyone], read: vec![filter("#")], write: vec![filter("#")] };
    let no =
        Grant { to: vec![Grantee::Everyone], read: vec![filter("site/secret/#")], write: vec![filter("devices/d1/x")] };
    let access = Access { grants: vec![all], denials: vec![no] };
    let who = Who { device: &d1, groups: &[] };
    assert!(access.may_subscribe(who, "site/secret/+").is_err());
    assert!(access.may_subscribe(who, "#").is_ok() && access.denied(who, "site/secret/a"));
    assert!(!access.may_receive(who, "site/secret/a") && access.may_receive(who, "site/a"));
    assert_eq!(access.may_publish(who, "devices/d1/x"), Err(Denied::Write));
}
