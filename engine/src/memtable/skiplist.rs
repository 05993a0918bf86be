//! A skip list of versions in an arena: one writer at a time, readers that never wait.
//!
//! The list is William Pugh's ("Skip lists: a probabilistic alternative to balanced trees", 1990), with nodes that hold key and
//! value themselves and are never removed, as in LevelDB's and RocksDB's memtables. A search costs a cache miss for each node it
//! compares with, so what it looks at stands together:
//!
//! ```text
//! node = | link [height - 1] .. link 1 | link 0 | prefix u64 | sequence u64 | key length u32 | value u32 | key | expiry | value |
//!                                               ^ what pointers to a node point at; links stand below
//! prefix = family and the first seven bytes of the user key, big-endian, with zeros where the key is shorter
//! value  = length of the value, or TOMBSTONE, or SHARED: in its place is a pointer to `Bytes`
//! expiry = u64 little-endian, if EXPIRES is set in `value`; otherwise it is not there
//! ```
//!
//! This module is `unsafe` because nodes have a size that is known when they are made, and because readers walk links while the writer
//! sets them. It relies on this:
//! - A node is written completely before the first link to it is stored with `Release`; readers load links with
//!   `Acquire`. So whoever sees a node sees all of it, and but for the links nothing in it ever changes again.
//! - Nodes, and the `Bytes` behind SHARED, live until the list is dropped. [`Node`] borrows the list.
//! - Only the holder of `writer` stores links.
//! - A link of level `n` leads to a node of more than `n` levels, or nowhere. The head has all of them.
//! - Links of a level lead to ever larger nodes, also those of a node that was replaced.

#![allow(unsafe_code, reason = "see above")]

use crate::batch::{Change, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::fences::prefix;
use crate::key::InternalKey;
use crate::memtable::arena::{ALIGNMENT, Arena, Spare};
use crate::value::NEVER;
use bytes::Bytes;
use std::cmp::Ordering as Order;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Links of a node, at most. A quarter of the nodes of a level is also in the next one: enough for millions of nodes.
const LEVELS: usize = 12;
/// Larger values are not copied.
const COPIED_BYTES_MAX: usize = 4 << 10;
const TOMBSTONE: u32 = u32::MAX;
/// Beside a length, or SHARED.
const EXPIRES: u32 = 1 << 30;
const SHARED: u32 = EXPIRES - 1;
const _: () = assert!(KEY_BYTES_MAX < SHARED as usize);
const _: () = assert!(VALUE_BYTES_MAX < SHARED as usize);
const _: () = assert!(align_of::<Header>() == ALIGNMENT && align_of::<Link>() == ALIGNMENT);

/// The part of a node that is the same for all.
#[repr(C)]
struct Header {
    prefix: u64,
    sequence: u64,
    key_len: u32,
    value: u32,
}

type Link = AtomicPtr<Header>;

/// A value in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held<'a> {
    Tombstone,
    Copied(&'a [u8]),
    Shared(&'a Bytes),
}

impl Held<'_> {
    pub(super) fn copied_bytes(&self) -> usize {
        if let Self::Copied(value) = self { value.len() } else { 0 }
    }
}

/// The list.
pub(super) struct SkipList {
    head: NonNull<Header>,
    /// Levels that are in use, at least 1. A reader may see an old figure: it begins lower, or finds no link.
    levels: AtomicUsize,
    bytes: AtomicUsize,
    writer: Mutex<Writer>,
}

/// What the one who inserts needs.
struct Writer {
    arena: Arena,
    /// What SHARED nodes point at, from `Box::into_raw`.
    shared: Vec<NonNull<Bytes>>,
    /// State of xorshift64. Always the same seed: what happens must not depend on chance.
    random: u64,
}

// SAFETY: what the raw pointers lead to belongs to the list alone, and may be sent: numbers, bytes and `Bytes`.
unsafe impl Send for SkipList {}
// SAFETY: only the holder of `writer` changes anything, through atomics; see the module's invariants.
unsafe impl Sync for SkipList {}

/// A place in the list.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    header: NonNull<Header>,
    list: PhantomData<&'a SkipList>,
}

/// Where a key would be: the node before it, and the one there or behind, on each level.
struct Place {
    before: [NonNull<Header>; LEVELS],
    behind: [*mut Header; LEVELS],
}

/// A key to search for.
struct Target<'a> {
    prefix: u64,
    user: &'a [u8],
    sequence: u64,
}

