//! The bytes of one file, as the page cache sees them and as the platter holds them.
//!
//! Only one copy of the file is kept, in pages. A page that differs from the platter has an *undo*: what the
//! platter holds instead. Most pages get dirty by appending behind the durable end; their undo is just "the
//! first n bytes of what is there now", so an append costs what it writes.

use super::faults::Dice;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const PAGE: usize = 4096;
const PAGE_U64: u64 = PAGE as u64;
const SECTOR: usize = 512;

type Page = Box<[u8; PAGE]>;

/// What the platter holds where the cache has a dirty page.
enum Old {
    /// The first so many bytes of the cached page, zeros behind.
    Prefix(usize),
    /// These bytes.
    Bytes(Page),
}

struct Undo {
    old: Old,
    /// A sync of this page failed: the cache thinks it clean, the platter never got it.
    lost: bool,
}

/// What a power loss makes of one dirty page.
enum PageFate {
    New,
    Old,
    /// Sectors whose bit is set are new.
    Torn(u8),
}

/// Invariants: cached bytes at or behind `len` are zero; on the platter bytes at or behind `durable_len` are
/// zero; a page without undo is equal in both up to the shorter length.
pub(super) struct Content {
    pages: Vec<Option<Page>>,
    len: u64,
    durable_len: u64,
    /// Lowest length since the last sync. Below `durable_len`: the file was cut and that is not durable yet.
    lowest_len: u64,
    undo: BTreeMap<u64, Undo>,
    /// Bytes in pages of all files of the disk.
    used: Arc<AtomicU64>,
}

impl Content {
    pub(super) fn new(used: Arc<AtomicU64>) -> Self {
        Content { pages: Vec::new(), len: 0, durable_len: 0, lowest_len: 0, undo: BTreeMap::new(), used }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn durable_len(&self) -> u64 {
        self.durable_len
    }

    /// Bytes a sync would have to write, in whole pages.
    pub(super) fn dirty_bytes(&self) -> u64 {
        self.undo.len() as u64 * PAGE_U64
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let wanted = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let (page, from) = locate(offset + done as u64);
            let n = (PAGE - from).min(wanted - done);
            let target = &mut buf[done..done + n];
            match self.pages.get(page as usize).and_then(Option::as_ref) {
                Some(bytes) => target.copy_from_slice(&bytes[from..from + n]),
                None => target.fill(0),
            }
            done += n;
        }
        wanted
    }

    /// How many of `len` bytes at `offset` fit when only `free` bytes of new pages may be taken.
    pub(super) fn fits(&self, offset: u64, len: usize, free: u64) -> usize {
        let end = offset + len as u64;
        if end.next_multiple_of(PAGE_U64).saturating_sub(offset) <= free {
            return len;
        }
        let mut free = free / PAGE_U64;
        for page in offset / PAGE_U64..end.div_ceil(PAGE_U64) {
            if self.pages.get(page as usize).is_some_and(Option::is_some) {
                continue;
            }
            if free == 0 {
                return (page * PAGE_U64).saturating_sub(offset) as usize;
            }
            free -= 1;
        }
        len
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let mut done = 0;
        while done < data.len() {
            let (page, from) = locate(offset + done as u64);
            let n = (PAGE - from).min(data.len() - done);
            self.remember(page, from);
            self.page_mut(page)[from..from + n].copy_from_slice(&data[done..done + n]);
            done += n;
        }
        if !data.is_empty() {
            self.len = self.len.max(offset + data.len() as u64);
        }
    }

    pub(super) fn truncate(&mut self, len: u64) {
        if len < self.len {
            let (first, from) = locate(len);
            for page in first..self.pages.len() as u64 {
                self.remember(page, if page == first { from } else { 0 });
            }
            self.cut(len);
        }
        self.len = len;
        self.lowest_len = self.lowest_len.min(len);
    }

    /// Everything but pages that an earlier failed sync forgot becomes durable.
    pub(super) fn sync(&mut self) {
        self.undo.retain(|_, undo| undo.lost);
        self.durable_len = self.len;
        self.lowest_len = self.len;
    }

