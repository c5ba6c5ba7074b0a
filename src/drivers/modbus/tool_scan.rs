//! The tools that find out who is there: `scan` and `identify`. They only read.

use std::time::Duration;

use serde_json::json;

use super::{
    owner::Owner,
    pdu::Request,
    tool_run::{Outcome, silent, wrong},
    tools::{Target, Tool, probe, units},
    wire::{Answer, WireError},
};
use crate::{
    config::modbus::{Serial, kind::Table},
    model::command::{Refusal, RefusalCode},
};

impl Owner<'_> {
    pub(super) async fn recognise_target(&mut self, target: &Target) -> Outcome {
        let (unit, timeout, _) = self.target(target)?;
        let profiles = self.bus.profiles.clone();
        self.recognise(unit, timeout, &profiles).await.map_err(|error| silent(&error))
    }

    /// Reads only. A unit counts as there when it answers anything, be it an exception.
    pub(super) async fn scan(
        &mut self,
        tool: &Tool,
        wanted: &str,
        timeout: Duration,
        lines: &[String],
        probes: &[String],
    ) -> Outcome {
        let ids = units(wanted).map_err(wrong)?;
        let probes: Vec<(Table, u16)> =
            probes.iter().map(|text| probe(text)).collect::<Result<_, _>>().map_err(wrong)?;
        let probes = if probes.is_empty() { vec![(Table::Holding, 0)] } else { probes };
        let profiles = self.bus.profiles.clone();
        let mut found = Vec::new();
        let lines = self.lines(lines)?;
        let total = ids.len() * lines.len().max(1);
        let own = self.bus.clone();
        let mut done = 0;
        for line in lines.iter().map(Some).chain(lines.is_empty().then_some(None)) {
            if let Some(line) = line {
                self.change_line(line.clone());
            }
            for unit in &ids {
                if tool.cancelled() || self.stop.is_cancelled() {
                    self.restore_line(&own, line.is_some());
                    return Err(Refusal::new(RefusalCode::Expired, "the scan was cancelled"));
                }
                if line.is_none() {
                    self.breathe().await;
                }
                done += 1;
                let answer = self.called(*unit, &probes, timeout).await;
                match answer {
                    // A gateway that says "nobody there" is no device.
                    Ok(answer) if !super::ask::exception(&answer.pdu).is_some_and(|code| code.is_gateway()) => {
                        let patient = timeout.max(Duration::from_millis(500));
                        let mut seen =
                            self.recognise(*unit, patient, &profiles).await.unwrap_or(json!({ "unit": unit }));
                        if let Some(line) = line {
                            seen["line"] = json!(line.line());
                        }
                        tool.tell(json!({ "unit": unit, "done": done, "of": total, "found": seen }));
                        found.push(seen);
                    }
                    Ok(_) | Err(WireError::Timeout(_) | WireError::Damaged) => {
                        tool.tell(json!({ "unit": unit, "done": done, "of": total }));
                    }
                    Err(error) if lines.is_empty() && self.wire.is_none() && found.is_empty() && done == 1 => {
                        return Err(silent(&error));
                    }
                    Err(_) => {}
                }
            }
            self.restore_line(&own, line.is_some());
        }
        Ok(json!({ "found": found }))
    }

    /// The answer to the first question that the unit does not meet with silence.
    async fn called(&mut self, unit: u8, probes: &[(Table, u16)], timeout: Duration) -> Result<Answer, WireError> {
        let mut answer = Err(WireError::Timeout(timeout));
        for (table, address) in probes {
            let question = Request::read(*table, *address, 1);
            answer = self.exchange(unit, &question, timeout, Duration::ZERO).await;
            for _ in 0..2 {
                // Something spoke: on a bad line it is worth asking again who.
                if answer == Err(WireError::Damaged) {
                    answer = self.exchange(unit, &question, timeout, Duration::ZERO).await;
                }
            }
            if !matches!(answer, Err(WireError::Timeout(_))) {
                break;
            }
        }
        answer
    }

    /// Line settings such as "19200 8E1", for a serial bus.
    fn lines(&self, texts: &[String]) -> Result<Vec<Serial>, Refusal> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let Some(own) = self.bus.serial() else { return Err(wrong("line settings make sense on a serial port only")) };
        let parse = |text: &String| own.with_line(text).ok_or_else(|| wrong(format!("{text:?}: write \"9600 8N1\"")));
        texts.iter().map(parse).collect()
    }
}
