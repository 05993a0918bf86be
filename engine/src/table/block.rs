//! A block: sorted entries with shared key prefixes, and restart points to search by.
//!
//! ```text
//! block = entry* | restart u32 (repeated) | restarts u32 |
//! entry = | shared varint | unshared varint | value varint | key suffix [unshared] | value |
//!         value varint: 0 = tombstone, 1 + length of the value, or 2^32 + length of a pointer into the value log
//! ```
//! A key is the first `shared` bytes of its predecessor's key and the suffix. At a restart point `shared` is 0.
//! Keys are encoded internal keys. Index blocks have the same form.

use crate::batch::VALUE_BYTES_MAX;
use crate::coding::{Reader, put_varint};
use crate::key;
use crate::value::{Pointer, Value};
use bytes::Bytes;
use std::cmp::Ordering;

/// Entries between restart points.
const RESTART_INTERVAL: usize = 16;
/// From here on the value's varint is of a pointer.
const POINTER_TAG: usize = 1 << 32;
const _: () = assert!(VALUE_BYTES_MAX + 1 < POINTER_TAG);

/// What is wrong with a block whose checksum held. The caller knows file and offset.
pub(crate) type Malformed = &'static str;

/// Gathers entries, which come in order.
pub(crate) struct BlockBuilder {
    data: Vec<u8>,
    restarts: Vec<u32>,
    since_restart: usize,
    last_key: Vec<u8>,
}

impl BlockBuilder {
    pub(crate) fn new() -> Self {
        Self { data: Vec::new(), restarts: vec![0], since_restart: 0, last_key: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Bytes that the block would have.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len() + 4 * self.restarts.len() + 4
    }

    /// The key added last.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Adds an entry that sorts behind all before it.
    pub(crate) fn add(&mut self, key: &[u8], value: &Value) {
        match value {
            Value::Tombstone => self.push(key, 0, &[]),
            Value::Inline(value) => self.push(key, value.len() + 1, value),
            Value::Stored(pointer) => {
                let pointer = pointer.encode();
                self.push(key, POINTER_TAG + pointer.len(), &pointer);
            }
        }
    }

    /// Adds an entry whose value is `value` itself.
    pub(crate) fn add_inline(&mut self, key: &[u8], value: &[u8]) {
        self.push(key, value.len() + 1, value);
    }

    fn push(&mut self, key: &[u8], tag: usize, value: &[u8]) {
        let mut shared = 0;
        if self.since_restart == RESTART_INTERVAL {
            self.restarts.push(self.data.len() as u32);
            self.since_restart = 0;
        } else if !self.data.is_empty() {
            shared = self.last_key.iter().zip(key).take_while(|(a, b)| a == b).count();
        }
        put_varint(&mut self.data, shared as u64);
        put_varint(&mut self.data, (key.len() - shared) as u64);
        put_varint(&mut self.data, tag as u64);
        self.data.extend_from_slice(&key[shared..]);
        self.data.extend_from_slice(value);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.since_restart += 1;
    }

    /// The block's bytes; the builder starts over.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut data = std::mem::take(&mut self.data);
        for restart in &self.restarts {
            data.extend_from_slice(&restart.to_le_bytes());
        }
        data.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        *self = Self::new();
        data
    }
}

/// A decoded block. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    data: Bytes,
    /// Where the entries end and the restart points begin.
    entries_end: usize,
    restarts: usize,
}

impl Block {
    pub(crate) fn parse(data: Bytes) -> Result<Self, Malformed> {
        let (rest, count) = data.split_last_chunk::<4>().ok_or("the block is too short")?;
        let restarts = u32::from_le_bytes(*count) as usize;
        let entries_end = restarts.checked_mul(4).and_then(|bytes| rest.len().checked_sub(bytes));
        match entries_end {
            Some(entries_end) if restarts > 0 => Ok(Self { data, entries_end, restarts }),
            _ => Err("the block has a wrong number of restart points"),
        }
    }

    /// Memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    fn restart(&self, index: usize) -> Result<usize, Malformed> {
        let offset = Reader::at(&self.data, self.entries_end + 4 * index).u32();
        let offset = offset.ok_or("a restart point is missing")? as usize;
        if offset < self.entries_end || self.entries_end == 0 {
            Ok(offset)
        } else {
            Err("a restart point is out of place")
        }
    }

    /// The whole key of a restart point's entry.
    fn restart_key(&self, index: usize) -> Result<&[u8], Malformed> {
        let entry = RawEntry::decode(&self.data[..self.entries_end], self.restart(index)?)?;
        if entry.shared == 0 { Ok(entry.suffix) } else { Err("a restart point shares a prefix") }
    }
}

