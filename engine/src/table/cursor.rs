//! A place in a table: a stretch, a place in its index block, and one in a data block.

use crate::Result;
use crate::cache::Part;
use crate::iter::Direction;
use crate::key::{Entry, InternalKey, Span, compare, split};
use crate::table::ahead::Ahead;
use crate::table::block::{Block, BlockCursor};
use crate::table::format::Handle;
use crate::table::{Hit, LACKS, Sought, Table, handle_at};
use crate::value::Value;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where to go in the blocks below after the cursor above them moved.
#[derive(Clone, Copy)]
enum Enter<'a> {
    First,
    Last,
    AtOrAfter(&'a [u8]),
}

/// Copies of keys that share pieces of memory, as values share that of their block: a piece of their own for each
/// would cost more than everything else about a small row.
struct Keys {
    left: BytesMut,
    piece_bytes: usize,
}

/// The first piece is small, each further one twice as large: most walks are short.
const KEYS_BYTES_MIN: usize = 256;
const KEYS_BYTES_MAX: usize = 4 << 10;

impl Keys {
    fn new() -> Self {
        Self { left: BytesMut::new(), piece_bytes: KEYS_BYTES_MIN }
    }

    fn copy(&mut self, key: &[u8]) -> Bytes {
        if key.len() > self.left.capacity() {
            if key.len() > KEYS_BYTES_MAX / 4 {
                return Bytes::copy_from_slice(key);
            }
            self.left = BytesMut::with_capacity(self.piece_bytes.max(key.len()));
            self.piece_bytes = (self.piece_bytes * 2).min(KEYS_BYTES_MAX);
        }
        self.left.extend_from_slice(key);
        self.left.split().freeze()
    }
}

/// A block cursor and where its block is, for errors.
struct Place {
    cursor: BlockCursor,
    offset: u64,
}

/// Walks one table both ways. Invariant: `data` is on an entry, or the cursor is off the end and all are `None`.
pub(crate) struct TableCursor {
    table: Arc<Table>,
    fill_cache: bool,
    /// Number of the stretch.
    stretch: usize,
    index: Option<Place>,
    data: Option<Place>,
    ahead: Option<Ahead>,
    keys: Keys,
    /// Counts the bytes of blocks that were entered.
    meter: Option<Arc<AtomicU64>>,
}

impl TableCursor {
    /// Off the end until moved. Compactions pass `fill_cache` = false: what they read is about to disappear.
    pub(crate) fn new(table: Arc<Table>, fill_cache: bool) -> Self {
        Self {
            table,
            fill_cache,
            stretch: 0,
            index: None,
            data: None,
            ahead: None,
            keys: Keys::new(),
            meter: None,
        }
    }

    /// The same for a walk through `span`, which begins with a search and goes on in `direction`.
    pub(crate) fn walking(table: Arc<Table>, span: &Span, direction: Direction, fill_cache: bool) -> Self {
        let mut cursor = Self::new(table, fill_cache);
        cursor.ahead = Some(Ahead::new(direction, span));
        cursor
    }

    /// Off the end; lets go of blocks.
    pub(crate) fn end(&mut self) {
        (self.index, self.data) = (None, None);
        if let Some(ahead) = &mut self.ahead {
            ahead.give_up(&self.table);
        }
    }

    /// Adds up in `meter` how long the blocks are that it goes through, also those that the cache has.
    pub(crate) fn metered(mut self, meter: &Arc<AtomicU64>) -> Self {
        self.meter = Some(meter.clone());
        self
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.data.is_some()
    }

    /// The encoded key here. Only on a valid cursor.
    pub(crate) fn key(&self) -> &[u8] {
        self.data.as_ref().map_or(&[], |place| place.cursor.key())
    }

    /// What the key here holds.
    pub(crate) fn value(&self) -> Result<Value> {
        match &self.data {
            Some(place) => place.cursor.value().map_err(|what| self.table.corrupt(place.offset, what)),
            None => Ok(Value::Tombstone),
        }
    }

    /// Key and value here, owned.
    pub(crate) fn entry(&mut self) -> Result<Option<Entry>> {
        let Some(place) = &self.data else { return Ok(None) };
        let key = InternalKey::decode_with(place.cursor.key(), |user| self.keys.copy(user));
        let key = key.ok_or_else(|| self.table.corrupt(place.offset, "a key is too short"))?;
        Ok(Some(Entry { key, value: self.value()? }))
    }

    /// To the first entry at or after the encoded key `target`. Where that is in the block at hand, no other is asked for.
    pub(crate) fn seek(&mut self, target: &[u8]) -> Result<()> {
        if let (Some(index), Some(data)) = (&self.index, &mut self.data)
            && compare(data.cursor.key(), target).is_le()
            && compare(target, index.cursor.key()).is_le()
        {
            data.cursor.seek(target).map_err(|what| self.table.corrupt(data.offset, what))?;
            if data.cursor.is_valid() {
                return Ok(());
            }
            return Err(self.table.corrupt(data.offset, LACKS));
        }
        self.enter_stretch(self.table.stretch_at(target), Enter::AtOrAfter(target))
    }

