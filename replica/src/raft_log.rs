//! The raft log on disk: entries and hard states of all groups of a node in one log, so that one sync serves them all.
//!
//! ```text
//! 00004.raft   state g1 · state g2 · append g1 · append g2 · append g1 · truncate g2 · ...
//! 00005.raft   state g1 · state g2 · append g2 · ...
//! ```
//! Every segment begins with the state of every group (hard state, base), so the records that a group needs from older
//! segments are its entries only. [`crate::group_log::GroupLog`] knows in which segments those stand; segments older
//! than the oldest needed one are removed. Before that, the truncations that made them superfluous are synced.
//!
//! Replay reads all segments in order. Where old segments are gone, entries of a group may begin behind its base as that
//! segment knew it; a later truncation covers the hole, or the log is damaged.
//!
//! Nothing is durable before [`RaftLog::sync`].

use crate::config::GroupId;
use crate::group_log::GroupLog;
use crate::record::{self, Hard, Place, Record};
use nokv_engine::log::{Log, LogOptions, LogStats, Position};
use nokv_env::Disk;
use raft::eraftpb::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Result<T, E = nokv_engine::Error> = std::result::Result<T, E>;

pub(crate) const EXTENSION: &str = "raft";
/// Entries of one record, in bytes, unless one alone is larger.
const RECORD_BYTES: usize = 64 << 20;

/// The log of all groups.
pub(crate) struct RaftLog {
    log: Log,
    /// Something was appended since the last sync.
    unsynced: bool,
}