impl<'a> Target<'a> {
    fn new(cf: u8, user: &'a [u8], sequence: u64) -> Self {
        Self { prefix: prefix(cf, user), user, sequence }
    }

    fn of(key: &'a InternalKey) -> Self {
        Self::new(key.cf, &key.user, key.sequence)
    }
}

impl SkipList {
    pub(super) fn new(spare: Arc<Spare>) -> Self {
        let mut arena = Arena::new(spare);
        let header = Header { prefix: 0, sequence: 0, key_len: 0, value: TOMBSTONE };
        // SAFETY: the links are written next. The head has no key; it is first by its place and never compared.
        let head = unsafe { place_node(&mut arena, LEVELS, header, 0) };
        for level in 0..LEVELS {
            // SAFETY: all the levels were allocated.
            unsafe { ptr::write(link_at(head, level), Link::new(ptr::null_mut())) }
        }
        let writer = Writer { arena, shared: Vec::new(), random: 0x9e37_79b9_7f4a_7c15 };
        Self { head, levels: AtomicUsize::new(1), bytes: AtomicUsize::new(0), writer: Mutex::new(writer) }
    }

    /// Memory that lists after this one share with it.
    pub(super) fn spare(&self) -> Arc<Spare> {
        crate::lock(&self.writer).arena.spare().clone()
    }

    /// Inserts the changes under `sequence`. A later change of a key replaces an earlier one of the same sequence: nobody may
    /// look for that yet.
    pub(super) fn insert(&self, changes: &[Change], sequence: u64) {
        let mut writer = crate::lock(&self.writer);
        let bytes: usize = changes.iter().map(|change| self.insert_one(&mut writer, change, sequence)).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes it takes.
    fn insert_one(&self, writer: &mut Writer, change: &Change, sequence: u64) -> usize {
        let target = Target::new(change.cf.0, &change.key, sequence);
        let place = self.find(&target);
        let levels = random_levels(&mut writer.random);
        let (node, bytes) = writer.make_node(&target, change, levels);
        let replaced = place.behind[0];
        // SAFETY: a pointer from `find` is null or leads to a node.
        let is_replaced =
            NonNull::new(replaced).is_some_and(|node| unsafe { compare(node, &target) }.is_eq());
        for level in 0..LEVELS {
            let mut behind = place.behind[level];
            let skips = is_replaced && behind == replaced;
            if level >= levels && !skips {
                break;
            }
            // SAFETY: by the invariants `before` has this level, and so has `replaced` if a link of this level leads to it. The new
            // node has it if it is below `levels`; nobody sees the node before the first link to it is stored.
            unsafe {
                if skips {
                    behind = (*link_at(NonNull::new_unchecked(replaced), level)).load(Ordering::Relaxed);
                }
                let mut new = behind;
                if level < levels {
                    ptr::write(link_at(node, level), Link::new(behind));
                    new = node.as_ptr();
                }
                (*link_at(place.before[level], level)).store(new, Ordering::Release);
            }
        }
        self.levels.fetch_max(levels, Ordering::Relaxed);
        bytes
    }

    /// The first version at or behind `key`.
    pub(super) fn at_or_behind(&self, key: &InternalKey) -> Option<Node<'_>> {
        self.first(&Target::of(key))
    }

