//! `[[rule]]`: when a value, or its absence, is an alarm.

use std::time::Duration;

use super::read::Section;
use crate::model::{alarm, event::Severity, ids::DeviceId};

#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The type of the alarm it raises: one per device.
    pub name: String,
    /// `None`: every device that has such a value.
    pub device: Option<DeviceId>,
    /// The name of the value it watches.
    pub value: String,
    pub when: When,
    /// How long the condition must hold before the alarm is raised.
    pub hold: Duration,
    pub severity: Severity,
}

/// A limit and the value at which the alarm is cleared again: the space between them keeps it from fluttering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    Above {
        limit: f64,
        clear: f64,
    },
    Below {
        limit: f64,
        clear: f64,
    },
    /// No good value for so long.
    Absent(Duration),
}

/// Every `[[rule]]` of the file that makes sense; what does not is a problem.
pub fn read(root: &Section<'_>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for section in root.sections("rule") {
        if let Some(rule) = Rule::read(&section) {
            if alarm::OWN.contains(&rule.name.as_str()) {
                let found = format!("{:?} is the gateway's own type of alarm", rule.name);
                section.problem("name", found, "give the rule another name");
            }
            if rules.iter().any(|other| other.name == rule.name) {
                section.problem("name", format!("{:?} is the name of two rules", rule.name), "give each its own name");
            }
            rules.push(rule);
        }
    }
    rules
}

impl Rule {
    fn read(section: &Section<'_>) -> Option<Rule> {
        let name = section.required_text("name", "a short name: it becomes the type of the alarm");
        let value = section.required_text("value", "the name of a value, such as \"temperature\"");
        let device = section.parsed("device", "the id of a device; leave it out for all", |text| {
            DeviceId::new(text).map_err(|e| e.to_string())
        });
        let (above, below, absent) = (section.number("above"), section.number("below"), section.duration("absent"));
        let clear = section.number("clear");
        let hold = section.duration("for").unwrap_or_default();
        let words = Severity::ALL.map(|severity| (severity.word(), severity));
        let severity = section.choice("severity", &words).unwrap_or(Severity::Warning);
        let when = match (above, below, absent) {
            (Some(limit), None, None) => When::Above { limit, clear: clear.unwrap_or(limit) },
            (None, Some(limit), None) => When::Below { limit, clear: clear.unwrap_or(limit) },
            (None, None, Some(span)) => When::Absent(span),
            _ => {
                let hint = "one of above = 80.0, below = 5.0, absent = \"5m\"";
                section.problem("", "does not say when it is an alarm, or says so twice", hint);
                return None;
            }
        };
        match when {
            When::Above { limit, clear } if clear > limit => {
                section.problem("clear", format!("found {clear}"), format!("expected at most above = {limit}"));
            }
            When::Below { limit, clear } if clear < limit => {
                section.problem("clear", format!("found {clear}"), format!("expected at least below = {limit}"));
            }
            _ => {}
        }
        Some(Rule { name: name?, device, value: value?, when, hold, severity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    fn check(text: &str) -> (Vec<Rule>, Vec<String>) {
        let document = Document::parse("headgate.toml", text);
        let rules = read(&document.root());
        (rules, document.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_rule_is_read_and_one_that_makes_no_sense_is_a_problem() {
        let good = "[[rule]]\nname = \"hot\"\nvalue = \"temperature\"\nabove = 80\nclear = 75\nfor = \"10s\"\nseverity = \"major\"\n";
        let (rules, problems) = check(good);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(rules[0].when, When::Above { limit: 80.0, clear: 75.0 });
        assert_eq!((rules[0].severity, rules[0].hold), (Severity::Major, Duration::from_secs(10)));
        let (_, problems) = check(
            "[[rule]]\nname = \"x\"\nvalue = \"t\"\nabove = 5\nclear = 9\n[[rule]]\nname = \"x\"\nvalue = \"t\"\n",
        );
        assert!(problems.iter().any(|p| p.contains("at most above = 5")), "{problems:#?}");
        assert!(problems.iter().any(|p| p.contains("does not say when")), "{problems:#?}");
    }
}