impl RaftLog {
    /// Opens (or creates) the log in `dir` and gives what it knows of each group.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        segment_bytes: u64,
    ) -> Result<(RaftLog, BTreeMap<GroupId, GroupLog>)> {
        disk.create_dir_all(dir).map_err(|source| nokv_engine::Error::Io {
            file: dir.to_owned(),
            doing: "create",
            source: Arc::new(source),
        })?;
        let mut replay = Replay::new(dir);
        let options = LogOptions { extension: EXTENSION.to_owned(), segment_bytes };
        let log = Log::open(disk, dir, options, &mut |position, kind, payload| {
            replay.take(position, kind, payload)
        })?;
        let stated = match replay.last {
            Some(last) if last.segment == log.active_segment() => std::mem::take(&mut replay.stated),
            _ => BTreeSet::new(),
        };
        let groups = replay.finish()?;
        let mut raft_log = RaftLog { log, unsynced: false };
        // A crash may have torn the states off the head of the newest segment.
        for (group, log) in groups.iter().filter(|(group, _)| !stated.contains(group)) {
            raft_log.state(*group, log);
        }
        Ok((raft_log, groups))
    }

    /// Bytes of an unfinished write that were cut at open.
    pub(crate) fn torn_bytes(&self) -> u64 {
        self.log.torn_bytes()
    }

    /// Records a group as it is: at its birth, and when recovery changed it.
    pub(crate) fn state(&mut self, group: GroupId, log: &GroupLog) {
        let payload = record::state(group.0, log.peer, log.hard, log.base(), log.installing);
        self.put(record::STATE, &payload);
    }

    /// Appends entries, with the hard state as it is then. True when entries were replaced.
    pub(crate) fn append(
        &mut self,
        group: GroupId,
        log: &mut GroupLog,
        hard: Hard,
        entries: Vec<Entry>,
    ) -> bool {
        let mut replaced = false;
        let mut rest = entries;
        loop {
            let later = rest.split_off(leading(&rest));
            let last = rest.last().map_or(log.last_index(), |entry| entry.index);
            // Never ahead of the entries, so that every prefix of the log is a state to start from.
            log.hard = Hard { commit: hard.commit.min(last), ..hard };
            let position = self.put(record::APPEND, &record::append(group.0, log.hard, &rest));
            replaced |= log.append(position.segment, rest);
            rest = later;
            if rest.is_empty() {
                return replaced;
            }
        }
    }

    /// Forgets a group's entries up to `index`.
    pub(crate) fn truncate(&mut self, group: GroupId, log: &mut GroupLog, index: u64) {
        let Some(term) = log.term(index) else { return };
        let base = Place { index, term };
        log.truncate(base);
        self.put(record::TRUNCATE, &record::place(group.0, base));
    }

    /// A snapshot is about to be installed in the machine.
    pub(crate) fn installing(&mut self, group: GroupId, log: &mut GroupLog, place: Place) {
        log.installing = Some(place);
        self.put(record::INSTALLING, &record::place(group.0, place));
    }

    /// The snapshot is durable in the machine: the group's log starts again behind it.
    pub(crate) fn installed(&mut self, group: GroupId, log: &mut GroupLog, place: Place) {
        log.reset(place);
        self.put(record::INSTALLED, &record::place(group.0, place));
    }

    /// The group left this node.
    pub(crate) fn removed(&mut self, group: GroupId) {
        self.put(record::REMOVED, &record::removed(group.0));
    }

    /// Writes a group's entries once more, at the end of the log, so that they hold no old segment back.
    pub(crate) fn relocate(&mut self, group: GroupId, log: &mut GroupLog) {
        let entries = log.to_vec();
        if !entries.is_empty() {
            let position = self.put(record::APPEND, &record::append(group.0, log.hard, &entries));
            log.relocated(position.segment);
        }
    }

    /// Makes everything so far durable. True when that took a sync.
    pub(crate) fn sync(&mut self) -> Result<bool> {
        if !self.unsynced {
            return Ok(false);
        }
        self.log.sync()?;
        self.unsynced = false;
        Ok(true)
    }

    /// Notes on disk what is durable; for times when nothing else is about to be written.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.log.settle()
    }

    /// Makes everything so far durable, before an orderly end.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.log.close()?;
        self.unsynced = false;
        Ok(())
    }

    /// Whether it is time to [`RaftLog::roll`].
    pub(crate) fn is_full(&self) -> bool {
        self.log.is_full()
    }

    /// Starts the next segment, with the state of all groups.
    pub(crate) fn roll<'a>(&mut self, groups: impl Iterator<Item = (GroupId, &'a GroupLog)>) -> Result<()> {
        self.log.roll()?;
        self.unsynced = false;
        for (group, log) in groups {
            self.state(group, log);
        }
        Ok(())
    }

    /// What the log in `dir` says, without any change to it: its numbers, the bytes of an unfinished write at its end, and
    /// what it knows of each group.
    pub(crate) fn read(
        disk: Arc<dyn Disk>,
        dir: &Path,
    ) -> Result<(LogStats, u64, BTreeMap<GroupId, GroupLog>)> {
        let mut replay = Replay::new(dir);
        let options = LogOptions { extension: EXTENSION.to_owned(), segment_bytes: u64::MAX };
        let log = Log::open_read_only(disk, dir, options, &mut |position, kind, payload| {
            replay.take(position, kind, payload)
        })?;
        Ok((log.stats(), log.torn_bytes(), replay.finish()?))
    }

    /// The log in numbers.
    pub(crate) fn stats(&self) -> LogStats {
        self.log.stats()
    }

    /// How many segments there are, and the oldest.
    pub(crate) fn segments(&self) -> (usize, u64) {
        let segments = self.log.segments();
        (segments.len(), segments.first().map_or(0, |oldest| oldest.id))
    }

    /// The segment that takes appends.
    pub(crate) fn active_segment(&self) -> u64 {
        self.log.active_segment()
    }

    /// Removes segments below `segment`. What made them superfluous is made durable first.
    pub(crate) fn purge_below(&mut self, segment: u64) -> Result<()> {
        self.sync()?;
        self.log.purge_below(segment)
    }

    fn put(&mut self, kind: u8, payload: &[u8]) -> Position {
        self.unsynced = true;
        self.log.append(kind, payload)
    }
}

/// How many entries make up the next record.
fn leading(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes += record::ENTRY_HEAD + entry.context.len() + entry.data.len();
        bytes <= RECORD_BYTES
    });
    fitting.count().max(1).min(entries.len())
}

/// Rebuilds the groups from the records.
struct Replay {
    dir: PathBuf,
    groups: BTreeMap<GroupId, GroupLog>,
    /// Groups whose state stands in the segment being read.
    stated: BTreeSet<GroupId>,
    last: Option<Position>,
}

