//! A broker on port 0 with a keeper that does as it is told, and a client that says exactly the bytes a test wants.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use headgate::{
    broker::{Broker, Kind, Ports, Tls, start},
    bus::{ChildEvent, ChildEvents, Inbound, LocalSender},
    config::{
        broker::{Anonymous, Broker as Config},
        identity::IdentityConfig,
    },
    identity::Identity,
    model::{
        access::{Access, Filter, Grant, Grantee},
        command::Refusal,
    },
    store::{Store, WriterThread},
    tasks::Tasks,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

type Judge = Arc<dyn Fn(&Inbound) -> Result<(), Refusal> + Send + Sync>;

pub struct Stand {
    pub broker: Broker,
    pub local: LocalSender,
    pub events: mpsc::Receiver<ChildEvent>,
    /// What the keeper was given.
    pub ingested: Arc<Mutex<Vec<String>>>,
    /// While held, the keeper answers nobody.
    pub hold: Arc<tokio::sync::Mutex<()>>,
    tasks: Tasks,
    store: Store,
    thread: WriterThread,
}

pub fn config() -> Config {
    let mut config = Config {
        tcp: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        tls: Vec::new(),
        anonymous: Anonymous::ByClientId,
        ..Config::default()
    };
    config.limits.connects_per_second = 10_000;
    config.limits.anonymous_devices = 10_000;
    config
}

pub fn grant(to: &[Grantee], read: &[&str], write: &[&str]) -> Grant {
    let filters = |texts: &[&str]| texts.iter().map(|t| Filter::new(t).expect("filter")).collect();
    Grant { to: to.to_vec(), read: filters(read), write: filters(write) }
}

/// Everybody may do everything.
pub fn open() -> Access {
    Access { grants: vec![grant(&[Grantee::Everyone], &["#", "$SYS/#"], &["#"])], ..Access::default() }
}

impl Stand {
    pub async fn start(folder: &Path) -> Self {
        Self::with(folder, config(), open(), None, Arc::new(|_| Ok(()))).await
    }

    pub async fn with(folder: &Path, config: Config, access: Access, tls: Option<Tls>, judge: Judge) -> Self {
        let (store, thread) = Store::open(folder).expect("store");
        let identity = Identity::open(store.clone(), &IdentityConfig::default(), folder, "gw").await.expect("identity");
        let tasks = Tasks::new();
        let (inbound, mut arrived) = mpsc::channel::<Vec<Inbound>>(64);
        let (local, said) = mpsc::channel(64);
        let (tell, events) = mpsc::channel(4096);
        let ingested: Arc<Mutex<Vec<String>>> = Arc::default();
        let hold: Arc<tokio::sync::Mutex<()>> = Arc::default();
        let (seen, held) = (ingested.clone(), hold.clone());
        tasks.spawn("keeper", async move {
            while let Some(batch) = arrived.recv().await {
                drop(held.lock().await);
                for inbound in batch {
                    let text =
                        format!("{} {:?} {}", inbound.device, inbound.topic, String::from_utf8_lossy(&inbound.payload));
                    seen.lock().expect("lock").push(text);
                    let answer = judge(&inbound);
                    let _ = inbound.reply.send(answer);
                }
            }
        });
        let ports =
            Ports { identity, inbound, local: said, children: ChildEvents::new(vec![tell]), store: store.clone() };
        let broker = start(&config, access, tls, ports, &tasks).await.expect("starts");
        Self { broker, local, events, ingested, hold, tasks, store, thread }
    }

    pub fn address(&self) -> SocketAddr {
        self.at(Kind::Tcp)
    }

    pub fn at(&self, kind: Kind) -> SocketAddr {
        self.broker.listening().iter().find(|(k, _)| *k == kind).expect("listens").1
    }

    pub async fn stop(self) {
        let Stand { broker, tasks, store, thread, local, .. } = self;
        drop((broker, local));
        timeout(PATIENCE, tasks.stop_and_wait()).await.expect("stops");
        store.stop().await;
        drop(store);
        thread.join();
    }
}

pub fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
    out.extend(bytes);
}

/// A whole packet around a body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
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
    out.extend(body);
    out
}

/// What a CONNECT says.
#[derive(Clone)]
pub struct Connect<'a> {
    pub id: &'a str,
    pub v5: bool,
    pub clean: bool,
    pub keep_alive: u16,
    /// v5 only: encoded properties.
    pub properties: Vec<u8>,
    /// Topic, payload, QoS, retain, encoded properties.
    pub will: Option<(&'a str, &'a str, u8, bool, Vec<u8>)>,
}

