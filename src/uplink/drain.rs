//! What is sent next and how far it is acknowledged: a plain value, no socket, no store, no clock but what it is given.
//!
//! Lanes are served by urgency. Within a lane records go in order; acknowledgements may come in any order, and the
//! cursor follows the lowest that is missing. With `live_first` the telemetry lane has two ends: what is appended from
//! now on goes first, what is older fills the time between.

use std::collections::VecDeque;

use super::{
    acked::Acked,
    batches::{Bounds, Outgoing, Oversize, publishes},
    dialect::native::Native,
    encoding::Encoder,
};
use crate::model::record::{Lane, Record};

/// Records read ahead per stretch at most.
pub const AHEAD: usize = 8192;

/// A stretch of a lane that is read in order.
#[derive(Debug, Default)]
struct Reader {
    /// Read up to here.
    read: u64,
    /// Not beyond this; without end for the live one.
    end: Option<u64>,
    /// Records were asked for and are on their way.
    asked: bool,
    buffer: VecDeque<Record>,
}

impl Reader {
    fn is_done(&self) -> bool {
        self.buffer.is_empty() && self.end.is_some_and(|end| self.read >= end)
    }
}

#[derive(Debug)]
struct LaneDrain {
    acked: Acked,
    /// What lay there when the connection came up was stored through an outage.
    late: u64,
    newest: u64,
    backlog: Reader,
    live: Option<Reader>,
}

/// Which stretch wants records: lane, live or not, after which position, how many, and up to which there are some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub lane: Lane,
    pub live: bool,
    pub after: u64,
    pub records: usize,
    pub upto: u64,
}

/// All lanes of one connection.
pub struct Drain {
    lanes: [LaneDrain; 4],
    native: Native,
    encoder: Encoder,
}

impl Drain {
    /// Begins at the cursors; `newest` are the newest positions as the connection came up.
    pub fn new(native: Native, encoder: Encoder, cursors: [u64; 4], newest: [u64; 4], live_first: bool) -> Drain {
        let lane = |index: usize| {
            let split = live_first && index == Lane::Telemetry as usize && newest[index] > cursors[index];
            let end = split.then_some(newest[index]);
            LaneDrain {
                acked: Acked::new(cursors[index]),
                late: newest[index],
                newest: newest[index],
                backlog: Reader { read: cursors[index], end, ..Reader::default() },
                live: split.then(|| Reader { read: newest[index], ..Reader::default() }),
            }
        };
        Drain { lanes: std::array::from_fn(lane), native, encoder }
    }

    /// More was appended.
    pub fn grown(&mut self, newest: [u64; 4]) {
        for (lane, newest) in self.lanes.iter_mut().zip(newest) {
            lane.newest = lane.newest.max(newest);
        }
    }

    pub fn cursor(&self, lane: Lane) -> u64 {
        self.lanes[lane as usize].acked.cursor()
    }

