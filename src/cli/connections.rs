//! Children's connections to the local broker as lines of `headgate status`: trouble first, then the busiest.

use super::status::{bytes, plain, span};
use crate::model::{time::Millis, view::Connection};

/// Sessions that are named; the rest is counted.
const NAMED: usize = 8;

pub fn lines(connections: &[Connection], now: Millis) -> Vec<String> {
    let connected = connections.iter().filter(|connection| connection.connected).count();
    let away = connections.iter().filter(|connection| !connection.connected && !connection.ended).count();
    let rate = connections.iter().fold(0.0, |sum, c| sum + c.rate_in);
    let mut first = format!("{connected} connections, in {rate:.1}/s");
    if away > 0 {
        first.push_str(&format!(", {away} sessions away"));
    }
    let mut rows: Vec<&Connection> = connections.iter().collect();
    let trouble = |c: &Connection| c.dropped.values().any(|n| *n > 0) || c.last_error.is_some();
    rows.sort_by(|a, b| {
        let rank = |c: &Connection| (!trouble(c), !c.connected);
        rank(a).cmp(&rank(b)).then(b.rate_in.total_cmp(&a.rate_in)).then_with(|| a.client_id.cmp(&b.client_id))
    });
    let width = rows.iter().take(NAMED).map(|row| row.client_id.chars().count().min(32)).max().unwrap_or(0);
    let mut lines = vec![first];
    lines.extend(rows.iter().take(NAMED).map(|row| one(row, width, now)));
    if rows.len() > NAMED {
        lines.push(format!("… and {} more; --json lists all", rows.len() - NAMED));
    }
    lines
}

fn one(row: &Connection, width: usize, now: Millis) -> String {
    let name: String = plain(&row.client_id).chars().take(32).collect();
    let since = row.since.map(|since| span(now.since(since).max(0) as f64 / 1000.0)).unwrap_or_default();
    let place = [plain(&row.protocol), row.address.clone().unwrap_or_default()];
    let place = place.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
    let mut parts = vec![match (row.connected, row.ended) {
        (true, _) => format!("{place}, for {since}"),
        (false, false) => format!("away for {since}"),
        (false, true) => format!("ended {since} ago ({place})"),
    }];
    if row.connected {
        parts.push(format!("in {:.1}/s, out {:.1}/s", row.rate_in, row.rate_out));
    }
    parts.push(format!("{} in, {} out", bytes(row.bytes_in), bytes(row.bytes_out)));
    if row.queued > 0 {
        parts.push(format!("{} queued", row.queued));
    }
    let dropped = row.dropped.iter().filter(|(_, n)| **n > 0);
    parts.extend(dropped.map(|(reason, n)| format!("{n} dropped ({})", plain(reason))));
    if let Some(error) = row.last_error.as_deref() {
        let ago = row.last_error_at.map(|at| format!(" {} ago", span(now.since(at).max(0) as f64 / 1000.0)));
        parts.push(format!("last error{}: {}", ago.unwrap_or_default(), plain(error)));
    }
    format!("{name:<width$}  {}", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_stands_first_and_all_are_counted() {
        let mut all: Vec<Connection> = (0..20)
            .map(|n| Connection { client_id: format!("m{n}"), connected: n > 0, rate_in: 1.0, ..Connection::default() })
            .collect();
        all[7].dropped.insert("queue-full".into(), 3);
        let lines = lines(&all, Millis(0));
        assert!(lines[0].starts_with("19 connections, in 20.0/s, 1 sessions away"), "{}", lines[0]);
        assert!(lines[1].starts_with("m7 ") && lines[1].contains("3 dropped (queue-full)"), "{}", lines[1]);
        assert!(lines.last().expect("a line").contains("12 more"));
    }
}
