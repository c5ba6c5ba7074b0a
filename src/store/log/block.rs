//! A block: some records of one lane, packed and compressed. Pure bytes to records and back; no SQL.
//!
//! Packed, one record is: device (index into the block's dictionary; the next free index introduces a new device with
//! its name and its first `seq`), kind and flags, `ts` as difference to the record before, name, body. The `seq` of a
//! device grows by one per record, so a block holds only the first. The whole is one zstd frame with checksum (RFC 8878).

use std::{
    collections::HashMap,
    hash::Hasher,
    io::{self, Read},
    sync::Arc,
};

use bytes::Bytes;
use twox_hash::XxHash64;
use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

use crate::model::{
    ids::DeviceId,
    record::{Kind, NewRecord, Record},
    time::Millis,
};

/// First byte of a block: the layout described above.
const FORMAT: u8 = 1;
const NAMED: u8 = 0x20;
const UNTRUSTED: u8 = 0x40;
const KIND: u8 = 0x1f;
/// Of zstd: the log is packed in passing.
const LEVEL: i32 = 1;
/// No block unpacks to more than this: a damaged length cannot ask for all the memory there is.
const MOST_RAW: usize = 64 << 20;

/// What is wrong with the bytes of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a block of the log is damaged: {0}")]
pub struct BadBlock(&'static str);

/// Packs records into one block; holds what is needed to add more.
#[derive(Default)]
pub struct Packer {
    raw: Vec<u8>,
    devices: HashMap<DeviceId, u64>,
    last_ts: i64,
    pub count: u64,
    pub first_ts: i64,
    pub newest_ts: i64,
}

impl Packer {
    /// Adds a record. `seq` must follow the device's last one in this block.
    pub fn add(&mut self, seq: u64, untrusted: bool, record: &NewRecord) {
        let next = self.devices.len() as u64;
        match self.devices.get(&record.device) {
            Some(index) => varint(&mut self.raw, *index),
            None => {
                varint(&mut self.raw, next);
                text(&mut self.raw, record.device.as_str().as_bytes());
                varint(&mut self.raw, seq);
                self.devices.insert(record.device.clone(), next);
            }
        }
        let named = if record.name.is_some() { NAMED } else { 0 };
        self.raw.push(record.kind as u8 | named | if untrusted { UNTRUSTED } else { 0 });
        varint(&mut self.raw, zigzag(record.ts.0.wrapping_sub(self.last_ts)));
        self.last_ts = record.ts.0;
        if let Some(name) = &record.name {
            text(&mut self.raw, name.as_bytes());
        }
        text(&mut self.raw, &record.body);
        self.first_ts = if self.count == 0 { record.ts.0 } else { self.first_ts.min(record.ts.0) };
        self.newest_ts = if self.count == 0 { record.ts.0 } else { self.newest_ts.max(record.ts.0) };
        self.count += 1;
    }

    /// Bytes before compression.
    pub fn raw_len(&self) -> usize {
        self.raw.len()
    }

    /// The block as it goes to disk, packed as a whole.
    pub fn pack(&self, press: &mut Press) -> io::Result<Vec<u8>> {
        let mut packed = Vec::with_capacity(64 + self.raw.len() / 3);
        packed.push(FORMAT);
        packed.extend_from_slice(&press.0.compress(&self.raw)?);
        Ok(packed)
    }
}

/// A compressor that is kept between blocks.
pub struct Press(zstd::bulk::Compressor<'static>);

impl Press {
    pub fn new() -> io::Result<Press> {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        compressor.include_dictid(false)?;
        Ok(Press(compressor))
    }
}

/// A block that grows from commit to commit: only what is new is compressed. It comes out a little larger than one that
/// is packed as a whole.
pub struct Growth {
    encoder: Encoder<'static>,
    /// The block but for its end.
    block: Vec<u8>,
    sum: XxHash64,
    /// Bytes of the packer that are in it.
    fed: usize,
}

impl Growth {
    /// Of the frame, as a power of two: more than a block that grows ever holds, and little memory.
    const WINDOW: u32 = 15;
    /// An empty last block, and room for the checksum (RFC 8878, 3.1.1).
    const END: usize = 3 + 4;

    pub fn new() -> io::Result<Growth> {
        let mut encoder = Encoder::new(LEVEL)?;
        encoder.set_parameter(CParameter::ChecksumFlag(true))?;
        encoder.set_parameter(CParameter::WindowLog(Self::WINDOW))?;
        Ok(Growth { encoder, block: vec![FORMAT], sum: XxHash64::with_seed(0), fed: 0 })
    }

    /// Begins another block.
    pub fn restart(&mut self) -> io::Result<()> {
        self.block.truncate(1);
        self.sum = XxHash64::with_seed(0);
        self.fed = 0;
        self.encoder.reinit()
    }

    /// The block as it goes to disk, with what `packer` has got since the last time.
    pub fn pack(&mut self, packer: &Packer) -> io::Result<Vec<u8>> {
        let new = &packer.raw[self.fed..];
        self.sum.write(new);
        self.fed = packer.raw.len();
        let mut input = InBuffer::around(new);
        loop {
            self.block.reserve(64 + new.len());
            let at = self.block.len();
            let mut output = OutBuffer::around_pos(&mut self.block, at);
            self.encoder.run(&mut input, &mut output)?;
            if input.pos() == new.len() && self.encoder.flush(&mut output)? == 0 {
                break;
            }
        }
        let mut whole = Vec::with_capacity(self.block.len() + Self::END);
        whole.extend_from_slice(&self.block);
        whole.extend_from_slice(&[1, 0, 0]);
        whole.extend_from_slice(&(self.sum.finish() as u32).to_le_bytes());
        Ok(whole)
    }
}

/// The records of a block whose first one has position `first`. `repair` is added to stamps taken before the clock was
/// trusted; `None` leaves them as they are, flagged.
pub fn unpack(data: &[u8], first: u64, repair: Option<i64>) -> Result<Vec<Record>, BadBlock> {
    let Some((&FORMAT, frame)) = data.split_first() else { return Err(BadBlock("unknown format")) };
    let raw = Bytes::from(unpress(frame)?);
    let mut cursor = Cursor { raw: &raw, at: 0 };
    let mut devices: Vec<(DeviceId, u64)> = Vec::new();
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut records = Vec::new();
    let mut ts = 0i64;
    let mut position = first;
    while cursor.at < raw.len() {
        let index = cursor.varint()?;
        if index == devices.len() as u64 {
            let id = cursor.text()?;
            let id = std::str::from_utf8(&id).ok().and_then(|id| DeviceId::new(id).ok()).ok_or(BadBlock("device"))?;
            devices.push((id, cursor.varint()?));
        }
        let (device, seq) = usize::try_from(index).ok().and_then(|i| devices.get_mut(i)).ok_or(BadBlock("index"))?;
        let head = cursor.byte()?;
        let kind = Kind::from_u8(head & KIND).ok_or(BadBlock("kind"))?;
        ts = ts.wrapping_add(unzigzag(cursor.varint()?));
        let name = match head & NAMED {
            0 => None,
            _ => Some(shared(&mut names, &cursor.text()?)?),
        };
        let untrusted = head & UNTRUSTED != 0;
        let stamp = if untrusted { ts.saturating_add(repair.unwrap_or(0)) } else { ts };
        let body = cursor.text()?;
        records.push(Record {
            position,
            seq: *seq,
            clock_untrusted: untrusted && repair.is_none(),
            record: NewRecord { device: device.clone(), kind, name, ts: Millis(stamp), body },
        });
        *seq += 1;
        position += 1;
    }
    Ok(records)
}

fn unpress(frame: &[u8]) -> Result<Vec<u8>, BadBlock> {
    let size = zstd::zstd_safe::get_frame_content_size(frame).map_err(|_| BadBlock("no frame"))?;
    let Some(size) = size else { return unpress_growth(frame) };
    let size = usize::try_from(size).ok().filter(|size| *size <= MOST_RAW).ok_or(BadBlock("size"))?;
    zstd::bulk::decompress(frame, size).map_err(|_| BadBlock("checksum"))
}

/// The frame of a [`Growth`] does not say how much is in it.
fn unpress_growth(frame: &[u8]) -> Result<Vec<u8>, BadBlock> {
    let mut raw = Vec::with_capacity(frame.len() * 5);
    let decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(|_| BadBlock("no frame"))?;
    let read = decoder.single_frame().take(MOST_RAW as u64 + 1).read_to_end(&mut raw);
    match read {
        Ok(size) if size <= MOST_RAW => Ok(raw),
        Ok(_) => Err(BadBlock("size")),
        Err(_) => Err(BadBlock("checksum")),
    }
}

/// Names repeat: the same text is the same allocation.
fn shared(names: &mut Vec<Arc<str>>, bytes: &[u8]) -> Result<Arc<str>, BadBlock> {
    let name = std::str::from_utf8(bytes).map_err(|_| BadBlock("name"))?;
    if let Some(known) = names.iter().rev().take(8).find(|known| ***known == *name) {
        return Ok(known.clone());
    }
    let name: Arc<str> = name.into();
    names.push(name.clone());
    Ok(name)
}

struct Cursor<'r> {
    raw: &'r Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, BadBlock> {
        let byte = *self.raw.get(self.at).ok_or(BadBlock("too short"))?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, BadBlock> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadBlock("number"))
    }

    fn text(&mut self) -> Result<Bytes, BadBlock> {
        let length = usize::try_from(self.varint()?).map_err(|_| BadBlock("length"))?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.raw.len()).ok_or(BadBlock("length"))?;
        let text = self.raw.slice(self.at..end);
        self.at = end;
        Ok(text)
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_record() -> impl Strategy<Value = (NewRecord, bool)> {
        let device = proptest::sample::select(vec!["a", "meter-1", "x:y.z"]);
        let name = proptest::option::of("[a-z]{1,5}");
        let body = proptest::collection::vec(any::<u8>(), 0..60);
        (device, 0..11u8, name, any::<i64>(), body, any::<bool>()).prop_map(
            |(device, kind, name, ts, body, untrusted)| {
                let record = NewRecord {
                    device: DeviceId::new(device).expect("good"),
                    kind: Kind::from_u8(kind).expect("known"),
                    name: name.map(|name| name.as_str().into()),
                    ts: Millis(ts),
                    body: body.into(),
                };
                (record, untrusted)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(records in proptest::collection::vec(any_record(), 0..50), first in 1..u64::MAX / 2) {
            let mut packer = Packer::default();
            let mut seqs: HashMap<DeviceId, u64> = HashMap::new();
            let mut expected = Vec::new();
            for (index, (record, untrusted)) in records.into_iter().enumerate() {
                let seq = seqs.entry(record.device.clone()).or_insert(first);
                packer.add(*seq, untrusted, &record);
                expected.push(Record { position: first + index as u64, seq: *seq, clock_untrusted: untrusted, record });
                *seq += 1;
            }
            let data = packer.pack(&mut Press::new().expect("press")).expect("packed");
            prop_assert_eq!(unpack(&data, first, None).expect("unpacked"), expected);
        }

        #[test]
        fn a_block_that_grew_is_one_frame_after_every_step(steps in proptest::collection::vec(proptest::collection::vec(any_record(), 1..9), 1..9)) {
            let mut growth = Growth::new().expect("growth");
            for _ in 0..2 {
                let mut packer = Packer::default();
                let mut seqs: HashMap<DeviceId, u64> = HashMap::new();
                for step in &steps {
                    for (record, untrusted) in step {
                        let seq = seqs.entry(record.device.clone()).or_insert(1);
                        packer.add(*seq, *untrusted, record);
                        *seq += 1;
                    }
                    let grown = growth.pack(&packer).expect("packed");
                    let whole = packer.pack(&mut Press::new().expect("press")).expect("packed");
                    prop_assert_eq!(unpack(&grown, 1, None), unpack(&whole, 1, None));
                    // The last four bytes are the frame's checksum, however it was written.
                    prop_assert_eq!(&grown[grown.len() - 4..], &whole[whole.len() - 4..]);
                }
                growth.restart().expect("another");
            }
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(mut data in proptest::collection::vec(any::<u8>(), 0..200), flip in 0..400usize) {
            let _ = unpack(&data, 1, None);
            let mut packer = Packer::default();
            let body = Bytes::from_static(b"{\"values\":{\"t\":21.5,\"h\":48,\"t2\":21.5,\"h2\":48}}");
            let device = DeviceId::new("d").expect("good");
            for seq in 1..20 {
                let record = NewRecord { device: device.clone(), kind: Kind::Telemetry, name: None, ts: Millis(seq), body: body.clone() };
                packer.add(seq as u64, false, &record);
            }
            for grown in [false, true] {
                data = match grown {
                    true => Growth::new().and_then(|mut growth| growth.pack(&packer)).expect("packed"),
                    false => packer.pack(&mut Press::new().expect("press")).expect("packed"),
                };
                let index = flip % data.len();
                data[index] ^= 1 << (flip % 8);
                if let Ok(records) = unpack(&data, 1, None) {
                    prop_assert_eq!(records.len(), 19);
                }
            }
        }
    }
}