    /// A sync that fails: some pages make it to the platter, the others never will; all count as clean.
    pub(super) fn fail_sync(&mut self, dice: &mut Dice) {
        self.undo.retain(|_, undo| {
            undo.lost = undo.lost || !dice.keep();
            undo.lost
        });
        if dice.keep() {
            self.durable_len = self.len;
            self.lowest_len = self.len;
        }
    }

    /// Power is lost; any subset of the unsynced pages, cuts and growth survives.
    pub(super) fn lose_power(&mut self, dice: &mut Dice) {
        let is_cut = self.lowest_len < self.durable_len;
        let cut_survives = is_cut && dice.keep();
        let cut_undone = is_cut && !cut_survives;
        let floor = if cut_survives { self.lowest_len } else { self.durable_len };
        let mut end = floor;
        for (page, undo) in std::mem::take(&mut self.undo) {
            let start = page * PAGE_U64;
            let mut old = self.old_page(page, undo.old);
            if let Some(old) = old.as_mut().filter(|_| cut_survives) {
                old[floor.saturating_sub(start).min(PAGE_U64) as usize..].fill(0);
            }
            // Bytes behind a cut that never happened are in freed blocks: the old ones are back.
            let stuck = undo.lost || (cut_undone && start + PAGE_U64 > self.lowest_len);
            let new_end = match if stuck { PageFate::Old } else { page_fate(dice) } {
                PageFate::New => start + PAGE_U64,
                PageFate::Old => {
                    self.put_page(page, old);
                    continue;
                }
                PageFate::Torn(new_sectors) => {
                    self.tear_page(page, old.as_deref(), new_sectors);
                    start + (SECTOR * (8 - new_sectors.leading_zeros() as usize)) as u64
                }
            };
            end = end.max(new_end.min(self.len));
        }
        let len = if cut_undone { self.durable_len } else { self.surviving_len(floor, end, dice) };
        self.settle(len);
    }

    /// Only what was synced survives.
    pub(super) fn lose_all_unsynced(&mut self) {
        for (page, undo) in std::mem::take(&mut self.undo) {
            let old = self.old_page(page, undo.old);
            self.put_page(page, old);
        }
        self.settle(self.durable_len);
    }

    /// The process died, the page cache stays, but it may have dropped "clean" pages that a failed sync lost.
    pub(super) fn survive_kill(&mut self, dice: &mut Dice) {
        let evicted: Vec<u64> = self
            .undo
            .iter()
            .filter(|(_, undo)| undo.lost)
            .map(|(page, _)| *page)
            .filter(|_| !dice.keep())
            .collect();
        for page in evicted {
            if let Some(undo) = self.undo.remove(&page) {
                let old = self.old_page(page, undo.old);
                self.put_page(page, old);
            }
        }
        self.cut(self.len);
    }

