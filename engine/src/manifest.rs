//! The manifest: a log of edits that says which tables are live. `CURRENT` names the manifest in force.
//!
//! ```text
//! CURRENT         = MANIFEST-000002 5f1c09aa\n          name, and CRC-32C of the name in hexadecimal
//! MANIFEST-000002 = header, frames (see log::frame); each record (kind 1) is one edit, the first one a whole catalog
//! ```
//! Order of durability: a table's content and name are durable before an edit names it; an edit is durable before
//! anything it retires is removed; a new manifest is durable before `CURRENT` points at it, and that before the
//! old one goes. An edit that was not synced was never acted upon, so a torn last record is dropped.

use crate::edit::{Catalog, Edit};
use crate::error::IoContext;
use crate::files;
use crate::log::frame::{Frame, Magic};
use crate::log::segment::{self, Found, Segment};
use crate::{Error, Result};
use nokv_env::{Disk, OpenMode, disk};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const MAGIC: Magic = *b"NoKV-man";
pub(crate) const KIND_EDIT: u8 = 1;

/// The manifest in force, open for more edits.
pub(crate) struct Manifest {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment: Segment,
    catalog: Catalog,
    /// Length after the first record.
    base_bytes: u64,
    /// Growth that makes a rewrite worth while.
    growth_bytes: u64,
}

impl Manifest {
    /// Writes `catalog` as manifest `number` and points `CURRENT` at it.
    pub(crate) fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        number: u64,
        catalog: Catalog,
        growth_bytes: u64,
        mode: OpenMode,
    ) -> Result<Self> {
        let mut segment = Segment::create(&*disk, &files::manifest(dir, number), MAGIC, number, mode)?;
        segment.append(KIND_EDIT, &catalog.as_edit().encode());
        segment.sync()?;
        segment.settle()?;
        disk.sync_dir(dir).at(dir, "sync")?;
        point_current_at(&*disk, dir, number)?;
        let base_bytes = segment.len();
        Ok(Self { disk, dir: dir.to_owned(), segment, catalog, base_bytes, growth_bytes })
    }

    /// Makes `edit` durable. The caller makes it visible afterwards. When the disk is full, nothing is left of it.
    pub(crate) fn install(&mut self, edit: Edit) -> Result<()> {
        self.segment.append(KIND_EDIT, &edit.encode());
        if let Err(error) = self.segment.sync() {
            if error.is_disk_full() {
                self.segment.abandon()?;
            }
            return Err(error);
        }
        self.segment.settle()?;
        let path = self.segment.path();
        self.catalog.apply(edit).map_err(|what| Error::corrupt(path, self.segment.len(), what))
    }

    /// Whether it grew so much that [`Manifest::rewrite`] is worth while.
    pub(crate) fn is_long(&self) -> bool {
        self.segment.len() > self.base_bytes + self.growth_bytes
    }

    /// Starts over as manifest `number`, with the catalog as its only record.
    pub(crate) fn rewrite(&mut self, number: u64) -> Result<()> {
        let mut catalog = self.catalog.clone();
        catalog.next_file = catalog.next_file.max(number + 1);
        let (disk, mode) = (self.disk.clone(), OpenMode::CreateNew);
        let next = Self::create(disk, &self.dir, number, catalog, self.growth_bytes, mode);
        let next = next.inspect_err(|error| {
            if error.is_disk_full() {
                // `CURRENT` was not touched. What stays is in nobody's way: the next start removes it.
                drop(self.disk.remove_file(&files::manifest(&self.dir, number)));
            }
        })?;
        let old = std::mem::replace(self, next);
        let path = old.segment.path();
        self.disk.remove_file(path).at(path, "remove")
    }

    /// What all edits so far add up to.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(crate) fn number(&self) -> u64 {
        self.segment.id()
    }
}

/// Points `CURRENT` at manifest `number`.
fn point_current_at(disk: &dyn Disk, dir: &Path, number: u64) -> Result<()> {
    let path = files::current(dir);
    let aside = disk::write_aside(disk, &path, encode_current(number).as_bytes()).at(&path, "write")?;
    disk.rename(&aside, &path).at(&path, "replace")?;
    disk.sync_dir(dir).at(dir, "sync")
}

pub(crate) fn encode_current(number: u64) -> String {
    let name = files::manifest_name(number);
    let crc = crc32c::crc32c(name.as_bytes());
    format!("{name} {crc:08x}\n")
}

/// The number of the manifest in force; `None` when there is no `CURRENT`.
pub(crate) fn read_current(disk: &dyn Disk, dir: &Path) -> Result<Option<u64>> {
    let path = files::current(dir);
    if !disk.exists(&path).at(&path, "look for")? {
        return Ok(None);
    }
    let content = disk::read_all(disk, &path).at(&path, "read")?;
    match parse_current(&content) {
        Some(number) => Ok(Some(number)),
        None => Err(Error::corrupt(&path, 0, "CURRENT does not name a manifest, or fails its checksum")),
    }
}

