//! What a packet must be before the codec may see it: complete, in shape, and without anything the standard forbids.
//! The codec alone accepts doubled properties, reserved bits, trailing bytes and texts with zeros, and panics on some
//! packets that only a server may send.

use bytes::Bytes;

use super::{
    Version,
    reason::{self, Fault},
};

/// What the codec does not hand out, or gets wrong.
#[derive(Debug, Default)]
pub struct Facts {
    pub packet: u16,
    pub reason: u8,
    /// Properties that travel with the message, as they stood in the packet.
    pub forward: Vec<u8>,
    pub username: Option<String>,
    /// Need not be UTF-8.
    pub password: Option<Bytes>,
    /// Session expiry of a DISCONNECT.
    pub expiry: Option<u32>,
    pub has_auth_method: bool,
}

fn malformed(text: &'static str) -> Fault {
    Fault::new(reason::MALFORMED, text)
}

fn protocol(text: &'static str) -> Fault {
    Fault::new(reason::PROTOCOL_ERROR, text)
}

/// Checks the first byte: known type, sent by clients, right flags (MQTT 5, 2.1.2 and 2.1.3).
pub fn first_byte(first: u8, version: Option<Version>) -> Result<(), Fault> {
    let flags = first & 0x0F;
    let right = match first >> 4 {
        1 | 4 | 5 | 7 | 12 | 14 => flags == 0,
        6 | 8 | 10 => flags == 2,
        3 if flags & 0b0110 == 0b0110 => return Err(malformed("QoS 3 does not exist")),
        3 => flags & 0b1110 != 0b1000, // DUP without QoS
        2 | 9 | 11 | 13 => return Err(protocol("only a server sends this packet")),
        15 if version == Some(Version::V5) => return Err(protocol("no authentication method was agreed on")),
        _ => return Err(malformed("unknown packet type")),
    };
    if right { Ok(()) } else { Err(malformed("reserved flags of the fixed header are set")) }
}

/// A place in a packet.
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(malformed("the packet ends too early"))?;
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// MQTT 5, 1.5.4.
    fn text(&mut self) -> Result<&'a str, Fault> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| malformed("a text is not UTF-8"))?;
        if text.contains('\0') {
            return Err(malformed("a text holds a zero character"));
        }
        Ok(text)
    }

    /// MQTT 5, 1.5.5: in as few bytes as it needs.
    fn variable(&mut self) -> Result<u32, Fault> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(malformed("a variable byte integer has more bytes than it needs"));
                }
                return Ok(value);
            }
        }
        Err(malformed("a variable byte integer has more than four bytes"))
    }

    fn end(&self) -> Result<(), Fault> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed("the packet goes on after its end")) }
    }

    /// Properties of one packet: only those it may have, each once, with values that may be (MQTT 5, 2.2.2).
    fn properties(&mut self, allowed: u64, facts: &mut Facts) -> Result<(), Fault> {
        let length = self.variable()? as usize;
        let mut inside = Walk(self.take(length)?);
        let mut seen = 0_u64;
        while !inside.0.is_empty() {
            let start = inside.0;
            let id = inside.variable()?;
            if id > 63 || allowed & (1 << id) == 0 {
                return Err(malformed("a property that this packet may not have"));
            }
            if seen & (1 << id) != 0 && id != 38 {
                return Err(protocol("a property stands twice"));
            }
            seen |= 1 << id;
            match id {
                1 | 23 | 25 if inside.u8()? > 1 => return Err(protocol("a property must be 0 or 1")),
                1 | 23 | 25 => {}
                2 | 24 => drop(inside.u32()?),
                17 => facts.expiry = Some(inside.u32()?),
                39 if inside.u32()? == 0 => return Err(protocol("a maximum packet size of 0")),
                39 => {}
                33 if inside.u16()? == 0 => return Err(protocol("a receive maximum of 0")),
                34 => drop(inside.u16()?),
                35 if inside.u16()? == 0 => return Err(Fault::new(reason::ALIAS_INVALID, "topic alias 0")),
                33 | 35 => {}
                11 if inside.variable()? == 0 => return Err(protocol("subscription identifier 0")),
                11 => {}
                8 => {
                    let topic = inside.text()?;
                    if topic.is_empty() || topic.contains(['+', '#']) {
                        return Err(protocol("a response topic that is no topic name"));
                    }
                }
                3 | 26 | 28 | 31 => drop(inside.text()?),
                9 | 22 => drop(inside.binary()?),
                21 => {
                    inside.text()?;
                    facts.has_auth_method = true;
                }
                38 => {
                    inside.text()?;
                    inside.text()?;
                }
                _ => return Err(malformed("an unknown property")),
            }
            if matches!(id, 1 | 3 | 8 | 9 | 38) {
                facts.forward.extend_from_slice(&start[..start.len() - inside.0.len()]);
            }
        }
        if allowed == PUBLISH && seen & (1 << 11) != 0 {
            return Err(protocol("a client may not send a subscription identifier"));
        }
        if seen & (1 << 22) != 0 && !facts.has_auth_method {
            return Err(protocol("authentication data without a method"));
        }
        Ok(())
    }
}

const fn set<const N: usize>(ids: [u8; N]) -> u64 {
    let mut bits = 0;
    let mut i = 0;
    while i < N {
        bits |= 1 << ids[i];
        i += 1;
    }
    bits
}

const CONNECT: u64 = set([17, 21, 22, 23, 25, 33, 34, 38, 39]);
const WILL: u64 = set([1, 2, 3, 8, 9, 24, 38]);
// 11 is answered as the protocol error that it is
const PUBLISH: u64 = set([1, 2, 3, 8, 9, 11, 35, 38]);
const ACK: u64 = set([31, 38]);
const SUBSCRIBE: u64 = set([11, 38]);
const UNSUBSCRIBE: u64 = set([38]);
const DISCONNECT: u64 = set([17, 28, 31, 38]);