    /// Records that are not acknowledged.
    pub fn waiting(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.newest.saturating_sub(lane.acked.cursor())).sum()
    }

    /// Records below the urgent lanes that were not handed out.
    pub fn idle(&self) -> u64 {
        let unsent = |lane: &LaneDrain| {
            let ahead = |reader: &Reader| {
                reader.end.unwrap_or(lane.newest).saturating_sub(reader.read) + reader.buffer.len() as u64
            };
            ahead(&lane.backlog) + lane.live.as_ref().map_or(0, ahead)
        };
        self.lanes[Lane::Telemetry as usize..].iter().map(unsent).sum()
    }

    /// Records from before the connection that are not acknowledged.
    pub fn late(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.late.saturating_sub(lane.acked.cursor())).sum()
    }

    pub fn acknowledge(&mut self, lane: Lane, positions: &[u64]) {
        for position in positions {
            self.lanes[lane as usize].acked.add(*position);
        }
    }

    /// The most urgent stretch whose buffer runs low and of which nothing is being read; now it is.
    pub fn wanted(&mut self) -> Option<Wanted> {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            for (live, reader) in [(true, lane.live.as_mut()), (false, Some(&mut lane.backlog))] {
                let Some(reader) = reader else { continue };
                let end = reader.end.unwrap_or(lane.newest);
                if !reader.asked && reader.buffer.len() < AHEAD / 4 && reader.read < end {
                    reader.asked = true;
                    let records = AHEAD.min((end - reader.read) as usize);
                    return Some(Wanted { lane: Lane::ALL[index], live, after: reader.read, records, upto: end });
                }
            }
        }
        None
    }

    /// Takes in what was read for `wanted`. Positions that are missing were dropped (and declared) by retention.
    pub fn fill(&mut self, wanted: Wanted, records: Vec<Record>) {
        let lane = &mut self.lanes[wanted.lane as usize];
        let reader = match (&mut lane.live, wanted.live) {
            (Some(live), true) => live,
            _ => &mut lane.backlog,
        };
        reader.asked = false;
        let mut next = wanted.after + 1;
        let end = reader.end.unwrap_or(u64::MAX);
        for record in records {
            let position = record.position;
            lane.acked.add_all(next, (position - 1).min(end));
            if position > end {
                next = position;
                break;
            }
            next = position + 1;
            // What was set aside over an earlier connection is not tried again.
            if !lane.acked.contains(position) {
                reader.buffer.push_back(record);
            }
        }
        // Nothing there at all: all of it is gone that was there when it was asked for.
        if next == wanted.after + 1 {
            lane.acked.add_all(next, wanted.upto);
            next = wanted.upto + 1;
        }
        reader.read = (next - 1).min(end);
        if lane.backlog.is_done()
            && let Some(live) = lane.live.take()
        {
            lane.backlog = live;
        }
    }

    /// Whether something urgent is read ahead.
    pub fn has_urgent(&self) -> bool {
        !self.lanes[Lane::Urgent as usize].backlog.buffer.is_empty()
    }

    /// The next publishes of the most urgent of the first `lanes` lanes; empty where nothing is read ahead. Of late
    /// records at most `late_allowed` are taken.
    pub fn next(
        &mut self,
        bounds: Bounds,
        lanes: usize,
        late_allowed: usize,
        oversize: &mut Vec<Oversize>,
    ) -> Vec<Outgoing> {
        for index in 0..lanes.min(self.lanes.len()) {
            let lane = &mut self.lanes[index];
            let late = lane.late;
            for reader in [lane.live.as_mut(), Some(&mut lane.backlog)].into_iter().flatten() {
                // Again where all that was taken fits into no publish.
                loop {
                    let taken = take(reader, index, late, bounds, late_allowed);
                    if taken.is_empty() {
                        break;
                    }
                    let out = publishes(&self.native, &mut self.encoder, taken, late, bounds, oversize);
                    if !out.is_empty() {
                        return out;
                    }
                }
            }
        }
        Vec::new()
    }
}

