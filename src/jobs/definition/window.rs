//! When a job's work may begin.

use jiff::{
    Timestamp,
    civil::{Time, Weekday},
    tz::TimeZone,
};
use serde_json::Value as Json;

use super::wrong;
use crate::model::{command::Refusal, time::Millis};

/// Hours in which work may begin, in the gateway's own time zone; one that ends before it begins spans midnight.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    days: Vec<Weekday>,
    from: Time,
    to: Time,
}

impl Window {
    pub(super) fn read(json: &Json) -> Result<Option<Window>, Refusal> {
        if json.is_null() {
            return Ok(None);
        }
        let clock = |key: &str| -> Result<Time, Refusal> {
            let text = json[key].as_str().unwrap_or_default();
            let time = text.split_once(':').and_then(|(h, m)| Time::new(h.parse().ok()?, m.parse().ok()?, 0, 0).ok());
            time.ok_or_else(|| wrong(&format!("schedule.window.{key}"), "a time of day such as \"22:00\""))
        };
        let days: Option<Vec<Weekday>> = match &json["days"] {
            Json::Null => Some(Vec::new()),
            Json::Array(days) => days.iter().map(weekday).collect(),
            _ => None,
        };
        let days = days.ok_or_else(|| wrong("schedule.window.days", "a list of mon, tue, wed, thu, fri, sat, sun"))?;
        Ok(Some(Window { days, from: clock("from")?, to: clock("to")? }))
    }

    /// Whether work may begin at `now`. The hours after midnight belong to the day on which the window began.
    pub fn contains(&self, now: Millis, zone: &TimeZone) -> bool {
        let Ok(timestamp) = Timestamp::from_millisecond(now.0) else { return false };
        let local = zone.to_datetime(timestamp);
        let (time, today) = (local.time(), local.date().weekday());
        let on = |day| self.days.is_empty() || self.days.contains(&day);
        if self.from <= self.to {
            on(today) && self.from <= time && time < self.to
        } else {
            (on(today) && time >= self.from) || (on(today.previous()) && time < self.to)
        }
    }
}

fn weekday(json: &Json) -> Option<Weekday> {
    use Weekday::{Friday, Monday, Saturday, Sunday, Thursday, Tuesday, Wednesday};
    let word = json.as_str()?.to_lowercase();
    let days = [Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday];
    days.into_iter().find(|day| word.len() >= 3 && format!("{day:?}").to_lowercase().starts_with(&word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_began() {
        let window = json!({"days": ["fri"], "from": "22:00", "to": "04:00"});
        let window = Window::read(&window).expect("good").expect("some");
        let at = |text: &str| Millis(text.parse::<Timestamp>().expect("time").as_millisecond());
        for (time, inside) in [
            ("2026-11-20T21:59:00Z", false),
            ("2026-11-20T22:00:00Z", true),
            ("2026-11-21T03:59:00Z", true),
            ("2026-11-21T04:00:00Z", false),
            ("2026-11-20T03:00:00Z", false),
            ("2026-11-21T23:00:00Z", false),
        ] {
            assert_eq!(window.contains(at(time), &TimeZone::UTC), inside, "{time}");
        }
    }
}