pub fn v4(id: &str) -> Connect<'_> {
    Connect { id, v5: false, clean: true, keep_alive: 0, properties: vec![], will: None }
}

pub fn v5(id: &str) -> Connect<'_> {
    Connect { v5: true, ..v4(id) }
}

impl Connect<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let mut flags = if self.clean { 2 } else { 0 };
        if let Some((_, _, qos, retain, _)) = &self.will {
            flags |= 4 | qos << 3 | u8::from(*retain) << 5;
        }
        let mut body = Vec::new();
        text(&mut body, b"MQTT");
        body.extend([if self.v5 { 5 } else { 4 }, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.v5 {
            body.push(u8::try_from(self.properties.len()).expect("short"));
            body.extend(&self.properties);
        }
        text(&mut body, self.id.as_bytes());
        if let Some((topic, payload, _, _, properties)) = &self.will {
            if self.v5 {
                body.push(u8::try_from(properties.len()).expect("short"));
                body.extend(properties);
            }
            text(&mut body, topic.as_bytes());
            text(&mut body, payload.as_bytes());
        }
        packet(0x10, &body)
    }
}

/// A PUBLISH as a client got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub topic: String,
    pub payload: String,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub packet: u16,
    pub properties: Vec<u8>,
}

pub struct Client<S = TcpStream> {
    pub stream: S,
    pub v5: bool,
    /// PUBLISHes that came while something else was waited for.
    pub aside: VecDeque<(u8, Vec<u8>)>,
}

impl Client {
    /// Connects and takes the CONNACK: session present, code, the rest of the packet.
    pub async fn try_connect(address: SocketAddr, connect: &Connect<'_>) -> (Self, bool, u8, Vec<u8>) {
        let stream = TcpStream::connect(address).await.expect("tcp");
        stream.set_nodelay(true).expect("nodelay");
        Client::over(stream, connect).await
    }

    pub async fn connect(address: SocketAddr, connect: &Connect<'_>) -> Self {
        let (client, _, code, _) = Self::try_connect(address, connect).await;
        assert_eq!(code, 0, "CONNACK");
        client
    }

    /// Comes back to a session that must be there.
    pub async fn resume(address: SocketAddr, connect: &Connect<'_>) -> Self {
        let (client, present, code, _) = Self::try_connect(address, connect).await;
        assert_eq!((present, code), (true, 0), "CONNACK");
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub async fn over(stream: S, connect: &Connect<'_>) -> (Self, bool, u8, Vec<u8>) {
        let mut client = Client { stream, v5: connect.v5, aside: VecDeque::new() };
        client.send(&connect.bytes()).await;
        let (first, body) = client.read().await.expect("CONNACK");
        assert_eq!(first, 0x20, "CONNACK");
        (client, body[0] == 1, body[1], body[2..].to_vec())
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // the other side may close before it has read all of it
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// The next packet: first byte and body; `None` at the end of the connection.
    pub async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let first = self.stream.read_u8().await.ok()?;
            let mut length = 0;
            for shift in [0, 7, 14, 21] {
                let byte = self.stream.read_u8().await.ok()?;
                length |= usize::from(byte & 127) << shift;
                if byte & 128 == 0 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.ok()?;
            Some((first, body))
        };
        timeout(PATIENCE, read).await.expect("an answer in time")
    }

    /// The next packet that is no PUBLISH; those are set aside.
    pub async fn answer(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            match self.read().await {
                Some(publish) if publish.0 >> 4 == 3 => self.aside.push_back(publish),
                other => return other,
            }
        }
    }

    /// The next packet that is no PUBLISH must be this one.
    pub async fn expect(&mut self, first: u8, body: &[u8]) {
        assert_eq!(self.answer().await, Some((first, body.to_vec())));
    }

    pub async fn publish_bytes(&self, topic: &str, payload: &str, flags: u8, id: u16, properties: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        text(&mut body, topic.as_bytes());
        if flags & 0b110 != 0 {
            body.extend(id.to_be_bytes());
        }
        if self.v5 {
            body.push(u8::try_from(properties.len()).expect("short"));
            body.extend(properties);
        }
        body.extend(payload.as_bytes());
        packet(0x30 | flags, &body)
    }

    /// Publishes and, for QoS 1 and 2, goes through the whole exchange; the code of PUBACK or PUBREC.
    pub async fn publish(&mut self, topic: &str, payload: &str, flags: u8) -> u8 {
        self.publish_with(topic, payload, flags, &[]).await
    }

