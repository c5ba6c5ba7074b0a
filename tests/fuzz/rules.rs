//! Ten thousand cases of (who, rules, action, topic or filter) against a model that knows nothing of the matcher: it
//! lists what the gateway alone says, takes filters apart by recursion, and judges a subscription by topics it names.

use headgate::{
    config::{access, read::Document},
    model::{
        access::{Access, Who},
        ids::DeviceId,
    },
};

use super::mutate::Mutator;

const CASES: u32 = 10_000;
const DEVICES: [&str; 3] = ["d1", "d2", "panel"];
const GROUPS: [&str; 2] = ["hmi", "flow"];

/// One `[[grant]]` or `[[deny]]`.
struct Rule {
    to: Vec<String>,
    read: Vec<String>,
    write: Vec<String>,
}

fn pick<'w>(random: &mut Mutator, words: &[&'w str]) -> &'w str {
    words[random.below(words.len())]
}

fn filter(random: &mut Mutator) -> String {
    let heads = ["devices", "site", "$aws/things", "$SYS/broker", "+", "x"];
    let mut levels = vec![pick(random, &heads).to_owned()];
    for _ in 0..random.below(4) {
        levels.push(
            pick(random, &["d1", "d2", "{d}", "+", "telemetry", "state", "shadow", "update", "a", ""]).to_owned(),
        );
    }
    match random.below(4) {
        0 => levels.push("#".to_owned()),
        1 if levels.len() == 1 => levels[0] = "#".to_owned(),
        _ => {}
    }
    // "+/#" names what "#" names, but for nothing at all: a difference without a topic.
    if levels == ["+", "#"] { "#".to_owned() } else { levels.join("/") }
}

fn topic(random: &mut Mutator) -> String {
    let id = pick(random, &["d1", "d2", "panel", "nobody"]);
    match random.below(5) {
        0 => format!(
            "devices/{id}/{}",
            pick(
                random,
                &[
                    "telemetry",
                    "state",
                    "delta",
                    "errors",
                    "commands/go",
                    "commands/go/response",
                    "update/command",
                    "status",
                    "own/x"
                ]
            )
        ),
        1 => format!(
            "$aws/things/{id}/{}",
            pick(
                random,
                &[
                    "shadow/update",
                    "shadow/update/accepted",
                    "shadow/update/rejected",
                    "shadow/update/delta",
                    "shadow/update/documents",
                    "shadow/name/n/get",
                    "shadow/name/n/get/accepted",
                    "shadow/name/get/delete",
                    "jobs/get",
                    "jobs/notify",
                    "jobs/j1/update",
                    "jobs/j1/update/accepted",
                    "anything"
                ]
            )
        ),
        2 => format!("site/{}", pick(random, &["a", "d1", "d2/x", "a/telemetry", ""])),
        3 => format!("{}/{id}", pick(random, &["devices", "$aws/things", "$SYS/broker", "x", "$SYS"])),
        _ => filter(random).replace(['+', '#'], "a").replace("{d}", id),
    }
}

fn rule(random: &mut Mutator) -> Rule {
    let names = ["everyone", "device:d1", "device:d2", "device:panel", "group:hmi", "group:flow"];
    let to = (0..=random.below(2)).map(|_| pick(random, &names).to_owned()).collect();
    let mut filters = || (0..random.below(3)).map(|_| filter(random)).collect::<Vec<_>>();
    Rule { to, read: filters(), write: filters() }
}

fn toml(name: &str, rule: &Rule) -> String {
    let list = |items: &[String]| items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ");
    let mut text = format!("[[{name}]]\nto = [{}]\n", list(&rule.to));
    for (key, filters) in [("read", &rule.read), ("write", &rule.write)] {
        if !filters.is_empty() {
            text += &format!("{key} = [{}]\n", list(filters));
        }
    }
    text
}

/// MQTT 4.7 by recursion; a wildcard at the very front does not see `$`.
fn names(filter: &[&str], topic: &[&str], first: bool) -> bool {
    let hidden = first && topic.first().is_some_and(|level| level.starts_with('$'));
    match (filter, topic) {
        ([], []) => true,
        (["#"], _) => !hidden,
        (["+", filter @ ..], [_, topic @ ..]) => !hidden && names(filter, topic, false),
        ([word, filter @ ..], [found, topic @ ..]) => word == found && names(filter, topic, false),
        _ => false,
    }
}

fn named(filter: &str, topic: &str) -> bool {
    names(&filter.split('/').collect::<Vec<_>>(), &topic.split('/').collect::<Vec<_>>(), true)
}

/// What `filter` names, as examples no rule was written for: if a rule names all of them, it names everything.
fn examples(filter: &str) -> Vec<String> {
    let plain: Vec<&str> = filter.split('/').map(|level| if level == "+" { "zz" } else { level }).collect();
    match plain.split_last() {
        Some((&"#", front)) => (usize::from(front.is_empty())..6)
            .map(|more| front.iter().copied().chain(std::iter::repeat_n("zz", more)).collect::<Vec<_>>().join("/"))
            .collect(),
        _ => vec![plain.join("/")],
    }
}

