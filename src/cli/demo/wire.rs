//! A TCP wire that can be cut, stalled and healed: stands between two programs and does what real networks do.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use crate::tasks::Tasks;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections stand, nothing passes: a dead mobile link, a full queue somewhere.
    Stalled,
    /// Connections are broken and new ones end at once.
    Cut,
}

/// The handle; the wire lives as long as its tasks.
#[derive(Debug, Clone)]
pub struct Wire {
    mode: Arc<watch::Sender<Mode>>,
    address: SocketAddr,
    passed: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Wire {
    /// Listens on a free loopback port and passes everything on to `target`, resolved anew for each connection.
    pub async fn start(target: impl Into<String>, tasks: &Tasks) -> io::Result<Wire> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let wire = Wire {
            mode: Arc::new(watch::Sender::new(Mode::Open)),
            address: listener.local_addr()?,
            passed: Arc::default(),
            connections: Arc::default(),
        };
        let (target, all, stop, own) = (target.into(), tasks.clone(), tasks.stopping(), wire.clone());
        tasks.spawn("wire", async move {
            loop {
                let near = tokio::select! {
                    () = stop.cancelled() => return,
                    near = listener.accept() => near,
                };
                let Ok((near, _)) = near else { continue };
                if *own.mode.borrow() == Mode::Cut {
                    continue;
                }
                own.connections.fetch_add(1, Ordering::Relaxed);
                let (target, own, stop) = (target.clone(), own.clone(), stop.clone());
                all.spawn("wire connection", async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = own.connection(near, &target) => {}
                    }
                });
            }
        });
        Ok(wire)
    }

    /// Where the near side connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stalled);
    }

    pub fn heal(&self) {
        self.mode.send_replace(Mode::Open);
    }

    /// Bytes passed on so far, both ways.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Connections taken in so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    async fn connection(&self, near: TcpStream, target: &str) {
        let mut mode = self.mode.subscribe();
        let Ok(far) = TcpStream::connect(target).await else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        let both = async { tokio::join!(self.one_way(near_in, far_out), self.one_way(far_in, near_out)) };
        tokio::select! {
            _ = both => {}
            _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
        }
    }

    async fn one_way(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut mode = self.mode.subscribe();
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if mode.wait_for(|mode| *mode != Mode::Stalled).await.is_err() {
                return;
            }
            if to.write_all(&buffer[..n]).await.is_err() {
                return;
            }
            self.passed.fetch_add(n as u64, Ordering::Relaxed);
        }
        let _ = to.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Answers every byte with itself.
    async fn echo(tasks: &Tasks) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let (stop, all) = (tasks.stopping(), tasks.clone());
        tasks.spawn("echo", async move {
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let stop = stop.clone();
                all.spawn("echo connection", async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = stop.run_until_cancelled(tokio::io::copy(&mut from, &mut to)).await;
                });
            }
        });
        address
    }

    async fn round_trip(stream: &mut TcpStream, byte: u8) -> io::Result<u8> {
        stream.write_all(&[byte]).await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn a_wire_passes_stalls_breaks_and_heals() {
        let tasks = Tasks::new();
        let wire = Wire::start(echo(&tasks).await.to_string(), &tasks).await.expect("wire");
        let mut stream = TcpStream::connect(wire.address()).await.expect("connect");
        assert_eq!(round_trip(&mut stream, 1).await.expect("passes"), 1);

        wire.stall();
        let stalled = timeout(Duration::from_millis(100), round_trip(&mut stream, 2)).await;
        assert!(stalled.is_err(), "nothing passes");
        wire.heal();
        assert_eq!(stream.read_u8().await.expect("comes late"), 2);

        wire.cut();
        assert!(round_trip(&mut stream, 3).await.is_err());
        let mut refused = TcpStream::connect(wire.address()).await.expect("accepted and dropped");
        assert!(round_trip(&mut refused, 4).await.is_err());

        wire.heal();
        let mut stream = TcpStream::connect(wire.address()).await.expect("connect");
        assert_eq!(round_trip(&mut stream, 5).await.expect("passes"), 5);
        assert_eq!(wire.connections(), 2);
        tasks.stop_and_wait().await;
    }
}