    pub async fn publish_with(&mut self, topic: &str, payload: &str, flags: u8, properties: &[u8]) -> u8 {
        let bytes = self.publish_bytes(topic, payload, flags, 7, properties).await;
        self.send(&bytes).await;
        let qos = flags >> 1 & 3;
        if qos == 0 {
            return 0;
        }
        let (first, body) = self.answer().await.expect("an ack");
        assert_eq!((first, &body[..2]), (if qos == 1 { 0x40 } else { 0x50 }, &[0, 7][..]));
        let code = body.get(2).copied().unwrap_or(0);
        if qos == 2 && code < 0x80 {
            self.send(&packet(0x62, &[0, 7])).await;
            self.expect(0x70, &[0, 7]).await;
        }
        code
    }

    /// Subscribes with the options byte; the code.
    pub async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_with(filter, options, &[]).await
    }

    pub async fn subscribe_with(&mut self, filter: &str, options: u8, properties: &[u8]) -> u8 {
        let mut body = vec![0, 9];
        if self.v5 {
            body.push(u8::try_from(properties.len()).expect("short"));
            body.extend(properties);
        }
        text(&mut body, filter.as_bytes());
        body.push(options);
        self.send(&packet(0x82, &body)).await;
        let (first, body) = self.answer().await.expect("SUBACK");
        assert_eq!((first, &body[..2]), (0x90, &[0, 9][..]), "SUBACK");
        *body.last().expect("a code")
    }

    pub async fn unsubscribe(&mut self, filter: &str) -> Option<u8> {
        let mut body = vec![0, 9];
        if self.v5 {
            body.push(0);
        }
        text(&mut body, filter.as_bytes());
        self.send(&packet(0xA2, &body)).await;
        let (first, body) = self.answer().await.expect("UNSUBACK");
        assert_eq!((first, &body[..2]), (0xB0, &[0, 9][..]), "UNSUBACK");
        body.get(3).copied()
    }

    /// The next packet, which must be a PUBLISH; nothing is acknowledged.
    pub async fn take(&mut self) -> Got {
        let (first, body) = match self.aside.pop_front() {
            Some(publish) => publish,
            None => self.read().await.expect("a PUBLISH"),
        };
        assert_eq!(first >> 4, 3, "a PUBLISH, not {first:#x} {body:?}");
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..2 + length].to_vec()).expect("utf-8");
        let mut at = 2 + length;
        let qos = first >> 1 & 3;
        let mut packet = 0;
        if qos > 0 {
            packet = u16::from_be_bytes([body[at], body[at + 1]]);
            at += 2;
        }
        let mut properties = Vec::new();
        if self.v5 {
            let length = usize::from(body[at]);
            assert!(length < 128, "short properties");
            properties = body[at + 1..at + 1 + length].to_vec();
            at += 1 + length;
        }
        let payload = String::from_utf8(body[at..].to_vec()).expect("utf-8");
        Got { topic, payload, qos, retain: first & 1 != 0, dup: first & 8 != 0, packet, properties }
    }

    /// The next PUBLISH, acknowledged to its end.
    pub async fn receive(&mut self) -> Got {
        let got = self.take().await;
        let id = got.packet.to_be_bytes();
        match got.qos {
            1 => self.send(&packet(0x40, &id)).await,
            2 => {
                self.send(&packet(0x50, &id)).await;
                self.expect(0x62, &id).await;
                self.send(&packet(0x70, &id)).await;
            }
            _ => {}
        }
        got
    }

    /// Whatever was on its way to this client has arrived; nothing else came.
    pub async fn nothing(&mut self) {
        self.send(&[0xC0, 0]).await;
        self.expect(0xD0, &[]).await;
        assert!(self.aside.is_empty(), "nothing came but {:?}", self.aside);
    }

    pub async fn disconnect(mut self) {
        self.send(&[0xE0, 0]).await;
        assert_eq!(self.read().await, None, "closed after DISCONNECT");
    }

    /// The broker must end the connection: a v5 client sees this code in a DISCONNECT.
    pub async fn ended(&mut self, code: u8, what: &str) {
        if self.v5 {
            let (first, body) = self.read().await.unwrap_or_else(|| panic!("{what}: no DISCONNECT"));
            assert_eq!(first, 0xE0, "{what}: {body:?}");
            assert_eq!(body[0], code, "{what}: code {:#x}", body[0]);
        }
        assert_eq!(self.read().await, None, "{what}: closed");
    }
}
