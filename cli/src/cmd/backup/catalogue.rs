//! `BACKUP.json`: what a backup holds, under a checksum. `PROGRESS.json` is the same of one that is being made.

use super::data::{Bad, Identity, Reader, Sums};
use crate::errors::{Code, Failure, Result};
use crate::output::{base64, from_base64, quote};
use bytes::Bytes;
use nokv_env::disk::{read_all, write_atomically};
use nokv_env::{Disk, OpenMode};
use nokv_proto::key::KeyRange;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// The catalogue of a whole backup.
pub const DONE: &str = "BACKUP.json";
/// The catalogue of one that is being made.
pub const PROGRESS: &str = "PROGRESS.json";
/// Held while a backup is made.
pub const LOCK: &str = "LOCK";
/// Of the catalogue and of what it describes.
const FORMAT: u64 = 1;

/// Keys and values as of one timestamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Version of this format.
    pub format: u64,
    /// Random, 32 hexadecimal digits; the header of each data file repeats it.
    pub id: String,
    /// Version of the product that made it.
    pub nokv: String,
    /// What it shows.
    pub timestamp: u64,
    /// The same for people.
    pub taken_at: String,
    start_base64: String,
    end_base64: String,
    /// The id of the cluster that it is read from, while it is being made; a backup that is whole is of no cluster. 0: not known.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub cluster: u64,
    /// In key order, without gaps.
    pub files: Vec<DataFile>,
}

/// One data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Its name in the directory.
    pub name: String,
    start_base64: String,
    end_base64: String,
    /// How many.
    pub pairs: u64,
    /// Of keys and values.
    pub content_bytes: u64,
    /// Of the file.
    pub bytes: u64,
    /// Of the file, 16 hexadecimal digits.
    xxh3: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    backup: Backup,
    /// XXH3 of `backup` as compact JSON, members in the order of the struct.
    checksum: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_unknown(cluster: &u64) -> bool {
    *cluster == 0
}

fn bytes_of(text: &str) -> Bytes {
    // Looked at when the catalogue is read.
    from_base64(text).unwrap_or_default().into()
}

fn range_of(start: &str, end: &str) -> KeyRange {
    KeyRange::new(bytes_of(start), bytes_of(end))
}

impl DataFile {
    /// The file number `number`, which holds all pairs from `start` to `end`.
    pub fn new(number: u32, sums: Sums, start: &[u8], end: &[u8]) -> Self {
        Self {
            name: file_name(number),
            start_base64: base64(start),
            end_base64: base64(end),
            pairs: sums.pairs,
            content_bytes: sums.content_bytes,
            bytes: sums.bytes,
            xxh3: format!("{:016x}", sums.hash),
        }
    }

    /// The keys of the backup that are in this file.
    pub fn range(&self) -> KeyRange {
        range_of(&self.start_base64, &self.end_base64)
    }

    /// What adds up.
    pub fn sums(&self) -> Sums {
        let hash = u64::from_str_radix(&self.xxh3, 16).unwrap_or_default();
        Sums {
            pairs: self.pairs,
            content_bytes: self.content_bytes,
            bytes: self.bytes,
            hash,
            ..Sums::default()
        }
    }
}

/// The name of a data file, by its place from 1.
pub fn file_name(number: u32) -> String {
    format!("data-{number:06}.nkb")
}

impl Backup {
    /// Nothing yet.
    pub fn new(id: u128, timestamp: u64, taken_at: String, range: &KeyRange) -> Self {
        Self {
            format: FORMAT,
            id: format!("{id:032x}"),
            nokv: env!("CARGO_PKG_VERSION").to_owned(),
            timestamp,
            taken_at,
            start_base64: base64(&range.start),
            end_base64: base64(&range.end),
            cluster: 0,
            files: Vec::new(),
        }
    }

    /// The keys it speaks of.
    pub fn range(&self) -> KeyRange {
        range_of(&self.start_base64, &self.end_base64)
    }

    /// Where it goes on; `None` when the last file reaches the end.
    pub fn next_key(&self) -> Option<Bytes> {
        match self.files.last() {
            None => Some(self.range().start),
            Some(last) if last.range().end == self.range().end => None,
            Some(last) => Some(last.range().end),
        }
    }

    /// Pairs.
    pub fn pairs(&self) -> u64 {
        self.files.iter().map(|file| file.pairs).sum()
    }

