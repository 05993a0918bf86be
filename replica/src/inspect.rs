//! Looking at a raft log without being its owner: nothing is locked, created or cut, so it works beside the process
//! that has it open, and on a directory that may only be read.

use crate::config::GroupId;
use crate::group_log::GroupLog;
use crate::raft_log::{EXTENSION, RaftLog};
use crate::record;
use crate::shared::LogStatus;
use nokv_engine::inspect::{Checked, check_log};
use nokv_env::Disk;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

type Result<T, E = nokv_engine::Error> = std::result::Result<T, E>;

/// What a raft log on disk says of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupInfo {
    /// This node's peer.
    pub peer: u64,
    /// The term.
    pub term: u64,
    /// Whom it voted for in that term; 0: nobody.
    pub vote: u64,
    /// Highest index known to be committed. Not synced on its own, so it may be behind.
    pub commit: u64,
    /// Entries up to here are not needed any more.
    pub base_index: u64,
    /// The last entry.
    pub last_index: u64,
    /// A snapshot was about to be installed.
    pub is_installing: bool,
    /// The oldest segment that the group needs.
    pub oldest_segment: Option<u64>,
}

/// A raft log on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogInfo {
    /// In numbers.
    pub status: LogStatus,
    /// Bytes of an unfinished write at its end, cut at the next start.
    pub torn_bytes: u64,
    /// Its groups.
    pub groups: BTreeMap<GroupId, GroupInfo>,
}

/// Reads the raft log in `dir`. A directory that is not there has none.
pub fn read(disk: &Arc<dyn Disk>, dir: &Path) -> Result<LogInfo> {
    if !exists(&**disk, dir)? {
        return Ok(LogInfo::default());
    }
    let (stats, torn_bytes, groups) = RaftLog::read(disk.clone(), dir)?;
    let status = LogStatus::of(stats, groups.values().map(GroupLog::oldest_segment));
    let info = |log: &GroupLog| GroupInfo {
        peer: log.peer,
        term: log.hard.term,
        vote: log.hard.vote,
        commit: log.hard.commit,
        base_index: log.base().index,
        last_index: log.last_index(),
        is_installing: log.installing.is_some(),
        oldest_segment: log.oldest_segment(),
    };
    let groups = groups.iter().map(|(id, log)| (*id, info(log))).collect();
    Ok(LogInfo { status, torn_bytes, groups })
}

/// Checks every record of the raft log in `dir`, and, when each of them is sound, that they add up.
pub fn check(disk: &Arc<dyn Disk>, dir: &Path, checked: &mut Checked) -> Result<()> {
    if !exists(&**disk, dir)? {
        return Ok(());
    }
    let before = checked.findings.len();
    check_log(&**disk, dir, EXTENSION, None, checked, &mut |_, kind, payload| {
        record::decode(kind, payload).err().map(str::to_owned)
    })?;
    if checked.findings.len() > before {
        return Ok(());
    }
    match RaftLog::read(disk.clone(), dir) {
        Err(nokv_engine::Error::Corrupt { file, offset, what }) => checked.found(&file, offset, what),
        other => drop(other?),
    }
    Ok(())
}

fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool> {
    disk.exists(dir).map_err(|source| nokv_engine::Error::Io {
        file: dir.to_owned(),
        doing: "look for",
        source: Arc::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Hard, Place};
    use nokv_env::mem_disk::MemDisk;
    use raft::eraftpb::Entry;

    const G1: GroupId = GroupId(1);

    fn entries(range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        range.map(|index| Entry { index, term: 1, data: "data".into(), ..Entry::default() }).collect()
    }

    #[test]
    fn a_log_is_read_and_checked_without_a_change() {
        let platter = MemDisk::new(1);
        let (disk, dir) = (platter.mount(), Path::new("/raft"));
        assert_eq!(read(&disk, dir).unwrap(), LogInfo::default());
        let (mut log, _) = RaftLog::open(disk.clone(), dir, 1 << 20).unwrap();
        let mut one = GroupLog::new(11, Place::default());
        log.state(G1, &one);
        log.append(G1, &mut one, Hard { term: 1, vote: 11, commit: 2 }, entries(1..=3));
        log.roll([(G1, &one)].into_iter()).unwrap();
        log.append(G1, &mut one, Hard { term: 1, vote: 11, commit: 4 }, entries(4..=4));
        log.truncate(G1, &mut one, 1);
        log.sync().unwrap();
        log.settle().unwrap();
        let live = LogStatus::of(log.stats(), std::iter::once(one.oldest_segment()));
        drop(log);
        let found = read(&disk, dir).unwrap();
        assert_eq!(found.status, live);
        assert_eq!((live.appends(), live.states(), live.snapshots(), live.others()), (2, 3, 0, 0));
        assert_eq!((live.groups, live.oldest_needed, live.lag_max, live.lagging), (1, 1, 1, 0));
        let group = found.groups[&G1];
        assert_eq!((group.peer, group.base_index, group.last_index, group.commit), (11, 1, 4, 4));
        let mut checked = Checked::default();
        check(&disk, dir, &mut checked).unwrap();
        assert_eq!((checked.findings.len(), checked.records), (0, 5));
        platter.flip_bit(&dir.join("00001.raft"), 100, 0);
        check(&disk, dir, &mut checked).unwrap();
        assert_eq!(checked.findings.len(), 1, "{checked:?}");
        assert!(read(&disk, dir).unwrap_err().is_corrupt());
        disk.remove_file(&dir.join("00001.raft")).unwrap();
        let mut checked = Checked::default();
        check(&disk, dir, &mut checked).unwrap();
        assert!(checked.findings[0].what.contains("is missing in the whole log"), "{checked:?}");
    }
}
