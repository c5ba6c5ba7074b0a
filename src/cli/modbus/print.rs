//! Answers of the tools for people; as JSON where that was asked for.

use serde_json::Value as Json;

use crate::drivers::modbus::tools::ToolRequest;

pub(super) fn progress(progress: &Json, json: bool) {
    if json {
        println!("{progress}");
    } else if let Some(found) = progress.get("found") {
        println!("{}", unit(found));
    } else if progress.get("revertsInMs").is_some() {
        let (before, now) = (&progress["written"]["before"], &progress["written"]["readBack"]);
        println!("{before} -> {now}; taken back in {} ms", progress["revertsInMs"]);
    }
}

pub(super) fn frame(frame: &Json, json: bool) {
    if json {
        println!("{frame}");
        return;
    }
    let text = |key: &str| frame[key].as_str().unwrap_or_default().to_owned();
    let at = frame["t"].as_f64().unwrap_or_default();
    println!("{at:12.3} {} {:>3}  {:<40} {}", text("dir"), frame["unit"], text("text"), text("hex"));
}

pub(super) fn answer(request: &ToolRequest, answer: &Json, json: bool) {
    if json {
        println!("{answer:#}");
        return;
    }
    match request {
        ToolRequest::Scan { .. } => {
            let found = answer["found"].as_array().map_or(0, Vec::len);
            println!("{found} unit{} found", if found == 1 { "" } else { "s" });
        }
        ToolRequest::Identify { .. } => println!("{}", unit(answer)),
        ToolRequest::Read { .. } => read(answer),
        ToolRequest::Solve { .. } => solve(answer),
        ToolRequest::Budget {} => budget(answer),
        _ => println!("{answer:#}"),
    }
}

fn unit(found: &Json) -> String {
    let list = |key: &str| -> String {
        let items = found[key].as_array().into_iter().flatten();
        items
            .map(|item| item.as_str().map_or_else(|| item.to_string(), ToOwned::to_owned))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let identity = found["identity"].as_object().into_iter().flatten();
    let identity: Vec<String> = identity.map(|(key, value)| format!("{key}={value}")).collect();
    let mut line = format!("unit {}", found["unit"]);
    if let Some(settings) = found["line"].as_str() {
        line += &format!(" at {settings}");
    }
    for (word, text) in
        [("", identity.join(" ")), ("sunspec models ", list("sunspec")), ("profiles ", list("profiles"))]
    {
        if !text.is_empty() {
            line += &format!("  {word}{text}");
        }
    }
    line
}

fn read(answer: &Json) {
    if answer.get("value").is_some() {
        println!("{} {}", answer["value"], answer["measure"].as_str().unwrap_or_default());
    }
    let address = answer["address"].as_u64().unwrap_or(0);
    for (place, word) in (address..).zip(answer["registers"].as_array().into_iter().flatten()) {
        let word = word.as_u64().unwrap_or(0);
        println!("{place:>6}  {word:>5}  0x{word:04x}  {:>6}", word as u16 as i16);
    }
    for (place, bit) in (address..).zip(answer["bits"].as_array().into_iter().flatten()) {
        println!("{place:>6}  {bit}");
    }
}

fn solve(answer: &Json) {
    println!("score  address  type   order     scale    value");
    for c in answer["candidates"].as_array().into_iter().flatten() {
        let text = |key: &str| c[key].as_str().unwrap_or_default().to_owned();
        let (score, address, scale) = (c["score"].as_f64().unwrap_or(0.0), &c["address"], &c["scale"]);
        println!(
            "{score:5.1}  {address:>7}  {:<6} {:<9} {:<8} {}",
            text("type"),
            text("order"),
            scale.to_string(),
            c["value"]
        );
    }
}

fn budget(answer: &Json) {
    let predicted = &answer["predicted"];
    let share = |value: &Json| value.as_f64().unwrap_or(0.0) * 100.0;
    println!(
        "{:.1} % of the bus, {} requests/s, {} values/s",
        share(&predicted["utilisation"]),
        predicted["requestsPerSecond"],
        predicted["valuesPerSecond"]
    );
    println!("device            unit  every ms  points  requests  cycle ms  share %");
    for group in predicted["groups"].as_array().into_iter().flatten() {
        println!(
            "{:<16}  {:>4}  {:>8}  {:>6}  {:>8}  {:>8}  {:>6.1}",
            group["device"].as_str().unwrap_or_default(),
            group["unit"],
            group["intervalMs"],
            group["points"],
            group["requests"],
            group["cycleMs"],
            share(&group["share"])
        );
    }
    for advice in predicted["advice"].as_array().into_iter().flatten() {
        println!("* {}", advice.as_str().unwrap_or_default());
    }
    if let Some(measured) = answer.get("measured") {
        println!("measured: {:.1} % of the bus", share(&measured["utilisation"]));
        for unit in measured["units"].as_array().into_iter().flatten() {
            println!("  {} {}: {}", unit["device"], unit["state"].as_str().unwrap_or_default(), unit["cycles"]);
        }
    }
}
