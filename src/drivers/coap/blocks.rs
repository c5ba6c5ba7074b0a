//! The serving half of RFC 7959: answers cut into blocks without a memory, uploads put together with a bounded one.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use coap_lite::CoapOption;

use super::wire::{Block, Message, code, szx_within};

/// A stalled upload is forgotten after this.
const STALLED: Duration = Duration::from_secs(90);
/// Uploads at the same time.
const UPLOADS: usize = 32;
/// What headers and options of an answer take beside its block, in bytes.
const OVERHEAD: usize = 40;

/// The answer with (the asked-for block of) `body`. Every block is cut from the body as it is now; its ETag tells the
/// asker where it changed between two. `most` bounds the datagram, so that an answer can be kept in proportion to its
/// request.
pub fn content(request: &Message, format: u16, body: &[u8], most: usize) -> Message {
    let digest = digest(&SHA256, body);
    let etag = &digest.as_ref()[..4];
    match wanted(request, most, body.len() as u64) {
        Ok(Some(block)) => {
            let start = block.offset() as usize;
            let end = (start + block.size()).min(body.len());
            piece(format, etag, block, body.len() as u64, &body[start..end])
        }
        Ok(None) => base(format, etag).with_payload(body),
        Err(refusal) => refusal,
    }
}

/// Which block of a body of `total` bytes to send; `None` where it goes whole.
pub fn wanted(request: &Message, most: usize, total: u64) -> Result<Option<Block>, Message> {
    let most = szx_within(most.saturating_sub(OVERHEAD));
    let asked = request.block(CoapOption::Block2);
    if request.uint(CoapOption::Block2).is_some() && asked.is_none() {
        return Err(refuse(code::BAD_OPTION, "the Block2 option makes no sense"));
    }
    let block = match asked {
        // A first block may come smaller than asked for; later ones are as the asker saw them (section 2.4).
        Some(asked) if asked.number == 0 => Block { szx: asked.szx.min(most), ..asked },
        Some(asked) => asked,
        None => Block { number: 0, more: false, szx: most },
    };
    if block.offset() >= total.max(1) {
        return Err(refuse(code::BAD_OPTION, "there is no such block"));
    }
    Ok((asked.is_some() || total > block.size() as u64).then_some(block))
}

/// One block of a larger body.
pub fn piece(format: u16, etag: &[u8], block: Block, total: u64, bytes: &[u8]) -> Message {
    let more = block.offset() + (bytes.len() as u64) < total;
    let answer = base(format, etag).with_block(CoapOption::Block2, Block { more, ..block });
    let answer = if block.number == 0 { answer.with_uint(CoapOption::Size2, total as u32) } else { answer };
    answer.with_payload(bytes)
}

fn base(format: u16, etag: &[u8]) -> Message {
    Message::new(code::CONTENT).with_etag(etag).with_uint(CoapOption::ContentFormat, u32::from(format))
}

/// An error with a diagnostic payload for people (RFC 7252 section 5.5.2).
pub fn refuse(code: u8, why: impl Into<String>) -> Message {
    Message::new(code).with_payload(why.into().into_bytes())
}

/// What an upload's next block led to.
#[derive(Debug, PartialEq)]
pub enum Upload {
    /// Answer this and wait for more.
    Answer(Message),
    /// The body is whole; echo the block in the answer where one is given.
    Whole(Vec<u8>, Option<Block>),
}

/// Uploads that are under way, by sender and resource.
#[derive(Debug, Default)]
pub struct Uploads {
    open: HashMap<(SocketAddr, String), (Vec<u8>, Instant)>,
}

