//! Packets to bytes: everything the broker says. Ours, because every code of MQTT 5 must be sayable and a 3.1.1 client
//! must never see a property.

use bytes::{BufMut, BytesMut};

use super::{Version, reason};

/// The longest text that is sent as a reason; what is longer is cut.
pub const MOST_TEXT: usize = 400;

fn variable(out: &mut BytesMut, mut value: usize) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            return out.put_u8(byte);
        }
        out.put_u8(byte | 0x80);
    }
}

fn variable_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn text(out: &mut BytesMut, text: &str) {
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(&text.as_bytes()[..text.len().min(usize::from(u16::MAX))]);
}

fn reason_string(out: &mut BytesMut, why: &str) {
    let mut end = why.len().min(MOST_TEXT);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u8(31);
    text(out, &why[..end]);
}

/// A PUBLISH on its way to a subscriber.
pub struct Outgoing<'a> {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub packet: u16,
    pub topic: &'a str,
    pub payload: &'a [u8],
    /// Only for v5: encoded properties that travel with the message.
    pub properties: &'a [u8],
    /// Seconds that are left.
    pub expiry: Option<u32>,
    pub alias: Option<u16>,
    pub identifiers: &'a [u32],
}

impl Outgoing<'_> {
    fn properties_len(&self) -> usize {
        let identifiers: usize = self.identifiers.iter().map(|id| 1 + variable_len(*id as usize)).sum();
        let (expiry, alias) = (self.expiry.map_or(0, |_| 5), self.alias.map_or(0, |_| 3));
        self.properties.len() + expiry + alias + identifiers
    }

    fn remaining(&self, version: Version) -> usize {
        let mut length = 2 + self.topic.len() + self.payload.len() + if self.qos > 0 { 2 } else { 0 };
        if version == Version::V5 {
            let properties = self.properties_len();
            length += variable_len(properties) + properties;
        }
        length
    }

    /// Bytes of the whole packet.
    pub fn size(&self, version: Version) -> usize {
        let remaining = self.remaining(version);
        1 + variable_len(remaining) + remaining
    }

    pub fn write(&self, version: Version, out: &mut BytesMut) {
        let remaining = self.remaining(version);
        out.reserve(5 + remaining);
        out.put_u8(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain));
        variable(out, remaining);
        text(out, self.topic);
        if self.qos > 0 {
            out.put_u16(self.packet);
        }
        if version == Version::V5 {
            variable(out, self.properties_len());
            out.put_slice(self.properties);
            if let Some(seconds) = self.expiry {
                out.put_u8(2);
                out.put_u32(seconds);
            }
            if let Some(alias) = self.alias {
                out.put_u8(35);
                out.put_u16(alias);
            }
            for id in self.identifiers {
                out.put_u8(11);
                variable(out, *id as usize);
            }
        }
        out.put_slice(self.payload);
    }
}

/// PUBACK (4), PUBREC (5), PUBREL (6) and PUBCOMP (7). A 3.1.1 client sees no code.
pub fn ack(out: &mut BytesMut, version: Version, kind: u8, packet: u16, code: u8, why: Option<&str>) {
    let first = kind << 4 | if kind == 6 { 2 } else { 0 };
    if version == Version::V4 || (code == reason::SUCCESS && why.is_none()) {
        out.put_slice(&[first, 2]);
        return out.put_u16(packet);
    }
    let mut properties = BytesMut::new();
    if let Some(why) = why {
        reason_string(&mut properties, why);
    }
    out.put_u8(first);
    variable(out, 3 + variable_len(properties.len()) + properties.len());
    out.put_u16(packet);
    out.put_u8(code);
    variable(out, properties.len());
    out.put_slice(&properties);
}

/// SUBACK (9) and UNSUBACK (11, without codes in 3.1.1).
pub fn many_ack(out: &mut BytesMut, version: Version, kind: u8, packet: u16, codes: &[u8]) {
    let shown: &[u8] = if version == Version::V4 && kind == 11 { &[] } else { codes };
    out.put_u8(kind << 4);
    variable(out, 2 + usize::from(version == Version::V5) + shown.len());
    out.put_u16(packet);
    if version == Version::V5 {
        out.put_u8(0);
    }
    for code in shown {
        // 3.1.1 knows one failure
        out.put_u8(if version == Version::V4 && *code >= 0x80 { 0x80 } else { *code });
    }
}

/// What an accepted client is told.
#[derive(Debug, Default)]
pub struct Welcome<'a> {
    pub session_present: bool,
    pub assigned_id: Option<&'a str>,
    pub keep_alive: Option<u16>,
    pub expiry: Option<u32>,
    pub receive_maximum: u16,
    pub packet_maximum: u32,
    pub alias_maximum: u16,
}

pub fn connack(out: &mut BytesMut, version: Version, welcome: &Welcome<'_>) {
    if version == Version::V4 {
        return out.put_slice(&[0x20, 2, u8::from(welcome.session_present), 0]);
    }
    let mut properties = BytesMut::new();
    properties.put_u8(33);
    properties.put_u16(welcome.receive_maximum);
    properties.put_u8(39);
    properties.put_u32(welcome.packet_maximum);
    if welcome.alias_maximum > 0 {
        properties.put_u8(34);
        properties.put_u16(welcome.alias_maximum);
    }
    if let Some(seconds) = welcome.keep_alive {
        properties.put_u8(19);
        properties.put_u16(seconds);
    }
    if let Some(seconds) = welcome.expiry {
        properties.put_u8(17);
        properties.put_u32(seconds);
    }
    if let Some(id) = welcome.assigned_id {
        properties.put_u8(18);
        text(&mut properties, id);
    }
    out.put_u8(0x20);
    variable(out, 2 + variable_len(properties.len()) + properties.len());
    out.put_slice(&[u8::from(welcome.session_present), reason::SUCCESS]);
    variable(out, properties.len());
    out.put_slice(&properties);
}

/// The answer to a CONNECT that is refused, in at most `most` bytes: without its text where that is too long, without
/// a word where nothing fits. Without a code of its own a 3.1.1 client just sees the end.
pub fn refuse(out: &mut BytesMut, version: Version, code: u8, why: &str, most: usize) {
    if version == Version::V4 {
        if let Some(code) = reason::connack_v4(code) {
            out.put_slice(&[0x20, 2, 0, code]);
        }
        return;
    }
    for why in [Some(why), None] {
        let mut properties = BytesMut::new();
        if let Some(why) = why {
            reason_string(&mut properties, why);
        }
        let remaining = 2 + variable_len(properties.len()) + properties.len();
        if 1 + variable_len(remaining) + remaining <= most {
            out.put_u8(0x20);
            variable(out, remaining);
            out.put_slice(&[0, code]);
            variable(out, properties.len());
            return out.put_slice(&properties);
        }
    }
}

/// Bytes of the SUBACK or UNSUBACK to so many filters.
pub fn many_ack_size(version: Version, filters: usize) -> usize {
    let remaining = 2 + usize::from(version == Version::V5) + filters;
    1 + variable_len(remaining) + remaining
}

/// DISCONNECT from the server; 3.1.1 has none.
pub fn disconnect(out: &mut BytesMut, version: Version, code: u8, why: &str) {
    if version == Version::V4 {
        return;
    }
    let mut properties = BytesMut::new();
    if !why.is_empty() {
        reason_string(&mut properties, why);
    }
    out.put_u8(0xE0);
    variable(out, 1 + variable_len(properties.len()) + properties.len());
    out.put_u8(code);
    variable(out, properties.len());
    out.put_slice(&properties);
}

pub fn pong(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}
