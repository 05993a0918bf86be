//! How far an import came, on disk beside the file.
//!
//! Everything before `offset` is committed; what lies after may be, too. Since writing a record twice changes
//! nothing, that is all there is to know. Hashes of the beginning and of the end of the finished part tell
//! whether the state still belongs to the file: what follows the finished part may be corrected or extended.

use crate::args::client::ImportFormat;
use crate::errors::{Code, Failure, Result};
use clap::ValueEnum;
use nokv_env::Disk;
use nokv_env::disk::{read_all, write_atomically};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Bytes hashed at the beginning and at the end of the finished part.
const HASHED: u64 = 64 << 10;
const VERSION: u32 = 1;

/// The content of the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    format: String,
    /// Length of the file when this was written; for people.
    file_bytes: u64,
    /// Everything before this byte is committed.
    pub offset: u64,
    /// The same in lines.
    pub lines: u64,
    /// The same in records.
    pub records: u64,
    head_hash: String,
    tail_hash: String,
}

/// The state file of one import.
pub struct StateFile<'a> {
    disk: &'a dyn Disk,
    input: PathBuf,
    path: PathBuf,
    format: String,
}

impl<'a> StateFile<'a> {
    /// The state of importing `input`, kept in `path`.
    pub fn new(disk: &'a dyn Disk, input: &Path, path: &Path, format: ImportFormat) -> Result<Self> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| Failure::io(format!("find {}", path.display()), &error))
        };
        let format = format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        Ok(Self { disk, input: absolute(input)?, path: absolute(path)?, format })
    }

    /// Where the state lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier run left, checked against the file.
    pub fn load(&self) -> Result<Option<State>> {
        let bytes = match read_all(self.disk, &self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io("read the state file", &error)),
        };
        let state: State = serde_json::from_slice(&bytes)
            .map_err(|error| self.mismatch(format!("it is no state file of an import ({error})")))?;
        if state.version != VERSION {
            return Err(self.mismatch(format!("it has version {}, this nokv knows {VERSION}", state.version)));
        }
        if state.format != self.format {
            return Err(self.mismatch(format!("it belongs to an import with --format {}", state.format)));
        }
        let length = self.length()?;
        if length < state.offset {
            return Err(
                self.mismatch(format!("{} bytes were imported, the file has only {length}", state.offset))
            );
        }
        if self.hashes(state.offset)? != (state.head_hash.clone(), state.tail_hash.clone()) {
            return Err(self.mismatch("the imported part of the file has changed since".into()));
        }
        Ok(Some(state))
    }

    /// Records progress, durably and atomically.
    pub fn save(&self, offset: u64, lines: u64, records: u64) -> Result {
        let (head_hash, tail_hash) = self.hashes(offset)?;
        let file_bytes = self.length()?;
        let format = self.format.clone();
        let state =
            State { version: VERSION, format, file_bytes, offset, lines, records, head_hash, tail_hash };
        let text = serde_json::to_string_pretty(&state).unwrap_or_default() + "\n";
        write_atomically(self.disk, &self.path, text.as_bytes())
            .map_err(|error| Failure::io(format!("write the state file {}", self.path.display()), &error))
    }

    /// Forgets a finished import.
    pub fn remove(&self) -> Result {
        match self.disk.remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Failure::io("remove the state file", &error))
            }
            _ => Ok(()),
        }
    }

    fn length(&self) -> Result<u64> {
        let file = self.disk.open(&self.input, nokv_env::OpenMode::Read);
        file.and_then(|file| file.len()).map_err(|error| Failure::io("look at the input file", &error))
    }

    /// Hashes of the first and of the last bytes before `offset`.
    fn hashes(&self, offset: u64) -> Result<(String, String)> {
        let length = offset.min(HASHED) as usize;
        let file = self.disk.open(&self.input, nokv_env::OpenMode::Read);
        let hash = |at: u64| {
            let bytes = file.as_ref().map_err(|e| std::io::Error::new(e.kind(), e.to_string()))?;
            let bytes = bytes.read_exact_at(length, at)?;
            Ok(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes)))
        };
        let both = hash(0).and_then(|head| Ok((head, hash(offset - length as u64)?)));
        both.map_err(|error: std::io::Error| Failure::io("read the input file", &error))
    }

    fn mismatch(&self, why: String) -> Failure {
        Failure::new(Code::ImportStateMismatch, format!("cannot go on with {}", self.path.display()))
            .why(why)
            .next(format!("to import from the beginning: rm {}", self.path.display()))
            .detail("path", self.path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::{MemDisk, OpenMode};
    use std::sync::Arc;

    const INPUT: &str = "/d/in";

    fn disk(content: &[u8]) -> Arc<dyn Disk> {
        let disk = MemDisk::new(1).mount();
        disk.create_dir_all(Path::new("/d")).unwrap();
        write(&*disk, content);
        disk
    }

    fn write(disk: &dyn Disk, content: &[u8]) {
        let file = disk.open(Path::new(INPUT), OpenMode::Create).unwrap();
        file.truncate(0).unwrap();
        file.write_at(content, 0).unwrap();
    }

    fn state(disk: &dyn Disk) -> StateFile<'_> {
        StateFile::new(disk, Path::new(INPUT), Path::new("/d/in.nokv-import"), ImportFormat::Tsv).unwrap()
    }

    #[test]
    fn progress_is_found_again_and_forgotten_at_the_end() {
        let disk = disk(b"a\t1\nb\t2\n");
        let file = state(&*disk);
        assert_eq!(file.load().unwrap(), None);
        file.save(4, 1, 1).unwrap();
        let found = file.load().unwrap().unwrap();
        assert_eq!((found.offset, found.lines, found.records), (4, 1, 1));
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), None);
    }

    #[test]
    fn only_the_finished_part_must_stay_as_it_was() {
        let disk = disk(b"a\t1\nbroken\n");
        let file = state(&*disk);
        file.save(4, 1, 1).unwrap();
        write(&*disk, b"a\t1\nb\t2\nc\t3\n");
        assert!(file.load().is_ok());
        for other in [&b"a\t2\nb\t2\n"[..], b"a\t1", b""] {
            write(&*disk, other);
            assert_eq!(file.load().unwrap_err().code(), Code::ImportStateMismatch);
        }
    }
}