    /// What the platter holds.
    pub(super) fn durable_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.durable_len as usize];
        for (page, chunk) in bytes.chunks_mut(PAGE).enumerate() {
            let cached = self.pages.get(page).and_then(Option::as_deref);
            let kept = match self.undo.get(&(page as u64)).map(|undo| &undo.old) {
                None => chunk.len(),
                Some(Old::Prefix(n)) => (*n).min(chunk.len()),
                Some(Old::Bytes(old)) => {
                    chunk.copy_from_slice(&old[..chunk.len()]);
                    continue;
                }
            };
            if let Some(cached) = cached {
                chunk[..kept].copy_from_slice(&cached[..kept]);
            }
        }
        bytes
    }

    /// XORs one byte, in the cache and on the platter. False when the file is not that long.
    pub(super) fn rot(&mut self, offset: u64, mask: u8) -> bool {
        if offset >= self.len.max(self.durable_len) {
            return false;
        }
        let (page, from) = locate(offset);
        if let Some(Undo { old: Old::Bytes(old), .. }) = self.undo.get_mut(&page) {
            old[from] ^= mask;
        }
        if offset < self.len {
            self.page_mut(page)[from] ^= mask;
        }
        true
    }

    /// Keeps what the platter holds of `page` before its bytes from `from` on change.
    fn remember(&mut self, page: u64, from: usize) {
        if let Some(undo) = self.undo.get_mut(&page) {
            undo.lost = false;
            if let Old::Prefix(n) = undo.old
                && from < n
            {
                undo.old = Old::Bytes(copy_prefix(cached(&self.pages, page), n));
            }
            return;
        }
        let kept = self.durable_len.saturating_sub(page * PAGE_U64).min(PAGE_U64) as usize;
        let old = match cached(&self.pages, page) {
            None => Old::Prefix(0),
            Some(_) if from >= kept => Old::Prefix(kept),
            Some(bytes) => Old::Bytes(copy_prefix(Some(bytes), kept)),
        };
        self.undo.insert(page, Undo { old, lost: false });
    }

    /// The platter's page; `None` is all zeros.
    fn old_page(&self, page: u64, old: Old) -> Option<Page> {
        match old {
            Old::Prefix(0) => None,
            Old::Prefix(n) => Some(copy_prefix(cached(&self.pages, page), n)),
            Old::Bytes(bytes) => Some(bytes),
        }
    }

    fn tear_page(&mut self, page: u64, old: Option<&[u8; PAGE]>, new_sectors: u8) {
        let bytes = self.page_mut(page);
        for sector in (0..PAGE / SECTOR).filter(|sector| new_sectors & (1 << sector) == 0) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            match old {
                Some(old) => bytes[range.clone()].copy_from_slice(&old[range]),
                None => bytes[range].fill(0),
            }
        }
    }

    /// Where a file ends that had `floor` durable bytes, surviving pages up to `end`, and grew to `len`: the
    /// file system may have written the new length without the data, and the data without the length.
    fn surviving_len(&self, floor: u64, end: u64, dice: &mut Dice) -> u64 {
        match dice.below(8) {
            0 => floor,
            1 => self.len,
            2 => floor + dice.below(self.len - floor + 1),
            3 | 4 => floor + dice.below(end - floor + 1),
            _ => end,
        }
    }

    /// The cache and the platter agree from here on.
    fn settle(&mut self, len: u64) {
        self.undo.clear();
        self.cut(len);
        self.len = len;
        self.durable_len = len;
        self.lowest_len = len;
    }

    /// Drops cached bytes at and behind `len`.
    fn cut(&mut self, len: u64) {
        let (page, from) = locate(len);
        if let Some(Some(bytes)) = self.pages.get_mut(page as usize) {
            bytes[from..].fill(0);
        }
        let keep = len.div_ceil(PAGE_U64) as usize;
        let freed = self.pages.drain(keep.min(self.pages.len())..).flatten().count() as u64;
        self.used.fetch_sub(freed * PAGE_U64, Ordering::Relaxed);
    }

    fn page_mut(&mut self, page: u64) -> &mut [u8; PAGE] {
        let index = page as usize;
        if index >= self.pages.len() {
            self.pages.resize_with(index + 1, || None);
        }
        self.pages[index].get_or_insert_with(|| {
            self.used.fetch_add(PAGE_U64, Ordering::Relaxed);
            zeros()
        })
    }

    fn put_page(&mut self, page: u64, bytes: Option<Page>) {
        if let Some(bytes) = bytes {
            *self.page_mut(page) = *bytes;
        } else if let Some(slot) = self.pages.get_mut(page as usize)
            && slot.take().is_some()
        {
            self.used.fetch_sub(PAGE_U64, Ordering::Relaxed);
        }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        let held = self.pages.iter().flatten().count() as u64;
        self.used.fetch_sub(held * PAGE_U64, Ordering::Relaxed);
    }
}

fn locate(offset: u64) -> (u64, usize) {
    (offset / PAGE_U64, (offset % PAGE_U64) as usize)
}

fn zeros() -> Page {
    Box::new([0; PAGE])
}

fn cached(pages: &[Option<Page>], page: u64) -> Option<&[u8; PAGE]> {
    pages.get(page as usize).and_then(Option::as_deref)
}

fn copy_prefix(bytes: Option<&[u8; PAGE]>, n: usize) -> Page {
    let mut copy = zeros();
    if let Some(bytes) = bytes {
        copy[..n].copy_from_slice(&bytes[..n]);
    }
    copy
}

/// One page in eight is torn: half of these keep a prefix of their sectors, half any of them.
fn page_fate(dice: &mut Dice) -> PageFate {
    if dice.below(8) == 0 {
        let any = dice.below(256) as u8;
        return PageFate::Torn(if dice.below(2) == 0 { any } else { !(0xff << (any % 8)) });
    }
    if dice.keep() { PageFate::New } else { PageFate::Old }
}
