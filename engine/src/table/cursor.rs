//! A place in a table: three block cursors on top of each other (top index, index block, data block).

use crate::Result;
use crate::cache::Part;
use crate::key::{Entry, InternalKey, compare};
use crate::table::Table;
use crate::table::block::BlockCursor;
use crate::table::format::Handle;
use crate::value::Value;
use std::sync::Arc;

const LACKS: &str = "a block lacks the key that its index promises";

/// Where to go in the blocks below after the cursor above them moved.
#[derive(Clone, Copy)]
enum Enter<'a> {
    First,
    Last,
    AtOrAfter(&'a [u8]),
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
    top: BlockCursor,
    index: Option<Place>,
    data: Option<Place>,
}

impl TableCursor {
    /// Off the end until moved. Compactions pass `fill_cache` = false: what they read is about to disappear.
    pub(crate) fn new(table: Arc<Table>, fill_cache: bool) -> Self {
        let top = BlockCursor::new(table.top_index.clone());
        Self { table, fill_cache, top, index: None, data: None }
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
    pub(crate) fn entry(&self) -> Result<Option<Entry>> {
        let Some(place) = &self.data else { return Ok(None) };
        let key = InternalKey::decode(place.cursor.key());
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
        self.move_top(Enter::AtOrAfter(target))
    }

    /// To the last entry before the encoded key `target`, or the last of all.
    pub(crate) fn seek_before(&mut self, target: Option<&[u8]>) -> Result<()> {
        if let Some(target) = target {
            self.move_top(Enter::AtOrAfter(target))?;
            if self.is_valid() {
                return self.retreat();
            }
        }
        self.move_top(Enter::Last)
    }

    pub(crate) fn advance(&mut self) -> Result<()> {
        self.step(BlockCursor::advance, Enter::First)
    }

    pub(crate) fn retreat(&mut self) -> Result<()> {
        self.step(BlockCursor::retreat, Enter::Last)
    }

    /// Moves the data cursor; where it falls off its block, moves the one above and enters its neighbour.
    fn step(
        &mut self,
        step: fn(&mut BlockCursor) -> Result<(), &'static str>,
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
        step(&mut self.top).map_err(|what| self.table.corrupt(0, what))?;
        self.enter_index(enter)
    }

    fn move_top(&mut self, enter: Enter<'_>) -> Result<()> {
        apply(&mut self.top, enter).map_err(|what| self.table.corrupt(0, what))?;
        self.enter_index(enter)
    }

    fn enter_index(&mut self, enter: Enter<'_>) -> Result<()> {
        (self.index, self.data) = (None, None);
        if !self.top.is_valid() {
            return Ok(());
        }
        self.index = Some(self.open_below(&self.top, 0, Part::Index, enter)?);
        self.enter_data(enter)
    }

    fn enter_data(&mut self, enter: Enter<'_>) -> Result<()> {
        self.data = None;
        if let Some(index) = &self.index {
            self.data = Some(self.open_below(&index.cursor, index.offset, Part::Data, enter)?);
        }
        Ok(())
    }

    /// Opens the block that `above` points at. It must hold an entry where `enter` wants one: the entry above
    /// promised so.
    fn open_below(&self, above: &BlockCursor, offset: u64, part: Part, enter: Enter<'_>) -> Result<Place> {
        let handle = above.inline().and_then(Handle::decode);
        let handle = handle.ok_or_else(|| self.table.corrupt(offset, "an index entry holds no handle"))?;
        let mut cursor = BlockCursor::new(self.table.block(handle, part, self.fill_cache)?);
        apply(&mut cursor, enter).map_err(|what| self.table.corrupt(handle.offset, what))?;
        if !cursor.is_valid() {
            return Err(self.table.corrupt(handle.offset, LACKS));
        }
        Ok(Place { cursor, offset: handle.offset })
    }
}

fn apply(cursor: &mut BlockCursor, enter: Enter<'_>) -> Result<(), &'static str> {
    match enter {
        Enter::First => cursor.first(),
        Enter::Last => cursor.last(),
        Enter::AtOrAfter(target) => cursor.seek(target),
    }
}
