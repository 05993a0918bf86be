//! A block: sorted entries with shared key prefixes, and restart points to search by.
//!
//! ```text
//! block = entry* | restart u32 (repeated) | restarts u32 |
//! entry = | shared varint | unshared varint | value varint | key suffix [unshared] | expiry u64 (maybe) | value |
//!         value varint: 0 = tombstone, 1 + length of the value, or 2^32 + length of a pointer into the value log;
//!         2^33 more than that if there is an expiry: little-endian, milliseconds since the Unix epoch
//! ```
//! A key is the first `shared` bytes of its predecessor's key and the suffix. At a restart point `shared` is 0.
//! Keys are encoded internal keys. Index blocks have the same form.

use crate::batch::VALUE_BYTES_MAX;
use crate::coding::{Reader, put_varint};
use crate::key;
use crate::value::{NEVER, Pointer, Until, Value};
use bytes::{Buf, Bytes};
use std::cmp::Ordering;

/// Entries between restart points of a block.
const RESTART_INTERVAL: usize = 16;
/// The same in an index block. Every point read searches one, and its keys share little.
const INDEX_RESTART_INTERVAL: usize = 4;
/// From here on the value's varint is of a pointer.
const POINTER_TAG: usize = 1 << 32;
/// From here on an expiry stands before the value.
pub(crate) const EXPIRY_TAG: usize = 1 << 33;
/// Bytes of an expiry.
const EXPIRY_BYTES: usize = size_of::<u64>();
const _: () = assert!(VALUE_BYTES_MAX + 1 < POINTER_TAG);

/// What is wrong with a block whose checksum held. The caller knows file and offset.
pub(crate) type Malformed = &'static str;

/// Gathers entries, which come in order.
pub(crate) struct BlockBuilder {
    data: Vec<u8>,
    restarts: Vec<u32>,
    restart_interval: usize,
    since_restart: usize,
    last_key: Vec<u8>,
}

impl BlockBuilder {
    pub(crate) fn new() -> Self {
        Self::with_interval(RESTART_INTERVAL)
    }

    /// For an index block.
    pub(crate) fn of_index() -> Self {
        Self::with_interval(INDEX_RESTART_INTERVAL)
    }

