//! Names of the files in a database directory.
//!
//! ```text
//! LOCK  CURRENT  MANIFEST-000001  00001.wal  00001.sst  vlog/bucket-000/00001.vlog
//! ```
//! Manifests, tables and segments of the value log share one sequence of numbers; segments of the write-ahead log have
//! their own.

use crate::log::parse_number;
use crate::vlog::BUCKETS;
use nokv_env::Disk;
use std::io;
use std::path::{Path, PathBuf};

/// A file beside the database that says that a store of a cluster owns the directory; see [`crate::Options::is_owner`].
pub const OWNER_FILE: &str = "MODE.json";

/// Extension of log segments.
pub(crate) const WAL_EXTENSION: &str = "wal";
const TABLE_EXTENSION: &str = "sst";
pub(crate) const SEGMENT_EXTENSION: &str = "vlog";
const MANIFEST_PREFIX: &str = "MANIFEST-";

/// What a file in the directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Current,
    Manifest(u64),
    Wal(u64),
    Table(u64),
}

impl Kind {
    /// `None`: not ours.
    pub(crate) fn of(name: &str) -> Option<Self> {
        if name == "CURRENT" {
            return Some(Kind::Current);
        }
        if let Some(number) = parse_manifest_name(name) {
            return Some(Kind::Manifest(number));
        }
        let wal = parse_number(name, WAL_EXTENSION).map(Kind::Wal);
        wal.or_else(|| parse_number(name, TABLE_EXTENSION).map(Kind::Table))
    }
}

pub(crate) fn lock(dir: &Path) -> PathBuf {
    dir.join("LOCK")
}

pub(crate) fn current(dir: &Path) -> PathBuf {
    dir.join("CURRENT")
}

pub(crate) fn manifest_name(number: u64) -> String {
    format!("{MANIFEST_PREFIX}{number:06}")
}

pub(crate) fn manifest(dir: &Path, number: u64) -> PathBuf {
    dir.join(manifest_name(number))
}

pub(crate) fn table(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:05}.{TABLE_EXTENSION}"))
}

pub(crate) fn wal(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:05}.{WAL_EXTENSION}"))
}

/// Home of the value log. Made with the first segment.
pub(crate) fn value_log(dir: &Path) -> PathBuf {
    dir.join("vlog")
}

/// Home of a bucket of the value log.
pub(crate) fn bucket(dir: &Path, bucket: u8) -> PathBuf {
    value_log(dir).join(format!("bucket-{bucket:03}"))
}

pub(crate) fn segment(dir: &Path, bucket: u8, number: u64) -> PathBuf {
    self::bucket(dir, bucket).join(format!("{number:05}.{SEGMENT_EXTENSION}"))
}

/// The segments of the value log that lie in the directory, by bucket and number, whether they are live or not.
pub(crate) fn segments(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<(u8, u64)>> {
    let mut found = Vec::new();
    for bucket in 0..BUCKETS {
        let names = match disk.list(&self::bucket(dir, bucket)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            names => names?,
        };
        let numbers = names.iter().filter_map(|name| parse_number(name, SEGMENT_EXTENSION));
        found.extend(numbers.map(|number| (bucket, number)));
    }
    Ok(found)
}

pub(crate) fn parse_manifest_name(name: &str) -> Option<u64> {
    let number = name.strip_prefix(MANIFEST_PREFIX)?.parse().ok()?;
    (manifest_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_exactly() {
        assert_eq!(Kind::of("CURRENT"), Some(Kind::Current));
        assert_eq!(Kind::of("MANIFEST-000012"), Some(Kind::Manifest(12)));
        assert_eq!(Kind::of("00003.sst"), Some(Kind::Table(3)));
        assert_eq!(Kind::of("123456.wal"), Some(Kind::Wal(123_456)));
        for other in
            ["3.sst", "000003.sst", "00000.sst", "MANIFEST-12", "LOCK", "raft", "00003.sst.tmp", "+0003.sst"]
        {
            assert_eq!(Kind::of(other), None, "{other}");
        }
    }
}
