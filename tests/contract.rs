//! The contract for programs (`docs/asyncapi.json`) is the one for people (`docs/mqtt.md`), and the one the gateway keeps.

use std::collections::BTreeSet;

use headgate::model::topic::LocalTopic;
use serde_json::Value as Json;

fn contract() -> Json {
    serde_json::from_str(include_str!("../docs/asyncapi.json")).expect("docs/asyncapi.json is JSON")
}

/// (address, message, whether the gateway takes it in) of every channel on `side`.
fn channels(contract: &Json, side: &str) -> Vec<(String, String, bool)> {
    let all = contract["channels"].as_object().expect("channels");
    let own = all.iter().filter(|(key, _)| key.starts_with(side));
    let one = |(key, channel): (&String, &Json)| {
        let message = channel["messages"].as_object().expect("messages").keys().next().expect("one").clone();
        let taken = contract["operations"][key]["action"] == "receive";
        (channel["address"].as_str().expect("an address").to_owned(), message, taken)
    };
    own.map(one).collect()
}

#[test]
fn a_child_may_say_what_the_gateway_receives_and_nothing_that_the_gateway_says() {
    let contract = contract();
    let channels = channels(&contract, "child.");
    assert!(channels.len() > 10, "{channels:?}");
    for (address, _, taken) in channels {
        let topic = address.replace("{device}", "pump-7").replace("{name}", "blink");
        match LocalTopic::parse(&topic) {
            LocalTopic::Ingest(..) | LocalTopic::Renewal(_) => {
                assert!(taken, "{topic} is taken in, the contract says it is said")
            }
            LocalTopic::GatewayOnly(_) => assert!(!taken, "{topic} belongs to the gateway, the contract takes it in"),
            LocalTopic::Plain => panic!("{topic} means nothing to the broker"),
        }
    }
}

/// The topics below a device's root in the first column of the tables between two headings of `docs/mqtt.md`.
fn tables(from: &str, to: &str) -> BTreeSet<String> {
    let people = include_str!("../docs/mqtt.md");
    let (_, section) = people.split_once(from).expect(from);
    let (section, _) = section.split_once(to).expect(to);
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let below = words.map(|topic| topic.trim_start_matches("devices/{d}/").replace("{jobId}", "{job}"));
    below.filter(|topic| !topic.starts_with(['$', '{', '['])).collect()
}

#[test]
fn both_contracts_name_the_same_topics() {
    for (side, from, to) in
        [("child.", "## 1. Children", "## 2. Cloud"), ("cloud.", "## 2. Cloud", "**The gateway's heartbeat**")]
    {
        let mut people = tables(from, to);
        if side == "cloud." {
            people.extend(tables("**Down**", "## 3. Diagnostics"));
        }
        let channels = channels(&contract(), side).into_iter();
        let programs = channels.map(|(address, ..)| address.trim_start_matches("devices/{device}/").to_owned());
        assert_eq!(people, programs.collect(), "{side}");
    }
}

#[test]
fn every_example_holds_what_its_message_requires() {
    let contract = contract();
    for (name, message) in contract["components"]["messages"].as_object().expect("messages") {
        for example in message["examples"].as_array().into_iter().flatten() {
            for member in message["payload"]["required"].as_array().into_iter().flatten() {
                let member = member.as_str().expect("a name");
                assert!(example["payload"].get(member).is_some(), "the example of {name} lacks {member}");
            }
        }
    }
}
