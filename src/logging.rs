//! Structured logs: one line per event for people, for journald and for a ring in memory that diagnostics read.
//!
//! What comes from outside cannot forge lines: control characters, ANSI sequences and marks that turn the direction of
//! writing are shown as escapes.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use crate::{
    clock,
    model::{time::Millis, view::LogLine},
};

/// Overrides the configured level.
pub const VARIABLE: &str = "HEADGATE_LOG";
/// Lines and bytes that are remembered.
const LINES: usize = 2_000;
const BYTES: usize = 512 * 1024;
/// Longest line, in bytes.
const LONGEST: usize = 4 * 1024;

/// The handle on what is logged. Clones are the same.
#[derive(Clone)]
pub struct Logs {
    ring: Arc<Mutex<Ring>>,
    filter: reload::Handle<EnvFilter, Registry>,
    overridden: bool,
}

impl Logs {
    /// Begins to log to standard error: with journald's level prefixes where journald listens, for people otherwise.
    /// `level` is a level or a filter such as `info,headgate::uplink=debug`; the environment variable [`VARIABLE`]
    /// goes before it. Fails on a filter that means nothing, or when logging has begun already.
    pub fn start(level: &str) -> Result<Logs, String> {
        let variable = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
        let (filter, handle) = reload::Layer::new(parse(variable.as_deref().unwrap_or(level))?);
        let ring = Arc::new(Mutex::new(Ring::default()));
        let form = Form::of_stderr();
        let lines = Lines { ring: ring.clone(), form };
        tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|error| error.to_string())?;
        Ok(Logs { ring, filter: handle, overridden: variable.is_some() })
    }

    /// Changes the level, unless the environment fixed it.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = parse(level)?;
        if self.overridden {
            return Ok(());
        }
        self.filter.reload(filter).map_err(|error| error.to_string())
    }

    /// The newest `lines` at or above `level` (`error` … `trace`; anything else counts as `trace`), oldest first.
    pub fn tail(&self, lines: usize, level: &str) -> Vec<LogLine> {
        let least = level.parse().unwrap_or(Level::TRACE);
        self.ring.lock().unwrap_or_else(|e| e.into_inner()).tail(lines, least)
    }
}

/// Checks a level or filter; the error is for people.
pub fn parse(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| format!("{level:?}: {error}; write error, warn, info, debug or info,headgate::uplink=debug"))
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `<6>target: text`: journald knows the time and reads the level from the prefix (sd-daemon(3)).
    Journal,
    Plain,
    Colour,
}

impl Form {
    fn of_stderr() -> Form {
        // `JOURNAL_STREAM` is inherited: it counts only if it names the very file that is standard error.
        let journal = std::env::var("JOURNAL_STREAM").ok().and_then(|text| {
            let (device, inode) = text.split_once(':')?;
            let stat = rustix::fs::fstat(io::stderr()).ok()?;
            Some(device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
        });
        match journal {
            Some(true) => Form::Journal,
            _ if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() => Form::Colour,
            _ => Form::Plain,
        }
    }

    fn write(self, line: &LogLine, level: Level) -> String {
        let LogLine { target, text, .. } = line;
        match self {
            Form::Journal => {
                let priority = match level {
                    Level::ERROR => 3,
                    Level::WARN => 4,
                    Level::INFO => 6,
                    _ => 7,
                };
                format!("<{priority}>{target}: {text}\n")
            }
            Form::Plain => format!("{} {level:>5} {target}: {text}\n", time(line.at)),
            Form::Colour => {
                let colour = match level {
                    Level::ERROR => "31",
                    Level::WARN => "33",
                    Level::INFO => "32",
                    _ => "36",
                };
                format!(
                    "\x1b[2m{}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m \x1b[2m{target}:\x1b[0m {text}\n",
                    time(line.at)
                )
            }
        }
    }
}

fn time(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |at| format!("{at:.3}"))
}

/// The newest lines, bounded in number and bytes.
#[derive(Default)]
struct Ring {
    lines: VecDeque<(Level, LogLine)>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, level: Level, line: LogLine) {
        self.bytes += line.text.len() + line.target.len();
        self.lines.push_back((level, line));
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some((_, old)) = self.lines.pop_front() else { break };
            self.bytes -= old.text.len() + old.target.len();
        }
    }

    fn tail(&self, lines: usize, least: Level) -> Vec<LogLine> {
        let wanted = self.lines.iter().rev().filter(|(level, _)| *level <= least).take(lines);
        let mut tail: Vec<LogLine> = wanted.map(|(_, line)| line.clone()).collect();
        tail.reverse();
        tail
    }
}

/// Turns events into lines.
struct Lines {
    ring: Arc<Mutex<Ring>>,
    form: Form,
}

/// The fields of a span, as they stand before the text of its events.
struct Prefix(String);

