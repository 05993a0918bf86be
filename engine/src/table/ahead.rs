//! Reading ahead: a walk through a table fetches several of its blocks with one read.
//!
//! ```text
//! file   | data | data | data | data | data | data | data | index
//! walk     ▲      ▲──────────► ▲───────────────────────────►         a read each, the next one twice as long
//! ```
//! - The first block of a walk is read alone: most walks are short. From then on every read that the cache could not
//!   spare is twice as long as the last one, up to [`crate::Options::readahead_bytes`]. A block from the cache starts that over:
//!   where it has some of the neighbours, little is to be gained.
//! - Only blocks that the walk wants are fetched: none beyond its range, and none beyond the index block at hand.
//! - A block is taken out of the piece when the walk gets to it. Only then is it checked and decoded, and may the cache keep it:
//!   the cache never holds what nobody got to, and damage is told with the block's own place, if anybody gets there.
//! - When the read of several blocks fails, that says nothing about the one that is wanted. It is read alone.
//!
//! Nothing depends on time or on other threads: a walk over the same tables with the same cache reads the same pieces.

use crate::iter::Direction;
use crate::key::{InternalKey, Span, compare_to};
use crate::stats::Reads;
use crate::table::block::BlockCursor;
use crate::table::format::{Handle, TRAILER_BYTES, open_copy};
use crate::table::{Table, handle_at};
use bytes::Bytes;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one walk through one table fetched ahead.
pub(super) struct Ahead {
    direction: Direction,
    /// Where the range of the walk ends: forwards the key behind it, backwards its first one. `None`: nowhere.
    bound: Option<InternalKey>,
    /// Bytes that the last read was allowed; 0: the next block is read alone.
    window: u64,
    piece: Vec<u8>,
    /// Where in the file the piece begins.
    start: u64,
    /// Blocks in the piece that nobody asked for, yet.
    left: u64,
}

impl Ahead {
    pub(super) fn new(direction: Direction, span: &Span) -> Self {
        let bound = match direction {
            Direction::Forward => span.high.clone(),
            Direction::Reverse => Some(span.low.clone()),
        };
        Self { direction, bound, window: 0, piece: Vec::new(), start: 0, left: 0 }
    }

    /// The walk found its next block in the cache.
    pub(super) fn spared(&mut self) {
        self.window = 0;
    }

    /// The body of the section at `handle`, which is where `index` is, out of the piece. Fetches the next piece if this one has
    /// not got it. `None`: it is to be read alone.
    pub(super) fn body(
        &mut self,
        table: &Table,
        index: &BlockCursor,
        handle: Handle,
    ) -> Option<Result<Bytes, &'static str>> {
        if let Some(section) = self.section(handle) {
            let body = open_copy(section);
            self.left = self.left.saturating_sub(1);
            count(table, |reads| &reads.ahead_completed, 1);
            return Some(body);
        }
        self.give_up(table);
        let limit = table.context.readahead_bytes as u64;
        let is_first = self.window == 0;
        self.window = (self.window * 2).max(u64::from(handle.len)).min(limit);
        if is_first {
            return None;
        }
        let (wanted, more) = self.plan(table, index, handle)?;
        count(table, |reads| &reads.ahead_launched, more);
        self.start = wanted.start;
        match table.file.read_exact_at((wanted.end - wanted.start) as usize, wanted.start) {
            Ok(piece) => {
                table.context.hooks.probe("engine.readahead");
                count(table, |reads| &reads.ahead_reads, 1);
                (self.piece, self.left) = (piece, more);
                self.section(handle).map(open_copy)
            }
            Err(_) => {
                table.context.hooks.probe("engine.readahead.failed");
                count(table, |reads| &reads.ahead_aborted, more);
                None
            }
        }
    }

    /// Forgets the piece: the walk has ended, or gone elsewhere.
    pub(super) fn give_up(&mut self, table: &Table) {
        if self.left > 0 {
            count(table, |reads| &reads.ahead_aborted, self.left);
        }
        (self.piece, self.left) = (Vec::new(), 0);
    }

    fn section(&self, handle: Handle) -> Option<&[u8]> {
        let from = usize::try_from(handle.offset.checked_sub(self.start)?).ok()?;
        self.piece.get(from..from.checked_add(handle.len as usize)?)
    }

    /// The bytes from the wanted block on, as far as the window, the table and the range of the walk go, and how many more
    /// blocks than that one are in them. `None`: none.
    fn plan(&self, table: &Table, index: &BlockCursor, handle: Handle) -> Option<(Range<u64>, u64)> {
        let mut index = index.clone();
        let is_behind_bound = |index: &BlockCursor| {
            self.bound.as_ref().is_some_and(|bound| compare_to(index.key(), bound).is_ge())
        };
        let (mut bytes, mut more) = (range(table, handle)?, 0);
        loop {
            let next = match self.direction {
                // This block's last key is not the last one that is wanted.
                Direction::Forward if !is_behind_bound(&index) => index.advance(),
                Direction::Forward => break,
                Direction::Reverse => index.retreat(),
            };
            // What is wrong with an index is told when the walk gets there.
            if next.is_err() || !index.is_valid() {
                break;
            }
            if self.direction == Direction::Reverse && !is_behind_bound(&index) {
                break;
            }
            let Some(next) = handle_at(&index).ok().and_then(|next| range(table, next)) else { break };
            let both = match self.direction {
                Direction::Forward if next.start == bytes.end => bytes.start..next.end,
                Direction::Reverse if next.end == bytes.start => next.start..bytes.end,
                _ => break,
            };
            if both.end - both.start > self.window {
                break;
            }
            (bytes, more) = (both, more + 1);
        }
        (more > 0).then_some((bytes, more))
    }
}

/// Where a section is, if it can be.
fn range(table: &Table, handle: Handle) -> Option<Range<u64>> {
    let end = handle.offset.checked_add(u64::from(handle.len))?;
    (end <= table.meta.bytes && handle.len as usize >= TRAILER_BYTES).then_some(handle.offset..end)
}

fn count(table: &Table, counter: impl Fn(&Reads) -> &AtomicU64, amount: u64) {
    counter(table.context.reads.mine()).fetch_add(amount, Ordering::Relaxed);
}
