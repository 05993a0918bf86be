//! Looking at a database directory without being its owner: nothing is locked, created, cut or repaired, so it works
//! beside the process that has the directory open, and on a directory that may only be read.
//!
//! [`manifest`] says which tables are live. [`check`] reads every byte that matters and lists all that is not what was
//! written there; unlike an open it does not stop at the first. [`check_log`] does the same for any log of this crate.
//!
//! Beside a running process files come and go between two reads. So a table that is missing counts only while the
//! manifest still names it; of logs the caller looks again.

use crate::db::{KIND_BATCH, decode_batch};
use crate::edit::{Catalog, Edit};
use crate::error::IoContext;
use crate::files::{self, Kind, WAL_EXTENSION};
use crate::key::{InternalKey, compare, split};
use crate::log::frame::{self, Frame, Magic};
use crate::log::{self, Position, segment_ids};
use crate::manifest::{self, KIND_EDIT};
use crate::table::block::{Block, BlockCursor};
use crate::table::filter::{self, Filter};
use crate::table::format::{Expiry, FOOTER_BYTES, Footer, Handle, TRAILER_BYTES, TableMeta, open_section};
use crate::value::{NEVER, Value};
use crate::vlog::{SegmentMeta, record};
use crate::{Cf, Result};
use bytes::Bytes;
use nokv_env::{Disk, File, OpenMode, disk};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A live table, as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    /// Names the file: `00007.sst` is number 7.
    pub number: u64,
    /// Where in the tree it is; 0 is the newest level.
    pub level: usize,
    /// Length of the file.
    pub bytes: u64,
    /// Entries, tombstones included.
    pub entries: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Family and key of the first entry.
    pub smallest: (Cf, Bytes),
    /// Family and key of the last entry.
    pub largest: (Cf, Bytes),
    /// Bytes of the value log that its pointers take.
    pub value_bytes: u64,
    /// Of entries that have an end, if there are any.
    pub expiry: Option<ExpiryInfo>,
}

/// Entries of a table that have an end. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiryInfo {
    /// How many they are, whether it has come or not.
    pub entries: u64,
    /// When the first of them ends.
    pub first_unix_ms: u64,
    /// When the last of them ends.
    pub last_unix_ms: u64,
    /// When half of the table has ended, and a compaction takes it; `None`: that is not going to be.
    pub half_unix_ms: Option<u64>,
}

impl ExpiryInfo {
    fn of(expiry: Expiry) -> Self {
        Self {
            entries: expiry.entries,
            first_unix_ms: expiry.first,
            last_unix_ms: expiry.last,
            half_unix_ms: Some(expiry.half).filter(|half| *half != NEVER),
        }
    }
}

/// A live segment of the value log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its bucket: the generation of its values.
    pub bucket: u8,
    /// Names the file: `vlog/bucket-000/00007.vlog` is number 7.
    pub number: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Values in it, dead ones included.
    pub values: u64,
    /// Bytes of it that tables point at; the rest is garbage.
    pub live_bytes: u64,
}

/// What a manifest adds up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestInfo {
    /// The file that `CURRENT` names.
    pub file: PathBuf,
    /// Its number.
    pub number: u64,
    /// Edits in it, the whole catalog at its beginning included.
    pub edits: u64,
    /// The log matters from this segment on.
    pub log_start: u64,
    /// Every write up to this sequence is in tables.
    pub flushed_sequence: u64,
    /// Tables and manifests of this number and above do not exist yet.
    pub next_file: u64,
    /// Live tables by level and number.
    pub tables: Vec<TableInfo>,
    /// Live segments of the value log by bucket and number.
    pub segments: Vec<SegmentInfo>,
}

/// Whether the directory has a value log: its first segment makes one.
pub fn has_value_log(disk: &dyn Disk, dir: &Path) -> Result<bool> {
    let path = files::value_log(dir);
    disk.exists(&path).at(&path, "look for")
}

/// Segments of the value log that lie in the directory, by bucket and number, whether they are live or not.
pub fn segment_files(disk: &dyn Disk, dir: &Path) -> Result<Vec<(u8, u64)>> {
    files::segments(disk, dir).at(dir, "list the value log of")
}

