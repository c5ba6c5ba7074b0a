//! CoAP messages as this driver uses them: coap-lite's packets with the options of RFC 7252, 7641 and 7959 made easy.

use coap_lite::{CoapOption, Header, MessageClass, MessageType, Packet};

/// UDP payload that is sent at most: a block of 1024 bytes with room for its options (RFC 7252 section 4.6).
pub const LARGEST_DATAGRAM: usize = 1280;
/// Largest block exponent: 2^(6 + 4) = 1024 bytes.
pub const LARGEST_SZX: u8 = 6;

/// Response and request codes (RFC 7252 section 12.1, RFC 7959), as class and detail in one byte.
pub mod code {
    pub const GET: u8 = 0x01;
    pub const POST: u8 = 0x02;
    pub const PUT: u8 = 0x03;
    pub const CHANGED: u8 = 0x44;
    pub const CONTENT: u8 = 0x45;
    pub const CONTINUE: u8 = 0x5f;
    pub const BAD_REQUEST: u8 = 0x80;
    pub const UNAUTHORIZED: u8 = 0x81;
    pub const BAD_OPTION: u8 = 0x82;
    pub const FORBIDDEN: u8 = 0x83;
    pub const NOT_FOUND: u8 = 0x84;
    pub const METHOD_NOT_ALLOWED: u8 = 0x85;
    pub const NOT_ACCEPTABLE: u8 = 0x86;
    pub const INCOMPLETE: u8 = 0x88;
    pub const CONFLICT: u8 = 0x89;
    pub const TOO_LARGE: u8 = 0x8d;
    pub const UNSUPPORTED_FORMAT: u8 = 0x8f;
    pub const UNPROCESSABLE: u8 = 0x96;
    pub const INTERNAL: u8 = 0xa0;
    pub const BAD_GATEWAY: u8 = 0xa2;
    pub const UNAVAILABLE: u8 = 0xa3;

    /// `4.04`.
    pub fn show(code: u8) -> String {
        format!("{}.{:02}", code >> 5, code & 0x1f)
    }

    pub fn is_request(code: u8) -> bool {
        (1..0x20).contains(&code)
    }

    pub fn is_response(code: u8) -> bool {
        (0x40..0xc0).contains(&code)
    }

    pub fn is_success(code: u8) -> bool {
        code >> 5 == 2
    }
}

pub type Token = Vec<u8>;

/// A message between this gateway and one peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    packet: Packet,
}

impl Message {
    pub fn new(code: u8) -> Message {
        let mut packet = Packet::new();
        packet.header = Header::new();
        packet.header.set_version(1);
        packet.header.code = code.into();
        Message { packet }
    }

