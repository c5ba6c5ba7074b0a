//! A program under measurement: started, watched through /proc, ended with the bench.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

/// Ticks per second in /proc (USER_HZ, 100 on every Linux).
const TICKS: f64 = 100.0;

pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it with its output in `log`.
    pub fn start(command: &mut Command, log: &std::path::Path) -> std::io::Result<Process> {
        let out = fs::File::create(log)?;
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        Ok(Process { child })
    }

    pub fn usage(&self) -> Usage {
        Usage::of(&self.child.id().to_string())
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().ok().flatten().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds on processors, all threads.
    pub cpu: f64,
    /// Resident now, in MiB.
    pub resident: f64,
    /// Of it what belongs to no file, in MiB.
    pub anonymous: f64,
}

impl Usage {
    /// Of this process.
    pub fn own() -> Usage {
        Usage::of("self")
    }

    fn of(pid: &str) -> Usage {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = |key: &str| -> f64 {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0.0)
        };
        Usage {
            cpu: (ticks(11) + ticks(12)) / TICKS,
            resident: kib("VmRSS:") / 1024.0,
            anonymous: kib("RssAnon:") / 1024.0,
        }
    }
}
