//! Ports for those who cannot be given port 0: peers that nobody here wrote, and daemons that come back to theirs.
#![allow(dead_code)] // TCP or UDP: not everybody needs both

use std::{
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::Mutex,
};

/// Below the ports that the kernel hands out: no connection of anybody's is given one of these by chance.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A port that no other test is given before this process ends, whether somebody listens on it just now or not.
pub fn free_port() -> u16 {
    port(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

pub fn free_udp_port() -> u16 {
    port(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok())
}

fn port(free: impl Fn(u16) -> bool) -> u16 {
    /// What stands for the ports of this process: names that the kernel frees with it.
    static CLAIMED: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
    let claim = |port: u16| {
        let name = SocketAddr::from_abstract_name(format!("headgate-test-port-{port}")).expect("a short name");
        UnixDatagram::bind_addr(&name).ok()
    };
    let first = (std::process::id() % 500) as u16 * (COUNT / 500);
    let found = (0..COUNT).find_map(|n| {
        let port = FIRST + (first + n) % COUNT;
        claim(port).filter(|_| free(port)).map(|claimed| (port, claimed))
    });
    let (port, claimed) = found.expect("a free port");
    CLAIMED.lock().expect("lock").push(claimed);
    port
}
