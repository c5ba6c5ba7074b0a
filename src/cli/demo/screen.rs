//! What the demo shows in the terminal: lines of the story, and below them a table that is drawn anew in place. Without
//! a terminal the table comes every few seconds.

use std::{
    io::{IsTerminal, Write, stdout},
    time::{Duration, Instant},
};

const PLAIN_EVERY: Duration = Duration::from_secs(10);

pub struct Screen {
    terminal: bool,
    drawn: usize,
    last: Option<Instant>,
}

impl Screen {
    pub fn new() -> Self {
        Self { terminal: stdout().is_terminal(), drawn: 0, last: None }
    }

    /// A line of the story; stays.
    pub fn say(&mut self, line: &str) {
        self.clear();
        println!("{line}");
    }

    /// Draws the table where the last one stood.
    pub fn table(&mut self, rows: &[String]) {
        if !self.terminal && self.last.is_some_and(|last| last.elapsed() < PLAIN_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        self.clear();
        let width = if self.terminal { columns() } else { usize::MAX };
        for row in rows {
            println!("{}", row.chars().take(width).collect::<String>());
        }
        self.drawn = rows.len();
        let _ = stdout().flush();
    }

    /// Removes the table, so that what is said next stands under the story.
    pub fn clear(&mut self) {
        if self.terminal && self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
        }
        self.drawn = 0;
    }
}

fn columns() -> usize {
    rustix::termios::tcgetwinsize(stdout()).map_or(100, |size| usize::from(size.ws_col.max(40)))
}

/// `[######....] 60 %`
pub fn bar(percent: u8) -> String {
    let full = usize::from(percent.min(100)) / 5;
    format!("[{}{}] {percent:3} %", "#".repeat(full), ".".repeat(20 - full))
}
