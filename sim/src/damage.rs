//! Damage of durable data, and the budget that keeps it recoverable.
//!
//! Rot strikes bytes that were synced. The product must notice and refuse, naming the file; it must never serve what it
//! did not write. A node that has refused stays down: somebody has to repair it.
//!
//! *Budget.* At most one store and one root are damaged in a run, so of each replicated thing two whole copies remain
//! and everything that was acknowledged can be had from them. Without the budget
//! ([`WorldConfig::unlimited_damage`](crate::config::WorldConfig)) data may become unavailable, and only wrong answers fail
//! the run.
//!
//! *What no log can tell.* The newest record of a log that was synced is covered by no later record; if it rots, it
//! looks like a torn write that was never acknowledged. Nothing in one file can tell the two apart, and the product
//! does not claim to; so of the newest segment of a log only that is struck for which a durable frame vouches.

use nokv_engine::inspect;
use nokv_env::MemDisk;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How much rots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rot {
    /// One bit.
    Bit,
    /// 512 bytes.
    Sector,
    /// 4 KiB.
    Page,
}

/// Damages a durable file of `disk`: one of those whose path contains `file`, chosen by `which`, at `spot` permille of what
/// may be struck. Returns which file, and where.
pub fn strike(disk: &MemDisk, file: &str, which: u64, spot: u64, rot: Rot) -> Option<(PathBuf, u64)> {
    let files = disk.durable_files();
    let fits = |path: &Path| path.to_string_lossy().contains(file) && !path.ends_with("LOCK");
    let candidates: Vec<&(PathBuf, u64)> =
        files.iter().filter(|(path, len)| *len > 0 && fits(path)).collect();
    let (path, len) = candidates.get(which.checked_rem(candidates.len() as u64)? as usize)?;
    let newest = |other: &PathBuf| {
        other.parent() == path.parent() && other.extension() == path.extension() && other > path
    };
    let grows = path.extension().is_some_and(|extension| extension == "wal" || extension == "raft")
        || path.to_string_lossy().contains("MANIFEST");
    let is_newest = grows && !files.iter().any(|(other, _)| newest(other));
    let end = if is_newest { inspect::vouched_for(&disk.read_durable(path)?) } else { *len };
    let offset = (end * spot / 1_000).min(end.checked_sub(1)?);
    let struck = match rot {
        Rot::Bit => u64::from(disk.flip_bit(path, offset, (spot % 8) as u8)),
        Rot::Sector => disk.damage(path, aligned(offset, 512, end)),
        Rot::Page => disk.damage(path, aligned(offset, 4096, end)),
    };
    (struck > 0).then(|| (path.clone(), offset))
}

fn aligned(offset: u64, unit: u64, end: u64) -> std::ops::Range<u64> {
    let start = offset / unit * unit;
    start..(start + unit).min(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_engine::log::{Log, LogOptions};
    use nokv_env::disk::{OpenMode, read_all};

    fn file(disk: &MemDisk, mount: &dyn nokv_env::Disk, name: &str, bytes: usize) {
        let file = mount.open(Path::new(name), OpenMode::Create).expect("created");
        file.write_at(&vec![7; bytes], 0).expect("written");
        file.sync_data().expect("synced");
        mount.sync_dir(Path::new("/")).expect("synced");
        assert!(disk.durable_files().iter().any(|(path, _)| path == Path::new(name)));
    }

    /// A log of a few records; what is durable of it.
    fn log(disk: &std::sync::Arc<MemDisk>, records: usize) -> Vec<u8> {
        let options = LogOptions { extension: "wal".to_owned(), segment_bytes: 1 << 20 };
        let mut log =
            Log::open(disk.mount(), Path::new("/"), options, &mut |_, _, _| Ok(())).expect("opened");
        for _ in 0..records {
            log.append(1, &[7; 400]);
            log.sync().expect("synced");
        }
        disk.read_durable(Path::new("/00001.wal")).expect("durable")
    }

    #[test]
    fn of_the_newest_log_only_what_is_vouched_for_is_struck() {
        let disk = MemDisk::new(1);
        // For one record nothing vouches but a later one; for the header the record does.
        log(&disk, 1);
        let (_, offset) = strike(&disk, ".wal", 0, 999, Rot::Bit).expect("struck");
        assert!(offset < 24, "{offset}");
        let disk = MemDisk::new(1);
        let content = log(&disk, 3);
        // Behind the last record is space that was allocated ahead.
        let written = content.iter().rposition(|byte| *byte != 0).expect("records") + 1;
        let last = written as u64 - 421;
        let (path, offset) = strike(&disk, ".wal", 0, 999, Rot::Bit).expect("struck");
        assert!(path.ends_with("00001.wal") && offset < last && offset > last - 10, "{offset} of {last}");
        let mount = disk.mount();
        let options = LogOptions { extension: "wal".to_owned(), segment_bytes: 1 << 20 };
        assert!(Log::open(mount, Path::new("/"), options, &mut |_, _, _| Ok(())).is_err(), "noticed");
    }

    #[test]
    fn rot_strikes_durable_bytes() {
        let disk = MemDisk::new(1);
        let mount = disk.mount();
        for name in ["/1.wal", "/2.wal", "/3.sst"] {
            file(&disk, &*mount, name, 1_000);
        }
        // No log of ours: nothing vouches for anything in it.
        assert_eq!(strike(&disk, ".wal", 1, 999, Rot::Bit), None);
        let (path, offset) = strike(&disk, ".wal", 0, 999, Rot::Bit).expect("struck");
        assert_eq!((path.to_str(), offset), (Some("/1.wal"), 999));
        strike(&disk, ".sst", 5, 100, Rot::Sector).expect("struck");
        let bytes = read_all(&*mount, Path::new("/3.sst")).expect("readable");
        assert!(bytes[..512].iter().all(|byte| *byte != 7) && bytes[512..].iter().all(|byte| *byte == 7));
        assert_eq!(strike(&disk, ".raft", 0, 0, Rot::Page), None);
    }
}
