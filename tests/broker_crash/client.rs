//! Blocking MQTT children that remember what the standard makes a client remember, and come back after every kill.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    io::{self, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Messages on their way at a time.
const WINDOW: usize = 24;
/// How far the subscriber may be behind: well below what a session may queue, because what overflows is dropped.
const BEHIND: u64 = 2000;

/// What all children share with the judge.
#[derive(Default)]
pub struct Shared {
    /// No new messages: finish what is begun, say the last one, go.
    pub finish: AtomicBool,
    /// Messages acknowledged so far, by all.
    pub acknowledged: AtomicU64,
    /// Messages the subscriber has got so far.
    pub heard: AtomicU64,
    /// The subscription stands: what is published from now on must be heard.
    pub listening: AtomicBool,
    pub faults: Mutex<Vec<String>>,
}

impl Shared {
    fn behind(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed).saturating_sub(self.heard.load(Ordering::Relaxed))
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    loop {
        let byte = u8::try_from(length % 128).expect("seven bits");
        length /= 128;
        out.push(if length > 0 { byte | 128 } else { byte });
        if length == 0 {
            break;
        }
    }
    [out, body.to_vec()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).expect("short").to_be_bytes()[..], text.as_bytes()].concat()
}

/// One connection of a session that is kept.
struct Link {
    reader: BufReader<TcpStream>,
}

impl Link {
    /// Connects to a broker that may be down; `None` where it is. Whether the session was there.
    fn open(port: u16, id: &str, v5: bool) -> Option<(Link, bool)> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        stream.set_nodelay(true).ok()?;
        let mut link = Link { reader: BufReader::new(stream) };
        let mut body = text("MQTT");
        body.extend([if v5 { 5 } else { 4 }, 0, 0, 0]);
        if v5 {
            body.extend([5, 17, 0, 0, 0xFF, 0xFF]);
        }
        body.extend(text(id));
        link.send(&packet(0x10, &body)).ok()?;
        match link.read().ok()? {
            (0x20, body) if body[1] == 0 => Some((link, body[0] == 1)),
            _ => None,
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        let first = byte[0];
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            self.reader.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 127) << shift;
            if byte[0] & 128 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        Ok((first, body))
    }
}

/// A message on its way.
struct Open {
    id: u16,
    n: u64,
    /// PUBREC has come: only the release is sent again.
    received: bool,
}

pub struct Publisher {
    pub device: String,
    pub qos: u8,
    pub v5: bool,
    port: u16,
    open: VecDeque<Open>,
    next: u64,
    next_id: u16,
    /// Numbers whose PUBACK or PUBREC came.
    pub acknowledged: HashSet<u64>,
    ended: bool,
}

impl Publisher {
    pub fn new(device: String, qos: u8, v5: bool, port: u16) -> Self {
        Publisher {
            device,
            qos,
            v5,
            port,
            open: VecDeque::new(),
            next: 1,
            next_id: 0,
            acknowledged: HashSet::new(),
            ended: false,
        }
    }

    /// Publishes through all kills until told to finish; the last message says so.
    pub fn run(mut self, shared: &Shared) -> Self {
        let mut known = false;
        while !self.ended {
            let Some((link, present)) = Link::open(self.port, &self.device, self.v5) else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            if known && !present {
                shared.faults.lock().expect("lock").push(format!("{}: its session was lost", self.device));
            }
            known = true;
            // a broken connection is what this is about
            let _ = self.talk(link, shared);
        }
        self
    }

    fn talk(&mut self, mut link: Link, shared: &Shared) -> io::Result<()> {
        let mut again = Vec::new();
        for open in &self.open {
            match open.received {
                true => again.extend(packet(0x62, &open.id.to_be_bytes())),
                false => again.extend(self.bytes(open, true)),
            }
        }
        link.send(&again)?;
        loop {
            let mut new = Vec::new();
            let finish = shared.finish.load(Ordering::Relaxed);
            while self.open.len() < WINDOW && !finish && shared.behind() < BEHIND {
                self.begin(&mut new);
            }
            if self.open.is_empty() && finish {
                return self.last(&mut link);
            }
            if self.open.is_empty() {
                thread::sleep(Duration::from_millis(1));
                link.send(&[0xC0, 0])?;
            }
            link.send(&new)?;
            self.hear(&mut link, shared)?;
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if !self.open.iter().any(|open| open.id == self.next_id) {
                break;
            }
        }
        let open = Open { id: self.next_id, n: self.next, received: false };
        self.next += 1;
        out.extend(self.bytes(&open, false));
        self.open.push_back(open);
    }