    /// A request for `path`, which may carry `?query`.
    pub fn request(method: u8, path: &str) -> Message {
        let mut message = Message::new(method);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            message.packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
        }
        for part in query.split('&').filter(|part| !part.is_empty()) {
            message.packet.add_option(CoapOption::UriQuery, part.as_bytes().to_vec());
        }
        message
    }

    /// `None` for what is no CoAP: another version, a broken header, token or option.
    pub fn parse(datagram: &[u8]) -> Option<Message> {
        // Version 1, token length below 9 (RFC 7252 section 3): checked here, before the codec.
        let first = *datagram.first()?;
        if first >> 6 != 1 || first & 0x0f > 8 || datagram.len() < 4 {
            return None;
        }
        let packet = Packet::from_bytes(datagram).ok()?;
        let empty = packet.header.code == MessageClass::Empty;
        (!empty || datagram.len() == 4).then_some(Message { packet })
    }

    /// `None` where it would not fit into a datagram.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        self.packet.to_bytes_with_limit(LARGEST_DATAGRAM).ok()
    }

    pub fn code(&self) -> u8 {
        self.packet.header.code.into()
    }

    pub fn kind(&self) -> MessageType {
        self.packet.header.get_type()
    }

    pub fn set_kind(&mut self, kind: MessageType) {
        self.packet.header.set_type(kind);
    }

    pub fn id(&self) -> u16 {
        self.packet.header.message_id
    }

    pub fn set_id(&mut self, id: u16) {
        self.packet.header.message_id = id;
    }

    pub fn token(&self) -> &[u8] {
        self.packet.get_token()
    }

    pub fn set_token(&mut self, token: Token) {
        self.packet.set_token(token);
    }

    pub fn payload(&self) -> &[u8] {
        &self.packet.payload
    }

    pub fn with_payload(mut self, payload: impl Into<Vec<u8>>) -> Message {
        self.packet.payload = payload.into();
        self
    }

    /// Path segments joined by `/`; `None` where one is not UTF-8 or holds a slash itself.
    pub fn path(&self) -> Option<String> {
        let mut path = String::new();
        for segment in self.packet.get_option(CoapOption::UriPath).into_iter().flatten() {
            let segment = std::str::from_utf8(segment).ok().filter(|s| !s.contains('/'))?;
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(segment);
        }
        Some(path)
    }

    /// The value of `name=value` among the Uri-Query options.
    pub fn query(&self, name: &str) -> Option<String> {
        let parts = self.packet.get_option(CoapOption::UriQuery).into_iter().flatten();
        parts
            .filter_map(|part| std::str::from_utf8(part).ok()?.split_once('='))
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.to_owned())
    }

    /// All Uri-Query options that are UTF-8.
    pub fn queries(&self) -> Vec<&str> {
        let parts = self.packet.get_option(CoapOption::UriQuery).into_iter().flatten();
        parts.filter_map(|part| std::str::from_utf8(part).ok()).collect()
    }

    pub fn uint(&self, option: CoapOption) -> Option<u32> {
        let bytes = self.packet.get_first_option(option)?;
        (bytes.len() <= 4).then(|| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    /// Sets an option to a number in as few bytes as it needs (RFC 7252 section 3.2).
    pub fn with_uint(mut self, option: CoapOption, number: u32) -> Message {
        let bytes = number.to_be_bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        self.packet.clear_option(option);
        self.packet.add_option(option, bytes[zeros..].to_vec());
        self
    }

    pub fn without(mut self, option: CoapOption) -> Message {
        self.packet.clear_option(option);
        self
    }

    pub fn etag(&self) -> Option<&[u8]> {
        self.packet.get_first_option(CoapOption::ETag).map(Vec::as_slice)
    }

    pub fn with_etag(mut self, etag: &[u8]) -> Message {
        self.packet.add_option(CoapOption::ETag, etag.to_vec());
        self
    }

    pub fn block(&self, option: CoapOption) -> Option<Block> {
        Block::from_number(self.uint(option)?)
    }

    pub fn with_block(self, option: CoapOption, block: Block) -> Message {
        self.with_uint(option, block.number())
    }

    /// Whether it carries a critical option (odd number, RFC 7252 section 5.4.1) that is not among `known`.
    pub fn has_critical_besides(&self, known: &[CoapOption]) -> bool {
        let known = |number: u16| known.iter().any(|option| u16::from(*option) == number);
        self.packet.options().any(|(number, _)| number % 2 == 1 && !known(*number))
    }
}

/// The value of a Block1 or Block2 option (RFC 7959 section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub number: u32,
    pub more: bool,
    /// Block size is 2^(szx + 4) bytes; 0 to 6.
    pub szx: u8,
}

impl Block {
    fn from_number(number: u32) -> Option<Block> {
        let szx = (number & 7) as u8;
        (szx <= LARGEST_SZX && number < 1 << 24).then_some(Block { number: number >> 4, more: number & 8 != 0, szx })
    }

    fn number(self) -> u32 {
        self.number << 4 | u32::from(self.more) << 3 | u32::from(self.szx)
    }

    /// Bytes in one block.
    pub fn size(self) -> usize {
        16 << self.szx
    }

    /// Where it begins in the body, in bytes.
    pub fn offset(self) -> u64 {
        u64::from(self.number) * self.size() as u64
    }
}

/// The largest block exponent whose block has at most `bytes`; blocks have at least 16.
pub fn szx_within(bytes: usize) -> u8 {
    (0..=LARGEST_SZX).rev().find(|szx| 16 << szx <= bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_survive_the_wire() {
        let message = Message::request(code::PUT, "/a/b?x=1&token=t")
            .with_uint(CoapOption::ContentFormat, 50)
            .with_uint(CoapOption::Observe, 0)
            .with_block(CoapOption::Block2, Block { number: 70_000, more: true, szx: 6 })
            .with_payload(*b"{}");
        let back = Message::parse(&message.to_bytes().expect("fits")).expect("parses");
        assert_eq!(back.path().as_deref(), Some("a/b"));
        assert_eq!(back.query("token").as_deref(), Some("t"));
        assert_eq!((back.uint(CoapOption::ContentFormat), back.uint(CoapOption::Observe)), (Some(50), Some(0)));
        assert_eq!(back.block(CoapOption::Block2).map(Block::offset), Some(70_000 * 1024));
        assert_eq!(back.payload(), b"{}");
    }

    #[test]
    fn other_versions_and_torn_headers_are_no_coap() {
        for datagram in [&[][..], &[0x40], &[0x40, 1, 0], &[0x00, 1, 0, 1], &[0x49, 1, 0, 1], &[0x40, 0, 0, 1, 0xff]] {
            assert_eq!(Message::parse(datagram), None, "{datagram:?}");
        }
    }

    #[test]
    fn the_largest_block_within() {
        assert_eq!([0, 16, 100, 1024, 5000].map(szx_within), [0, 0, 2, 6, 6]);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(message) = Message::parse(&datagram) {
                let _ = (message.path(), message.query("a"), message.block(CoapOption::Block1), message.kind());
            }
        }
    }
}
