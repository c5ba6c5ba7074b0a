//! `access.toml`: extra grants on the local broker, beside a child's own subtree.
//!
//! ```toml
//! [[grant]]
//! to = ["group:hmi", "device:panel-1"]     # or "everyone"
//! read = ["devices/+/telemetry", "devices/+/state"]
//! write = ["site/setpoints/#"]
//!
//! [[deny]]                                 # goes before every grant
//! to = ["everyone"]
//! read = ["site/secret/#"]
//! ```

use super::read::Section;
use crate::model::{
    access::{Access, Filter, Grant, Grantee},
    ids::DeviceId,
};

const WHO: &str = "write \"everyone\", \"device:pump-7\" or \"group:hmi\"";

/// Reads the whole file: its root is the section.
pub fn read(root: &Section<'_>) -> Access {
    let grants = root.sections("grant").iter().map(grant).collect();
    let denials = root.sections("deny").iter().map(grant).collect();
    Access { grants, denials }
}

fn grant(section: &Section<'_>) -> Grant {
    let mut to = Vec::new();
    if !section.has("to") {
        section.problem("to", "is missing", format!("say who is meant: {WHO}"));
    }
    for text in section.texts("to") {
        match grantee(&text) {
            Ok(who) => to.push(who),
            Err(why) => section.problem("to", format!("{text:?}: {why}"), WHO),
        }
    }
    let read = filters(section, "read");
    let write = filters(section, "write");
    if !section.has("read") && !section.has("write") {
        section.problem("read", "and write are both missing", "list the topic filters that are granted");
    }
    Grant { to, read, write }
}

fn grantee(text: &str) -> Result<Grantee, String> {
    match text.split_once(':') {
        None if text == "everyone" => Ok(Grantee::Everyone),
        Some(("device", id)) => DeviceId::new(id).map(Grantee::Device).map_err(|e| e.to_string()),
        Some(("group", group)) if !group.is_empty() => Ok(Grantee::Group(group.to_owned())),
        _ => Err("is nobody".into()),
    }
}

fn filters(section: &Section<'_>, key: &'static str) -> Vec<Filter> {
    let mut filters = Vec::new();
    for text in section.texts(key) {
        match Filter::new(&text) {
            Ok(_) if text.starts_with("$share/") => {
                section.problem(key, format!("{text:?}"), "leave out $share/{group}/: a grant counts for shared subscriptions too");
            }
            Ok(filter) => filters.push(filter),
            Err(why) => section.problem(
                key,
                format!("{text:?}: {why}"),
                "write a topic filter such as \"devices/+/telemetry\" or \"site/#\"; {d} as a level is the asker's own id",
            ),
        }
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Document;

    fn check(text: &str) -> (Access, Vec<String>) {
        let document = Document::parse("access.toml", text);
        let access = read(&document.root());
        (access, document.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn grants_are_read() {
        let (access, problems) = check(
            "[[grant]]\nto = [\"group:hmi\", \"everyone\", \"device:a:b\"]\nread = [\"devices/+/telemetry\"]\n[[grant]]\nto = [\"device:x\"]\nwrite = [\"a/#\"]\n",
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(access.grants.len(), 2);
        assert_eq!(access.grants[0].to[2], Grantee::Device(DeviceId::new("a:b").expect("id")));
    }

    #[test]
    fn every_problem_is_named() {
        let (_, problems) = check(
            "[[grant]]\nto = [\"hmi\"]\nread = [\"a/#/b\"]\n[[grant]]\nreed = [\"x\"]\n[[grant]]\nto = [\"everyone\"]\nread = [\"$share/g/x\"]\n",
        );
        assert_eq!(problems.len(), 6, "{problems:#?}");
        assert!(problems.iter().any(|p| p.contains("did you mean \"read\"?")), "{problems:#?}");
    }
}