    /// Bytes of keys and values.
    pub fn content_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.content_bytes).sum()
    }

    /// Bytes of data files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Who the file at `index` is.
    pub fn identity(&self, index: usize) -> Identity {
        Identity { backup: u128::from_str_radix(&self.id, 16).unwrap_or_default(), number: index as u32 + 1 }
    }

    /// Writes it, durably.
    pub fn save(&self, disk: &dyn Disk, path: &Path) -> Result {
        let sealed = Sealed { backup: self.clone(), checksum: checksum(self) };
        let text = serde_json::to_string_pretty(&sealed).unwrap_or_default() + "\n";
        write_atomically(disk, path, text.as_bytes())
            .map_err(|error| Failure::io(format!("write {}", path.display()), &error))
    }

    /// Reads one; `None` when the file is not there.
    pub fn load(disk: &dyn Disk, path: &Path) -> Result<Option<Self>> {
        let bytes = match read_all(disk, path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(format!("read {}", path.display()), &error)),
        };
        let text = String::from_utf8_lossy(&bytes);
        let document: Value = serde_json::from_str(&text).map_err(|error| {
            damage(path, offset_of(&text, error.line(), error.column()), &error.to_string())
        })?;
        let format = document["backup"]["format"].as_u64();
        if format.is_some_and(|format| format != FORMAT) {
            return Err(Failure::new(
                Code::BackupMismatch,
                format!("{} has format {}", path.display(), format.unwrap_or_default()),
            )
            .why(format!("this nokv knows format {FORMAT}"))
            .next("use a nokv of the version that made it"));
        }
        let sealed: Sealed =
            serde_json::from_value(document).map_err(|error| damage(path, 0, &error.to_string()))?;
        if checksum(&sealed.backup) != sealed.checksum {
            return Err(damage(path, 0, "its checksum is wrong"));
        }
        sealed.backup.check_shape(path)?;
        Ok(Some(sealed.backup))
    }

    /// Files must touch, from the beginning of the range on.
    fn check_shape(&self, path: &Path) -> Result {
        let mut texts = vec![&self.start_base64, &self.end_base64];
        texts.extend(self.files.iter().flat_map(|file| [&file.start_base64, &file.end_base64]));
        if texts.into_iter().any(|text| from_base64(text).is_err()) {
            return Err(damage(path, 0, "a key is no base64"));
        }
        let mut next = Some(self.range().start);
        for (index, file) in self.files.iter().enumerate() {
            let range = file.range();
            if next.as_ref() != Some(&range.start) || file.name != file_name(index as u32 + 1) {
                return Err(damage(path, 0, &format!("nothing is said of the keys before {}", file.name)));
            }
            next = (range.end != self.range().end).then_some(range.end);
        }
        Ok(())
    }

    /// A reader of the file at `index`.
    pub fn open(&self, disk: &dyn Disk, dir: &Path, index: usize) -> Result<Reader> {
        let facts = &self.files[index];
        let path = dir.join(&facts.name);
        let file = disk.open(&path, OpenMode::Read).map_err(|error| match error.kind() {
            ErrorKind::NotFound => damage(&path, 0, "the file is missing"),
            _ => Failure::io(format!("open {}", path.display()), &error),
        })?;
        Reader::new(file, self.identity(index), facts).map_err(|bad| failure(&path, bad))
    }
}

/// The backup in `dir`.
pub fn find(disk: &dyn Disk, dir: &Path) -> Result<Backup> {
    let path = dir.join(DONE);
    match Backup::load(disk, &path)? {
        Some(backup) if backup.next_key().is_some() => Err(damage(&path, 0, "files are missing at its end")),
        Some(backup) => Ok(backup),
        None if disk.exists(&dir.join(PROGRESS)).unwrap_or(false) => {
            Err(Failure::new(Code::PartlyDone, format!("the backup in {} is not finished", dir.display()))
                .next(format!("nokv backup create --to {}, as it was begun, goes on", dir.display())))
        }
        None => Err(Failure::new(Code::NotABackup, format!("{} holds no {DONE}", dir.display()))
            .next("give the directory that `nokv backup create --to` was given")
            .detail("path", dir.display().to_string())),
    }
}

fn checksum(backup: &Backup) -> String {
    format!("{:016x}", xxh3_64(serde_json::to_string(backup).unwrap_or_default().as_bytes()))
}

fn offset_of(text: &str, line: usize, column: usize) -> u64 {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)) as u64
}

