//! Live values as server-sent events: at most four times a second one message with all that changed since the last.
//! Whoever was too slow is told `lagged` and asks for the whole again.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State},
    response::sse::{Event as Message, KeepAlive, Sse},
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, sleep_until},
};

use super::{App, access::Caller};
use crate::{
    identity::Secret,
    model::{event::Event, ids::DeviceId, reading::Quality, view::Live},
};

/// Time to gather changes before they are sent.
const GATHER: Duration = Duration::from_millis(250);
/// How often a quiet stream looks whether its session still stands.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
pub struct Wanted {
    /// Readings of this device only; everything else of all devices.
    #[serde(default)]
    device: Option<String>,
}

pub async fn events(
    State(app): State<App>,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> Sse<impl Stream<Item = Result<Message, Infallible>>> {
    let watch = Watch { events: app.events.watch(), session: caller.session, only: wanted.device, app, greeted: false };
    let messages = stream::unfold(watch, |mut watch| async move {
        let items = watch.next().await?;
        let message = Message::default().data(Json::Array(items).to_string());
        Some((Ok(message), watch))
    });
    Sse::new(messages).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

struct Watch {
    app: App,
    events: Receiver<Event>,
    session: Option<Arc<Secret>>,
    only: Option<String>,
    greeted: bool,
}

impl Watch {
    /// The next batch; `None` ends the stream.
    async fn next(&mut self) -> Option<Vec<Json>> {
        if !self.greeted {
            self.greeted = true;
            return Some(vec![json!({ "type": "hello", "now": crate::clock::now() })]);
        }
        let mut batch = Batch::default();
        let mut until = Instant::now() + LOOK;
        loop {
            tokio::select! {
                biased;
                () = self.app.stopping.cancelled() => return None,
                () = sleep_until(until) => {
                    let session = self.session.as_deref();
                    if session.is_some_and(|id| self.app.identity.session(id.expose(), false).is_none()) {
                        return None;
                    }
                    if !batch.is_empty() {
                        return Some(batch.finish());
                    }
                    until = Instant::now() + LOOK;
                }
                event = self.events.recv() => {
                    let was_empty = batch.is_empty();
                    match event {
                        Ok(event) => batch.add(event, self.only.as_deref()),
                        Err(RecvError::Lagged(missed)) => batch.missed += missed,
                        Err(RecvError::Closed) => return None,
                    }
                    if was_empty && !batch.is_empty() {
                        until = Instant::now() + GATHER;
                    }
                }
            }
        }
    }
}

/// What changed, the latest of each.
#[derive(Default)]
struct Batch {
    values: BTreeMap<DeviceId, BTreeMap<String, Live>>,
    others: Vec<Json>,
    missed: u64,
}

impl Batch {
    /// Other events of one batch; what goes beyond is a lag.
    const MOST: usize = 500;

    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.others.is_empty() && self.missed == 0
    }

    fn add(&mut self, event: Event, only: Option<&str>) {
        if let Event::Reading(reading) = &event {
            if only.is_some_and(|only| only != reading.device.as_str()) {
                return;
            }
            let values = self.values.entry(reading.device.clone()).or_default();
            for sample in &reading.samples {
                let ts = match sample.quality {
                    Quality::Stale { since, .. } => since,
                    _ => reading.ts,
                };
                let (value, quality) = (sample.value.clone(), sample.quality.clone());
                let live = Live { name: sample.name.to_string(), value, quality, ts };
                values.insert(live.name.clone(), live);
            }
        } else if self.others.len() < Self::MOST {
            self.others.push(describe(event));
        } else {
            self.missed += 1;
        }
    }

    fn finish(self) -> Vec<Json> {
        let mut items = Vec::new();
        if self.missed > 0 {
            items.push(json!({ "type": "lagged", "missed": self.missed }));
        }
        for (device, values) in self.values {
            items.push(
                json!({ "type": "values", "device": device, "values": values.into_values().collect::<Vec<_>>() }),
            );
        }
        items.extend(self.others);
        items
    }
}

fn describe(event: Event) -> Json {
    match event {
        Event::Reading(reading) => json!({ "type": "values", "device": reading.device, "values": [] }),
        Event::Presence { device, presence, at, reason } => {
            json!({ "type": "presence", "device": device, "presence": presence, "at": at, "reason": reason })
        }
        Event::Lifecycle { device, lifecycle, at } => {
            json!({ "type": "lifecycle", "device": device, "lifecycle": lifecycle, "at": at })
        }
        Event::Shadow { device, name, version } => {
            json!({ "type": "shadow", "device": device, "name": name.as_deref(), "version": version })
        }
        Event::Update(progress) => {
            json!({ "type": "update", "device": progress.device, "update": *progress })
        }
        Event::Link(link) => json!({ "type": "link", "link": link }),
        Event::Alarm { device, severity, text, at } => {
            json!({ "type": "alarm", "device": device, "severity": severity, "text": text, "at": at })
        }
        Event::Config { problems } => json!({ "type": "config", "problems": problems }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        reading::{Reading, Sample, Value},
        time::Millis,
    };

    fn reading(device: &str, ts: i64, value: i64) -> Event {
        let device = DeviceId::new(device).expect("id");
        Event::Reading(Reading { device, ts: Millis(ts), samples: vec![Sample::good("t", Value::Int(value))] }.into())
    }

    #[test]
    fn only_the_latest_of_each_value_is_sent() {
        let mut batch = Batch::default();
        for n in 0..1000 {
            batch.add(reading("a", n, n), None);
        }
        batch.add(reading("b", 1, 1), Some("a"));
        let items = batch.finish();
        assert_eq!(items.len(), 1);
        assert_eq!(items[0]["values"][0]["value"], 999);
        assert_eq!(items[0]["values"][0]["quality"], "good");
    }

    #[test]
    fn who_is_too_slow_is_told() {
        let mut batch = Batch::default();
        for _ in 0..=Batch::MOST {
            batch.add(Event::Config { problems: 0 }, None);
        }
        assert_eq!(batch.finish()[0], json!({ "type": "lagged", "missed": 1 }));
    }
}
