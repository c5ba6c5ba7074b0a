//! Reason codes of MQTT 5 (2.4) and what becomes of them for a 3.1.1 client.

/// What a client did wrong, or why it is sent away: the code for a v5 client and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} (0x{code:02x})")]
pub struct Fault {
    pub code: u8,
    pub text: std::borrow::Cow<'static, str>,
}

impl Fault {
    pub fn new(code: u8, text: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }
}

pub const SUCCESS: u8 = 0x00;
pub const NO_SUBSCRIPTION: u8 = 0x11;
pub const MALFORMED: u8 = 0x81;
pub const PROTOCOL_ERROR: u8 = 0x82;
pub const IMPLEMENTATION: u8 = 0x83;
pub const VERSION: u8 = 0x84;
pub const CLIENT_ID: u8 = 0x85;
pub const BAD_LOGIN: u8 = 0x86;
pub const NOT_AUTHORIZED: u8 = 0x87;
pub const UNAVAILABLE: u8 = 0x88;
pub const BUSY: u8 = 0x89;
pub const SHUTTING_DOWN: u8 = 0x8B;
pub const AUTH_METHOD: u8 = 0x8C;
pub const KEEP_ALIVE: u8 = 0x8D;
pub const TAKEN_OVER: u8 = 0x8E;
pub const FILTER_INVALID: u8 = 0x8F;
pub const TOPIC_INVALID: u8 = 0x90;
pub const PACKET_IN_USE: u8 = 0x91;
pub const PACKET_NOT_FOUND: u8 = 0x92;
pub const RECEIVE_MAXIMUM: u8 = 0x93;
pub const ALIAS_INVALID: u8 = 0x94;
pub const TOO_LARGE: u8 = 0x95;
pub const QUOTA: u8 = 0x97;
pub const PAYLOAD_INVALID: u8 = 0x99;

/// The CONNACK return code of 3.1.1 (table 3.1) for a refusal; `None` where 3.1.1 just closes.
pub fn connack_v4(code: u8) -> Option<u8> {
    match code {
        VERSION => Some(1),
        CLIENT_ID => Some(2),
        UNAVAILABLE | BUSY | QUOTA | SHUTTING_DOWN => Some(3),
        BAD_LOGIN => Some(4),
        NOT_AUTHORIZED | AUTH_METHOD => Some(5),
        _ => None,
    }
}