/// Reason codes of PUBACK and PUBREC, of PUBREL and PUBCOMP, and those a client may give in DISCONNECT (MQTT 5, 3.4.2.1
/// to 3.7.2.1 and 3.14.2.1).
const RECEIVED: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const RELEASED: &[u8] = &[0x00, 0x92];
const GOODBYE: &[u8] = &[0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];

fn code(code: u8, known: &[u8]) -> Result<u8, Fault> {
    if known.contains(&code) { Ok(code) } else { Err(malformed("a reason code that this packet does not have")) }
}

/// The protocol version of a CONNECT body; an unknown one is refused by name.
pub fn version(body: &[u8]) -> Result<Version, Fault> {
    let mut walk = Walk(body);
    let name = walk.binary()?;
    let level = walk.u8()?;
    match (name, level) {
        (b"MQTT", 4) => Ok(Version::V4),
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQTT" | b"MQIsdp", _) => Err(Fault::new(reason::VERSION, "MQTT 3.1.1 and 5 are spoken here")),
        _ => Err(malformed("not an MQTT protocol name")),
    }
}

/// Checks the body (everything after the fixed header) of a packet whose first byte is fine.
pub fn body(version: Version, first: u8, body: &[u8]) -> Result<Facts, Fault> {
    let mut facts = Facts::default();
    let mut walk = Walk(body);
    let v5 = version == Version::V5;
    match first >> 4 {
        1 => return connect(version, walk),
        3 => {
            walk.text()?;
            if first & 0b0110 != 0 {
                facts.packet = packet_id(&mut walk)?;
            }
            if v5 {
                walk.properties(PUBLISH, &mut facts)?;
            }
            return Ok(facts);
        }
        4..=7 => {
            facts.packet = packet_id(&mut walk)?;
            if v5 && !walk.0.is_empty() {
                facts.reason = code(walk.u8()?, if first >> 4 <= 5 { RECEIVED } else { RELEASED })?;
                if !walk.0.is_empty() {
                    walk.properties(ACK, &mut facts)?;
                }
            }
        }
        8 => {
            facts.packet = packet_id(&mut walk)?;
            if v5 {
                walk.properties(SUBSCRIBE, &mut facts)?;
            }
            if walk.0.is_empty() {
                return Err(protocol("SUBSCRIBE without a filter"));
            }
            while !walk.0.is_empty() {
                let shared = walk.text()?.starts_with("$share/");
                subscribe_options(version, walk.u8()?, shared)?;
            }
        }
        10 => {
            facts.packet = packet_id(&mut walk)?;
            if v5 {
                walk.properties(UNSUBSCRIBE, &mut facts)?;
            }
            if walk.0.is_empty() {
                return Err(protocol("UNSUBSCRIBE without a filter"));
            }
            while !walk.0.is_empty() {
                walk.text()?;
            }
        }
        14 if v5 && !walk.0.is_empty() => {
            facts.reason = code(walk.u8()?, GOODBYE)?;
            if !walk.0.is_empty() {
                walk.properties(DISCONNECT, &mut facts)?;
            }
        }
        _ => {}
    }
    walk.end()?;
    Ok(facts)
}

fn packet_id(walk: &mut Walk<'_>) -> Result<u16, Fault> {
    match walk.u16()? {
        0 => Err(protocol("packet identifier 0")),
        id => Ok(id),
    }
}

/// MQTT 5, 3.8.3.1.
fn subscribe_options(version: Version, options: u8, shared: bool) -> Result<(), Fault> {
    let reserved = if version == Version::V5 { 0b1100_0000 } else { 0b1111_1100 };
    if options & reserved != 0 {
        return Err(malformed("reserved bits of the subscription options are set"));
    }
    if options & 0b11 == 0b11 {
        return Err(protocol("QoS 3 does not exist"));
    }
    if options & 0b11_0000 == 0b11_0000 {
        return Err(protocol("retain handling 3 does not exist"));
    }
    if shared && options & 0b100 != 0 {
        return Err(protocol("no-local on a shared subscription"));
    }
    Ok(())
}

fn connect(version: Version, mut walk: Walk<'_>) -> Result<Facts, Fault> {
    let mut facts = Facts::default();
    walk.binary()?;
    walk.u8()?;
    let flags = walk.u8()?;
    walk.u16()?;
    let (will, will_qos, will_retain) = (flags & 0b100 != 0, flags >> 3 & 0b11, flags & 0b10_0000 != 0);
    if flags & 1 != 0 {
        return Err(malformed("the reserved CONNECT flag is set"));
    }
    if will_qos == 3 || (!will && (will_qos != 0 || will_retain)) {
        return Err(malformed("will flags that cannot be"));
    }
    let (has_name, has_password) = (flags & 0x80 != 0, flags & 0x40 != 0);
    if version == Version::V4 && has_password && !has_name {
        return Err(malformed("a password without a user name")); // 3.1.1, 3.1.2.9
    }
    if version == Version::V5 {
        walk.properties(CONNECT, &mut facts)?;
        facts.forward.clear();
    }
    walk.text()?;
    if will {
        if version == Version::V5 {
            walk.properties(WILL, &mut facts)?;
        }
        let topic = walk.text()?;
        if topic.is_empty() || topic.contains(['+', '#']) {
            return Err(Fault::new(reason::TOPIC_INVALID, "the will's topic is no topic name"));
        }
        walk.binary()?;
    }
    if has_name {
        facts.username = Some(walk.text()?.to_owned());
    }
    if has_password {
        facts.password = Some(Bytes::copy_from_slice(walk.binary()?));
    }
    walk.end()?;
    Ok(facts)
}