/// Reads the manifest in force and nothing else. `None`: the directory has no `CURRENT`.
pub fn manifest(disk: &dyn Disk, dir: &Path) -> Result<Option<ManifestInfo>> {
    let Some(number) = manifest::read_current(disk, dir)? else { return Ok(None) };
    let (catalog, edits) = manifest::read_in_force(disk, dir, number)?;
    let key = |key: &InternalKey| (Cf(key.cf), key.user.clone());
    let mut tables: Vec<TableInfo> = catalog
        .tables
        .values()
        .map(|(level, meta)| TableInfo {
            number: meta.number,
            level: *level,
            bytes: meta.bytes,
            entries: meta.entries,
            tombstones: meta.tombstones,
            smallest: key(&meta.smallest),
            largest: key(&meta.largest),
            value_bytes: meta.references.values().sum(),
            expiry: meta.expiry.map(ExpiryInfo::of),
        })
        .collect();
    tables.sort_by_key(|table| (table.level, table.number));
    let mut segments: Vec<SegmentInfo> = catalog
        .segments
        .values()
        .map(|meta| SegmentInfo {
            bucket: meta.bucket,
            number: meta.number,
            bytes: meta.bytes,
            values: meta.values,
            live_bytes: catalog.referenced(meta.number),
        })
        .collect();
    segments.sort_by_key(|segment| (segment.bucket, segment.number));
    Ok(Some(ManifestInfo {
        file: files::manifest(dir, number),
        number,
        edits: edits as u64,
        log_start: catalog.log_start,
        flushed_sequence: catalog.flushed_sequence,
        next_file: catalog.next_file,
        tables,
        segments,
    }))
}

/// Up to where in a log segment or a manifest of this `content` later frames vouch for earlier ones. Damage below is noticed;
/// what is above looks like a write that was never finished when it is damaged.
pub fn vouched_for(content: &[u8]) -> u64 {
    let Some(id) = frame::header_id(content) else { return 0 };
    let (mut offset, mut claimed) = (frame::HEADER_BYTES as u64, 0);
    while let Some(frame) = frame::decode(id, offset, content) {
        claimed = claimed.max(frame.durable);
        offset += frame.bytes();
    }
    claimed
}

/// A file that only a database of ours has, if there is one among these names.
pub fn evidence(names: &[String]) -> Option<&String> {
    names.iter().find(|name| Kind::of(name).is_some())
}

/// Two checksums that should be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksums {
    /// The one in the file.
    pub stored: u32,
    /// The one of the bytes that it covers.
    pub computed: u32,
}

/// Something that is not what was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// Where in it the damaged structure begins.
    pub offset: u64,
    /// What is wrong, in words.
    pub what: String,
    /// When a checksum told.
    pub checksums: Option<Checksums>,
}

/// Something worth knowing that is no damage: what a crash may leave, and the next start tidies up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The file.
    pub file: PathBuf,
    /// What was seen.
    pub what: String,
}

/// What a check read and found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// Damage; empty when all is sound.
    pub findings: Vec<Finding>,
    /// What is no damage.
    pub notes: Vec<Note>,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Tables read.
    pub tables: u64,
    /// Sections of tables (blocks, filters, indexes, properties) whose checksums were compared.
    pub blocks: u64,
    /// Entries of tables looked at; only a deep check decodes them.
    pub entries: u64,
    /// Records of logs and edits of manifests.
    pub records: u64,
    /// Values of the value log whose checksums were compared, dead ones included.
    pub values: u64,
}

impl Checked {
    /// Adds damage.
    pub fn found(&mut self, file: &Path, offset: u64, what: impl Into<String>) {
        self.found_by(file, offset, what, None);
    }

    fn found_by(&mut self, file: &Path, offset: u64, what: impl Into<String>, sums: Option<(u32, u32)>) {
        let checksums = sums
            .filter(|(stored, computed)| stored != computed)
            .map(|(stored, computed)| Checksums { stored, computed });
        self.findings.push(Finding { file: file.to_owned(), offset, what: what.into(), checksums });
    }

    /// Adds what is no damage.
    pub fn noted(&mut self, file: &Path, what: impl Into<String>) {
        self.notes.push(Note { file: file.to_owned(), what: what.into() });
    }

    /// The whole of a file. What cannot be read is damage, unless the node died.
    fn read(&mut self, disk: &dyn Disk, path: &Path, missing: &str) -> Result<Option<Vec<u8>>> {
        match disk::read_all(disk, path) {
            Ok(data) => {
                self.files += 1;
                self.bytes += data.len() as u64;
                Ok(Some(data))
            }
            Err(error) => self.unreadable(path, 0, error, missing).map(|()| None),
        }
    }