    fn bytes(&self, open: &Open, again: bool) -> Vec<u8> {
        let mut body = text(&format!("devices/{}/telemetry", self.device));
        body.extend(open.id.to_be_bytes());
        if self.v5 {
            body.push(0);
        }
        body.extend(format!("{{\"n\":{}}}", open.n).bytes());
        packet(0x30 | u8::from(again) << 3 | self.qos << 1, &body)
    }

    fn hear(&mut self, link: &mut Link, shared: &Shared) -> io::Result<()> {
        let (first, body) = link.read()?;
        if body.len() < 2 {
            return Ok(());
        }
        let id = u16::from_be_bytes([body[0], body[1]]);
        let refused = body.get(2).is_some_and(|code| *code >= 0x80 && *code != 0x92);
        if refused {
            let text = format!("{}: {first:#x} with code {:#x}", self.device, body[2]);
            shared.faults.lock().expect("lock").push(text);
        }
        let Some(place) = self.open.iter().position(|open| open.id == id) else { return Ok(()) };
        let done = match first >> 4 {
            4 | 7 => self.open.remove(place).map(|open| open.n),
            5 => {
                self.open[place].received = true;
                let n = self.open[place].n;
                link.send(&packet(0x62, &id.to_be_bytes()))?;
                Some(n)
            }
            _ => None,
        };
        if let Some(n) = done
            && self.acknowledged.insert(n)
        {
            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn last(&mut self, link: &mut Link) -> io::Result<()> {
        let mut body = text(&format!("devices/{}/telemetry", self.device));
        body.extend([0xFF, 0xFF]);
        if self.v5 {
            body.push(0);
        }
        body.extend(b"{\"end\":1}");
        link.send(&packet(0x32, &body))?;
        while link.read()?.0 >> 4 != 4 {}
        self.ended = true;
        link.send(&packet(0xE0, &[]))
    }
}

/// A subscriber whose session is kept: how often it got each number of each device.
pub struct Subscriber {
    pub got: HashMap<String, BTreeMap<u64, u32>>,
    /// Devices whose last message has come.
    pub ended: HashSet<String>,
    held: HashSet<u16>,
}

impl Subscriber {
    pub fn run(port: u16, devices: usize, shared: &Arc<Shared>) -> Self {
        let mut this = Subscriber { got: HashMap::new(), ended: HashSet::new(), held: HashSet::new() };
        let mut known = false;
        while this.ended.len() < devices {
            let Some((mut link, present)) = Link::open(port, "hmi", true) else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            if known && !present {
                shared.faults.lock().expect("lock").push("the subscriber's session was lost".into());
            }
            if !known {
                let body = [&[0, 1, 0][..], &text("devices/+/telemetry"), &[2]].concat();
                if link.send(&packet(0x82, &body)).is_err() {
                    continue;
                }
            }
            while this.ended.len() < devices && this.hear(&mut link, &mut known, shared).is_ok() {}
        }
        this
    }

    fn hear(&mut self, link: &mut Link, known: &mut bool, shared: &Shared) -> io::Result<()> {
        let (first, body) = link.read()?;
        match first >> 4 {
            9 => {
                *known = true;
                shared.listening.store(true, Ordering::Relaxed);
            }
            6 => {
                self.held.remove(&u16::from_be_bytes([body[0], body[1]]));
                link.send(&packet(0x70, &body[..2]))?;
            }
            3 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let name = String::from_utf8_lossy(&body[2..2 + topic]).into_owned();
                let id = u16::from_be_bytes([body[2 + topic], body[3 + topic]]);
                let properties = usize::from(body[4 + topic]);
                let payload = &body[5 + topic + properties..];
                let exactly = first >> 1 & 3 == 2;
                if !exactly || self.held.insert(id) {
                    let first = self.count(&name, &String::from_utf8_lossy(payload));
                    shared.heard.fetch_add(u64::from(first), Ordering::Relaxed);
                }
                link.send(&packet(if exactly { 0x50 } else { 0x40 }, &id.to_be_bytes()))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether it is new.
    fn count(&mut self, topic: &str, payload: &str) -> bool {
        let device = topic.split('/').nth(1).unwrap_or("").to_owned();
        match payload.strip_prefix("{\"n\":").and_then(|rest| rest.strip_suffix('}')).and_then(|n| n.parse().ok()) {
            Some(n) => {
                let count = self.got.entry(device).or_default().entry(n).or_default();
                *count += 1;
                *count == 1
            }
            None => {
                self.ended.insert(device);
                false
            }
        }
    }
}