/// An entry as it stands in the block.
struct RawEntry<'a> {
    shared: usize,
    suffix: &'a [u8],
    value: RawValue,
    end: usize,
}

/// Where the value is.
#[derive(Clone, Copy)]
enum RawValue {
    Tombstone,
    Inline(usize, usize),
    Pointer(usize, usize),
}

impl<'a> RawEntry<'a> {
    fn decode(entries: &'a [u8], at: usize) -> Result<Self, Malformed> {
        Self::read(entries, at).ok_or("an entry is cut short")
    }

    fn read(entries: &'a [u8], at: usize) -> Option<Self> {
        let mut reader = Reader::at(entries, at);
        let shared = reader.varlen()?;
        let unshared = reader.varlen()?;
        let value_tag = reader.varlen()?;
        let suffix = reader.take(unshared)?;
        let start = reader.position();
        let len =
            if value_tag >= POINTER_TAG { value_tag - POINTER_TAG } else { value_tag.saturating_sub(1) };
        reader.take(len)?;
        let value = match value_tag {
            0 => RawValue::Tombstone,
            POINTER_TAG.. => RawValue::Pointer(start, start + len),
            _ => RawValue::Inline(start, start + len),
        };
        Some(Self { shared, suffix, value, end: reader.position() })
    }
}

/// A place in a block, or off its end.
pub(crate) struct BlockCursor {
    block: Block,
    /// Start of the current entry; `entries_end` when off the end.
    at: usize,
    /// Start of the next entry.
    next: usize,
    key: Vec<u8>,
    value: RawValue,
}

impl BlockCursor {
    /// Off the end until moved.
    pub(crate) fn new(block: Block) -> Self {
        let end = block.entries_end;
        Self { block, at: end, next: end, key: Vec::new(), value: RawValue::Tombstone }
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.at < self.block.entries_end
    }

    /// The encoded key here.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// What the key here holds. A value shares the block's memory.
    pub(crate) fn value(&self) -> Result<Value, Malformed> {
        match self.value {
            RawValue::Tombstone => Ok(Value::Tombstone),
            RawValue::Inline(start, end) => Ok(Value::Inline(self.block.data.slice(start..end))),
            RawValue::Pointer(start, end) => {
                let pointer = Pointer::decode(&self.block.data[start..end]);
                pointer.map(Value::Stored).ok_or("a pointer into the value log does not decode")
            }
        }
    }

    /// The value here if it stands in the block, without a copy.
    pub(crate) fn inline(&self) -> Option<&[u8]> {
        match self.value {
            RawValue::Inline(start, end) => Some(&self.block.data[start..end]),
            _ => None,
        }
    }

    pub(crate) fn first(&mut self) -> Result<(), Malformed> {
        self.jump(0)
    }

    pub(crate) fn last(&mut self) -> Result<(), Malformed> {
        self.jump_to_restart(self.block.restarts - 1)?;
        while self.next < self.block.entries_end {
            self.advance()?;
        }
        Ok(())
    }

    /// To the first entry at or after `target`.
    pub(crate) fn seek(&mut self, target: &[u8]) -> Result<(), Malformed> {
        let (mut low, mut high) = (0, self.block.restarts - 1);
        while low < high {
            let middle = (low + high).div_ceil(2);
            match key::compare(self.block.restart_key(middle)?, target) {
                Ordering::Less => low = middle,
                _ => high = middle - 1,
            }
        }
        self.jump_to_restart(low)?;
        while self.is_valid() && key::compare(&self.key, target) == Ordering::Less {
            self.advance()?;
        }
        Ok(())
    }

    /// To the next entry, or off the end.
    pub(crate) fn advance(&mut self) -> Result<(), Malformed> {
        let at = self.next;
        if at >= self.block.entries_end {
            self.invalidate();
            return Ok(());
        }
        let entry = RawEntry::decode(&self.block.data[..self.block.entries_end], at)?;
        if entry.shared > self.key.len() {
            return Err("an entry shares more than its predecessor has");
        }
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(entry.suffix);
        self.value = entry.value;
        self.at = at;
        self.next = entry.end;
        Ok(())
    }

