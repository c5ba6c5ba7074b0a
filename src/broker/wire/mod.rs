//! The seam to rumqttd's codec, and the only place that knows it: bytes to packets here, packets to bytes in
//! [`encode`].
//!
//! ```text
//!  bytes ─▶ frame (type, flags, size) ─▶ check (shape, law) ─▶ rumqttd::protocol ─▶ Packet
//! ```
//!
//! The codec reads; it never writes: its encoder panics on properties for a 3.1.1 client and cannot say every code.

mod check;
pub mod encode;
pub mod reason;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Buf, Bytes, BytesMut};
use rumqttd::protocol::{self, Packet as Read, Protocol, QoS, RetainForwardRule, v4::V4, v5::V5};

pub use reason::Fault;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1, protocol level 4.
    V4,
    V5,
}

impl Version {
    pub fn name(self) -> &'static str {
        match self {
            Version::V4 => "mqtt 3.1.1",
            Version::V5 => "mqtt 5",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Connect {
    pub version: Version,
    pub clean: bool,
    pub keep_alive: u16,
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Bytes>,
    pub will: Option<Will>,
    /// Session expiry in seconds; absent means 0.
    pub expiry: Option<u32>,
    pub receive_maximum: u16,
    pub packet_maximum: Option<u32>,
    pub alias_maximum: u16,
    /// Whether reason strings may be sent on packets other than CONNACK and DISCONNECT.
    pub problem_information: bool,
    pub has_auth_method: bool,
}

#[derive(Debug, Clone)]
pub struct Will {
    pub topic: String,
    pub payload: Bytes,
    pub qos: u8,
    pub retain: bool,
    /// Seconds.
    pub delay: u32,
    pub expiry: Option<u32>,
    pub properties: Bytes,
}

#[derive(Debug, Clone)]
pub struct Publish {
    pub qos: u8,
    pub retain: bool,
    /// 0 for QoS 0.
    pub packet: u16,
    /// Empty where an alias stands for it.
    pub topic: Bytes,
    pub alias: Option<u16>,
    pub payload: Bytes,
    /// Seconds.
    pub expiry: Option<u32>,
    /// Properties that travel with the message, encoded.
    pub properties: Bytes,
}

#[derive(Debug, Clone)]
pub enum Packet {
    Publish(Publish),
    PubAck {
        packet: u16,
    },
    PubRec {
        packet: u16,
        reason: u8,
    },
    PubRel {
        packet: u16,
    },
    PubComp {
        packet: u16,
    },
    /// Filters with their options byte (MQTT 5, 3.8.3.1).
    Subscribe {
        packet: u16,
        identifier: u32,
        filters: Vec<(String, u8)>,
    },
    Unsubscribe {
        packet: u16,
        filters: Vec<String>,
    },
    PingReq,
    Disconnect {
        reason: u8,
        expiry: Option<u32>,
    },
}

/// One whole packet as bytes.
#[derive(Debug)]
pub struct Frame {
    first: u8,
    header: usize,
    bytes: BytesMut,
}

impl Frame {
    pub fn is_connect(&self) -> bool {
        self.first >> 4 == 1
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn body(&self) -> &[u8] {
        &self.bytes[self.header..]
    }
}

/// Cuts the next packet off `buffer`, if it is all there. A wrong first byte or a too large packet is a fault before
/// its body has arrived.
pub fn frame(buffer: &mut BytesMut, version: Option<Version>, limit: usize) -> Result<Option<Frame>, Fault> {
    let Some(&first) = buffer.first() else { return Ok(None) };
    check::first_byte(first, version)?;
    let mut length = 0_usize;
    for index in 0..4 {
        let Some(&byte) = buffer.get(1 + index) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let header = 2 + index;
            if byte == 0 && index > 0 && version == Some(Version::V5) {
                return Err(overlong());
            }
            if header + length > limit {
                return Err(Fault::new(
                    reason::TOO_LARGE,
                    format!("a packet of {} bytes; at most {limit} are taken", header + length),
                ));
            }
            if buffer.len() < header + length {
                buffer.reserve(header + length - buffer.len());
                return Ok(None);
            }
            return Ok(Some(Frame { first, header, bytes: buffer.split_to(header + length) }));
        }
    }
    Err(Fault::new(reason::MALFORMED, "the remaining length has more than four bytes"))
}

/// The version a CONNECT asks for.
pub fn version(frame: &Frame) -> Result<Version, Fault> {
    check::version(frame.body())
}

pub fn connect(version: Version, mut frame: Frame) -> Result<Connect, Fault> {
    if version == Version::V5 && frame.header > 2 && frame.bytes[frame.header - 1] == 0 {
        return Err(overlong());
    }
    let facts = check::body(version, frame.first, frame.body())?;
    // User name and password are known already, and the codec would insist on UTF-8: hide them from it.
    let flags = frame.header + 7;
    frame.bytes[flags] &= 0b0011_1111;
    let Read::Connect(connect, properties, will, will_properties, _) = read(version, frame.bytes)? else {
        return Err(unexpected());
    };
    let will = will.map(|will| {
        let properties = will_properties.as_ref();
        Will {
            topic: String::from_utf8_lossy(&will.topic).into_owned(),
            payload: Bytes::copy_from_slice(&will.message),
            qos: will.qos as u8,
            retain: will.retain,
            delay: properties.and_then(|p| p.delay_interval).unwrap_or(0),
            expiry: properties.and_then(|p| p.message_expiry_interval),
            properties: facts.forward.into(),
        }
    });
    let p = properties.as_ref();
    Ok(Connect {
        version,
        clean: connect.clean_session,
        keep_alive: connect.keep_alive,
        client_id: connect.client_id,
        username: facts.username,
        password: facts.password,
        will,
        expiry: p.and_then(|p| p.session_expiry_interval),
        receive_maximum: p.and_then(|p| p.receive_maximum).unwrap_or(u16::MAX),
        packet_maximum: p.and_then(|p| p.max_packet_size),
        alias_maximum: p.and_then(|p| p.topic_alias_max).unwrap_or(0),
        problem_information: p.and_then(|p| p.request_problem_info).unwrap_or(1) == 1,
        has_auth_method: facts.has_auth_method,
    })
}

pub fn packet(version: Version, frame: Frame) -> Result<Packet, Fault> {
    let facts = check::body(version, frame.first, frame.body())?;
    // What the codec cannot read in its short forms is known from the check already.
    match frame.first >> 4 {
        4 => return Ok(Packet::PubAck { packet: facts.packet }),
        5 => return Ok(Packet::PubRec { packet: facts.packet, reason: facts.reason }),
        6 => return Ok(Packet::PubRel { packet: facts.packet }),
        7 => return Ok(Packet::PubComp { packet: facts.packet }),
        12 => return Ok(Packet::PingReq),
        14 => return Ok(Packet::Disconnect { reason: facts.reason, expiry: facts.expiry }),
        _ => {}
    }
    let first = frame.first;
    Ok(match read(version, frame.bytes)? {
        Read::Publish(publish, properties) => {
            let (alias, expiry) = properties.map_or((None, None), |p| (p.topic_alias, p.message_expiry_interval));
            Packet::Publish(Publish {
                qos: first >> 1 & 0b11,
                retain: publish.retain,
                packet: facts.packet,
                topic: publish.topic,
                alias,
                payload: publish.payload,
                expiry,
                properties: facts.forward.into(),
            })
        }
        Read::Subscribe(subscribe, properties) => Packet::Subscribe {
            packet: facts.packet,
            identifier: properties.and_then(|p| p.id).and_then(|id| u32::try_from(id).ok()).unwrap_or(0),
            filters: subscribe.filters.into_iter().map(options).collect(),
        },
        Read::Unsubscribe(unsubscribe, _) => Packet::Unsubscribe { packet: facts.packet, filters: unsubscribe.filters },
        _ => return Err(unexpected()),
    })
}

/// A filter with its options put together again as they stood in the packet.
fn options(filter: protocol::Filter) -> (String, u8) {
    let qos = match filter.qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => 2,
    };
    let handling = match filter.retain_forward_rule {
        RetainForwardRule::OnEverySubscribe => 0,
        RetainForwardRule::OnNewSubscribe => 1,
        RetainForwardRule::Never => 2,
    };
    (filter.path, qos | u8::from(filter.nolocal) << 2 | u8::from(filter.preserve_retain) << 3 | handling << 4)
}

fn read(version: Version, mut bytes: BytesMut) -> Result<Read, Fault> {
    let limit = bytes.remaining();
    // The codec has panicked before; a panic there ends one connection with a code, nothing more.
    let result = catch_unwind(AssertUnwindSafe(|| match version {
        Version::V4 => V4.read_mut(&mut bytes, limit),
        Version::V5 => V5.read_mut(&mut bytes, limit),
    }));
    match result {
        Ok(Ok(packet)) => Ok(packet),
        Ok(Err(error)) => Err(Fault::new(reason::MALFORMED, error.to_string())),
        Err(_) => Err(unexpected()),
    }
}

/// MQTT 5, 1.5.5; 3.1.1 does not ask for it.
fn overlong() -> Fault {
    Fault::new(reason::MALFORMED, "the remaining length has more bytes than it needs")
}

fn unexpected() -> Fault {
    Fault::new(reason::MALFORMED, "the codec cannot read this packet")
}
