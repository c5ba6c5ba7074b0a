//! Simulated Modbus devices: servers on TCP and on a pseudo terminal, with faults on request. For `headgate demo`,
//! `headgate modbus simulate` and tests.

mod answer;
pub mod capture;
pub mod faults;
mod memory;
mod models;
mod serve;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::net::TcpListener;

pub use faults::Faults;
pub use memory::{Registers, Unit};

use crate::{config::modbus::Framing, tasks::Tasks};

/// A running simulator. Ends when it is dropped or its `Tasks` stop.
#[derive(Debug)]
pub struct Modbus {
    /// Read and written by tests and by the demo, beside the server.
    pub registers: Registers,
    /// What goes wrong, changeable while it runs.
    pub faults: Faults,
    address: Option<SocketAddr>,
    path: Option<PathBuf>,
    tasks: Tasks,
}

impl Modbus {
    /// Serves Modbus TCP on `address` (port 0 for any).
    pub async fn tcp(
        tasks: &Tasks,
        address: SocketAddr,
        units: impl IntoIterator<Item = (u8, Unit)>,
    ) -> io::Result<Self> {
        Self::tcp_framed(tasks, address, Framing::Tcp, units).await
    }

    /// Serves any framing on a TCP port: RTU over TCP with [`Framing::Rtu`].
    pub async fn tcp_framed(
        tasks: &Tasks,
        address: SocketAddr,
        framing: Framing,
        units: impl IntoIterator<Item = (u8, Unit)>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        let mut simulator = Self::new(tasks, units);
        let server = serve::Server::new(framing, &simulator, None);
        let own = simulator.tasks.clone();
        simulator.tasks.spawn(format!("simulated modbus on {bound}"), serve::accept(listener, server, own));
        simulator.address = Some(bound);
        Ok(simulator)
    }

    /// Serves RTU on a pseudo terminal; with `baud` it is a line of this speed: replies take the time they would need
    /// at 8N1, and who speaks at another speed is not understood.
    pub fn rtu_pty(tasks: &Tasks, baud: Option<u32>, units: impl IntoIterator<Item = (u8, Unit)>) -> io::Result<Self> {
        Self::pty(tasks, Framing::Rtu, baud, units)
    }

    /// Serves RTU or ASCII frames on a pseudo terminal.
    pub fn pty(
        tasks: &Tasks,
        framing: Framing,
        baud: Option<u32>,
        units: impl IntoIterator<Item = (u8, Unit)>,
    ) -> io::Result<Self> {
        let (ours, theirs, path) = serve::open_terminal()?;
        let mut simulator = Self::new(tasks, units);
        let server = serve::Server::new(framing, &simulator, baud);
        let stop = simulator.tasks.stopping();
        simulator.tasks.spawn(format!("simulated modbus on {}", path.display()), async move {
            tokio::select! {
                () = server.serve(ours, || serve::same_speed(&theirs, baud)) => {}
                () = stop.cancelled() => {}
            }
            drop(theirs);
        });
        simulator.path = Some(path);
        Ok(simulator)
    }

    /// Where the TCP server listens.
    ///
    /// # Panics
    /// Where this is a serial simulator.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("a simulator made with tcp()")
    }

    /// The terminal a driver opens.
    ///
    /// # Panics
    /// Where this is a TCP simulator.
    pub fn path(&self) -> &Path {
        self.path.as_deref().expect("a simulator made with pty()")
    }

    /// Requests seen so far.
    pub fn requests(&self) -> u64 {
        self.faults.requests()
    }

    fn new(tasks: &Tasks, units: impl IntoIterator<Item = (u8, Unit)>) -> Self {
        Self {
            registers: Registers::new(units),
            faults: Faults::default(),
            address: None,
            path: None,
            tasks: tasks.child(),
        }
    }
}

impl Drop for Modbus {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}
