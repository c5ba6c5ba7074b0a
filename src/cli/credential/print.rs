//! Credentials and refused logins as tables for people.

use serde_json::Value as Json;

use crate::cli::status::plain;

pub fn refused(found: &[Json]) {
    if found.is_empty() {
        println!("nobody was refused since the gateway started");
        return;
    }
    println!("{:<22}{:<24}{:<18}{:>6}  WHY", "LAST", "DEVICE", "ADDRESS", "TIMES");
    for one in found {
        let column = |name: &str| match one[name].as_str() {
            Some(text) => plain(text),
            None => "-".into(),
        };
        println!(
            "{:<22}{:<24}{:<18}{:>6}  {}",
            time(&one["last"]),
            column("device"),
            column("address"),
            one["count"].as_u64().unwrap_or(0),
            column("text")
        );
    }
}

pub fn list(found: &[Json]) {
    if found.is_empty() {
        println!("no credentials yet; `headgate credential issue DEVICE` makes one");
        return;
    }
    println!("{:<14}{:<24}{:<13}{:<10}{:<22}{:<22}LAST USED", "ID", "DEVICE", "KIND", "STATE", "EXPIRES", "RENEW FROM");
    for one in found {
        let column = |name: &str| plain(&text(one, name));
        println!(
            "{:<14}{:<24}{:<13}{:<10}{:<22}{:<22}{}",
            column("id"),
            column("device"),
            column("kind"),
            column("standing"),
            time(&one["expires"]),
            time(&one["renewAfter"]),
            time(&one["lastUsed"])
        );
    }
}

pub fn text(document: &Json, name: &str) -> String {
    document[name].as_str().unwrap_or_default().to_owned()
}

/// Unix milliseconds as UTC.
pub fn time(millis: &Json) -> String {
    let stamp = millis.as_i64().and_then(|millis| jiff::Timestamp::from_second(millis.div_euclid(1000)).ok());
    stamp.map_or("-".into(), |stamp| stamp.to_string())
}
