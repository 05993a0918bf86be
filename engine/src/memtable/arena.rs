//! Memory that is handed out piece by piece and given back all at once.
//!
//! Memory that the system has just given costs a page fault and its clearing when it is touched first, as much as
//! all that is copied into it later. So full chunks of an arena that ends go to its successors ([`Spare`]).

#![allow(unsafe_code, reason = "an allocator; it relies on the invariants of `Arena` and `Chunk`")]

use crate::lock;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Every piece starts at a multiple of this.
pub(super) const ALIGNMENT: usize = 8;
/// The first chunk is small, each further one twice as large, so that a small memtable stays small.
const CHUNK_BYTES_MIN: usize = 4 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// A bump allocator.
/// Invariants: `next .. next + left` lies within the newest chunk and was not handed out; `next` is a multiple of
/// [`ALIGNMENT`]; chunks stay where they are until the arena is dropped.
pub(super) struct Arena {
    chunks: Vec<Chunk>,
    next: NonNull<u8>,
    left: usize,
    chunk_bytes: usize,
    spare: Arc<Spare>,
}

impl Arena {
    pub(super) fn new(spare: Arc<Spare>) -> Self {
        let (chunks, next) = (Vec::new(), NonNull::dangling());
        Self { chunks, next, left: 0, chunk_bytes: CHUNK_BYTES_MIN, spare }
    }

    /// Uninitialised memory that nobody else has, valid until the arena is dropped.
    pub(super) fn allocate(&mut self, bytes: usize) -> NonNull<u8> {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        if bytes > self.left {
            let chunk = self.spare.chunk(self.chunk_bytes.max(bytes));
            (self.next, self.left) = (chunk.start, chunk.layout.size());
            self.chunks.push(chunk);
            self.chunk_bytes = (self.chunk_bytes * 2).min(CHUNK_BYTES_MAX);
        }
        let piece = self.next;
        // SAFETY: `bytes <= left`, so this stays within the chunk or points at its end.
        self.next = unsafe { piece.add(bytes) };
        self.left -= bytes;
        piece
    }

    pub(super) fn spare(&self) -> &Arc<Spare> {
        &self.spare
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.spare.keep(self.chunks.drain(..));
    }
}

/// Full chunks that no arena uses now, for whichever needs one next.
pub(super) struct Spare {
    chunks: Mutex<Vec<Chunk>>,
    /// More are given back to the allocator.
    chunks_max: usize,
}

impl Spare {
    /// Keeps so many bytes at most.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { chunks: Mutex::default(), chunks_max: bytes_max / CHUNK_BYTES_MAX }
    }

    fn chunk(&self, bytes: usize) -> Chunk {
        let kept = if bytes == CHUNK_BYTES_MAX { lock(&self.chunks).pop() } else { None };
        kept.unwrap_or_else(|| Chunk::new(bytes))
    }

    fn keep(&self, chunks: impl Iterator<Item = Chunk>) {
        let full = chunks.filter(|chunk| chunk.layout.size() == CHUNK_BYTES_MAX);
        let mut kept = lock(&self.chunks);
        let room = self.chunks_max.saturating_sub(kept.len());
        kept.extend(full.take(room));
    }
}

/// A piece of memory from the allocator.
/// Invariant: `start` was allocated with `layout`, and nobody else frees it.
struct Chunk {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is memory and nothing else; whoever has the chunk decides who uses it.
unsafe impl Send for Chunk {}

impl Chunk {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, ALIGNMENT).expect("the size of a key and a small value");
        // SAFETY: a chunk has at least `CHUNK_BYTES_MIN`, so it is not empty.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        Self { start, layout }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: by the invariant.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Fills an arena with pieces of 1 KiB, and says where its full chunks are.
    fn fill(arena: &mut Arena, kib: usize) -> BTreeSet<NonNull<u8>> {
        for n in 0..kib {
            let piece = arena.allocate(1 << 10);
            // SAFETY: the piece is as large as that.
            unsafe { piece.write_bytes(n as u8, 1 << 10) }
        }
        let full = arena.chunks.iter().filter(|chunk| chunk.layout.size() == CHUNK_BYTES_MAX);
        full.map(|chunk| chunk.start).collect()
    }

    #[test]
    fn full_chunks_go_to_the_successor_as_far_as_they_may() {
        let spare = Arc::new(Spare::new(2 << 20));
        let mut first = Arena::new(spare.clone());
        let of_first = fill(&mut first, 5 << 10);
        assert!(of_first.len() > 2);
        let mut beside = Arena::new(spare.clone());
        assert!(fill(&mut beside, 3 << 10).is_disjoint(&of_first), "they are in use");
        assert_eq!(lock(&spare.chunks).len(), 0);
        drop(first);
        let kept: BTreeSet<_> = lock(&spare.chunks).iter().map(|chunk| chunk.start).collect();
        assert_eq!(kept.len(), 2);
        assert!(kept.is_subset(&of_first));
        drop(beside);
        assert_eq!(lock(&spare.chunks).len(), 2, "no more than that");
        let mut next = Arena::new(spare.clone());
        assert!(fill(&mut next, 5 << 10).is_superset(&kept));
        assert_eq!(lock(&spare.chunks).len(), 0);
    }

    #[test]
    fn a_piece_larger_than_a_chunk_has_one_of_its_own() {
        let spare = Arc::new(Spare::new(8 << 20));
        let mut arena = Arena::new(spare.clone());
        arena.allocate(CHUNK_BYTES_MAX + 1);
        drop(arena);
        assert_eq!(lock(&spare.chunks).len(), 0, "it would be too much for others");
    }
}
