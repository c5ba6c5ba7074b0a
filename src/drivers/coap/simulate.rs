//! A CoAP sensor to try things with: a room's climate that can be observed, and a set point it follows.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use coap_lite::CoapOption;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use serde_json::{Value as Json, json};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::{
    blocks::{self, Upload, Uploads},
    endpoint::Endpoint,
    exchange::{Params, Ticket},
    formats::{Body, decode, to_cbor},
    wire::{LARGEST_DATAGRAM, Message, Token, code},
};
use crate::{clock, config::coap::Format};

const LINKS: &str = "</sensors/climate>;rt=\"climate\";ct=\"50 60 110\";obs,</sensors/temperature>;rt=\"temperature\";ct=0;obs,\
     </setpoint>;rt=\"setpoint\";ct=\"0 50\";obs,</log>;rt=\"log\";ct=0";
/// Seconds for which what the sensor says is fresh: at least one notification lies within.
const MAX_AGE: u32 = 10;
const OBSERVERS: usize = 64;

/// The sensor, bound to its address and not running yet.
pub struct Sensor {
    socket: UdpSocket,
    /// How often observers hear of it.
    every: Duration,
    room: Room,
}

/// A room that warms up or cools down towards its set point.
struct Room {
    temperature: f64,
    humidity: f64,
    setpoint: f64,
    uptime: u64,
}

struct Observer {
    peer: SocketAddr,
    token: Token,
    path: String,
    format: Option<Format>,
    sequence: u32,
}