    /// The newest version of a key at or below `sequence`.
    pub(super) fn version_of(&self, cf: u8, user: &[u8], sequence: u64) -> Option<Node<'_>> {
        let node = self.first(&Target::new(cf, user, sequence))?;
        (node.cf() == cf && node.user() == user).then_some(node)
    }

    fn first(&self, target: &Target<'_>) -> Option<Node<'_>> {
        let mut first = ptr::null_mut();
        // SAFETY: `descend` hands over nodes of the list.
        self.descend(|node| unsafe { compare(node, target) }.is_lt(), |_, _, behind| first = behind);
        Node::at(first)
    }

    /// The last version before `key`, or the last of all.
    pub(super) fn before(&self, key: Option<&InternalKey>) -> Option<Node<'_>> {
        self.last_of(match key {
            Some(key) => self.find(&Target::of(key)),
            None => self.place(|_| true),
        })
    }

    /// The next smaller version.
    pub(super) fn before_node(&self, node: Node<'_>) -> Option<Node<'_>> {
        self.last_of(self.find(&Target {
            prefix: node.header().prefix,
            user: node.user(),
            sequence: node.sequence(),
        }))
    }

    fn last_of(&self, place: Place) -> Option<Node<'_>> {
        let before = place.before[0];
        (before != self.head).then_some(Node { header: before, list: PhantomData })
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn find(&self, target: &Target<'_>) -> Place {
        // SAFETY: `descend` hands over nodes of the list.
        self.place(|node| unsafe { compare(node, target) }.is_lt())
    }

    fn place(&self, is_before: impl Fn(NonNull<Header>) -> bool) -> Place {
        let mut place = Place { before: [self.head; LEVELS], behind: [ptr::null_mut(); LEVELS] };
        self.descend(is_before, |level, before, behind| {
            (place.before[level], place.behind[level]) = (before, behind);
        });
        place
    }

    /// Walks right while `is_before` says so and down where it does not. Tells of each level that is in use, the lowest
    /// last, the node before the target and the one behind it.
    #[inline]
    fn descend(
        &self,
        is_before: impl Fn(NonNull<Header>) -> bool,
        mut tell: impl FnMut(usize, NonNull<Header>, *mut Header),
    ) {
        let mut at = self.head;
        // What the level above found not to be before.
        let mut known: *mut Header = ptr::null_mut();
        for level in (0..self.levels.load(Ordering::Relaxed)).rev() {
            loop {
                // SAFETY: `at` is the head or was reached on this level or one above, so it has this one.
                let next = unsafe { (*link_at(at, level)).load(Ordering::Acquire) };
                if level > 0 {
                    // SAFETY: it has the levels below too.
                    prefetch(unsafe { (*link_at(at, level - 1)).load(Ordering::Relaxed) });
                }
                match NonNull::new(next) {
                    Some(node) if next != known && is_before(node) => at = node,
                    _ => {
                        tell(level, at, next);
                        known = next;
                        break;
                    }
                }
            }
        }
    }
}

impl Drop for SkipList {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        for shared in writer.shared.drain(..) {
            // SAFETY: it came from `Box::into_raw`, and no `Node` that could lead to it is left.
            drop(unsafe { Box::from_raw(shared.as_ptr()) });
        }
    }
}

impl Writer {
    /// A node with unwritten links, and the bytes it takes.
    fn make_node(&mut self, target: &Target<'_>, change: &Change, levels: usize) -> (NonNull<Header>, usize) {
        let key: &[u8] = &change.key;
        let (mut tag, copied, shared) = match &change.value {
            None => (TOMBSTONE, [].as_slice(), None),
            Some(value) if value.len() <= COPIED_BYTES_MAX => (value.len() as u32, &value[..], None),
            Some(value) => (SHARED, [].as_slice(), Some(value)),
        };
        let pointer = shared.map_or(0, |_| size_of::<NonNull<Bytes>>());
        let expiry = change.until.to_le_bytes();
        let expiry = if change.until == NEVER { [].as_slice() } else { &expiry };
        let behind = key.len() + expiry.len() + copied.len() + pointer;
        tag |= if expiry.is_empty() { 0 } else { EXPIRES };
        let header = Header {
            prefix: target.prefix,
            sequence: target.sequence,
            key_len: key.len() as u32,
            value: tag,
        };
        // SAFETY: the node has room for `behind` bytes behind its header, and nobody else knows it.
        let node = unsafe {
            let node = place_node(&mut self.arena, levels, header, behind);
            let at = node.add(1).cast::<u8>();
            ptr::copy_nonoverlapping(key.as_ptr(), at.as_ptr(), key.len());
            let at = at.add(key.len());
            ptr::copy_nonoverlapping(expiry.as_ptr(), at.as_ptr(), expiry.len());
            let at = at.add(expiry.len());
            ptr::copy_nonoverlapping(copied.as_ptr(), at.as_ptr(), copied.len());
            if let Some(value) = shared {
                let value = NonNull::from(Box::leak(Box::new(value.clone())));
                self.shared.push(value);
                at.cast::<NonNull<Bytes>>().write_unaligned(value);
            }
            node
        };
        let bytes = levels * size_of::<Link>() + size_of::<Header>() + behind;
        (node, bytes + shared.map_or(0, Bytes::len))
    }
}

impl<'a> Node<'a> {
    /// `header` is null or leads to a node of a list that lives for `'a`.
    fn at(header: *mut Header) -> Option<Self> {
        NonNull::new(header).map(|header| Self { header, list: PhantomData })
    }

    pub(super) fn cf(self) -> u8 {
        self.header().prefix.to_be_bytes()[0]
    }

