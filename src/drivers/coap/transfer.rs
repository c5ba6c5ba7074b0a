//! Whole bodies over an endpoint: blocks are asked for, put together, and sent one by one (RFC 7959).

use std::net::SocketAddr;

use coap_lite::CoapOption;

use super::{
    endpoint::Endpoint,
    exchange::Failure,
    wire::{Block, LARGEST_SZX, Message, code},
};

/// Bytes of the largest body that is put together.
pub const LARGEST_BODY: usize = 1 << 20;

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub code: u8,
    /// Content-Format number, where the peer named it.
    pub format: Option<u16>,
    pub body: Vec<u8>,
    /// Seconds for which it counts as fresh; 60 where the peer does not say (RFC 7252 section 5.10.5).
    pub max_age: u32,
    /// The sequence number of an observation.
    pub observe: Option<u32>,
}

/// Why a transfer came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Wire(#[from] Failure),
    #[error("the device answered {}{}", code::show(*code), diagnostic(text))]
    Refused { code: u8, text: String },
    #[error("the body is larger than {LARGEST_BODY} bytes")]
    TooLarge,
    #[error("the device's blocks do not fit together")]
    Torn,
}

fn diagnostic(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl TransferError {
    /// The device did answer, so it is there.
    pub fn is_answer(&self) -> bool {
        !matches!(self, TransferError::Wire(Failure::Timeout | Failure::Stopped))
    }
}

/// GETs a resource whole.
pub async fn get(endpoint: &Endpoint, peer: SocketAddr, request: Message) -> Result<Answer, TransferError> {
    let first = endpoint.request(peer, request.clone()).await?;
    complete(endpoint, peer, &request, first).await
}

/// Asks for the blocks that follow `first`, the answer or notification to `request`.
pub async fn complete(
    endpoint: &Endpoint,
    peer: SocketAddr,
    request: &Message,
    first: Message,
) -> Result<Answer, TransferError> {
    refuse_errors(&first)?;
    let mut answer = Answer {
        code: first.code(),
        format: first.uint(CoapOption::ContentFormat).and_then(|number| number.try_into().ok()),
        body: first.payload().to_vec(),
        max_age: first.uint(CoapOption::MaxAge).unwrap_or(60),
        observe: first.uint(CoapOption::Observe),
    };
    let etag = first.etag().map(<[u8]>::to_vec);
    let mut block = match first.block(CoapOption::Block2) {
        Some(block) if block.number == 0 => block,
        Some(_) => return Err(TransferError::Torn),
        None => return Ok(answer),
    };
    while block.more {
        if answer.body.len() != block.offset() as usize + block.size() {
            return Err(TransferError::Torn);
        }
        if answer.body.len() >= LARGEST_BODY {
            return Err(TransferError::TooLarge);
        }
        // Counted in bytes, so that a peer may go on with smaller blocks (section 2.4).
        let number = (answer.body.len() / block.size()) as u32;
        let wanted = Block { number, more: false, szx: block.szx };
        let next = request.clone().without(CoapOption::Observe).with_block(CoapOption::Block2, wanted);
        let next = endpoint.request(peer, next).await?;
        refuse_errors(&next)?;
        let got = next.block(CoapOption::Block2).ok_or(TransferError::Torn)?;
        if got.offset() as usize != answer.body.len() || next.etag().map(<[u8]>::to_vec) != etag {
            return Err(TransferError::Torn);
        }
        answer.body.extend_from_slice(next.payload());
        block = got;
    }
    Ok(answer)
}

/// PUTs or POSTs a body, in blocks where it is large; a peer that wants smaller ones gets them.
pub async fn send(
    endpoint: &Endpoint,
    peer: SocketAddr,
    request: Message,
    body: &[u8],
) -> Result<Answer, TransferError> {
    let mut szx = LARGEST_SZX;
    let mut sent = 0;
    loop {
        let block = Block { number: 0, more: false, szx };
        let size = block.size();
        let end = (sent + size).min(body.len());
        let more = end < body.len();
        let mut message = request.clone().with_payload(&body[sent..end]);
        if more || sent > 0 {
            message = message.with_block(CoapOption::Block1, Block { number: (sent / size) as u32, more, szx });
            // In every block: libcoap 4.3 makes room for the body by it again and again.
            message = message.with_uint(CoapOption::Size1, body.len() as u32);
        }
        let answer = endpoint.request(peer, message).await?;
        let theirs = answer.block(CoapOption::Block1);
        if let Some(smaller) = theirs.filter(|theirs| theirs.szx < szx) {
            szx = smaller.szx;
            if answer.code() == code::TOO_LARGE {
                sent = 0;
                continue;
            }
        }
        refuse_errors(&answer)?;
        if !more {
            return complete(endpoint, peer, &request, answer).await;
        }
        sent = end;
    }
}

fn refuse_errors(answer: &Message) -> Result<(), TransferError> {
    if code::is_success(answer.code()) {
        return Ok(());
    }
    let text: String = String::from_utf8_lossy(answer.payload()).chars().take(200).collect();
    Err(TransferError::Refused { code: answer.code(), text })
}