impl Sensor {
    /// `every` is how often observers are notified.
    pub async fn bind(listen: SocketAddr, every: Duration) -> io::Result<Sensor> {
        let room = Room { temperature: 18.0, humidity: 48.0, setpoint: 21.0, uptime: 0 };
        Ok(Sensor { socket: UdpSocket::bind(listen).await?, every, room })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (endpoint, work, mut requests) = Endpoint::on(self.socket, Params::default());
        let serve = async {
            let mut observers: HashMap<u64, Observer> = HashMap::new();
            let mut refused: FuturesUnordered<_> = FuturesUnordered::new();
            let mut uploads = Uploads::default();
            let mut next = 0;
            let mut clock = tokio::time::interval(self.every);
            clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                let mut changed = false;
                tokio::select! {
                    request = requests.recv() => {
                        let Some((ticket, request)) = request else { return };
                        let answer = self.room.answer(&mut uploads, &ticket, &request);
                        changed = request.code() == code::PUT;
                        let answer = observation(&mut observers, &mut next, &ticket, &request, answer);
                        endpoint.respond(ticket, answer).await;
                    }
                    Some(gone) = refused.next() => {
                        if let Some(number) = gone {
                            observers.remove(&number);
                        }
                    }
                    _ = clock.tick() => {
                        self.room.pass(self.every);
                        changed = true;
                    }
                }
                for (number, observer) in observers.iter_mut().filter(|_| changed) {
                    observer.sequence = (observer.sequence + 1) % (1 << 24);
                    let Some((format, body)) = self.room.read(&observer.path, observer.format) else { continue };
                    let message = blocks::content(&Message::request(code::GET, ""), format, &body, LARGEST_DATAGRAM)
                        .with_uint(CoapOption::Observe, observer.sequence)
                        .with_uint(CoapOption::MaxAge, MAX_AGE);
                    let gone = endpoint.notify(observer.peer, observer.token.clone(), message).await;
                    let number = *number;
                    refused.push(gone.map(move |gone| gone.ok().map(|_| number)));
                }
            }
        };
        tokio::select! {
            () = work.run() => {}
            () = serve => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Registers or removes an observer as the request says (RFC 7641 section 4.1).
fn observation(
    observers: &mut HashMap<u64, Observer>,
    next: &mut u64,
    ticket: &Ticket,
    request: &Message,
    answer: Message,
) -> Message {
    let path = request.path().unwrap_or_default();
    let observable = matches!(path.as_str(), "sensors/climate" | "sensors/temperature" | "setpoint");
    if request.code() != code::GET || !observable || !code::is_success(answer.code()) {
        return answer;
    }
    let same = |observer: &Observer| observer.peer == ticket.peer && observer.token == request.token();
    match request.uint(CoapOption::Observe) {
        Some(0) if observers.len() < OBSERVERS => {
            observers.retain(|_, observer| !same(observer));
            let format = request.uint(CoapOption::Accept).and_then(|n| Format::from_number(n as u16));
            let token = request.token().to_vec();
            observers.insert(*next, Observer { peer: ticket.peer, token, path, format, sequence: 1 });
            *next += 1;
            answer.with_uint(CoapOption::Observe, 1)
        }
        Some(_) => {
            observers.retain(|_, observer| !same(observer));
            answer
        }
        None => answer,
    }
}

impl Room {
    fn pass(&mut self, time: Duration) {
        let share = (time.as_secs_f64() / 20.0).min(1.0);
        self.uptime += time.as_millis() as u64;
        let wave = (self.uptime as f64 / 7_000.0).sin();
        self.temperature += (self.setpoint - self.temperature) * share + wave * 0.03;
        self.humidity = 48.0 + wave * 2.0;
    }

    fn answer(&mut self, uploads: &mut Uploads, ticket: &Ticket, request: &Message) -> Message {
        let known = [
            CoapOption::UriHost,
            CoapOption::UriPort,
            CoapOption::UriPath,
            CoapOption::UriQuery,
            CoapOption::Accept,
            CoapOption::Block1,
            CoapOption::Block2,
        ];
        if request.has_critical_besides(&known) {
            return blocks::refuse(code::BAD_OPTION, "a critical option is not known here");
        }
        let path = request.path().unwrap_or_default();
        match (request.code(), path.as_str()) {
            (code::GET, path) => {
                let accept = match request.uint(CoapOption::Accept).map(|n| (n, Format::from_number(n as u16))) {
                    Some((40, _)) | None => None,
                    Some((_, Some(format))) => Some(format),
                    Some(_) => return blocks::refuse(code::NOT_ACCEPTABLE, "ask for text, JSON, CBOR or SenML"),
                };
                match self.read(path, accept) {
                    Some((format, body)) => {
                        blocks::content(request, format, &body, LARGEST_DATAGRAM).with_uint(CoapOption::MaxAge, MAX_AGE)
                    }
                    None => blocks::refuse(code::NOT_FOUND, "see /.well-known/core"),
                }
            }
            (code::PUT, "setpoint") => match uploads.take(Instant::now(), ticket.peer, request, 1024) {
                Upload::Whole(body, _) => self.set(request, &body),
                Upload::Answer(answer) => answer,
            },
            (_, "setpoint" | "sensors/climate" | "sensors/temperature" | "log") => {
                blocks::refuse(code::METHOD_NOT_ALLOWED, "GET, and PUT for /setpoint")
            }
            _ => blocks::refuse(code::NOT_FOUND, "see /.well-known/core"),
        }
    }

    fn set(&mut self, request: &Message, body: &[u8]) -> Message {
        let format =
            request.uint(CoapOption::ContentFormat).map_or(Some(Format::Text), |n| Format::from_number(n as u16));
        let Some(format) = format else { return blocks::refuse(code::UNSUPPORTED_FORMAT, "text, JSON, CBOR or SenML") };
        let value = match decode(format, body, clock::now()) {
            Ok(Body::Document(json)) => json.as_f64().or_else(|| json.get("value").and_then(Json::as_f64)),
            Ok(Body::Points(points)) => points.first().and_then(|point| point.value.as_f64()),
            Err(why) => return blocks::refuse(code::BAD_REQUEST, why),
        };
        match value {
            Some(value) if (5.0..=30.0).contains(&value) => {
                self.setpoint = value;
                Message::new(code::CHANGED)
            }
            Some(value) => blocks::refuse(code::UNPROCESSABLE, format!("{value} is not between 5 and 30")),
            None => blocks::refuse(code::BAD_REQUEST, "expected a number"),
        }
    }

    /// A resource in the format that is asked for, or in its own.
    fn read(&self, path: &str, accept: Option<Format>) -> Option<(u16, Vec<u8>)> {
        let round = |value: f64| (value * 100.0).round() / 100.0;
        let json = match path {
            ".well-known/core" => return Some((40, LINKS.into())),
            "log" => {
                let lines = (0..60).map(|line| format!("{line:04} sensor started, all is well since\n"));
                return Some((0, lines.collect::<String>().into_bytes()));
            }
            "sensors/climate" => json!({ "temperature": round(self.temperature), "humidity": round(self.humidity) }),
            "sensors/temperature" => json!(round(self.temperature)),
            "setpoint" => json!(self.setpoint),
            _ => return None,
        };
        let default = if json.is_object() { Format::Json } else { Format::Text };
        let format = accept.unwrap_or(default);
        let named =
            json.as_object().cloned().unwrap_or_else(|| [("value".to_owned(), json.clone())].into_iter().collect());
        let body = match format {
            Format::Text | Format::Json => json.to_string().into_bytes(),
            Format::Cbor => to_cbor(&json).ok()?,
            Format::SenmlJson | Format::SenmlCbor => {
                let records: Vec<Json> = named.iter().map(|(name, value)| json!({ "n": name, "v": value })).collect();
                serde_json::to_vec(&records).ok()?
            }
        };
        // SenML-CBOR is offered by nobody here; ask for JSON then.
        let format = if format == Format::SenmlCbor { Format::SenmlJson } else { format };
        Some((format.number(), body))
    }
}

/// What `devices.d` needs to take this sensor in, as TOML.
pub fn device_file(id: &str, address: SocketAddr) -> String {
    format!(
        r#"[[device]]
id = "{id}"
protocol = "coap"
type = "coap-sensor"
address = "{address}"

[[device.resource]]
path = "sensors/climate"
mode = "observe"

[[device.resource]]
path = "setpoint"
mode = "observe"
name = "setpoint"
writable = true
min = 5
max = 30
"#
    )
}
