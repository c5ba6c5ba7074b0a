//! The bench a probe lies on: clients by name, over TCP or WebSocket, and the steps a probe is made of.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::wire::{Connect, Speech, V4, V5, ack, packet};

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One thing a probe does or wants to see. The first word is the client.
#[derive(Clone)]
pub enum Step {
    /// Says this CONNECT and must be accepted: whether the session must have been there.
    Up(&'static str, Connect, bool),
    /// Says this CONNECT; must be refused with one of the codes (0 stands for closing without a word), then closed.
    Refused(&'static str, Vec<u8>, &'static [u8]),
    Send(&'static str, Vec<u8>),
    /// One byte at a time.
    Trickle(&'static str, Vec<u8>),
    /// Exactly this packet comes next.
    Get(&'static str, Vec<u8>),
    /// A packet that begins with these bytes of header and body (the length left out) comes next.
    Like(&'static str, Vec<u8>),
    /// A PUBLISH comes next: first byte without DUP, topic, payload. It is acknowledged to its end.
    Take(&'static str, u8, &'static str, &'static str),
    /// The same, and these bytes are somewhere in its properties.
    TakeWith(&'static str, u8, &'static str, &'static str, Vec<u8>),
    /// The same, and fewer seconds than these are left until it expires.
    TakeAged(&'static str, u8, &'static str, &'static str, u8),
    /// The broker ends the connection; MQTT 5 clients hear one of these codes before.
    Ends(&'static str, &'static [u8]),
    /// The same, after any number of packets that begin with this byte.
    EndsAfter(&'static str, u8, &'static [u8]),
    /// The connection is closed without another word.
    Closed(&'static str),
    /// Nothing came before the answer to a ping.
    Quiet(&'static str),
    /// The connection ends without DISCONNECT.
    Drop(&'static str),
    /// Time passes: for intervals that the standard counts in seconds.
    Wait(u64),
}

pub struct Probe {
    /// Clause, and what it asks.
    pub name: &'static str,
    pub steps: Vec<Step>,
}

pub fn probe(name: &'static str, steps: Vec<Step>) -> Probe {
    Probe { name, steps }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Road {
    Tcp,
    WebSocket,
}

struct Client {
    stream: TcpStream,
    road: Road,
    speech: Speech,
    /// Bytes of MQTT that were read and not looked at.
    input: Vec<u8>,
}

impl Client {
    async fn open(address: SocketAddr, road: Road) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut client = Client { stream, road, speech: V5, input: Vec::new() };
        if road == Road::WebSocket {
            client.shake_hands().await?;
        }
        Ok(client)
    }

    async fn shake_hands(&mut self) -> Result<(), String> {
        let request = "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Protocol: mqtt\r\n\r\n";
        self.stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(self.stream.read_u8().await.map_err(|error| error.to_string())?);
        }
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        // RFC 6455, 1.3: the answer to the sample nonce
        let right = answer.starts_with("http/1.1 101") && answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo=");
        if right { Ok(()) } else { Err(format!("no upgrade: {answer}")) }
    }

    async fn send(&mut self, bytes: &[u8]) {
        // the broker may close before it has read all of it
        let _ = match self.road {
            Road::Tcp => self.stream.write_all(bytes).await,
            Road::WebSocket => self.stream.write_all(&binary_frame(bytes)).await,
        };
    }

    /// More bytes of MQTT; `false` at the end.
    async fn more(&mut self) -> bool {
        if self.road == Road::Tcp {
            return matches!(self.stream.read_buf(&mut self.input).await, Ok(n) if n > 0);
        }
        let mut frame = async || -> std::io::Result<bool> {
            let (first, second) = (self.stream.read_u8().await?, self.stream.read_u8().await?);
            let length = match second & 127 {
                126 => u64::from(self.stream.read_u16().await?),
                127 => self.stream.read_u64().await?,
                short => u64::from(short),
            };
            let mut body = vec![0; usize::try_from(length).expect("small")];
            self.stream.read_exact(&mut body).await?;
            if first & 15 <= 2 {
                self.input.extend(body);
            }
            Ok(first & 15 != 8)
        };
        frame().await.unwrap_or(false)
    }

    /// The next packet whole, without its length: first byte and body. `None` at the end.
    async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            loop {
                if let Some((header, length)) = length(&self.input)
                    && self.input.len() >= header + length
                {
                    let first = self.input[0];
                    let body = self.input[header..header + length].to_vec();
                    self.input.drain(..header + length);
                    return Some((first, body));
                }
                if !self.more().await {
                    return None;
                }
            }
        };
        let patience = if std::env::var_os("HEADGATE_PROBE").is_some() { PATIENCE / 10 } else { PATIENCE };
        timeout(patience, read).await.unwrap_or(Some((0, b"nothing came".to_vec())))
    }

    /// Ends the connection without DISCONNECT and waits until the broker has seen it: what others send from then on finds
    /// nobody there.
    async fn vanish(mut self) {
        let gone = async {
            self.stream.shutdown().await?;
            tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await
        };
        drop(timeout(PATIENCE, gone).await);
    }

    /// The end of the connection: `None` if that is what comes.
    async fn end(&mut self) -> Result<(), String> {
        match self.read().await {
            None => Ok(()),
            Some(other) => Err(format!("not closed but {other:02x?}")),
        }
    }
}

/// Bytes of header, bytes of body.
fn length(input: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for index in 1..5 {
        let byte = *input.get(index)?;
        value |= usize::from(byte & 127) << (7 * (index - 1));
        if byte & 128 == 0 {
            return Some((index + 1, value));
        }
    }
    None
}

/// A masked binary frame, as clients send them; the mask is zero.
fn binary_frame(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x82];
    match bytes.len() {
        n @ 0..=125 => out.push(0x80 | u8::try_from(n).expect("short")),
        n @ 126..=65_535 => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(n).expect("two bytes").to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(bytes);
    out
}

/// A PUBLISH in parts: first byte without DUP, packet id, topic, properties, payload.
fn publish(speech: Speech, first: u8, body: &[u8]) -> Option<(u8, u16, String, Vec<u8>, String)> {
    let text = usize::from(u16::from_be_bytes([*body.first()?, *body.get(1)?]));
    let topic = String::from_utf8(body.get(2..2 + text)?.to_vec()).ok()?;
    let mut rest = &body[2 + text..];
    let mut id = 0;
    if first & 6 != 0 {
        id = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
        rest = &rest[2..];
    }
    let mut properties = Vec::new();
    if speech.v5 {
        // the length stands where a packet has its own
        let (header, length) = length(&[&[0], rest].concat())?;
        properties = rest.get(header - 1..header - 1 + length)?.to_vec();
        rest = &rest[header - 1 + length..];
    }
    Some((first & !8, id, topic, properties, String::from_utf8_lossy(rest).into_owned()))
}

/// Runs a probe against whatever listens there; what was not as it must be. `strict` asks for the code of MQTT 5 where
/// the standard would let a broker close without a word.
pub async fn run(probe: &Probe, address: SocketAddr, road: Road, strict: bool) -> Result<(), String> {
    let mut clients: HashMap<&'static str, Client> = HashMap::new();
    for (number, step) in probe.steps.iter().enumerate() {
        step_once(step, &mut clients, address, road, strict).await.map_err(|why| format!("step {number}: {why}"))?;
    }
    Ok(())
}

async fn step_once(
    step: &Step,
    clients: &mut HashMap<&'static str, Client>,
    address: SocketAddr,
    road: Road,
    strict: bool,
) -> Result<(), String> {
    let name = match step {
        Step::Wait(milliseconds) => {
            sleep(Duration::from_millis(*milliseconds)).await;
            return Ok(());
        }
        Step::Drop(name) => {
            if let Some(client) = clients.remove(name) {
                client.vanish().await;
            }
            return Ok(());
        }
        Step::Up(name, ..) | Step::Refused(name, ..) => {
            clients.insert(name, Client::open(address, road).await?);
            *name
        }
        Step::Send(name, _) | Step::Trickle(name, _) | Step::Get(name, _) | Step::Like(name, _) => *name,
        Step::Take(name, ..) | Step::TakeWith(name, ..) | Step::TakeAged(name, ..) | Step::Ends(name, _) => *name,
        Step::EndsAfter(name, ..) | Step::Closed(name) | Step::Quiet(name) => *name,
    };
    if !clients.contains_key(name) {
        clients.insert(name, Client::open(address, road).await?);
    }
    let client = clients.get_mut(name).expect("there");
    match step {
        Step::Up(_, connect, present) => {
            client.speech = if connect.level == 5 { V5 } else { V4 };
            client.send(&connect.bytes()).await;
            match client.read().await {
                Some((0x20, body)) if body[..2] == [u8::from(*present), 0] => Ok(()),
                other => Err(format!("CONNACK with session present {present}, not {other:02x?}")),
            }
        }
        Step::Refused(_, bytes, codes) => {
            client.send(bytes).await;
            match client.read().await {
                None if codes.contains(&0) || !strict => Ok(()),
                Some((0x20, body)) if body[0] == 0 && body[1] != 0 && codes.contains(&body[1]) => client.end().await,
                other => Err(format!("refusal with {codes:02x?}, not {other:02x?}")),
            }
        }
        Step::Send(_, bytes) => {
            if bytes.starts_with(&[0x10]) {
                client.speech = if bytes.get(8) == Some(&5) { V5 } else { V4 };
            }
            client.send(bytes).await;
            Ok(())
        }
        Step::Trickle(_, bytes) => {
            for byte in bytes {
                client.send(&[*byte]).await;
            }
            Ok(())
        }
        Step::Get(_, wanted) => {
            let (header, _) = length(wanted).expect("a whole packet");
            match client.read().await {
                Some((first, body)) if first == wanted[0] && body == wanted[header..] => Ok(()),
                other => Err(format!("{wanted:02x?} (with its length), not {other:02x?}")),
            }
        }
        Step::Like(_, wanted) => match client.read().await {
            Some((first, body)) if first == wanted[0] && body.starts_with(&wanted[1..]) => Ok(()),
            other => Err(format!("something like {wanted:02x?}, not {other:02x?}")),
        },
        Step::Take(_, first, topic, payload) => take(client, *first, topic, payload, |_| true).await,
        Step::TakeWith(_, first, topic, payload, inside) => {
            take(client, *first, topic, payload, |has| has.windows(inside.len()).any(|window| window == inside)).await
        }
        Step::TakeAged(_, first, topic, payload, expiry) => {
            take(client, *first, topic, payload, |has| (1..*expiry).any(|left| has == [2, 0, 0, 0, left])).await
        }
        Step::Ends(_, codes) => match client.read().await {
            None if !client.speech.v5 || !strict => Ok(()),
            Some((0xE0, body)) if client.speech.v5 && codes.contains(&body[0]) => client.end().await,
            other => Err(format!("the end with {codes:02x?}, not {other:02x?}")),
        },
        Step::EndsAfter(_, before, codes) => loop {
            match client.read().await {
                Some((first, _)) if first == *before => {}
                None if !strict => return Ok(()),
                Some((0xE0, body)) if codes.contains(&body[0]) => return client.end().await,
                other => return Err(format!("the end with {codes:02x?}, not {other:02x?}")),
            }
        },
        Step::Closed(_) => client.end().await,
        Step::Quiet(_) => {
            client.send(&[0xC0, 0]).await;
            match client.read().await {
                Some((0xD0, body)) if body.is_empty() => Ok(()),
                other => Err(format!("PINGRESP and nothing before it, not {other:02x?}")),
            }
        }
        Step::Wait(_) | Step::Drop(_) => Ok(()),
    }
}

async fn take(
    client: &mut Client,
    first: u8,
    topic: &str,
    payload: &str,
    has: impl Fn(&[u8]) -> bool,
) -> Result<(), String> {
    let wanted = || format!("{first:02x} {topic:?} {payload:?} with its properties");
    let Some((kind, body)) = client.read().await else { return Err(format!("{}, not the end", wanted())) };
    let parts = publish(client.speech, kind, &body).filter(|_| kind >> 4 == 3);
    let Some((found, id, its_topic, properties, its_payload)) = parts else {
        return Err(format!("{}, not {kind:02x} {body:02x?}", wanted()));
    };
    if (found, &*its_topic, &*its_payload) != (first, topic, payload) || !has(&properties) {
        return Err(format!("{}, not {found:02x} {its_topic:?} {its_payload:?} {properties:02x?}", wanted()));
    }
    match first >> 1 & 3 {
        1 => client.send(&ack(0x40, id)).await,
        2 => {
            client.send(&ack(0x50, id)).await;
            let wanted = packet(0x62, &[&id.to_be_bytes()]);
            match client.read().await {
                Some((0x62, body)) if body == wanted[2..] => client.send(&ack(0x70, id)).await,
                other => return Err(format!("PUBREL, not {other:02x?}")),
            }
        }
        _ => {}
    }
    Ok(())
}