    /// What [`Table::get`] finds, by going there.
    pub(crate) fn get(&mut self, sought: &Sought) -> Result<Option<Hit>> {
        self.seek(sought.encoded())?;
        match split(self.key()) {
            Some((found, sequence)) if found == sought.prefixed() => {
                Ok(Some(Hit { sequence, value: self.value()? }))
            }
            _ => Ok(None),
        }
    }

    /// To the last entry before the encoded key `target`, or the last of all.
    pub(crate) fn seek_before(&mut self, target: Option<&[u8]>) -> Result<()> {
        if let Some(target) = target {
            self.enter_stretch(self.table.stretch_at(target), Enter::AtOrAfter(target))?;
            if self.is_valid() {
                return self.retreat();
            }
        }
        self.enter_stretch(self.table.stretches.len().wrapping_sub(1), Enter::Last)
    }

    pub(crate) fn advance(&mut self) -> Result<()> {
        self.step(BlockCursor::advance, self.stretch.wrapping_add(1), Enter::First)
    }

    pub(crate) fn retreat(&mut self) -> Result<()> {
        self.step(BlockCursor::retreat, self.stretch.wrapping_sub(1), Enter::Last)
    }

    /// Moves the data cursor; where it falls off its block, moves the one above and enters its neighbour, which may be in
    /// the stretch `beyond`.
    fn step(
        &mut self,
        step: fn(&mut BlockCursor) -> Result<(), &'static str>,
        beyond: usize,
        enter: Enter<'_>,
    ) -> Result<()> {
        let Some(data) = &mut self.data else { return Ok(()) };
        step(&mut data.cursor).map_err(|what| self.table.corrupt(data.offset, what))?;
        if data.cursor.is_valid() {
            return Ok(());
        }
        let Some(index) = &mut self.index else { return Ok(()) };
        step(&mut index.cursor).map_err(|what| self.table.corrupt(index.offset, what))?;
        if index.cursor.is_valid() {
            return self.enter_data(enter);
        }
        self.enter_stretch(beyond, enter)
    }

    /// Off the end if there is no such stretch.
    fn enter_stretch(&mut self, number: usize, enter: Enter<'_>) -> Result<()> {
        (self.index, self.data) = (None, None);
        let Some(stretch) = self.table.stretches.get(number) else { return Ok(()) };
        self.stretch = number;
        let block = self.table.index_block(stretch, self.fill_cache)?;
        self.index = Some(self.enter_block(block, stretch.handle.offset, enter)?);
        self.count(stretch.handle);
        self.enter_data(enter)
    }

    fn enter_data(&mut self, enter: Enter<'_>) -> Result<()> {
        self.data = None;
        if let Some(index) = &self.index {
            let handle = handle_at(&index.cursor).map_err(|what| self.table.corrupt(index.offset, what))?;
            let block = self.data_block(handle)?;
            self.data = Some(self.enter_block(block, handle.offset, enter)?);
            self.count(handle);
        }
        Ok(())
    }

    /// The block at `handle`, which is where the index cursor is.
    fn data_block(&mut self, handle: Handle) -> Result<Block> {
        let (Some(ahead), Some(index)) = (&mut self.ahead, &self.index) else {
            return self.table.block(handle, Part::Data, self.fill_cache);
        };
        if let Some(block) = self.table.cached(handle, Part::Data) {
            ahead.spared();
            return Ok(block);
        }
        let body = match ahead.body(&self.table, &index.cursor, handle) {
            Some(body) => body.map_err(|what| self.table.noted(self.table.corrupt(handle.offset, what)))?,
            None => self.table.section(handle)?,
        };
        self.table.decoded(handle, body, self.fill_cache)
    }

    fn count(&self, handle: Handle) {
        if let Some(meter) = &self.meter {
            meter.fetch_add(u64::from(handle.len), Ordering::Relaxed);
        }
    }

    /// A block must hold an entry where `enter` wants one: what is above it promised so.
    fn enter_block(&self, block: Block, offset: u64, enter: Enter<'_>) -> Result<Place> {
        let mut cursor = BlockCursor::new(block);
        apply(&mut cursor, enter).map_err(|what| self.table.corrupt(offset, what))?;
        if !cursor.is_valid() {
            return Err(self.table.corrupt(offset, LACKS));
        }
        Ok(Place { cursor, offset })
    }
}

impl Drop for TableCursor {
    fn drop(&mut self) {
        self.end();
    }
}

fn apply(cursor: &mut BlockCursor, enter: Enter<'_>) -> Result<(), &'static str> {
    match enter {
        Enter::First => cursor.first(),
        Enter::Last => cursor.last(),
        Enter::AtOrAfter(target) => cursor.seek(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_keys_are_the_keys_and_lie_side_by_side() {
        let mut keys = Keys::new();
        let originals: Vec<Vec<u8>> = (0..3000_usize).map(|n| vec![n as u8; n * 7 % 1500]).collect();
        let copies: Vec<Bytes> = originals.iter().map(|key| keys.copy(key)).collect();
        assert!(originals.iter().eq(&copies));
        let mut keys = Keys::new();
        let small: Vec<Bytes> = (0..1000_u32).map(|n| keys.copy(&n.to_be_bytes())).collect();
        let beside = small.windows(2).filter(|pair| pair[0].as_ptr_range().end == pair[1].as_ptr());
        assert!(beside.count() > 990);
    }
}