/// What is wrong with a file, in the words of the error contract.
pub fn failure(path: &Path, bad: Bad) -> Failure {
    match bad {
        Bad::Damage(offset, what) => damage(path, offset, &what),
        Bad::Io(error) => Failure::io(format!("read {}", path.display()), &error),
    }
}

/// Bytes are not what they were.
pub fn damage(path: &Path, offset: u64, what: &str) -> Failure {
    Failure::new(Code::Corrupt, format!("{}: damaged at byte {offset}: {what}", path.display()))
        .next("use another copy of the backup; this one is left as it is")
        .detail("path", path.display().to_string())
        .detail("offset", offset)
}

/// The pairs of a backup from the first to the last.
pub struct Pairs<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    backup: &'a Backup,
    index: usize,
    reader: Option<Reader>,
}

impl<'a> Pairs<'a> {
    /// All of them.
    pub fn new(disk: &'a dyn Disk, dir: &'a Path, backup: &'a Backup) -> Self {
        Self { disk, dir, backup, index: 0, reader: None }
    }

    /// The next ones, never none; `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>> {
        loop {
            let Some(facts) = self.backup.files.get(self.index) else { return Ok(None) };
            let path: PathBuf = self.dir.join(&facts.name);
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => self.reader.insert(self.backup.open(self.disk, self.dir, self.index)?),
            };
            match reader.next_block().map_err(|bad| failure(&path, bad))? {
                Some(pairs) if pairs.is_empty() => {}
                Some(pairs) => return Ok(Some(pairs)),
                None => {
                    self.reader = None;
                    self.index += 1;
                }
            }
        }
    }
}

/// `from "a" to "m"`, or all keys.
pub fn show_range(range: &KeyRange) -> String {
    match (range.start.is_empty(), range.end.is_empty()) {
        (true, true) => "all keys".to_owned(),
        (false, true) => format!("keys from {} on", quote(&range.start)),
        (true, false) => format!("keys before {}", quote(&range.end)),
        (false, false) => format!("keys from {} to {}", quote(&range.start), quote(&range.end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::MemDisk;

    fn backup(ends: &[&'static [u8]]) -> Backup {
        let mut backup = Backup::new(7, 11, "then".into(), &KeyRange::new("a", ""));
        let mut start: &[u8] = b"a";
        for (number, end) in (1..).zip(ends) {
            backup.files.push(DataFile::new(number, Sums { pairs: 2, ..Sums::default() }, start, end));
            start = end;
        }
        backup
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let disk = MemDisk::new(1).mount();
        let path = Path::new("/BACKUP.json");
        assert_eq!(Backup::load(&*disk, path).unwrap(), None);
        let whole = backup(&[b"m", b""]);
        whole.save(&*disk, path).unwrap();
        assert_eq!(Backup::load(&*disk, path).unwrap(), Some(whole.clone()));
        assert_eq!((whole.next_key(), whole.pairs()), (None, 4));
        assert_eq!(backup(&[b"m"]).next_key(), Some(Bytes::from_static(b"m")));
        assert_eq!(backup(&[]).next_key(), Some(Bytes::from_static(b"a")));
    }

    #[test]
    fn changes_and_gaps_are_found() {
        let disk = MemDisk::new(1).mount();
        let path = Path::new("/BACKUP.json");
        let refused = |text: &str| {
            write_atomically(&*disk, path, text.as_bytes()).unwrap();
            Backup::load(&*disk, path).unwrap_err().code()
        };
        backup(&[b"m", b""]).save(&*disk, path).unwrap();
        let text = String::from_utf8(read_all(&*disk, path).unwrap()).unwrap();
        assert_eq!(refused(&text.replace("\"timestamp\": 11", "\"timestamp\": 12")), Code::Corrupt);
        assert_eq!(refused(&text.replace("\"format\": 1", "\"format\": 2")), Code::BackupMismatch);
        assert_eq!(refused(&text[..text.len() / 2]), Code::Corrupt);
        let mut gap = backup(&[b"m", b"p", b""]);
        gap.files.remove(1);
        gap.save(&*disk, path).unwrap();
        assert_eq!(Backup::load(&*disk, path).unwrap_err().code(), Code::Corrupt);
        backup(&[b"m"]).save(&*disk, path).unwrap();
        assert_eq!(find(&*disk, Path::new("/")).unwrap_err().code(), Code::Corrupt);
    }
}