    fn with_interval(restart_interval: usize) -> Self {
        Self { data: Vec::new(), restarts: vec![0], restart_interval, since_restart: 0, last_key: Vec::new() }
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
            Value::Until(until) => self.add_until(key, until),
        }
    }

    fn add_until(&mut self, key: &[u8], until: &Until) {
        let expiry = until.unix_millis.to_le_bytes();
        match &until.value {
            Value::Inline(value) => {
                self.push(key, EXPIRY_TAG + value.len() + 1, &expiry);
                self.data.extend_from_slice(value);
            }
            Value::Stored(pointer) => {
                let pointer = pointer.encode();
                self.push(key, EXPIRY_TAG + POINTER_TAG + pointer.len(), &expiry);
                self.data.extend_from_slice(&pointer);
            }
            Value::Tombstone | Value::Until(_) => unreachable!("a value has one end, and a tombstone none"),
        }
    }

    /// Adds an entry whose value is `value` itself.
    pub(crate) fn add_inline(&mut self, key: &[u8], value: &[u8]) {
        self.push(key, value.len() + 1, value);
    }

    fn push(&mut self, key: &[u8], tag: usize, value: &[u8]) {
        let mut shared = 0;
        if self.since_restart == self.restart_interval {
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

    /// The block's bytes; the builder starts over, with as much memory for the next block.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let next = Vec::with_capacity(self.data.capacity());
        let mut data = std::mem::replace(&mut self.data, next);
        for restart in &self.restarts {
            data.extend_from_slice(&restart.to_le_bytes());
        }
        data.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        self.restarts.truncate(1);
        self.since_restart = 0;
        self.last_key.clear();
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

    /// The first entry at or after the encoded key `target`. What a [`BlockCursor`] finds, but keys of entries before the
    /// target are not put together: how many bytes each of them shares with the one before it says where it stands.
    pub(crate) fn find(&self, target: &[u8]) -> Result<Option<Found>, Malformed> {
        let (sought, inverted) = target.split_last_chunk::<8>().ok_or("a key that is sought is too short")?;
        let entries = &self.data[..self.entries_end];
        let mut at = self.restart(self.restart_before(target)?)?;
        // How many bytes the key of the entry before `at`, which is smaller, has in common with `sought`.
        let (mut common, mut is_first) = (0, true);
        while at < entries.len() {
            let entry = RawEntry::decode(entries, at)?;
            at = entry.end;
            // It begins with what made its predecessor smaller.
            if entry.shared > common {
                if is_first {
                    return Err("a restart point shares a prefix");
                }
                continue;
            }
            is_first = false;
            // It goes on with something larger than what it would share with the sought key. At a restart point it may as
            // well have stopped sharing.
            if entry.shared < common && entry.shared > 0 {
                return Ok(Some(Found { sequence: None, value: entry.value() }));
            }
            let (suffix, rest) = (key::split(entry.suffix), &sought[entry.shared..]);
            let Some((suffix, sequence)) = suffix else { return self.find_by_walking(target) };
            let same = suffix.iter().zip(rest).take_while(|(a, b)| a == b).count();
            // Where one of them ends it is the smaller one.
            match suffix.get(same).cmp(&rest.get(same)) {
                Ordering::Greater => return Ok(Some(Found { sequence: None, value: entry.value() })),
                Ordering::Equal if sequence <= !u64::from_be_bytes(*inverted) => {
                    return Ok(Some(Found { sequence: Some(sequence), value: entry.value() }));
                }
                // Of the sequence behind such a key nothing is known here, but its successor may share it.
                _ if same == suffix.len() => return self.find_by_walking(target),
                _ => common = entry.shared + same,
            }
        }
        Ok(None)
    }

    fn find_by_walking(&self, target: &[u8]) -> Result<Option<Found>, Malformed> {
        let mut cursor = BlockCursor::new(self.clone());
        cursor.seek(target)?;
        let (found, sought) = (key::split(&cursor.key), key::split(target));
        let same = found.filter(|(key, _)| sought.is_some_and(|(sought, _)| *key == sought));
        let sequence = same.map(|(_, sequence)| sequence);
        Ok(cursor.is_valid().then_some(Found { sequence, value: cursor.value }))
    }

    /// What stands in a place that [`Block::find`] gave. It shares the block's memory.
    pub(crate) fn into_value(self, found: &Found) -> Result<Value, Malformed> {
        value_of(found.value, self.data)
    }

    /// The same for a value that stands in the block, without a copy.
    pub(crate) fn inline(&self, found: &Found) -> Option<&[u8]> {
        match found.value {
            RawValue::Inline(start, end) => Some(&self.data[start..end]),
            _ => None,
        }
    }

    /// The last restart point whose key is before `target`, or the first of all.
    fn restart_before(&self, target: &[u8]) -> Result<usize, Malformed> {
        let (mut low, mut high) = (0, self.restarts - 1);
        while low < high {
            let middle = (low + high).div_ceil(2);
            match key::compare(self.restart_key(middle)?, target) {
                Ordering::Less => low = middle,
                _ => high = middle - 1,
            }
        }
        Ok(low)
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

/// An entry that was looked for.
pub(crate) struct Found {
    /// Of the entry, if it is a version of the very key.
    pub(crate) sequence: Option<u64>,
    value: RawValue,
}

/// An entry as it stands in the block.
struct RawEntry<'a> {
    shared: usize,
    suffix: &'a [u8],
    tag: usize,
    /// Where the value begins; it goes to the end.
    value_start: usize,
    end: usize,
}

/// Where the value is.
#[derive(Clone, Copy)]
enum RawValue {
    Tombstone,
    Inline(usize, usize),
    Pointer(usize, usize),
    /// The same behind an expiry, which is the first that lies there.
    InlineUntil(usize, usize),
    PointerUntil(usize, usize),
}

impl<'a> RawEntry<'a> {
    #[inline]
    fn decode(entries: &'a [u8], at: usize) -> Result<Self, Malformed> {
        Self::read(entries, at).ok_or("an entry is cut short")
    }

    #[inline]
    fn read(entries: &'a [u8], at: usize) -> Option<Self> {
        let mut reader = Reader::at(entries, at);
        let (shared, unshared, tag) = reader.three_varlens()?;
        let suffix = reader.take(unshared)?;
        let value_start = reader.position();
        let len = match tag {
            EXPIRY_TAG.. => len_until(tag)?,
            POINTER_TAG..EXPIRY_TAG => tag - POINTER_TAG,
            _ => tag.saturating_sub(1),
        };
        reader.take(len)?;
        Some(Self { shared, suffix, tag, value_start, end: reader.position() })
    }

    fn value(&self) -> RawValue {
        match self.tag {
            0 => RawValue::Tombstone,
            EXPIRY_TAG.. => raw_until(self.tag, self.value_start, self.end),
            POINTER_TAG..EXPIRY_TAG => RawValue::Pointer(self.value_start, self.end),
            _ => RawValue::Inline(self.value_start, self.end),
        }
    }
}

/// Bytes of a value that has an end, that end included; `None` if it cannot have one.
#[cold]
fn len_until(tag: usize) -> Option<usize> {
    let tag = tag - EXPIRY_TAG;
    let len = tag.checked_sub(if tag >= POINTER_TAG { POINTER_TAG } else { 1 })?;
    len.checked_add(EXPIRY_BYTES)
}

#[cold]
fn raw_until(tag: usize, start: usize, end: usize) -> RawValue {
    match tag - EXPIRY_TAG {
        POINTER_TAG.. => RawValue::PointerUntil(start, end),
        _ => RawValue::InlineUntil(start, end),
    }
}

fn value_of(value: RawValue, mut block: Bytes) -> Result<Value, Malformed> {
    match value {
        RawValue::Tombstone => Ok(Value::Tombstone),
        RawValue::Inline(start, end) => {
            block.truncate(end);
            block.advance(start);
            Ok(Value::Inline(block))
        }
        RawValue::Pointer(start, end) => {
            let pointer = Pointer::decode(&block[start..end]);
            pointer.map(Value::Stored).ok_or("a pointer into the value log does not decode")
        }
        RawValue::InlineUntil(start, end) => {
            value_until(start, RawValue::Inline(start + EXPIRY_BYTES, end), block)
        }
        RawValue::PointerUntil(start, end) => {
            value_until(start, RawValue::Pointer(start + EXPIRY_BYTES, end), block)
        }
    }
}

/// The value behind an expiry, with that.
#[cold]
fn value_until(expiry_at: usize, value: RawValue, block: Bytes) -> Result<Value, Malformed> {
    let expiry = Reader::at(&block, expiry_at).u64().filter(|expiry| *expiry != NEVER);
    let expiry = expiry.ok_or("an expiry is no time")?;
    Ok(value_of(value, block)?.until(expiry))
}

/// A place in a block, or off its end.
#[derive(Clone)]
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
        value_of(self.value, self.block.data.clone())
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
        self.jump_to_restart(self.block.restart_before(target)?)?;
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
        self.value = entry.value();
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

    fn value(n: usize) -> Value {
        let inline = Value::Inline(format!("value{n}").into());
        match n % 5 {
            0 => Value::Tombstone,
            1 => inline.until(n as u64),
            2 => Value::Stored(Pointer { segment: 1, offset: n as u64, len: 9 }).until(1 << 40),
            _ => inline,
        }
    }

    fn block(count: usize) -> Block {
        let mut builder = BlockBuilder::new();
        for n in 0..count {
            builder.add(&encoded(2 * n), &value(n));
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
        let until = Value::Inline("v".into()).until(0x0102);
        builder.add(b"\0ae\xff\xff\xff\xff\xff\xff\xff\xfd", &until);
        builder.add(b"\0af\xff\xff\xff\xff\xff\xff\xff\xfd", &Value::Stored(pointer).until(3));
        let golden = [
            b"\x00\x0b\x02\0ab\xff\xff\xff\xff\xff\xff\xff\xfev".as_slice(),
            b"\x02\x09\x00c\xff\xff\xff\xff\xff\xff\xff\xfd",
            b"\x02\x09\x85\x80\x80\x80\x10d\xff\xff\xff\xff\xff\xff\xff\xfd\x07\xac\x02\xe8\x07",
            b"\x02\x09\x82\x80\x80\x80\x20e\xff\xff\xff\xff\xff\xff\xff\xfd\x02\x01\0\0\0\0\0\0v",
            b"\x02\x09\x85\x80\x80\x80\x30f\xff\xff\xff\xff\xff\xff\xff\xfd\x03\0\0\0\0\0\0\0\x07\xac\x02\xe8\x07",
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
                assert_eq!(cursor.value(), Ok(value(n)));
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

    /// Some values stand elsewhere, some have an end, and some both.
    fn held(key: &InternalKey) -> Value {
        let inline = Value::Inline(key.encode().into());
        let stored = Value::Stored(Pointer { segment: 1, offset: key.sequence, len: 9 });
        match key.user.len() % 5 {
            0 => Value::Tombstone,
            1 => inline.until(key.sequence),
            2 => stored.until(1 << 40),
            3 => stored,
            _ => inline,
        }
    }

    /// Keys of every kind that could mislead: prefixes of each other, with bytes like those of sequences, in versions.
    #[test]
    fn what_is_found_is_what_a_walk_finds() {
        let mut keys = Vec::new();
        for n in 0..400_usize {
            let tail = [0xff, 0, b'a', 0xfe][n % 4];
            let user =
                [&b"aab"[..n % 4], &vec![tail; n % 13], &(n * n % 97).to_string().into_bytes()].concat();
            let longer = [&user[..], &vec![0xff; 1 + n % 9]].concat();
            for version in 0..=n % 3 {
                for user in [&user, &longer] {
                    let sequence = 1 + (version * 300) as u64;
                    keys.push(InternalKey::new(Cf((n % 2) as u8), user.clone().into(), sequence));
                }
            }
        }
        keys.sort();
        keys.dedup();
        for step in 1..6 {
            let mut builder = if step % 2 == 0 { BlockBuilder::of_index() } else { BlockBuilder::new() };
            for key in keys.iter().step_by(step) {
                builder.add(&key.encode(), &held(key));
            }
            let block = Block::parse(builder.finish().into()).unwrap();
            for key in &keys {
                for sequence in [key.sequence, key.sequence - 1, key.sequence + 1, 0, u64::MAX] {
                    let target = InternalKey { sequence, ..key.clone() };
                    let found = block.find(&target.encode()).unwrap();
                    let walked = block.find_by_walking(&target.encode()).unwrap();
                    let value = |found: &Found| block.clone().into_value(found).unwrap();
                    let all =
                        |found: &Option<Found>| found.as_ref().map(|found| (found.sequence, value(found)));
                    assert_eq!(all(&found), all(&walked), "{target:?}");
                    let expected = keys.iter().step_by(step).find(|key| **key >= target);
                    let is_same = |key: &&InternalKey| key.same_user_key(&target);
                    assert_eq!(found.as_ref().map(value), expected.map(held), "{target:?}");
                    let sequence = expected.filter(is_same).map(|key| key.sequence);
                    assert_eq!(found.map(|found| found.sequence), expected.map(|_| sequence), "{target:?}");
                }
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
                let found = block.find(&encoded(31)).ok().flatten();
                let _ = found.map(|found| block.clone().into_value(&found));
                let mut cursor = BlockCursor::new(block);
                let _ =
                    cursor.seek(&encoded(31)).and_then(|()| cursor.retreat()).and_then(|()| cursor.last());
            }
        }
    }
}
