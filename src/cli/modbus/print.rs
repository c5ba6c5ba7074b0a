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
            if found == 0 {
                println!(
                    "Wiring, address and line settings right? `--try \"19200 8E1\"` tries others, a longer --timeout waits"
                );
                println!(
                    "for slow units, and `--probe input:1` finds devices that are silent where they should refuse."
                );
            }
        }
        ToolRequest::Identify { .. } => println!("{}", unit(answer)),
        ToolRequest::Read { .. } => read(answer),
        ToolRequest::Solve { .. } => solve(answer),
        ToolRequest::Write { .. } => write(answer),
        ToolRequest::Raw { .. } => raw(answer),
        ToolRequest::Budget {} => budget(answer),
        ToolRequest::Scope { .. } => scope(answer),
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
    let address = answer["address"].as_u64().unwrap_or(0);
    let measure = answer["measure"].as_str().unwrap_or_default();
    let registers = answer["registers"].as_array().map_or(0, Vec::len);
    match answer.get("values").and_then(Json::as_array) {
        Some(values) => {
            // Several values of one type, each with the address it begins at.
            let step = registers.checked_div(values.len()).unwrap_or(1).max(1);
            for (place, value) in (address..).step_by(step).zip(values) {
                println!("{place:>6}  {value} {measure}");
            }
        }
        None => {
            if let Some(value) = answer.get("value") {
                println!("{value} {measure}");
            }
        }
    }
    for (place, word) in (address..).zip(answer["registers"].as_array().into_iter().flatten()) {
        let word = word.as_u64().unwrap_or(0);
        println!("{place:>6}  {word:>5}  0x{word:04x}  {:>6}", word as u16 as i16);
    }
    for (place, bit) in (address..).zip(answer["bits"].as_array().into_iter().flatten()) {
        println!("{place:>6}  {bit}");
    }
}

fn write(answer: &Json) {
    let held = if answer["verified"] == true { "the device holds it" } else { "the device holds ANOTHER value" };
    println!("was {}, wrote {}, read back {}: {held}", answer["before"], answer["written"], answer["readBack"]);
    match answer["reverted"].as_bool() {
        Some(true) => println!("taken back: {} again", answer["now"]),
        Some(false) => println!("NOT taken back: it holds {}, it was {}", answer["now"], answer["before"]),
        None => {}
    }
}

fn raw(answer: &Json) {
    let reply = answer["reply"].as_str().unwrap_or_default();
    match answer["exception"].as_str() {
        Some(code) => println!("{reply}  {code}"),
        // What a person may read of it, beside the digits.
        None => {
            let bytes = hex::decode(reply).unwrap_or_default();
            let text = bytes.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' });
            println!("{reply}  {}", text.collect::<String>());
        }
    }
}

fn scope(answer: &Json) {
    println!("{} frames, {} not shown", answer["frames"], answer["lost"]);
    if answer["frames"] == 0 {
        println!("Nothing passed. A scope shows what the gateway says and hears; name a bus that it polls with --bus.");
    }
    for (unit, notes) in answer["notes"].as_object().into_iter().flatten() {
        for (note, count) in notes.as_object().into_iter().flatten() {
            println!("  unit {unit}: {count} x {note}");
        }
    }
}

fn solve(answer: &Json) {
    if answer["candidates"].as_array().is_none_or(Vec::is_empty) {
        println!("No type, order or scale gives this number there. Does the display still show it? Look further with");
        println!("--around 20, or in the other table (--table input).");
        return;
    }
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
            let text = |key: &str| unit[key].as_str().unwrap_or_default().to_owned();
            let millis = |share: &str| unit["latency"][share].as_f64().unwrap_or(0.0) / 1000.0;
            println!(
                "  {:<16} {:<8} answers in {:.1} ms (p99 {:.1})",
                text("device"),
                text("state"),
                millis("p50"),
                millis("p99")
            );
            for cycle in unit["cycles"].as_array().into_iter().flatten() {
                let (planned, actual) = (&cycle["plannedMs"], &cycle["actualMs"]);
                match actual.as_u64() {
                    Some(0) => println!("    every {planned} ms planned, not twice yet"),
                    _ => println!("    every {planned} ms planned, {actual} ms measured, {} missed", cycle["missed"]),
                }
            }
        }
    }
}
