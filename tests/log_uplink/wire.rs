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
    state: Arc<AtomicU8>,
    /// Bytes per second each way; 0 is no limit.
    rate: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl TcpWire {
    pub fn to(port: u16) -> TcpWire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let wire = TcpWire {
            port: listener.local_addr().expect("bound").port(),
            state: Arc::default(),
            rate: Arc::default(),
            open: Arc::default(),
        };
        let taken = wire.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if taken.state.load(SeqCst) == CUT {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let _ = (stream.set_nodelay(true), far.set_nodelay(true));
                let pairs = [(&stream, &far), (&far, &stream)];
                for (from, to) in pairs {
                    let (from, to) = (from.try_clone().expect("clone"), to.try_clone().expect("clone"));
                    taken.open.lock().expect("lock").push(from.try_clone().expect("clone"));
                    let wire = taken.clone();
                    thread::spawn(move || wire.pump(from, to));
                }
            }
        });
        wire
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let _ = from.set_read_timeout(Some(Duration::from_millis(20)));
        let mut buffer = [0; 16 << 10];
        loop {
            // A stalled wire reads nothing: the sender's buffers fill, as on a dead radio link.
            while self.state.load(SeqCst) == STALLED {
                thread::sleep(Duration::from_millis(5));
            }
            let rate = self.rate.load(SeqCst);
            let most = if rate == 0 { buffer.len() } else { (rate as usize / 20).clamp(1, buffer.len()) };
            match from.read(&mut buffer[..most]) {
                Ok(0) => break,
                Ok(n) => {
                    // What was read when the wire went dead is lost in it.
                    if self.state.load(SeqCst) == STALLED {
                        continue;
                    }
                    if to.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                    if rate > 0 {
                        thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    fn drop_all(&self) {
        for stream in self.open.lock().expect("lock").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn cut(&self) {
        self.state.store(CUT, SeqCst);
        self.drop_all();
    }

    pub fn stall(&self) {
        self.state.store(STALLED, SeqCst);
    }

    /// Whole again; connections from a stall are gone, as after a lease or a NAT entry has ended.
    pub fn heal(&self) {
        let was = self.state.swap(WHOLE, SeqCst);
        if was == STALLED {
            self.drop_all();
        }
    }

    pub fn throttle(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, SeqCst);
    }
}
