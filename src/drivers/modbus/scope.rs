//! The bus scope: every frame that passes, decoded, for a while, beside polling.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::{Value as Json, json};
use tokio::{sync::mpsc, time::Instant};

use super::{ask::exception, owner::Owner, pdu, simulate::capture::Captured, wire::Traced};
use crate::{bus::Reply, config::modbus::Framing};

/// One who watches the wire.
#[derive(Debug)]
pub struct Scope {
    pub until: Instant,
    started: Instant,
    unit: Option<u8>,
    progress: Option<mpsc::Sender<Json>>,
    reply: Option<Reply<Json>>,
    frames: u64,
    lost: u64,
    notes: BTreeMap<u8, BTreeMap<String, u64>>,
    last: Option<Instant>,
}

impl Scope {
    pub fn new(seconds: Duration, unit: Option<u8>, progress: Option<mpsc::Sender<Json>>, reply: Reply<Json>) -> Self {
        let started = Instant::now();
        Self {
            until: started + seconds,
            started,
            unit,
            progress,
            reply: Some(reply),
            frames: 0,
            lost: 0,
            notes: BTreeMap::new(),
            last: None,
        }
    }

    fn over(&self, now: Instant) -> bool {
        now >= self.until || self.reply.as_ref().is_none_or(|reply| reply.is_closed())
    }

    fn note(&mut self, unit: u8, what: String) {
        *self.notes.entry(unit).or_default().entry(what).or_default() += 1;
    }
}

impl Owner<'_> {
    /// Shows frames to all who watch.
    pub fn show(&mut self, traced: Vec<Traced>) {
        let framing = self.bus.framing;
        for scope in &mut self.scopes {
            let only = scope.unit;
            for frame in traced.iter().filter(|frame| only.is_none_or(|wanted| wanted == frame.unit)) {
                let (unit, payload) = (frame.unit, payload(framing, &frame.bytes));
                let bytes = &*payload;
                let text = describe(frame, bytes);
                scope.frames += 1;
                if let Some(note) = frame.note {
                    scope.note(unit, note.to_owned());
                } else if let (false, Some(code)) = (frame.sent, exception(bytes)) {
                    scope.note(unit, code.to_string());
                }
                let since = |earlier: Instant| frame.at.saturating_duration_since(earlier).as_secs_f64() * 1000.0;
                let gap = scope.last.map(&since);
                scope.last = Some(frame.at);
                let captured = Captured {
                    t: (since(scope.started) * 1000.0).round() / 1000.0,
                    dir: if frame.sent { ">" } else { "<" }.to_owned(),
                    unit,
                    pdu: hex::encode(bytes),
                    hex: hex::encode(&frame.bytes),
                    text,
                };
                let Some(progress) = &scope.progress else { continue };
                let mut line = serde_json::to_value(captured).unwrap_or_default();
                line["gapMs"] = json!(gap.map(|gap| (gap * 1000.0).round() / 1000.0));
                // A watcher who is slow loses frames, the bus does not wait for it.
                scope.lost += u64::from(progress.try_send(line).is_err());
            }
        }
    }

    /// Ends those whose time is over.
    pub fn end_scopes(&mut self) {
        let now = Instant::now();
        let mut index = 0;
        while index < self.scopes.len() {
            if !self.scopes[index].over(now) {
                index += 1;
                continue;
            }
            let mut scope = self.scopes.swap_remove(index);
            let units: BTreeMap<String, _> = scope.notes.into_iter().map(|(unit, n)| (unit.to_string(), n)).collect();
            let summary = json!({ "frames": scope.frames, "lost": scope.lost, "notes": units });
            if let Some(reply) = scope.reply.take() {
                let _ = reply.send(Ok(summary));
            }
        }
    }
}

/// The PDU inside a frame, as far as it is there.
fn payload(framing: Framing, frame: &[u8]) -> Cow<'_, [u8]> {
    match framing {
        Framing::Tcp => frame.get(7..).unwrap_or_default().into(),
        Framing::Rtu => frame.get(1..frame.len().saturating_sub(2)).unwrap_or_default().into(),
        Framing::Ascii => {
            // Behind colon and address, before checksum and line end.
            let digits = frame.trim_ascii_end();
            hex::decode(digits.get(3..digits.len().saturating_sub(2)).unwrap_or_default()).unwrap_or_default().into()
        }
    }
}

/// A frame in words.
fn describe(frame: &Traced, pdu: &[u8]) -> String {
    let mut text = String::new();
    if let Some(note) = frame.note {
        let _ = write!(text, "[{note}] ");
    }
    let word = |at: usize| pdu.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]));
    let Some(function) = pdu.first() else { return text };
    if let (false, Some(code)) = (frame.sent, exception(pdu)) {
        let _ = write!(text, "{code}");
        return text;
    }
    let name = match function & 0x7F {
        1 => "read coils",
        2 => "read discrete inputs",
        3 => "read holding",
        4 => "read input",
        5 => "write coil",
        6 => "write register",
        15 => "write coils",
        16 => "write registers",
        7 => "exception status",
        8 => "diagnostics",
        17 => "server id",
        20 => "read file",
        21 => "write file",
        22 => "mask write",
        23 => "read/write",
        24 => "read queue",
        0x2B => "identification",
        _ => "custom",
    };
    let _ = write!(text, "{name}");
    match (frame.sent, function) {
        (true, 1..=4) => drop(write!(text, " {}+{}", word(1), word(3))),
        (true, 20 | 21) => drop(write!(text, " {}:{}+{}", word(3), word(5), word(7))),
        (true, 5 | 6) => drop(write!(text, " {} = {}", word(1), word(3))),
        (true, 15 | 16) => drop(write!(text, " {}+{}", word(1), word(3))),
        (false, 3 | 4 | 23) => {
            let words: Vec<String> = pdu::registers(pdu).iter().map(|w| w.to_string()).collect();
            let _ = write!(text, ": {}", words.join(" "));
        }
        (false, 1 | 2) => drop(write!(text, ": {}", hex::encode(pdu.get(2..).unwrap_or_default()))),
        _ => {}
    }
    text
}