    fn unreadable(&mut self, path: &Path, offset: u64, error: io::Error, missing: &str) -> Result<()> {
        match error.kind() {
            io::ErrorKind::NotFound => self.found(path, offset, missing),
            io::ErrorKind::PermissionDenied => return Err(error).at(path, "read"),
            _ if disk::is_crashed(&error) => return Err(error).at(path, "read"),
            _ => self.found(path, offset, format!("cannot be read: {error}")),
        }
        Ok(())
    }
}

/// Checks a database: `CURRENT`, the manifest, every section of every live table, every value of the value log, and the
/// write-ahead log. `deep` also decodes all
/// that is sound and compares it: order and number of entries, key ranges, filters, batches.
///
/// The error is of the kind that keeps the check from being made; damage is in what it returns.
pub fn check(disk: &dyn Disk, dir: &Path, deep: bool) -> Result<Checked> {
    let names = disk.list(dir).at(dir, "list")?;
    let mut checked = Checked::default();
    let catalog = check_manifest(disk, dir, &mut checked)?;
    let listed = names.iter().filter_map(|name| match Kind::of(name) {
        Some(Kind::Table(number)) => Some(number),
        _ => None,
    });
    if let Some(catalog) = &catalog {
        for meta in catalog.segments.values() {
            check_segment(disk, dir, meta, &mut checked)?;
        }
        for (bucket, number) in files::segments(disk, dir).at(dir, "list the value log of")? {
            if !catalog.segments.contains_key(&number) {
                let what = "no manifest names it: left by an unfinished flush or compaction, removed at the next start";
                checked.noted(&files::segment(dir, bucket, number), what);
            }
        }
        for (_, meta) in catalog.tables.values() {
            check_table(disk, dir, meta.number, Some(meta), deep, &mut checked)?;
        }
        for number in listed.filter(|number| !catalog.tables.contains_key(number)) {
            let what =
                "no manifest names it: left by an unfinished flush or compaction, removed at the next start";
            checked.noted(&files::table(dir, number), what);
        }
        forget_files_that_went(disk, dir, &mut checked);
        let in_force = manifest::read_current(disk, dir).ok().flatten();
        let is_old = |name: &&String| match Kind::of(name) {
            Some(Kind::Manifest(number)) => in_force.is_some_and(|in_force| number < in_force),
            _ => false,
        };
        for name in names.iter().filter(is_old) {
            checked.noted(
                &dir.join(name),
                "a manifest that is not in force any more, removed at the next start",
            );
        }
    } else {
        // Without a catalog every table is looked at for itself.
        for number in listed {
            check_table(disk, dir, number, None, deep, &mut checked)?;
        }
    }
    let start = catalog.as_ref().map(|catalog| catalog.log_start);
    check_log(disk, dir, WAL_EXTENSION, start, &mut checked, &mut |_, kind, payload| {
        let is_batch = kind == KIND_BATCH && (!deep || decode_batch(payload).is_some());
        (!is_batch).then(|| "the record does not decode".to_owned())
    })?;
    Ok(checked)
}

/// Checks `CURRENT` and the manifest that it names, and nothing else.
pub fn check_current(disk: &dyn Disk, dir: &Path) -> Result<Checked> {
    let mut checked = Checked::default();
    check_manifest(disk, dir, &mut checked)?;
    Ok(checked)
}

/// The catalog, if all of it is sound.
fn check_manifest(disk: &dyn Disk, dir: &Path, checked: &mut Checked) -> Result<Option<Catalog>> {
    let path = files::current(dir);
    let missing = "CURRENT is missing, so nobody knows which files are live";
    let Some(content) = checked.read(disk, &path, missing)? else { return Ok(None) };
    let Some(number) = manifest::parse_current(&content) else {
        let what = "CURRENT does not name a manifest, or fails its checksum";
        checked.found_by(&path, 0, what, manifest::current_checksums(&content));
        return Ok(None);
    };
    let path = files::manifest(dir, number);
    let missing = "the manifest that CURRENT names is missing";
    let Some(data) = checked.read(disk, &path, missing)? else { return Ok(None) };
    let (before, mut catalog, mut edits) = (checked.findings.len(), Catalog::default(), 0);
    let mut wrong: Vec<(u64, String)> = Vec::new();
    let torn = check_frames(&path, manifest::MAGIC, number, &data, checked, &mut |offset, frame| {
        edits += 1;
        // Behind damage the sum means nothing any more.
        let edit = Edit::decode(frame.payload).filter(|_| frame.kind == KIND_EDIT);
        match edit {
            None => wrong.push((offset, "the edit does not decode".to_owned())),
            Some(edit) if wrong.is_empty() => {
                if let Err(what) = catalog.apply(edit) {
                    wrong.push((offset, what));
                }
            }
            Some(_) => {}
        }
    });
    checked.records += edits;
    let sound = checked.findings.len() == before;
    // What follows from damage that is listed already is no second one.
    for (offset, what) in wrong.into_iter().filter(|_| sound) {
        checked.found(&path, offset, what);
    }
    if edits == 0 && sound {
        checked.found(&path, 0, "the manifest holds no catalog");
    }
    if let Some(torn) = torn.bytes {
        checked.noted(
            &path,
            format!("{torn} bytes of an unfinished write at the end, dropped at the next start"),
        );
    }
    check_levels(&path, &catalog, checked);
    Ok((checked.findings.len() == before).then_some(catalog))
}

