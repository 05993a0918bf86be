//! Memory that is handed out piece by piece and given back all at once.

#![allow(unsafe_code, reason = "an allocator; it relies on the invariants of `Arena`")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Every piece starts at a multiple of this.
pub(super) const ALIGNMENT: usize = 8;
/// The first chunk is small, each further one twice as large, so that a small memtable stays small.
const CHUNK_BYTES_MIN: usize = 4 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// A bump allocator.
///
/// Invariants: `next .. next + left` lies within the newest chunk and was not handed out; `next` is a multiple of
/// [`ALIGNMENT`]; chunks stay where they are until the arena is dropped.
pub(super) struct Arena {
    chunks: Vec<(NonNull<u8>, Layout)>,
    next: NonNull<u8>,
    left: usize,
    chunk_bytes: usize,
}

impl Arena {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), next: NonNull::dangling(), left: 0, chunk_bytes: CHUNK_BYTES_MIN }
    }

    /// Uninitialised memory that nobody else has, valid until the arena is dropped.
    pub(super) fn allocate(&mut self, bytes: usize) -> NonNull<u8> {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        if bytes > self.left {
            let chunk_bytes = self.chunk_bytes.max(bytes);
            (self.next, self.left) = (self.chunk(chunk_bytes), chunk_bytes);
            self.chunk_bytes = (self.chunk_bytes * 2).min(CHUNK_BYTES_MAX);
        }
        let piece = self.next;
        // SAFETY: `bytes <= left`, so this stays within the chunk or points at its end.
        self.next = unsafe { piece.add(bytes) };
        self.left -= bytes;
        piece
    }

    /// A chunk that the arena frees.
    fn chunk(&mut self, bytes: usize) -> NonNull<u8> {
        let layout = Layout::from_size_align(bytes, ALIGNMENT).expect("the size of a key and a small value");
        // SAFETY: a chunk has at least `CHUNK_BYTES_MIN`, so it is not empty.
        let Some(chunk) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        self.chunks.push((chunk, layout));
        chunk
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for (chunk, layout) in self.chunks.drain(..) {
            // SAFETY: it was allocated with this layout, and is freed nowhere else.
            unsafe { dealloc(chunk.as_ptr(), layout) }
        }
    }
}
