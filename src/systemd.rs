//! The init system: ready, reloading, stopping, status, watchdog. Without `NOTIFY_SOCKET` every call does nothing.
//!
//! With the feature `systemd` (on by default) the words go through libsystemd, without it over a plain datagram; the
//! protocol is that of sd_notify(3) either way.

use std::time::Duration;

/// The service is up: everything listens and the store has answered.
pub fn ready(status: &str) {
    tell(&[("READY", "1"), ("STATUS", &clean(status))]);
}

/// The configuration is being read again; say [`ready`] when that is over, whatever came of it.
pub fn reloading() {
    tell(&[("RELOADING", "1"), ("STATUS", "reading the configuration again")]);
}

/// The service is on its way down.
pub fn stopping(status: &str) {
    tell(&[("STOPPING", "1"), ("STATUS", &clean(status))]);
}

/// A line for `systemctl status`.
pub fn status(text: &str) {
    tell(&[("STATUS", &clean(text))]);
}

/// Progress was made: feeds the watchdog. To be called when the vital rooms have answered, not by a timer alone.
pub fn alive() {
    tell(&[("WATCHDOG", "1")]);
}

/// Asks for this much more time before the current start or stop counts as hung.
pub fn extend_timeout(by: Duration) {
    tell(&[("EXTEND_TIMEOUT_USEC", &by.as_micros().to_string())]);
}

/// How long the init system waits for [`alive`] before it ends the service; feed it twice in that time. `None` where
/// no watchdog is set for this process.
pub fn watchdog() -> Option<Duration> {
    let micros = watchdog_micros();
    (micros > 0).then(|| Duration::from_micros(micros))
}

/// One line, without what would end it or the datagram.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(feature = "systemd")]
fn tell(state: &[(&str, &str)]) {
    if let Err(error) = systemd::daemon::notify(state.iter()) {
        tracing::debug!(%error, "the init system could not be told");
    }
}

#[cfg(feature = "systemd")]
fn watchdog_micros() -> u64 {
    systemd::daemon::watchdog_enabled().unwrap_or(0)
}

#[cfg(not(feature = "systemd"))]
fn tell(state: &[(&str, &str)]) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let lines: Vec<String> = state.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if let Err(error) = plain::send(&path, lines.join("\n").as_bytes()) {
        tracing::debug!(%error, "the init system could not be told");
    }
}

#[cfg(not(feature = "systemd"))]
fn watchdog_micros() -> u64 {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    // The variables are inherited: they may be meant for another process.
    match number("WATCHDOG_PID") {
        Some(pid) if pid != u64::from(std::process::id()) => 0,
        _ => number("WATCHDOG_USEC").unwrap_or(0),
    }
}

#[cfg(any(test, not(feature = "systemd")))]
mod plain {
    //! sd_notify(3) without libsystemd.

    use std::{
        ffi::OsStr,
        io,
        os::{
            linux::net::SocketAddrExt,
            unix::{
                ffi::OsStrExt,
                net::{SocketAddr, UnixDatagram},
            },
        },
    };

    pub fn send(path: &OsStr, message: &[u8]) -> io::Result<()> {
        let address = match path.as_bytes() {
            // `@` stands for the NUL of an abstract address.
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn the_plain_road_reaches_a_socket() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind");
        plain::send(path.as_os_str(), b"READY=1").expect("send");
        let mut buffer = [0; 64];
        let n = socket.recv(&mut buffer).expect("receive");
        assert_eq!(&buffer[..n], b"READY=1");
    }

    #[test]
    fn a_status_stays_one_line() {
        assert_eq!(clean("a\nREADY=1\0b"), "a READY=1 b");
    }
}