/// Tables of one level below the first must not share keys.
fn check_levels(path: &Path, catalog: &Catalog, checked: &mut Checked) {
    let mut levels: BTreeMap<usize, Vec<&TableMeta>> = BTreeMap::new();
    for (level, meta) in catalog.tables.values().filter(|(level, _)| *level > 0) {
        levels.entry(*level).or_default().push(meta);
    }
    for (level, mut tables) in levels {
        tables.sort_by(|a, b| a.smallest.cmp(&b.smallest));
        for pair in tables.windows(2).filter(|pair| pair[0].overlaps(pair[1])) {
            let (a, b) = (pair[0].number, pair[1].number);
            checked.found(path, 0, format!("tables {a} and {b} of level {level} overlap"));
        }
    }
}

/// Beside a running process a compaction may have removed a table or a segment since the manifest was read.
fn forget_files_that_went(disk: &dyn Disk, dir: &Path, checked: &mut Checked) {
    if checked.findings.is_empty() {
        return;
    }
    let Ok(Some(now)) = manifest(disk, dir) else { return };
    let is_live = |file: &Path| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = log::parse_number(name, files::SEGMENT_EXTENSION) {
            return now.segments.iter().any(|segment| segment.number == number);
        }
        match Kind::of(name) {
            Some(Kind::Table(number)) => now.tables.iter().any(|table| table.number == number),
            _ => true,
        }
    };
    checked.findings.retain(|finding| is_live(&finding.file));
}

/// How a segment file ended.
struct Tail {
    sealed: bool,
    /// Bytes of an unfinished write, if there are any.
    bytes: Option<u64>,
    /// The file was never written to.
    unborn: bool,
}

fn check_frames(
    path: &Path,
    magic: Magic,
    id: u64,
    data: &[u8],
    checked: &mut Checked,
    visit: &mut dyn FnMut(u64, Frame<'_>),
) -> Tail {
    if let Err(fault) = frame::check_header(magic, id, data) {
        if fault.is_unborn {
            return Tail { sealed: false, bytes: None, unborn: true };
        }
        checked.found_by(path, 0, fault.what, frame::header_checksums(data));
    }
    let survey = frame::survey(id, data, visit);
    for damage in &survey.damages {
        let len = damage.end - damage.offset;
        let what = if damage.after_seal {
            format!("{len} bytes after the seal of the segment")
        } else {
            format!(
                "the record fails its checksum, and it was durable once; the next sound one is {len} bytes on"
            )
        };
        checked.found_by(path, damage.offset, what, frame::checksums(id, damage.offset, data));
    }
    let bytes = (survey.torn_bytes > 0).then_some(survey.torn_bytes);
    Tail { sealed: survey.sealed, bytes, unborn: false }
}

/// Says what is wrong with a record, if anything is: its place, kind and payload.
pub type Judge<'a> = dyn FnMut(Position, u8, &[u8]) -> Option<String> + 'a;

/// Checks the segments of a log of [`crate::log`], and hands every sound record to `visit`, which says what is wrong with
/// it, if anything is. With `start` the log must have that segment; older ones do not matter.
pub fn check_log(
    disk: &dyn Disk,
    dir: &Path,
    extension: &str,
    start: Option<u64>,
    checked: &mut Checked,
    visit: &mut Judge<'_>,
) -> Result<()> {
    let mut ids = segment_ids(disk, dir, extension)?;
    ids.retain(|id| start.is_none_or(|start| *id >= start));
    let path_of = |id: u64| dir.join(format!("{id:05}.{extension}"));
    if let Some(start) = start.filter(|start| ids.first() != Some(start)) {
        checked.found(&path_of(start), 0, "the log segment is missing although the manifest needs it");
    }
    for (index, &id) in ids.iter().enumerate() {
        let path = path_of(id);
        if index > 0 && ids[index - 1] + 1 != id {
            checked.found(&path_of(ids[index - 1] + 1), 0, "the log segment is missing");
        }
        let Some(data) = checked.read(disk, &path, "the log segment is missing")? else { continue };
        let mut complaints = Vec::new();
        let mut records = 0;
        let before = checked.findings.len();
        let tail = check_frames(&path, log::MAGIC, id, &data, checked, &mut |offset, frame| {
            records += 1;
            if let Some(what) = visit(Position { segment: id, offset }, frame.kind, frame.payload) {
                complaints.push((offset, what));
            }
        });
        checked.records += records;
        for (offset, what) in complaints {
            checked.found(&path, offset, what);
        }
        let is_newest = index + 1 == ids.len();
        let end = data.len() as u64 - tail.bytes.unwrap_or(0);
        if is_newest {
            if tail.unborn {
                checked.noted(&path, "its creation was not finished; it is created anew at the next start");
            } else if let Some(bytes) = tail.bytes {
                let what = format!(
                    "{bytes} bytes of an unfinished write at the end (from {end}), cut at the next start"
                );
                checked.noted(&path, what);
            }
        } else if tail.unborn {
            checked.found_by(&path, 0, "the header is not sound", frame::header_checksums(&data));
        } else if !tail.sealed && checked.findings.len() == before {
            let what = "the log goes on in the next segment, but here is no sound record and no seal";
            checked.found_by(&path, end, what, frame::checksums(id, end, &data));
        }
    }
    Ok(())
}

/// Entries of a block: encoded key, and what it holds.
type Entries = Vec<(Vec<u8>, Value)>;

/// One table under the glass.
struct Table<'a> {
    file: &'a dyn File,
    path: &'a Path,
    len: u64,
    checked: &'a mut Checked,
    /// Bytes of sections seen.
    covered: u64,
}

