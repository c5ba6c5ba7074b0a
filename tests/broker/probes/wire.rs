//! Packets as bytes, written from the two standards and from nothing of ours: what probes send and expect.

/// A text or binary field: two bytes of length, then the bytes.
pub fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut out = u16::try_from(bytes.len()).expect("at most 65,535 bytes").to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

/// A variable byte integer (MQTT 5, 1.5.5).
pub fn variable(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = u8::try_from(value % 128).expect("seven bits");
        value /= 128;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 128);
    }
}

/// A packet around its parts.
pub fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [vec![first], variable(body.len()), body].concat()
}

/// Properties with their length.
pub fn properties(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [variable(body.len()), body].concat()
}

/// A CONNECT in all its parts, to be bent before it is said.
#[derive(Clone)]
pub struct Connect {
    pub name: Vec<u8>,
    pub level: u8,
    pub flags: u8,
    pub keep_alive: u16,
    /// Encoded with their length; not written for level 4.
    pub properties: Vec<u8>,
    pub id: Vec<u8>,
    /// What follows the client id: will, user name, password.
    pub rest: Vec<u8>,
}

/// 3.1.1, clean session, no keep-alive.
pub fn connect4(id: &str) -> Connect {
    let (name, id) = (b"MQTT".to_vec(), id.as_bytes().to_vec());
    Connect { name, level: 4, flags: 2, keep_alive: 0, properties: vec![0], id, rest: vec![] }
}

/// MQTT 5, clean start, no keep-alive, no properties.
pub fn connect5(id: &str) -> Connect {
    Connect { level: 5, ..connect4(id) }
}

impl Connect {
    pub fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    pub fn keep_alive(self, keep_alive: u16) -> Self {
        Self { keep_alive, ..self }
    }

    pub fn with(self, parts: &[&[u8]]) -> Self {
        Self { properties: properties(parts), ..self }
    }

    pub fn rest(self, parts: &[&[u8]]) -> Self {
        Self { rest: parts.concat(), ..self }
    }

    /// A will without properties; the flags beside `will` are QoS and retain in place.
    pub fn will(self, topic: &str, payload: &str, flags: u8) -> Self {
        let own: &[u8] = if self.level == 5 { &[0] } else { &[] };
        let rest = [own, &field(topic), &field(payload)].concat();
        Self { flags: self.flags | 4 | flags, rest, ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let properties: &[u8] = if self.level == 5 { &self.properties } else { &[] };
        let alive = self.keep_alive.to_be_bytes();
        packet(0x10, &[&field(&self.name), &[self.level, self.flags], &alive, properties, &field(&self.id), &self.rest])
    }
}

/// Builders for one version of the protocol: they differ by the properties.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Speech {
    pub v5: bool,
}

pub const V4: Speech = Speech { v5: false };
pub const V5: Speech = Speech { v5: true };

impl Speech {
    fn none(self) -> &'static [u8] {
        if self.v5 { &[0] } else { &[] }
    }

    /// `flags` are DUP, QoS and RETAIN as in the first byte; the id is written for QoS 1 and 2.
    pub fn publish(self, topic: &str, payload: &str, flags: u8, id: u16) -> Vec<u8> {
        self.publish_with(topic.as_bytes(), payload, flags, id, self.none())
    }

    pub fn publish_with(self, topic: &[u8], payload: &str, flags: u8, id: u16, properties: &[u8]) -> Vec<u8> {
        let id = id.to_be_bytes();
        let id: &[u8] = if flags & 6 != 0 { &id } else { &[] };
        packet(0x30 | flags, &[&field(topic), id, properties, payload.as_bytes()])
    }

    pub fn subscribe(self, id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
        self.subscribe_with(id, filters, self.none())
    }

    pub fn subscribe_with(self, id: u16, filters: &[(&str, u8)], properties: &[u8]) -> Vec<u8> {
        let list: Vec<u8> = filters.iter().flat_map(|(text, options)| [field(text), vec![*options]].concat()).collect();
        packet(0x82, &[&id.to_be_bytes(), properties, &list])
    }

    pub fn unsubscribe(self, id: u16, filters: &[&str]) -> Vec<u8> {
        let list: Vec<u8> = filters.iter().flat_map(field).collect();
        packet(0xA2, &[&id.to_be_bytes(), self.none(), &list])
    }

    /// SUBACK as it must come.
    pub fn suback(self, id: u16, codes: &[u8]) -> Vec<u8> {
        packet(0x90, &[&id.to_be_bytes(), self.none(), codes])
    }

    pub fn unsuback(self, id: u16, codes: &[u8]) -> Vec<u8> {
        packet(0xB0, &[&id.to_be_bytes(), self.none(), if self.v5 { codes } else { &[] }])
    }
}

/// PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70) in its short form.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()])
}
