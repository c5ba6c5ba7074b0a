//! A TCP wire between the gateway and its cloud that a test can cut, stall and slow down.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

const WHOLE: u8 = 0;
/// Open connections stay open and carry nothing; new ones are taken and carry nothing.
const STALLED: u8 = 1;
/// Open connections are reset, new ones closed at once.
const CUT: u8 = 2;

#[derive(Clone)]
pub struct TcpWire {
    pub port: u16,
    /// What happens to new connections.
    state: Arc<AtomicU8>,
    /// Bytes per second each way; 0 is no limit.
    rate: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<Arc<Link>>>>,
    /// Bytes that went through, both directions.
    carried: Arc<AtomicU64>,
}

/// One connection through the wire. Once stalled it never carries again: bytes were lost in it, and TCP delivers
/// nothing that comes after a hole.
struct Link {
    near: TcpStream,
    far: TcpStream,
    state: AtomicU8,
}

impl Link {
    fn close(&self) {
        self.state.store(CUT, SeqCst);
        let _ = (self.near.shutdown(Shutdown::Both), self.far.shutdown(Shutdown::Both));
    }
}

impl TcpWire {
    pub fn to(port: u16) -> TcpWire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let wire = TcpWire {
            port: listener.local_addr().expect("bound").port(),
            state: Arc::default(),
            rate: Arc::default(),
            open: Arc::default(),
            carried: Arc::default(),
        };
        let taken = wire.clone();
        thread::spawn(move || listener.incoming().flatten().for_each(|near| taken.take(near, port)));
        wire
    }

    fn take(&self, near: TcpStream, port: u16) {
        let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let ends = || (near.try_clone().expect("clone"), far.try_clone().expect("clone"));
        let (up, down) = (ends(), ends());
        // Under the lock a change of the wire meets this connection either here or in the list.
        let mut open = self.open.lock().expect("lock");
        let link = Arc::new(Link { near, far, state: AtomicU8::new(self.state.load(SeqCst)) });
        if link.state.load(SeqCst) == CUT {
            return link.close();
        }
        open.push(link.clone());
        for (from, to) in [up, (down.1, down.0)] {
            let (link, rate, carried) = (link.clone(), self.rate.clone(), self.carried.clone());
            thread::spawn(move || pump(&link, &rate, &carried, from, to));
        }
    }

    /// Changes the wire and all that is open on it; those are kept of which `keeps` says so.
    fn turn(&self, state: u8, keeps: impl Fn(&Link) -> bool) {
        let mut open = self.open.lock().expect("lock");
        self.state.store(state, SeqCst);
        open.retain(|link| {
            let kept = keeps(link);
            if !kept {
                link.close();
            }
            kept
        });
    }

    pub fn cut(&self) {
        self.turn(CUT, |_| false);
    }

    pub fn stall(&self) {
        self.turn(STALLED, |link| {
            link.state.store(STALLED, SeqCst);
            true
        });
    }

    /// Whole again; connections from a stall are gone, as after a lease or a NAT entry has ended.
    pub fn heal(&self) {
        self.turn(WHOLE, |link| link.state.load(SeqCst) == WHOLE);
    }

    /// Bytes of TCP payload so far, both directions.
    pub fn carried(&self) -> u64 {
        self.carried.load(SeqCst)
    }

    pub fn throttle(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, SeqCst);
    }
}

fn pump(link: &Link, rate: &AtomicU64, carried: &AtomicU64, mut from: TcpStream, mut to: TcpStream) {
    let _ = from.set_read_timeout(Some(Duration::from_millis(20)));
    let mut buffer = [0; 16 << 10];
    loop {
        // A stalled link reads nothing: the sender's buffers fill, as on a dead radio link.
        while link.state.load(SeqCst) == STALLED {
            thread::sleep(Duration::from_millis(5));
        }
        let rate = rate.load(SeqCst);
        let most = if rate == 0 { buffer.len() } else { (rate as usize / 20).clamp(1, buffer.len()) };
        match from.read(&mut buffer[..most]) {
            Ok(0) => break,
            Ok(n) => {
                // What was read when the link went dead is lost in it, and nothing follows.
                if link.state.load(SeqCst) != WHOLE {
                    continue;
                }
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
                carried.fetch_add(n as u64, SeqCst);
                if rate > 0 {
                    thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    link.close();
}