/// What only the gateway says, listed.
fn gateways(topic: &str) -> bool {
    let levels: Vec<&str> = topic.split('/').collect();
    match levels[..] {
        ["$SYS", _, ..] => true,
        ["devices", id, ref rest @ ..] if DeviceId::new(id).is_ok() => matches!(
            rest,
            ["delta" | "errors" | "status"]
                | ["update", "command" | "chunk"]
                | ["config", "desired"]
                | ["diagnostics", "request"]
                | ["commands", _]
        ),
        ["$aws", "things", id, ref rest @ ..] if DeviceId::new(id).is_ok() && !rest.is_empty() => !matches!(
            rest,
            ["shadow", "get" | "update" | "delete"]
                | ["shadow", "name", _, "get" | "update" | "delete"]
                | ["jobs", "get" | "start-next"]
                | ["jobs", _, "get" | "update"]
        ),
        _ => false,
    }
}

struct Model<'m> {
    grants: &'m [Rule],
    denials: &'m [Rule],
    device: &'m str,
    groups: &'m [String],
}

impl Model<'_> {
    fn given<'r>(&self, rules: &'r [Rule], write: bool) -> Vec<String> {
        let mine = |rule: &&'r Rule| {
            rule.to.iter().any(|to| {
                *to == "everyone"
                    || *to == format!("device:{}", self.device)
                    || self.groups.iter().any(|group| *to == format!("group:{group}"))
            })
        };
        let filters = rules.iter().filter(mine).flat_map(|rule| if write { &rule.write } else { &rule.read });
        filters.map(|filter| self.spelled(filter)).collect()
    }

    fn spelled(&self, filter: &str) -> String {
        filter.split('/').map(|level| if level == "{d}" { self.device } else { level }).collect::<Vec<_>>().join("/")
    }

    /// Below the device's own roots, and not a root itself.
    fn own(&self, topic: &str) -> bool {
        let roots = [format!("devices/{}/", self.device), format!("$aws/things/{}/", self.device)];
        roots.iter().any(|root| topic.starts_with(root.as_str()) && topic.len() > root.len())
    }

    fn publishes(&self, topic: &str) -> bool {
        let hit = |rules| self.given(rules, true).iter().any(|filter| named(filter, topic));
        !gateways(topic) && !hit(self.denials) && (self.own(topic) || hit(self.grants))
    }

    fn subscribes(&self, filter: &str) -> bool {
        let examples = examples(filter);
        let covered = |rules| {
            let filters = self.given(rules, false);
            filters.iter().any(|rule| examples.iter().all(|topic| named(rule, topic)))
        };
        !covered(self.denials) && (self.own(filter) || covered(self.grants))
    }
}

#[test]
fn ten_thousand_cases_are_decided_as_the_model_decides_them() {
    let mut random = Mutator::new(20_240_601, &[]);
    let mut allowed = [0_u32; 3];
    for case in 0..CASES {
        let grants: Vec<Rule> = (0..random.below(4)).map(|_| rule(&mut random)).collect();
        let denials: Vec<Rule> = (0..random.below(2)).map(|_| rule(&mut random)).collect();
        // By the way of the file, as people write it.
        let text: String =
            grants.iter().map(|r| toml("grant", r)).chain(denials.iter().map(|r| toml("deny", r))).collect();
        let document = Document::parse("access.toml", &text);
        let access: Access = access::read(&document.root());
        let problems = document.into_problems();
        // A grant of nothing is a mistake that is told; the model gives nothing either.
        assert!(problems.iter().all(|p| p.to_string().contains("read")), "{text}{problems:?}");

        let device = pick(&mut random, &DEVICES);
        let groups: Vec<String> =
            GROUPS.iter().filter(|_| random.below(2) == 0).map(|group| (*group).to_owned()).collect();
        let model = Model { grants: &grants, denials: &denials, device, groups: &groups };
        let id = DeviceId::new(device).expect("an id");
        let who = Who { device: &id, groups: &groups };
        let (topic, asked) = (topic(&mut random), filter(&mut random).replace("{d}", device));
        let told = format!("case {case}: {device} {groups:?}, topic {topic:?}, filter {asked:?}, rules\n{text}");
        // A will is a publish that is said later: the same rule.
        assert_eq!(access.may_publish(who, &topic).is_ok(), model.publishes(&topic), "publish, {told}");
        assert_eq!(access.may_receive(who, &topic), model.subscribes(&topic), "receive, {told}");
        assert_eq!(access.may_subscribe(who, &asked).is_ok(), model.subscribes(&asked), "subscribe, {told}");
        allowed[0] += u32::from(model.publishes(&topic));
        allowed[1] += u32::from(model.subscribes(&topic));
        allowed[2] += u32::from(model.subscribes(&asked));
    }
    // Both answers are frequent, so that neither is right by chance.
    assert!(allowed.iter().all(|n| (CASES / 20..CASES * 19 / 20).contains(n)), "{allowed:?} of {CASES}");
}