impl Table<'_> {
    /// The body of a section whose checksum holds.
    fn section(&mut self, handle: Handle, name: &str) -> Result<Option<Bytes>> {
        let end = handle.offset.checked_add(u64::from(handle.len));
        if (handle.len as usize) < TRAILER_BYTES || end.is_none_or(|end| end > self.len) {
            self.checked.found(
                self.path,
                handle.offset,
                format!("the handle of the {name} points outside the table"),
            );
            return Ok(None);
        }
        let section = match self.file.read_exact_at(handle.len as usize, handle.offset) {
            Ok(section) => section,
            Err(error) => {
                self.checked.unreadable(self.path, handle.offset, error, "the table is gone")?;
                return Ok(None);
            }
        };
        self.checked.blocks += 1;
        self.covered += u64::from(handle.len);
        let sums = section_checksums(&section);
        match open_section(section) {
            Ok(body) => Ok(Some(body)),
            Err(what) => {
                let what = what.replacen("the section", &format!("the {name}"), 1);
                self.checked.found_by(self.path, handle.offset, what, sums);
                Ok(None)
            }
        }
    }

    /// The entries of a block: encoded key, and value.
    fn block(&mut self, handle: Handle, name: &str) -> Result<Option<Entries>> {
        let Some(body) = self.section(handle, name)? else { return Ok(None) };
        match entries_of(body) {
            Ok(entries) => Ok(Some(entries)),
            Err(what) => {
                self.checked.found(self.path, handle.offset, format!("the {name} does not decode: {what}"));
                Ok(None)
            }
        }
    }

    /// The handles in an index block.
    fn handles(&mut self, handle: Handle, name: &str) -> Result<Option<Vec<Handle>>> {
        let Some(entries) = self.block(handle, name)? else { return Ok(None) };
        let handles: Option<Vec<Handle>> = entries.iter().map(|(_, value)| handle_of(value)).collect();
        if handles.is_none() {
            self.checked.found(self.path, handle.offset, format!("an entry of the {name} holds no handle"));
        }
        Ok(handles)
    }
}

fn handle_of(value: &Value) -> Option<Handle> {
    match value {
        Value::Inline(handle) => Handle::decode(handle),
        _ => None,
    }
}

fn section_checksums(section: &[u8]) -> Option<(u32, u32)> {
    let (checked, crc) = section.split_last_chunk::<4>()?;
    Some((u32::from_le_bytes(*crc), crc32c::crc32c(checked)))
}

fn footer_checksums(footer: &[u8]) -> Option<(u32, u32)> {
    let (checked, crc) = footer.get(..footer.len().checked_sub(8)?)?.split_last_chunk::<4>()?;
    Some((u32::from_le_bytes(*crc), crc32c::crc32c(checked)))
}