impl Uploads {
    /// Takes the body of a POST or PUT, or one block of it, up to `largest` bytes.
    pub fn take(&mut self, now: Instant, peer: SocketAddr, request: &Message, largest: usize) -> Upload {
        let Some(block) = request.block(CoapOption::Block1) else {
            return match request.uint(CoapOption::Block1) {
                Some(_) => Upload::Answer(refuse(code::BAD_OPTION, "the Block1 option makes no sense")),
                None if request.payload().len() > largest => Upload::Answer(too_large(largest)),
                None => Upload::Whole(request.payload().to_vec(), None),
            };
        };
        self.open.retain(|_, (_, at)| now.duration_since(*at) < STALLED);
        let announced = request.uint(CoapOption::Size1).unwrap_or(0) as usize;
        let key = (peer, request.path().unwrap_or_default());
        let have = self.open.get(&key).map_or(0, |(body, _)| body.len() as u64);
        if block.number == 0 {
            if self.open.len() >= UPLOADS && !self.open.contains_key(&key) {
                return Upload::Answer(refuse(code::UNAVAILABLE, "too many uploads at once"));
            }
            self.open.insert(key.clone(), (Vec::new(), now));
        } else if block.offset() != have {
            return Upload::Answer(refuse(code::INCOMPLETE, format!("expected the block at byte {have}")));
        }
        if block.more && request.payload().len() != block.size() {
            return Upload::Answer(refuse(code::BAD_REQUEST, "a block that is not the last must be full"));
        }
        if block.offset() as usize + request.payload().len() > largest || announced > largest {
            self.open.remove(&key);
            return Upload::Answer(too_large(largest));
        }
        let Some((body, at)) = self.open.get_mut(&key) else {
            return Upload::Answer(refuse(code::INCOMPLETE, "begin with block 0"));
        };
        body.extend_from_slice(request.payload());
        *at = now;
        if block.more {
            return Upload::Answer(Message::new(code::CONTINUE).with_block(CoapOption::Block1, block));
        }
        let body = self.open.remove(&key).map(|(body, _)| body).unwrap_or_default();
        Upload::Whole(body, Some(block))
    }
}

fn too_large(largest: usize) -> Message {
    refuse(code::TOO_LARGE, format!("at most {largest} bytes")).with_uint(CoapOption::Size1, largest as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer() -> SocketAddr {
        "127.0.0.1:9".parse().expect("address")
    }

    #[test]
    fn blocks_are_as_small_as_the_bound_and_put_together_again() {
        let body: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        for most in [60, 200, 1200] {
            let mut got = Vec::new();
            let mut number = 0;
            loop {
                let mut request = Message::request(code::GET, "x");
                if number > 0 {
                    let szx = szx_within(most - OVERHEAD);
                    request = request.with_block(CoapOption::Block2, Block { number, more: false, szx });
                }
                let answer = content(&request, 0, &body, most);
                assert!(answer.to_bytes().expect("fits").len() <= most, "{most}");
                got.extend_from_slice(answer.payload());
                match answer.block(CoapOption::Block2) {
                    Some(block) if block.more => number += 1,
                    _ => break,
                }
            }
            assert_eq!(got, body);
        }
        let beyond =
            Message::request(code::GET, "x").with_block(CoapOption::Block2, Block { number: 99, more: false, szx: 6 });
        assert_eq!(content(&beyond, 0, &body, 1200).code(), code::BAD_OPTION);
    }

    #[test]
    fn an_upload_out_of_order_or_too_large_is_refused() {
        let mut uploads = Uploads::default();
        let now = Instant::now();
        let part = |number, more, size| {
            Message::request(code::PUT, "x")
                .with_block(CoapOption::Block1, Block { number, more, szx: 0 })
                .with_payload(vec![7; size])
        };
        let mut take = |message: &Message| match uploads.take(now, peer(), message, 40) {
            Upload::Answer(answer) => answer.code(),
            Upload::Whole(body, _) => {
                assert_eq!(body, vec![7; 20]);
                0
            }
        };
        assert_eq!(take(&part(1, true, 16)), code::INCOMPLETE);
        assert_eq!(take(&part(0, true, 16)), code::CONTINUE);
        assert_eq!(take(&part(2, true, 16)), code::INCOMPLETE);
        assert_eq!(take(&part(1, false, 4)), 0);
        assert_eq!(take(&part(0, true, 9)), code::BAD_REQUEST);
        assert_eq!(take(&part(0, true, 16)), code::CONTINUE);
        assert_eq!(take(&part(1, true, 16)), code::CONTINUE);
        assert_eq!(take(&part(2, true, 16)), code::TOO_LARGE);
    }

    proptest! {
        #[test]
        fn any_body_survives_any_block_size(body in proptest::collection::vec(any::<u8>(), 1..600), szx in 0u8..4) {
            let mut uploads = Uploads::default();
            let size = 16usize << szx;
            let count = body.len().div_ceil(size);
            for (number, piece) in body.chunks(size).enumerate() {
                let block = Block { number: number as u32, more: number + 1 < count, szx };
                let request = Message::request(code::PUT, "x").with_block(CoapOption::Block1, block).with_payload(piece);
                match uploads.take(Instant::now(), peer(), &request, 1000) {
                    Upload::Whole(whole, _) => prop_assert_eq!(&whole, &body),
                    Upload::Answer(answer) => prop_assert_eq!(answer.code(), code::CONTINUE),
                }
            }
        }
    }
}
