//! A broker that minds: a few pages of MQTT 5 of our own, which answer publishes as a script tells them to.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value as Json;

/// What is done with a publish.
pub enum Answer {
    /// PUBACK with this reason code (MQTT 5, section 3.4.2.1).
    Ack(u8),
    /// DISCONNECT with this reason code (section 3.14.2.1).
    Disconnect(u8),
}

/// A publish as the broker got it.
pub struct Published<'p> {
    /// Which connection it came over, from 1.
    pub connection: usize,
    pub topic: &'p str,
    pub payload: &'p [u8],
}

type Taken = Arc<Mutex<Vec<(String, Json)>>>;

pub struct Minding {
    pub port: u16,
    /// What was taken with reason 0, in order, batches unfolded.
    taken: Taken,
    connections: Arc<Mutex<usize>>,
}

impl Minding {
    pub fn start(script: impl Fn(&Published<'_>) -> Answer + Send + Sync + 'static) -> Minding {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let broker = Minding { port, taken: Taken::default(), connections: Arc::default() };
        let (taken, connections) = (broker.taken.clone(), broker.connections.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = {
                    let mut count = connections.lock().expect("lock");
                    *count += 1;
                    *count
                };
                // One at a time: the gateway has one connection.
                let _ = serve(stream, number, &script, &taken);
            }
        });
        broker
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().expect("lock")
    }

    pub fn records(&self, topic: &str) -> Vec<Json> {
        let taken = self.taken.lock().expect("lock");
        taken.iter().filter(|(of, _)| of == topic).map(|(_, record)| record.clone()).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    connection: usize,
    script: &impl Fn(&Published<'_>) -> Answer,
    taken: &Taken,
) -> std::io::Result<()> {
    loop {
        let (kind, body) = packet(&mut stream)?;
        match kind >> 4 {
            1 => stream.write_all(&[0x20, 3, 0, 0, 0])?,
            3 => {
                let length = usize::from(body[0]) << 8 | usize::from(body[1]);
                let topic = std::str::from_utf8(&body[2..2 + length]).expect("a topic").to_owned();
                let id = [body[2 + length], body[3 + length]];
                assert_eq!(body[4 + length], 0, "no properties");
                let payload = &body[5 + length..];
                match script(&Published { connection, topic: &topic, payload }) {
                    Answer::Ack(0) => {
                        let records = match serde_json::from_slice(payload).expect("json") {
                            Json::Array(items) => items,
                            one => vec![one],
                        };
                        taken.lock().expect("lock").extend(records.into_iter().map(|record| (topic.clone(), record)));
                        stream.write_all(&[0x40, 2, id[0], id[1]])?;
                    }
                    Answer::Ack(code) => stream.write_all(&[0x40, 3, id[0], id[1], code])?,
                    Answer::Disconnect(code) => {
                        stream.write_all(&[0xe0, 1, code])?;
                        // Closed with bytes unread, the connection would be reset and the word lost with it.
                        stream.shutdown(Shutdown::Write)?;
                        return std::io::copy(&mut stream, &mut std::io::sink()).map(drop);
                    }
                }
            }
            8 => {
                // As many codes as filters: each is a text and an octet of options.
                let (mut at, mut codes) = (3 + usize::from(body[2]), Vec::new());
                while at < body.len() {
                    at += 3 + (usize::from(body[at]) << 8 | usize::from(body[at + 1]));
                    codes.push(1);
                }
                stream.write_all(&[&[0x90, 3 + codes.len() as u8, body[0], body[1], 0], &codes[..]].concat())?;
            }
            12 => stream.write_all(&[0xd0, 0])?,
            14 => return Ok(()),
            _ => {}
        }
    }
}

fn packet(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let kind = byte[0];
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 127) << shift;
        shift += 7;
        if byte[0] < 128 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((kind, body))
}