impl<S: Subscriber + for<'l> LookupSpan<'l>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut text = Text::default();
        attributes.record(&mut text);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Prefix(text.0));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut text = Text::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields = extensions.get::<Prefix>().map_or("", |prefix| &prefix.0);
            let _ = write!(text.0, "{}{{{fields}}} ", span.name());
        }
        event.record(&mut Message(&mut text));
        event.record(&mut text);
        let metadata = event.metadata();
        let level = *metadata.level();
        if text.0.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|end| text.0.is_char_boundary(*end));
            text.0.truncate(end.unwrap_or(0));
            text.0.push('…');
        }
        let line = LogLine {
            at: clock::now(),
            level: level.as_str().to_ascii_lowercase(),
            target: metadata.target().to_owned(),
            text: text.0,
        };
        let written = self.form.write(&line, level);
        // Nobody to tell when even this fails.
        let _ = io::stderr().lock().write_all(written.as_bytes());
        self.ring.lock().unwrap_or_else(|e| e.into_inner()).push(level, line);
    }
}

/// `key=value` for every field but the message, neutralised.
#[derive(Default)]
struct Text(String);

impl Text {
    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if field.name() == "message" {
            return;
        }
        if !self.0.is_empty() && !self.0.ends_with(' ') {
            self.0.push(' ');
        }
        let _ = write!(self.0, "{}=", field.name());
        let _ = Neutral(&mut self.0).write_fmt(value);
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Quoted where a reader could not see its end.
        if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c == '"' || c == '=') {
            self.field(field, format_args!("{value:?}"));
        } else {
            self.field(field, format_args!("{value}"));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, format_args!("{value:?}"));
    }
}

/// The message alone: it comes first, wherever it stands among the fields.
struct Message<'t>(&'t mut Text);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(Neutral(&mut self.0.0), "{value:?}");
        }
    }
}

/// Writes text so that it stays on its line and does nothing to a terminal.
struct Neutral<'t>(&'t mut String);

impl fmt::Write for Neutral<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.len() > LONGEST {
                break;
            }
            match c {
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' => {
                    self.0.extend(c.escape_unicode());
                }
                c if c.is_control() => self.0.extend(c.escape_debug()),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(work: impl FnOnce()) -> Vec<LogLine> {
        let ring = Arc::new(Mutex::new(Ring::default()));
        let lines = Lines { ring: ring.clone(), form: Form::Plain };
        let subscriber = tracing_subscriber::registry().with(parse("debug").expect("filter")).with(lines);
        tracing::subscriber::with_default(subscriber, work);
        let ring = ring.lock().expect("ring");
        ring.tail(100, Level::TRACE)
    }

    #[test]
    fn what_comes_from_outside_stays_on_its_line() {
        let evil = "x\n<0>root: forged\u{1b}[2J\u{202e}";
        let lines = logged(|| {
            tracing::warn!(client = evil, error = %evil, count = 3, "refused {evil}");
        });
        assert_eq!(lines.len(), 1);
        let text = &lines[0].text;
        assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
        assert!(text.starts_with("refused x\\n<0>root"), "{text}");
        assert!(text.ends_with("count=3"), "{text}");
    }

    #[test]
    fn a_tail_is_filtered_and_ordered() {
        let lines = logged(|| {
            let _span = tracing::info_span!("device", id = "meter-1").entered();
            tracing::error!(code = 2, "first");
            tracing::debug!("second");
            tracing::trace!("never");
        });
        assert_eq!(
            lines.iter().map(|l| &*l.text).collect::<Vec<_>>(),
            ["device{id=meter-1} first code=2", "device{id=meter-1} second"]
        );
        assert_eq!(lines[0].level, "error");
        let mut ring = Ring::default();
        for line in lines {
            ring.push(line.level.parse().expect("level"), line);
        }
        assert_eq!(ring.tail(10, Level::WARN).len(), 1);
    }

    #[test]
    fn the_ring_is_bounded_and_lines_are_cut() {
        let lines = logged(|| {
            for n in 0..3_000 {
                tracing::info!(n, payload = "y".repeat(10_000), "line");
            }
        });
        assert!(lines.iter().map(|line| line.text.len()).sum::<usize>() <= BYTES);
        assert!(lines.iter().all(|line| line.text.len() <= LONGEST + 8));
        assert!(lines.last().is_some_and(|line| line.text.starts_with("line n=2999")));
    }

    #[test]
    fn journald_reads_the_level_from_the_prefix() {
        let line = LogLine { at: Millis(0), level: "warn".into(), target: "headgate".into(), text: "t".into() };
        assert_eq!(Form::Journal.write(&line, Level::WARN), "<4>headgate: t\n");
        assert_eq!(Form::Plain.write(&line, Level::WARN), "1970-01-01T00:00:00.000Z  WARN headgate: t\n");
    }
}