fn entries_of(body: Bytes) -> Result<Entries, &'static str> {
    let mut cursor = BlockCursor::new(Block::parse(body)?);
    let mut entries = Vec::new();
    cursor.first()?;
    while cursor.is_valid() {
        entries.push((cursor.key().to_vec(), cursor.value()?));
        cursor.advance()?;
    }
    Ok(entries)
}

/// Reads every record of a segment of the value log.
fn check_segment(disk: &dyn Disk, dir: &Path, meta: &SegmentMeta, checked: &mut Checked) -> Result<()> {
    let path = files::segment(dir, meta.bucket, meta.number);
    let missing = "the segment of the value log is missing although the manifest names it";
    let Some(data) = checked.read(disk, &path, missing)? else { return Ok(()) };
    if data.len() as u64 != meta.bytes {
        let what = format!("the segment has {} bytes, the manifest says {}", data.len(), meta.bytes);
        checked.found(&path, data.len() as u64, what);
    }
    let header = data.get(..record::HEADER_BYTES).unwrap_or(&data);
    if let Err(what) = record::check_header(meta.number, header) {
        checked.found(&path, 0, what);
    }
    let before = checked.findings.len();
    let (mut at, mut values, mut lost) = (record::HEADER_BYTES as u64, 0, false);
    while let Some(rest) = data.get(at as usize..).filter(|rest| !rest.is_empty()) {
        let place = (meta.number, at);
        let record = record::len(rest).and_then(|len| rest.get(..usize::try_from(len).ok()?));
        let opened = match record {
            Some(record) => record::open(place, record.to_vec()).map(drop),
            None => Err("the record is cut short, or its length is damaged"),
        };
        if let Err(what) = opened {
            // Two in a row: it was a length that is damaged, and nothing says where the next record begins.
            if lost {
                return Ok(());
            }
            let sums = record.and_then(|record| record::checksums(place, record));
            checked.found_by(&path, at, what, sums);
        }
        lost = opened.is_err();
        values += 1;
        let Some(record) = record else { return Ok(()) };
        at += record.len() as u64;
    }
    checked.values += values;
    if values != meta.values && checked.findings.len() == before {
        checked.found(
            &path,
            0,
            format!("the segment holds {values} values, the manifest says {}", meta.values),
        );
    }
    Ok(())
}

/// `meta`: what the manifest says of the table; without it the table speaks for itself.
fn check_table(
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
    meta: Option<&TableMeta>,
    deep: bool,
    checked: &mut Checked,
) -> Result<()> {
    let path = files::table(dir, number);
    let missing = "the table is missing although the manifest names it";
    let opened = disk.open(&path, OpenMode::Read).and_then(|file| file.len().map(|len| (file, len)));
    let (file, len) = match opened {
        Ok(opened) => opened,
        Err(error) => return checked.unreadable(&path, 0, error, missing),
    };
    checked.files += 1;
    checked.bytes += len;
    checked.tables += 1;
    if let Some(meta) = meta.filter(|meta| meta.bytes != len) {
        checked.found(&path, len, format!("the table has {len} bytes, the manifest says {}", meta.bytes));
    }
    let Some(footer_at) = len.checked_sub(FOOTER_BYTES as u64) else {
        checked.found(&path, 0, "the table is shorter than its footer");
        return Ok(());
    };
    let footer = match file.read_exact_at(FOOTER_BYTES, footer_at) {
        Ok(footer) => footer,
        Err(error) => return checked.unreadable(&path, footer_at, error, missing),
    };
    let parts = match Footer::decode(&footer) {
        Ok(parts) => parts,
        Err(what) => {
            checked.found_by(&path, footer_at, what, footer_checksums(&footer));
            return Ok(());
        }
    };
    let mut table = Table { file: &*file, path: &path, len: footer_at, checked, covered: 0 };
    let properties = match table.section(parts.properties, "properties")? {
        None => None,
        Some(body) => {
            let found = TableMeta::decode_properties(&body, len, parts.expires);
            if found.is_none() {
                table.checked.found(&path, parts.properties.offset, "the properties do not decode");
            } else if meta.is_some_and(|meta| meta.bytes == len && found.as_ref() != Some(meta)) {
                let what = "the table's properties differ from the manifest's";
                table.checked.found(&path, parts.properties.offset, what);
            }
            found
        }
    };
    let filter = if parts.filter.len == 0 { None } else { table.section(parts.filter, "filter")? };
    let mut walk = Walk { filter: filter.map(Filter::parse), ..Walk::default() };
    let mut whole = properties.is_some();
    if let Some(indexes) = table.handles(parts.top_index, "top index")? {
        for index in indexes {
            let Some(blocks) = table.handles(index, "index block")? else {
                whole = false;
                continue;
            };
            for block in blocks {
                if !deep {
                    whole &= table.section(block, "data block")?.is_some();
                    continue;
                }
                match table.block(block, "data block")? {
                    None => whole = false,
                    Some(entries) => {
                        table.checked.entries += entries.len() as u64;
                        if let Err(what) = walk.take(entries) {
                            table.checked.found(&path, block.offset, what);
                            whole = false;
                        }
                    }
                }
            }
        }
    } else {
        whole = false;
    }
    let covered = table.covered;
    let is_known = parts.filter.len == 0 || walk.filter.is_some();
    if deep && whole && is_known && covered != footer_at {
        let what = format!("{footer_at} bytes of sections, of which the indexes name {covered}");
        checked.found(&path, 0, what);
    }
    if let Some(properties) = properties.filter(|_| deep && whole)
        && let Some(what) = walk.differs_from(&properties)
    {
        checked.found(&path, parts.properties.offset, what);
    }
    Ok(())
}