impl Replay {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), groups: BTreeMap::new(), stated: BTreeSet::new(), last: None }
    }

    fn take(&mut self, position: Position, kind: u8, payload: &[u8]) -> Result<()> {
        if self.last.is_none_or(|last| last.segment != position.segment) {
            self.stated.clear();
        }
        self.last = Some(position);
        let (group, record) = record::decode(kind, payload).map_err(|what| self.corrupt(position, what))?;
        let group = GroupId(group);
        let known = self.groups.entry(group);
        if let Record::State { peer, hard, base, installing } = record {
            self.stated.insert(group);
            let log = known.or_insert_with(|| GroupLog::new(peer, base));
            log.truncate(base);
            (log.peer, log.hard, log.installing) = (peer, hard, installing);
            return Ok(());
        }
        let std::collections::btree_map::Entry::Occupied(mut known) = known else {
            return Err(self.corrupt(position, &format!("a record of {group} comes before its state")));
        };
        let log = known.get_mut();
        match record {
            Record::Append { hard, entries } => {
                if entries.first().is_some_and(|entry| entry.index <= log.base().index) {
                    let what = format!("an entry of {group} is written where its log was truncated");
                    return Err(self.corrupt(position, &what));
                }
                log.append(position.segment, entries);
                log.hard = hard;
            }
            Record::Truncate(base) => log.truncate(base),
            Record::Installing(place) => log.installing = Some(place),
            Record::Installed(place) => log.reset(place),
            Record::Removed => drop(known.remove()),
            Record::State { .. } => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<BTreeMap<GroupId, GroupLog>> {
        let end = self.last.unwrap_or(Position { segment: 1, offset: 0 });
        for (group, log) in &self.groups {
            if let Some(index) = log.hole() {
                return Err(
                    self.corrupt(end, &format!("entry {index} of {group} is missing in the whole log"))
                );
            }
            if log.hard.commit > log.last_index() && log.installing.is_none() {
                let what =
                    format!("{group} committed {} but its log ends at {}", log.hard.commit, log.last_index());
                return Err(self.corrupt(end, &what));
            }
        }
        Ok(self.groups)
    }

    fn corrupt(&self, position: Position, what: &str) -> nokv_engine::Error {
        nokv_engine::Error::Corrupt {
            file: self.dir.join(format!("{:05}.{EXTENSION}", position.segment)),
            offset: position.offset,
            what: what.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use nokv_env::mem_disk::{CrashMode, MemDisk};

    const G1: GroupId = GroupId(1);
    const G2: GroupId = GroupId(2);

    fn dir() -> &'static Path {
        Path::new("/raft")
    }

    fn open(platter: &Arc<MemDisk>) -> Result<(RaftLog, BTreeMap<GroupId, GroupLog>)> {
        RaftLog::open(platter.mount(), dir(), 1 << 20)
    }

    /// A fresh log with two groups.
    fn begin(platter: &Arc<MemDisk>) -> (RaftLog, GroupLog, GroupLog) {
        let (mut log, known) = open(platter).expect("open");
        assert!(known.is_empty());
        let (one, two) = (GroupLog::new(11, Place::default()), GroupLog::new(12, Place::default()));
        log.state(G1, &one);
        log.state(G2, &two);
        (log, one, two)
    }

    fn hard(term: u64, commit: u64) -> Hard {
        Hard { term, vote: 9, commit }
    }

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        let data = Bytes::from_static(b"data");
        range.map(|index| Entry { index, term, data: data.clone(), ..Entry::default() }).collect()
    }

    fn shape(log: &GroupLog) -> (Hard, Place, Vec<(u64, u64)>) {
        (log.hard, log.base(), log.iter_from(0).map(|entry| (entry.index, entry.term)).collect())
    }

    #[test]
    fn what_was_synced_is_found_again_and_the_rest_is_not() {
        let platter = MemDisk::new(1);
        let (mut log, mut one, mut two) = begin(&platter);
        log.append(G1, &mut one, hard(1, 0), entries(1..=3, 1));
        log.append(G2, &mut two, hard(1, 0), entries(1..=1, 1));
        log.append(G1, &mut one, hard(2, 2), entries(3..=4, 2));
        assert!(log.sync().expect("sync"));
        assert!(!log.sync().expect("nothing to sync"));
        let want = (shape(&one), shape(&two));
        log.append(G2, &mut two, hard(5, 0), entries(2..=2, 5));
        platter.crash(CrashMode::PowerLossWorst);
        let (_, known) = open(&platter).expect("reopen");
        assert_eq!((shape(&known[&G1]), shape(&known[&G2])), want);
        assert_eq!(known[&G1].peer, 11);
    }

    #[test]
    fn the_commit_index_on_disk_is_never_ahead_of_the_entries() {
        let platter = MemDisk::new(2);
        let (mut log, mut one, _) = begin(&platter);
        log.append(G1, &mut one, hard(1, 50), Vec::new());
        assert_eq!(one.hard.commit, 0);
    }

    #[test]
    fn segments_without_needed_entries_go_and_replay_copes() {
        let platter = MemDisk::new(3);
        let (mut log, mut one, mut two) = begin(&platter);
        for segment in 0..4 {
            let first = segment * 5 + 1;
            log.append(G1, &mut one, hard(1, first), entries(first..=first + 4, 1));
            if segment == 1 {
                log.append(G2, &mut two, hard(1, 0), entries(1..=2, 1));
            }
            log.roll([(G1, &one), (G2, &two)].into_iter()).expect("roll");
        }
        assert_eq!((one.oldest_segment(), two.oldest_segment()), (Some(1), Some(2)));
        log.truncate(G1, &mut one, 17);
        assert_eq!((one.oldest_segment(), log.active_segment()), (Some(4), 5));
        log.purge_below(2).expect("purge");
        log.relocate(G2, &mut two);
        assert_eq!(two.oldest_segment(), Some(5));
        log.purge_below(4).expect("purge");
        let want = (shape(&one), shape(&two));
        platter.crash(CrashMode::PowerLossWorst);
        let (log, known) = open(&platter).expect("reopen");
        assert_eq!(log.segments(), (2, 4));
        assert_eq!((shape(&known[&G1]), shape(&known[&G2])), want);
        assert_eq!(known[&G2].oldest_segment(), Some(5));
    }

    #[test]
    fn a_missing_truncation_is_damage() {
        let platter = MemDisk::new(4);
        let (mut log, mut one, _) = begin(&platter);
        log.append(G1, &mut one, hard(1, 0), entries(1..=5, 1));
        log.roll([(G1, &one)].into_iter()).expect("roll");
        log.append(G1, &mut one, hard(1, 0), entries(6..=9, 1));
        log.sync().expect("sync");
        platter.crash(CrashMode::PowerLossWorst);
        platter.mount().remove_file(&dir().join("00001.raft")).expect("lose a segment");
        let lost = open(&platter).err().expect("damage");
        assert!(lost.is_corrupt(), "{lost}");
        assert!(lost.to_string().contains("entry 1 of g1 is missing"), "{lost}");
    }

    #[test]
    fn snapshots_restart_a_log_and_removed_groups_are_forgotten() {
        let platter = MemDisk::new(5);
        let (mut log, mut one, mut two) = begin(&platter);
        log.append(G1, &mut one, hard(1, 0), entries(1..=5, 1));
        log.removed(G2);
        let place = Place { index: 40, term: 3 };
        log.installing(G1, &mut one, place);
        log.sync().expect("sync");
        let (_, known) = open(&platter).expect("reopen");
        assert_eq!(known[&G1].installing, Some(place));
        assert!(!known.contains_key(&G2));
        log.installed(G1, &mut one, place);
        log.append(G1, &mut one, hard(3, 40), entries(41..=42, 3));
        log.append(G2, &mut two, hard(1, 0), Vec::new());
        log.sync().expect("sync");
        let orphaned = open(&platter).err().expect("a record without its state");
        assert!(orphaned.is_corrupt(), "{orphaned}");
    }

    #[test]
    fn a_crash_while_a_segment_is_started_loses_no_state() {
        for seed in 0..40 {
            let platter = MemDisk::new(seed);
            let (mut log, mut one, mut two) = begin(&platter);
            log.append(G1, &mut one, hard(1, 0), entries(1..=5, 1));
            log.append(G2, &mut two, hard(4, 0), entries(1..=1, 4));
            log.sync().expect("sync");
            log.roll([(G1, &one), (G2, &two)].into_iter()).expect("roll");
            log.log.write().expect("write");
            platter.crash(CrashMode::PowerLoss);
            let (mut log, mut known) = open(&platter).expect("reopen");
            let (mut one, mut two) = (known.remove(&G1).expect("g1"), known.remove(&G2).expect("g2"));
            log.truncate(G1, &mut one, 5);
            log.relocate(G2, &mut two);
            log.purge_below(2).expect("purge");
            platter.crash(CrashMode::PowerLossWorst);
            let (_, known) = open(&platter).expect("reopen without the first segment");
            assert_eq!((shape(&known[&G1]), shape(&known[&G2])), (shape(&one), shape(&two)));
        }
    }
}