    pub(super) fn user(self) -> &'a [u8] {
        // SAFETY: a `Node` leads to a node, which lives as long as the list that it borrows, and whose key never changes.
        unsafe { user(self.header) }
    }

    pub(super) fn sequence(self) -> u64 {
        self.header().sequence
    }

    pub(super) fn value(self) -> Held<'a> {
        let Header { value, key_len, .. } = *self.header();
        if value == TOMBSTONE {
            return Held::Tombstone;
        }
        let expiry = if value & EXPIRES == 0 { 0 } else { size_of::<u64>() };
        // SAFETY: as for `user`; what stands behind the key is what `value` says.
        unsafe {
            let at = self.header.add(1).cast::<u8>().add(key_len as usize + expiry);
            match value & !EXPIRES {
                SHARED => Held::Shared(at.cast::<NonNull<Bytes>>().read_unaligned().as_ref()),
                len => Held::Copied(std::slice::from_raw_parts(at.as_ptr(), len as usize)),
            }
        }
    }

    /// Until when the value is there.
    pub(super) fn until(self) -> u64 {
        let Header { value, key_len, .. } = *self.header();
        if value == TOMBSTONE || value & EXPIRES == 0 {
            return NEVER;
        }
        // SAFETY: as for `user`; an expiry stands behind the key if `value` says so.
        let expiry =
            unsafe { self.header.add(1).cast::<u8>().add(key_len as usize).cast::<[u8; 8]>().read() };
        u64::from_le_bytes(expiry)
    }

    /// The next larger version.
    pub(super) fn next(self) -> Option<Node<'a>> {
        // SAFETY: every node has level 0.
        let next = unsafe { (*link_at(self.header, 0)).load(Ordering::Acquire) };
        Node::at(next)
    }

    /// Where it is among the versions.
    pub(super) fn compare(self, key: &InternalKey) -> Order {
        // SAFETY: as for `user`.
        unsafe { compare(self.header, &Target::of(key)) }
    }

    fn header(self) -> &'a Header {
        // SAFETY: as for `user`. The links are not part of the header.
        unsafe { self.header.as_ref() }
    }
}

/// One level with probability 3/4, two with 3/16, and so on.
fn random_levels(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (1 + state.leading_zeros() as usize / 2).min(LEVELS)
}

/// A node with unwritten links and nothing behind its header.
///
/// # Safety
/// The caller writes the links and the `behind` bytes before anybody reads them.
unsafe fn place_node(arena: &mut Arena, levels: usize, header: Header, behind: usize) -> NonNull<Header> {
    let links = levels * size_of::<Link>();
    let start = arena.allocate(links + size_of::<Header>() + behind);
    // SAFETY: the piece is as large as that, and aligned for both.
    unsafe {
        let node = start.add(links).cast::<Header>();
        node.write(header);
        node
    }
}

/// Where the node's link of `level` is.
///
/// # Safety
/// The node has that level.
unsafe fn link_at(node: NonNull<Header>, level: usize) -> *mut Link {
    // SAFETY: so the links begin at or below this one, within the same piece of memory.
    unsafe { node.as_ptr().cast::<Link>().sub(level + 1) }
}

/// Has the header of `node` fetched, while others are compared. It may be null.
#[inline]
fn prefetch(node: *const Header) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of every x86-64, and reads nothing that anybody notices.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(node.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = node;
}

/// # Safety
/// `node` leads to a complete node, and what is returned is not used after its list is dropped.
unsafe fn user<'a>(node: NonNull<Header>) -> &'a [u8] {
    // SAFETY: the key stands behind the header, and nobody writes there any more.
    unsafe {
        let len = (*node.as_ptr()).key_len as usize;
        std::slice::from_raw_parts(node.add(1).cast::<u8>().as_ptr(), len)
    }
}

/// Order of a node's version and another: family, user key, then newest first.
///
/// # Safety
/// `node` leads to a complete node.
#[inline]
unsafe fn compare(node: NonNull<Header>, target: &Target<'_>) -> Order {
    // SAFETY: as promised; the key is not used after this.
    let (header, user) = unsafe { (node.as_ref(), || user(node)) };
    // Where the prefixes differ the keys do, in the same way: a key that ended is smaller than all that go on.
    header.prefix.cmp(&target.prefix).then_with(|| {
        let by_key = user().cmp(target.user);
        by_key.then_with(|| target.sequence.cmp(&header.sequence))
    })
}