    /// To the previous entry, or off the end when there is none.
    pub(crate) fn retreat(&mut self) -> Result<(), Malformed> {
        let target = self.at;
        let (mut low, mut high) = (0, self.block.restarts);
        while low < high {
            let middle = low.midpoint(high);
            if self.block.restart(middle)? < target { low = middle + 1 } else { high = middle }
        }
        if low == 0 {
            self.invalidate();
            return Ok(());
        }
        self.jump_to_restart(low - 1)?;
        while self.next < target {
            self.advance()?;
        }
        Ok(())
    }

    fn jump_to_restart(&mut self, index: usize) -> Result<(), Malformed> {
        self.jump(self.block.restart(index)?)
    }

    fn jump(&mut self, offset: usize) -> Result<(), Malformed> {
        self.key.clear();
        self.next = offset;
        self.advance()
    }

    fn invalidate(&mut self) {
        self.at = self.block.entries_end;
        self.next = self.at;
        self.key.clear();
        self.value = RawValue::Tombstone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cf;
    use crate::key::InternalKey;

    fn encoded(n: usize) -> Vec<u8> {
        InternalKey::new(Cf(0), format!("key{n:04}").into(), 5).encode()
    }

    fn block(count: usize) -> Block {
        let mut builder = BlockBuilder::new();
        for n in 0..count {
            let value = format!("value{n}");
            builder.add(&encoded(2 * n), &Value::of((n % 5 != 0).then(|| value.into())));
        }
        Block::parse(builder.finish().into()).unwrap()
    }

    #[test]
    fn the_bytes_are_these() {
        let mut builder = BlockBuilder::new();
        builder.add(b"\0ab\xff\xff\xff\xff\xff\xff\xff\xfe", &Value::Inline("v".into()));
        builder.add(b"\0ac\xff\xff\xff\xff\xff\xff\xff\xfd", &Value::Tombstone);
        let pointer = Pointer { segment: 7, offset: 300, len: 1000 };
        builder.add(b"\0ad\xff\xff\xff\xff\xff\xff\xff\xfd", &Value::Stored(pointer));
        let golden = [
            b"\x00\x0b\x02\0ab\xff\xff\xff\xff\xff\xff\xff\xfev".as_slice(),
            b"\x02\x09\x00c\xff\xff\xff\xff\xff\xff\xff\xfd",
            b"\x02\x09\x85\x80\x80\x80\x10d\xff\xff\xff\xff\xff\xff\xff\xfd\x07\xac\x02\xe8\x07",
            b"\0\0\0\0\x01\0\0\0",
        ]
        .concat();
        assert_eq!(builder.finish(), golden);
    }

    #[test]
    fn walks_both_ways() {
        for count in [1, 15, 16, 17, 100] {
            let mut cursor = BlockCursor::new(block(count));
            cursor.first().unwrap();
            for n in 0..count {
                assert_eq!(cursor.key(), encoded(2 * n));
                assert_eq!(cursor.value().unwrap().is_tombstone(), n % 5 == 0);
                cursor.advance().unwrap();
            }
            assert!(!cursor.is_valid());
            cursor.last().unwrap();
            for n in (0..count).rev() {
                assert_eq!(cursor.key(), encoded(2 * n));
                cursor.retreat().unwrap();
            }
            assert!(!cursor.is_valid());
        }
    }

    #[test]
    fn seeks_to_the_first_at_or_after() {
        let mut cursor = BlockCursor::new(block(100));
        for n in 0..200 {
            cursor.seek(&encoded(n)).unwrap();
            assert_eq!(cursor.is_valid(), n <= 198);
            if n <= 198 {
                assert_eq!(cursor.key(), encoded(n.next_multiple_of(2)));
            }
        }
    }

    #[test]
    fn nonsense_is_refused_without_a_panic() {
        let good = block(40);
        for at in 0..good.data.len() {
            for flip in [1_u8, 0x80, 0xff] {
                let mut bad = good.data.to_vec();
                bad[at] ^= flip;
                let Ok(block) = Block::parse(bad.into()) else { continue };
                let mut cursor = BlockCursor::new(block);
                let _ =
                    cursor.seek(&encoded(31)).and_then(|()| cursor.retreat()).and_then(|()| cursor.last());
            }
        }
    }
}
