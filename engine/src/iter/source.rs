//! The entries of one layer, in order.

use crate::Result;
use crate::iter::Direction;
use crate::key::{Entry, InternalKey, Span};
use crate::memtable::Memtable;
use crate::table::Table;
use crate::table::cursor::TableCursor;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Entries of a memtable, fetched in growing chunks.
pub(crate) struct MemtableSource {
    memtable: Arc<Memtable>,
    span: Span,
    direction: Direction,
    chunk: VecDeque<Entry>,
    chunk_len: usize,
    /// Where the next chunk goes on.
    last: Option<InternalKey>,
    exhausted: bool,
}

const CHUNK_FIRST: usize = 4;
const CHUNK_MAX: usize = 128;

impl MemtableSource {
    pub(crate) fn new(memtable: Arc<Memtable>, span: Span, direction: Direction) -> Self {
        let chunk = VecDeque::new();
        Self { memtable, span, direction, chunk, chunk_len: CHUNK_FIRST, last: None, exhausted: false }
    }

    fn refill(&mut self) {
        let found = self.memtable.chunk(&self.span, self.last.as_ref(), self.direction, self.chunk_len);
        self.exhausted = found.is_empty();
        self.chunk_len = (self.chunk_len * 4).min(CHUNK_MAX);
        self.last = found.last().map(|entry| entry.key.clone());
        self.chunk = found.into();
    }
}

impl Iterator for MemtableSource {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.chunk.is_empty() && !self.exhausted {
            self.refill();
        }
        self.chunk.pop_front().map(Ok)
    }
}

/// Entries of a table. Ends after an error.
pub(crate) struct TableSource {
    cursor: TableCursor,
    span: Span,
    direction: Direction,
    /// Whether the table goes on where the span ends.
    is_cut: bool,
    state: Progress,
}

#[derive(PartialEq, Eq)]
enum Progress {
    Fresh,
    Running,
    Done,
}

impl TableSource {
    pub(crate) fn new(table: Arc<Table>, span: Span, direction: Direction, fill_cache: bool) -> Self {
        let is_cut = match direction {
            Direction::Forward => !span.ends_behind(&table.meta.largest),
            Direction::Reverse => table.meta.smallest < span.low,
        };
        let cursor = TableCursor::walking(table, &span, direction, fill_cache);
        Self { cursor, span, direction, is_cut, state: Progress::Fresh }
    }

    /// Adds up in `meter` how many bytes are read.
    pub(crate) fn metered(self, meter: &Arc<AtomicU64>) -> Self {
        Self { cursor: self.cursor.metered(meter), ..self }
    }

    fn step(&mut self) -> Result<Option<Entry>> {
        match (&self.state, self.direction) {
            (Progress::Done, _) => return Ok(None),
            (Progress::Fresh, Direction::Forward) => self.cursor.seek(&self.span.low.encode())?,
            (Progress::Fresh, Direction::Reverse) => {
                let high = self.span.high.as_ref().map(InternalKey::encode);
                self.cursor.seek_before(high.as_deref())?;
            }
            (Progress::Running, Direction::Forward) => self.cursor.advance()?,
            (Progress::Running, Direction::Reverse) => self.cursor.retreat()?,
        }
        self.state = Progress::Running;
        let entry = self.cursor.entry()?;
        Ok(entry.filter(|entry| !self.is_cut || self.span.holds(&entry.key)))
    }
}

impl Iterator for TableSource {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if !matches!(step, Some(Ok(_))) {
            self.state = Progress::Done;
            self.cursor.end();
        }
        step
    }
}

/// Entries of disjoint tables, one after the other; each is opened when its turn comes.
pub(crate) struct LevelSource {
    /// In order of the walk.
    tables: VecDeque<Arc<Table>>,
    current: Option<TableSource>,
    span: Span,
    direction: Direction,
    fill_cache: bool,
    meter: Option<Arc<AtomicU64>>,
}

impl LevelSource {
    /// `tables` in ascending order; all of them overlap `span`.
    pub(crate) fn new(
        mut tables: VecDeque<Arc<Table>>,
        span: Span,
        direction: Direction,
        fill_cache: bool,
    ) -> Self {
        if direction == Direction::Reverse {
            tables.make_contiguous().reverse();
        }
        Self { tables, current: None, span, direction, fill_cache, meter: None }
    }

    /// Adds up in `meter` how many bytes are read.
    pub(crate) fn metered(self, meter: &Arc<AtomicU64>) -> Self {
        Self { meter: Some(meter.clone()), ..self }
    }
}

impl Iterator for LevelSource {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.current.as_mut().and_then(Iterator::next) {
                if item.is_err() {
                    self.tables.clear();
                }
                return Some(item);
            }
            let table = self.tables.pop_front()?;
            let source = TableSource::new(table, self.span.clone(), self.direction, self.fill_cache);
            self.current = Some(match &self.meter {
                Some(meter) => source.metered(meter),
                None => source,
            });
        }
    }
}