/// The number of the manifest that the content of `CURRENT` names, if all of it is sound.
pub(crate) fn parse_current(content: &[u8]) -> Option<u64> {
    let name = content.split(|byte| *byte == b' ').next().and_then(|name| std::str::from_utf8(name).ok());
    let number = name.and_then(files::parse_manifest_name);
    number.filter(|number| encode_current(*number).as_bytes() == content)
}

/// Stored and computed checksum of what has the shape of a `CURRENT`.
pub(crate) fn current_checksums(content: &[u8]) -> Option<(u32, u32)> {
    let space = content.iter().rposition(|byte| *byte == b' ')?;
    let stored = std::str::from_utf8(&content[space + 1..]).ok()?.trim_end();
    Some((u32::from_str_radix(stored, 16).ok()?, crc32c::crc32c(&content[..space])))
}

/// Reads manifest `number`: its catalog, and how many records it has. Changes nothing.
pub(crate) fn read(disk: &dyn Disk, dir: &Path, number: u64) -> Result<(Catalog, usize)> {
    let path = files::manifest(dir, number);
    if !disk.exists(&path).at(&path, "look for")? {
        return Err(Error::corrupt(&path, 0, "the manifest that CURRENT names is missing"));
    }
    let mut catalog = Catalog::default();
    let mut records = 0;
    let mut visit = |offset, frame: Frame<'_>| {
        let edit = Edit::decode(frame.payload).filter(|_| frame.kind == KIND_EDIT);
        let edit = edit.ok_or_else(|| Error::corrupt(&path, offset, "the edit does not decode"))?;
        catalog.apply(edit).map_err(|what| Error::corrupt(&path, offset, what))?;
        records += 1;
        Ok(())
    };
    match segment::read(disk, &path, MAGIC, number, &mut visit)? {
        Found::Frames(_) => Ok((catalog, records)),
        Found::Unborn => Ok((catalog, 0)),
    }
}

/// Reads the manifest in force, which must hold a catalog: it did when `CURRENT` was pointed at it. Its catalog, and how
/// many records it has.
pub(crate) fn read_in_force(disk: &dyn Disk, dir: &Path, number: u64) -> Result<(Catalog, usize)> {
    match read(disk, dir, number)? {
        (_, 0) => Err(Error::corrupt(&files::manifest(dir, number), 0, "the manifest holds no catalog")),
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::MemDisk;

    fn dir() -> &'static Path {
        Path::new("/db")
    }

    #[test]
    fn current_is_these_bytes() {
        let golden = format!("MANIFEST-000002 {:08x}\n", crc32c::crc32c(b"MANIFEST-000002"));
        assert_eq!(encode_current(2), golden);
    }

    #[test]
    fn edits_add_up_and_a_rewrite_keeps_them() {
        let disk = MemDisk::new(1).mount();
        disk.create_dir_all(dir()).unwrap();
        let catalog = Catalog { log_start: 1, next_file: 2, ..Catalog::default() };
        let mut manifest =
            Manifest::create(disk.clone(), dir(), 1, catalog, 1 << 20, OpenMode::CreateNew).unwrap();
        manifest.install(Edit { flushed_sequence: Some(7), ..Edit::default() }).unwrap();
        assert_eq!(read_current(&*disk, dir()).unwrap(), Some(1));
        let (found, _) = read_in_force(&*disk, dir(), 1).unwrap();
        assert_eq!((found.flushed_sequence, found.log_start), (7, 1));
        manifest.rewrite(5).unwrap();
        assert_eq!(read_current(&*disk, dir()).unwrap(), Some(5));
        let (found, _) = read_in_force(&*disk, dir(), 5).unwrap();
        assert_eq!((found.flushed_sequence, found.next_file), (7, 6));
        assert!(!disk.exists(&files::manifest(dir(), 1)).unwrap());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let platter = MemDisk::new(1);
        let disk = platter.mount();
        disk.create_dir_all(dir()).unwrap();
        let catalog = Catalog { log_start: 1, next_file: 2, ..Catalog::default() };
        let mut manifest =
            Manifest::create(disk.clone(), dir(), 1, catalog, 1 << 20, OpenMode::CreateNew).unwrap();
        manifest.install(Edit { flushed_sequence: Some(7), ..Edit::default() }).unwrap();
        let whole = read_in_force(&*disk, dir(), 1).unwrap();
        for file in [files::current(dir()), files::manifest(dir(), 1)] {
            let len = disk::read_all(&*disk, &file).unwrap().len() as u64;
            for bit in 0..len * 8 {
                platter.flip_bit(&file, bit / 8, (bit % 8) as u8);
                let read = read_current(&*disk, dir())
                    .and_then(|number| read_in_force(&*disk, dir(), number.unwrap_or_default()));
                // Rot of the last claim is harmless: it is a witness, not a record.
                assert!(read.is_err() || read.is_ok_and(|found| found == whole), "bit {bit} of {file:?}");
                platter.flip_bit(&file, bit / 8, (bit % 8) as u8);
            }
        }
    }
}