/// Records for a few publishes, as far as the rate of late ones allows.
fn take(reader: &mut Reader, lane: usize, late: u64, bounds: Bounds, late_allowed: usize) -> Vec<Record> {
    let mut taken: Vec<Record> = Vec::new();
    let mut bytes = 0;
    while let Some(record) = reader.buffer.front() {
        let too_late = record.position <= late && taken.len() >= late_allowed;
        // Urgent things are never held back by a rate.
        if too_late && lane != Lane::Urgent as usize {
            break;
        }
        bytes += record.record.body.len();
        taken.extend(reader.buffer.pop_front());
        if taken.len() >= bounds.records * 4 || bytes >= bounds.bytes * 2 {
            break;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        ids::DeviceId,
        record::{Kind, NewRecord},
        time::Millis,
    };

    fn record(device: &str, position: u64) -> Record {
        let record = NewRecord {
            device: DeviceId::new(device).expect("id"),
            kind: Kind::Telemetry,
            name: None,
            ts: Millis(0),
            body: format!("{{\"n\":{position}}}").into(),
        };
        Record { position, seq: position, clock_untrusted: false, record }
    }

    fn drain(cursor: u64, newest: u64, live_first: bool) -> Drain {
        let native = Native::new("devices/{device}", DeviceId::new("gw").expect("id"));
        let encoder = Encoder::new(crate::config::uplink::Encoding::Json, false);
        Drain::new(native, encoder, [0, 0, cursor, 0], [0, 0, newest, 0], live_first)
    }

    const BOUNDS: Bounds = Bounds { records: 100, bytes: 10_000, most: 10_000 };

    #[test]
    fn a_device_gets_one_batch_and_keeps_its_order() {
        let mut drain = drain(0, 6, false);
        let wanted = drain.wanted().expect("wants");
        assert_eq!((wanted.after, wanted.records), (0, 6));
        drain.fill(wanted, (1..=6).map(|n| record(if n % 2 == 0 { "a" } else { "b" }, n)).collect());
        assert_eq!(drain.wanted(), None);
        let out = drain.next(BOUNDS, 4, 100, &mut Vec::new());
        assert_eq!(out.len(), 2);
        assert_eq!((out[0].topic.as_str(), &out[0].positions[..]), ("devices/b/telemetry", &[1, 3, 5][..]));
        let json: serde_json::Value = serde_json::from_slice(&out[1].payload).expect("json");
        assert_eq!(json[2]["seq"], 6);
        assert_eq!(json[2]["late"], true);
    }

    #[test]
    fn live_goes_first_and_the_cursor_waits_for_the_backlog() {
        let mut drain = drain(0, 3, true);
        drain.grown([0, 0, 5, 0]);
        let live = drain.wanted().expect("wants");
        assert_eq!((live.live, live.after), (true, 3));
        drain.fill(live, vec![record("a", 4), record("a", 5)]);
        let old = drain.wanted().expect("wants");
        assert_eq!((old.live, old.after, old.records), (false, 0, 3));
        drain.fill(old, (1..=3).map(|n| record("a", n)).collect());
        assert_eq!(drain.next(BOUNDS, 4, 100, &mut Vec::new())[0].positions, [4, 5]);
        drain.acknowledge(Lane::Telemetry, &[4, 5]);
        assert_eq!(drain.cursor(Lane::Telemetry), 0);
        assert_eq!(drain.next(BOUNDS, 4, 100, &mut Vec::new())[0].positions, [1, 2, 3]);
        drain.acknowledge(Lane::Telemetry, &[1, 2, 3]);
        assert_eq!((drain.cursor(Lane::Telemetry), drain.waiting()), (5, 0));
    }

    #[test]
    fn what_retention_took_is_passed_over() {
        let mut drain = drain(10, 20, false);
        let wanted = drain.wanted().expect("wants");
        drain.fill(wanted, (15..=20).map(|n| record("a", n)).collect());
        assert_eq!(drain.cursor(Lane::Telemetry), 14);
        let mut drain = self::drain(10, 20, false);
        let wanted = drain.wanted().expect("wants");
        drain.fill(wanted, Vec::new());
        assert_eq!((drain.cursor(Lane::Telemetry), drain.wanted()), (20, None));
    }

    #[test]
    fn what_is_appended_while_others_are_read_is_not_passed_over() {
        let mut drain = drain(0, 3, false);
        let wanted = drain.wanted().expect("wants");
        assert_eq!(drain.wanted(), None, "asked for already");
        drain.grown([0, 0, 4, 0]);
        drain.fill(wanted, Vec::new());
        assert_eq!(drain.cursor(Lane::Telemetry), 3, "those were dropped");
        assert_eq!(drain.wanted().map(|wanted| wanted.after), Some(3), "and the one that came is sent");
    }

    #[test]
    fn what_was_set_aside_before_is_not_sent_again() {
        let mut drain = drain(0, 3, false);
        drain.acknowledge(Lane::Telemetry, &[2]);
        let wanted = drain.wanted().expect("wants");
        drain.fill(wanted, (1..=3).map(|n| record("a", n)).collect());
        assert_eq!(drain.next(BOUNDS, 4, 100, &mut Vec::new())[0].positions, [1, 3]);
        drain.acknowledge(Lane::Telemetry, &[1, 3]);
        assert_eq!(drain.cursor(Lane::Telemetry), 3);
    }

    #[test]
    fn what_fits_into_no_publish_is_set_aside() {
        let mut drain = drain(0, 2, false);
        let wanted = drain.wanted().expect("wants");
        let mut big = record("a", 1);
        big.record.body = format!("{{\"x\":\"{}\"}}", "y".repeat(20_000)).into();
        drain.fill(wanted, vec![big, record("a", 2)]);
        let mut oversize = Vec::new();
        let out = drain.next(BOUNDS, 4, 100, &mut oversize);
        assert_eq!((out.len(), oversize.len(), oversize[0].seq), (1, 1, 1));
    }

    proptest! {
        #[test]
        fn the_cursor_is_below_the_lowest_missing_one(order in Just((1..=60u64).collect::<Vec<_>>()).prop_shuffle(), upto in 0..60usize) {
            let mut acked = Acked::new(0);
            for position in &order[..upto] {
                acked.add(*position);
                acked.add_all(*position, *position);
            }
            let lowest = (1..=60).find(|n| !order[..upto].contains(n)).unwrap_or(61);
            prop_assert_eq!(acked.cursor(), lowest - 1);
        }
    }
}