/// The entries of a table as they go by.
#[derive(Default)]
struct Walk {
    filter: Option<Filter>,
    first: Option<Vec<u8>>,
    last: Option<Vec<u8>>,
    entries: u64,
    tombstones: u64,
    references: BTreeMap<u64, u64>,
    /// When the entries end that have an end.
    ends: Vec<u64>,
}

impl Walk {
    fn take(&mut self, entries: Entries) -> Result<(), &'static str> {
        for (key, value) in entries {
            let (prefixed, _) = split(&key).ok_or("a key is too short")?;
            if self.last.as_ref().is_some_and(|last| compare(last, &key).is_ge()) {
                return Err("the keys are out of order");
            }
            if let Some(filter) = &self.filter
                && !filter.may_hold(filter::hash(prefixed))
            {
                return Err("the filter denies a key of the table");
            }
            self.entries += 1;
            self.tombstones += u64::from(value.is_tombstone());
            if let Value::Until(until) = &value {
                self.ends.push(until.unix_millis);
            }
            if let Value::Stored(pointer) = value.timeless() {
                *self.references.entry(pointer.segment).or_default() += u64::from(pointer.len);
            }
            if self.first.is_none() {
                self.first = Some(key.clone());
            }
            self.last = Some(key);
        }
        Ok(())
    }

    fn differs_from(&self, meta: &TableMeta) -> Option<String> {
        if (self.entries, self.tombstones) != (meta.entries, meta.tombstones) {
            return Some(format!(
                "the table holds {} entries and {} tombstones, its properties say {} and {}",
                self.entries, self.tombstones, meta.entries, meta.tombstones
            ));
        }
        if self.references != meta.references {
            return Some("the pointers into the value log are not the ones in the properties".to_owned());
        }
        let ends = self.ends.iter();
        let ends = (self.ends.len() as u64, ends.clone().min().copied(), ends.max().copied());
        let expiry = meta.expiry.map(|of| (of.entries, Some(of.first), Some(of.last)));
        if ends != expiry.unwrap_or_default() {
            return Some("the entries that have an end are not the ones in the properties".to_owned());
        }
        let ends = (self.first.clone().unwrap_or_default(), self.last.clone().unwrap_or_default());
        let differs = ends != (meta.smallest.encode(), meta.largest.encode());
        differs.then(|| "the first or the last key is not the one in the properties".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, delete, put};
    use crate::{Db, Options, WriteOptions};

    /// Two tables and a log with records, made by a process that has ended.
    fn database() -> World {
        let world = World::new(1);
        let options = Options { block_bytes: 256, level0_tables_compact: 8, ..Options::default() };
        let db = world.open(&options).unwrap();
        for round in 0..2 {
            for n in 0..60 {
                let batch = if n % 7 == round {
                    delete(format!("k{n:03}"))
                } else {
                    put(format!("k{n:03}"), format!("value {n} of {round}"))
                };
                world.run(db.write(batch, WriteOptions { sync: true })).unwrap();
            }
            world.run(db.flush()).unwrap();
        }
        for n in 0..10 {
            world.run(db.write(put(format!("late{n}"), "v"), WriteOptions { sync: true })).unwrap();
        }
        world.run(db.close()).unwrap();
        world
    }

    fn files_of(world: &World) -> BTreeMap<String, Vec<u8>> {
        let names = world.disk.list(World::dir()).unwrap();
        let read = |name: String| {
            let data = disk::read_all(&*world.disk, &World::dir().join(&name)).unwrap();
            (name, data)
        };
        names.into_iter().map(read).collect()
    }

    #[test]
    fn a_sound_database_is_read_as_a_whole_and_left_alone() {
        let world = database();
        let before = (files_of(&world), world.platter.ops());
        for deep in [false, true] {
            let checked = check(&*world.disk, World::dir(), deep).unwrap();
            assert_eq!(checked.findings, []);
            assert_eq!((checked.tables, checked.entries > 0), (2, deep));
            assert!(checked.blocks > 10 && checked.records >= 10, "{checked:?}");
        }
        let info = manifest(&*world.disk, World::dir()).unwrap().unwrap();
        assert_eq!(info.tables.len(), 2);
        let db = Db::open_read_only(world.disk.clone(), World::dir(), Options::default()).unwrap();
        let stats = db.stats();
        assert_eq!((stats.levels[0].tables, stats.wal.records.of(KIND_BATCH)), (2, 10));
        assert_eq!(
            stats.entries,
            10 + info.tables.iter().map(|table| table.entries - table.tombstones).sum::<u64>()
        );
        drop(db);
        assert_eq!(files_of(&world), before.0);
    }

    #[test]
    fn every_flipped_byte_is_named_or_harmless() {
        let world = database();
        let sound = check(&*world.disk, World::dir(), true).unwrap();
        let in_force = manifest(&*world.disk, World::dir()).unwrap().unwrap().file;
        for (name, data) in files_of(&world) {
            let is_old = name.starts_with("MANIFEST") && !in_force.ends_with(&name);
            if name == "LOCK" || is_old {
                continue;
            }
            let path = World::dir().join(&name);
            let (mut found, mut torn) = (0, 0);
            for at in 0..data.len() as u64 {
                world.platter.flip_bit(&path, at, 3);
                let checked = check(&*world.disk, World::dir(), false).unwrap();
                world.platter.flip_bit(&path, at, 3);
                if checked.findings.is_empty() {
                    // The end of a log that no later record vouches for, or a claim, which is a witness only.
                    assert!(name.contains(".wal") || name.starts_with("MANIFEST"), "{name} at {at}");
                    assert!(checked.notes.len() > sound.notes.len(), "{name} at {at} is not even noted");
                    torn += 1;
                    continue;
                }
                found += 1;
                let first = &checked.findings[0];
                assert_eq!(first.file, path, "{name} at {at}: {first:?}");
                assert!(first.offset <= at, "{name} at {at}: {first:?}");
            }
            assert!(found > torn, "{name}: {found} found, {torn} torn");
        }
    }

    #[test]
    fn all_damage_is_listed_at_once() {
        let world = database();
        let info = manifest(&*world.disk, World::dir()).unwrap().unwrap();
        let tables: Vec<PathBuf> =
            info.tables.iter().map(|table| files::table(World::dir(), table.number)).collect();
        world.platter.flip_bit(&tables[0], 10, 0);
        world.platter.flip_bit(&tables[0], 600, 0);
        world.disk.remove_file(&tables[1]).unwrap();
        let wal = files::wal(World::dir(), info.log_start);
        world.platter.flip_bit(&wal, 40, 0);
        world.platter.flip_bit(&wal, 120, 0);
        let checked = check(&*world.disk, World::dir(), true).unwrap();
        let of = |path: &Path| checked.findings.iter().filter(|finding| finding.file == path).count();
        assert_eq!((of(&tables[0]), of(&tables[1]), of(&wal)), (2, 1, 2), "{:#?}", checked.findings);
        let summed = checked.findings.iter().filter(|finding| finding.checksums.is_some()).count();
        assert_eq!(summed, 4);
    }

    #[test]
    fn without_a_manifest_the_tables_speak_for_themselves() {
        let world = database();
        let info = manifest(&*world.disk, World::dir()).unwrap().unwrap();
        world.disk.remove_file(&info.file).unwrap();
        let checked = check(&*world.disk, World::dir(), true).unwrap();
        assert_eq!(checked.findings.len(), 1);
        assert_eq!((&checked.findings[0].file, checked.tables), (&info.file, 2));
        world.disk.remove_file(&files::current(World::dir())).unwrap();
        assert_eq!(manifest(&*world.disk, World::dir()).unwrap(), None);
        assert!(
            check(&*world.disk, World::dir(), false).unwrap().findings[0].what.contains("CURRENT is missing")
        );
    }
}
