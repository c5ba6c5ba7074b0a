//! What a metered link has cost this day and this month, and who may still send. Plain: no store, no clock but what it
//! is given.
//!
//! Every period is counted under its own name, so that a clock that is wrong for a while charges the wrong period and
//! forgives nothing: when it is set right, the count of the right one goes on.

use std::fmt::Write;

use jiff::{Timestamp, ToSpan, civil::Date};

use crate::{
    config::uplink::BudgetConfig,
    model::{record::Lane, time::Millis, view::BudgetStatus},
};

/// Periods of each span that are remembered: more than one, because clocks go wrong and are set right.
const REMEMBERED: usize = 4;
/// From these hundredths of the budget on fewer lanes may send: what is urgent always goes.
const HELD: [(u64, Lane); 3] = [(80, Lane::Logs), (90, Lane::Telemetry), (100, Lane::State)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span {
    Day,
    Month,
}

impl Span {
    fn name(self) -> &'static str {
        match self {
            Span::Day => "day",
            Span::Month => "month",
        }
    }

    /// The first day of the period that `date` is in.
    fn first(self, date: Date) -> Date {
        match self {
            Span::Day => date,
            Span::Month => date.first_of_month(),
        }
    }
}

/// One calendar period of one span.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Period {
    /// Its first day.
    first: Date,
    used: u64,
    /// Since when it is counted: a gateway that was installed in mid-month knows nothing of its beginning.
    since: Millis,
}

/// One limit and its periods, the latest used last.
#[derive(Debug, Clone, PartialEq)]
struct Account {
    span: Span,
    limit: u64,
    periods: Vec<Period>,
    /// From and to of the period last asked for.
    bounds: Option<(Millis, Millis)>,
}

/// All limits of a link.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    zone: jiff::tz::TimeZone,
    accounts: Vec<Account>,
}

impl Budget {
    pub fn new(config: &BudgetConfig) -> Budget {
        let accounts =
            [(Span::Day, config.day), (Span::Month, config.month)].into_iter().filter(|(_, limit)| *limit > 0);
        let account = |(span, limit)| Account { span, limit, periods: Vec::new(), bounds: None };
        Budget { zone: config.zone.clone(), accounts: accounts.map(account).collect() }
    }

    pub fn is_limited(&self) -> bool {
        !self.accounts.is_empty()
    }

    /// Counts `bytes` that went over the wire.
    pub fn spend(&mut self, bytes: u64, now: Millis) {
        for account in &mut self.accounts {
            if let Some(period) = account.at(now, &self.zone) {
                period.used += bytes;
            }
        }
    }

    /// How many lanes may send, from the most urgent on: the tightest limit decides.
    pub fn lanes(&mut self, now: Millis) -> usize {
        let zone = &self.zone;
        self.accounts.iter_mut().map(|account| account.lanes(now, zone)).min().unwrap_or(Lane::ALL.len())
    }

    /// Each limit as people see it.
    pub fn status(&mut self, now: Millis) -> Vec<BudgetStatus> {
        let zone = &self.zone;
        self.accounts.iter_mut().filter_map(|account| account.status(now, zone)).collect()
    }

    /// One line per period: span, first day, bytes used, since when.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for account in &self.accounts {
            for period in &account.periods {
                let Period { first, used, since } = period;
                let _ = writeln!(text, "{} {first} {used} {}", account.span.name(), since.0);
            }
        }
        text
    }

    /// Takes in what [`Budget::to_text`] wrote; what cannot be read is left out.
    pub fn restore(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [span, first, used, since] = words[..] else { continue };
            let (Ok(first), Ok(used), Ok(since)) = (first.parse(), used.parse(), since.parse()) else { continue };
            if let Some(account) = self.accounts.iter_mut().find(|account| account.span.name() == span) {
                account.periods.push(Period { first, used, since: Millis(since) });
            }
        }
    }
}

impl Account {
    /// The period `now` is in; none outside of the calendar's years.
    fn at(&mut self, now: Millis, zone: &jiff::tz::TimeZone) -> Option<&mut Period> {
        let within = self.bounds.is_some_and(|(from, to)| from <= now && now < to) && !self.periods.is_empty();
        if !within {
            let date = zone.to_datetime(Timestamp::from_millisecond(now.0).ok()?).date();
            let first = self.span.first(date);
            let next = match self.span {
                Span::Day => first.checked_add(1.day()),
                Span::Month => first.checked_add(1.month()),
            };
            let begin = |date: Date| Some(Millis(date.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond()));
            self.bounds = Some((begin(first)?, begin(next.ok()?)?));
            let known = self.periods.iter().position(|period| period.first == first);
            let period = match known {
                Some(index) => self.periods.remove(index),
                None => Period { first, used: 0, since: now },
            };
            self.periods.push(period);
            if self.periods.len() > REMEMBERED {
                self.periods.remove(0);
            }
        }
        self.periods.last_mut()
    }

    fn lanes(&mut self, now: Millis, zone: &jiff::tz::TimeZone) -> usize {
        let limit = self.limit;
        let Some(period) = self.at(now, zone) else { return Lane::ALL.len() };
        let held = HELD.into_iter().filter(|(part, _)| period.used >= limit / 100 * part);
        held.map(|(_, lane)| lane as usize).min().unwrap_or(Lane::ALL.len())
    }

    fn status(&mut self, now: Millis, zone: &jiff::tz::TimeZone) -> Option<BudgetStatus> {
        let (span, limit) = (self.span, self.limit);
        let lanes = self.lanes(now, zone);
        let period = self.at(now, zone)?.clone();
        let (from, to) = self.bounds?;
        // A few minutes tell nothing about a month: a fiftieth of the span is waited for.
        let counted = (now.0 - period.since.0.max(from.0)).max((to.0 - from.0) / 50);
        let rate = period.used as f64 / counted as f64;
        let forecast = period.used + (rate * (to.0 - now.0).max(0) as f64) as u64;
        let held = Lane::ALL[lanes..].to_vec();
        Some(BudgetStatus { span: span.name().into(), limit, used: period.used, forecast, ends: to, held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        Millis(text.parse::<Timestamp>().expect("a time").as_millisecond())
    }

    fn budget(day: u64, month: u64) -> Budget {
        Budget::new(&BudgetConfig { day, month, zone: jiff::tz::Offset::constant(1).to_time_zone() })
    }

    #[test]
    fn lanes_close_from_below_and_the_tightest_limit_decides() {
        let now = at("2026-11-20T12:00:00Z");
        let mut budget = budget(1000, 100_000);
        assert_eq!(budget.lanes(now), 4);
        for (bytes, lanes) in [(799, 4), (1, 3), (100, 2), (99, 2), (1, 1), (5000, 1)] {
            budget.spend(bytes, now);
            assert_eq!(budget.lanes(now), lanes);
        }
        assert_eq!(budget.status(now)[0].held, [Lane::State, Lane::Telemetry, Lane::Logs]);
        assert_eq!(self::budget(0, 0).lanes(now), 4);
    }

    #[test]
    fn periods_follow_the_calendar_of_the_zone() {
        let mut budget = budget(1000, 10_000);
        budget.spend(1000, at("2026-11-30T22:59:59Z"));
        assert_eq!(budget.lanes(at("2026-11-30T22:59:59Z")), 1);
        // An hour east of Greenwich the first of December has begun.
        let now = at("2026-11-30T23:00:00Z");
        assert_eq!(budget.lanes(now), 4);
        let ends: Vec<Millis> = budget.status(now).iter().map(|status| status.ends).collect();
        assert_eq!(ends, [at("2026-12-01T23:00:00Z"), at("2026-12-31T23:00:00Z")]);
        assert_eq!(budget.status(now)[1].used, 0);
    }

    #[test]
    fn a_restart_and_a_wrong_clock_forgive_nothing() {
        let now = at("2026-11-20T12:00:00Z");
        let mut before = budget(0, 1000);
        before.spend(950, now);
        let mut budget = budget(0, 1000);
        budget.restore(&before.to_text());
        assert_eq!(budget.lanes(now), 2);
        for wrong in ["1970-01-01T00:00:00Z", "2036-02-07T06:28:16Z", "2026-10-31T00:00:00Z"] {
            budget.spend(1, at(wrong));
            assert_eq!(budget.lanes(at(wrong)), 4);
        }
        assert_eq!(budget.lanes(now), 2, "the count of the right month goes on");
        budget.restore("nonsense\nmonth 2026-99-01 5 5\n");
        assert_eq!(budget.lanes(now), 2);
    }

    #[test]
    fn the_forecast_goes_on_at_the_rate_since_counting_began() {
        let mut budget = budget(0, 1 << 30);
        budget.spend(0, at("2026-11-15T23:00:00Z"));
        let now = at("2026-11-20T23:00:00Z");
        budget.spend(500, now);
        // Five days of the fifteen since counting began, ten to go.
        assert_eq!(budget.status(now)[0].forecast, 1500);
    }
}
