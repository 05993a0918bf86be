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
use nokv_engine::log::{Log, LogOptions, Position};
use nokv_env::Disk;
use raft::eraftpb::Entry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Result<T, E = nokv_engine::Error> = std::result::Result<T, E>;

const EXTENSION: &str = "raft";
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
        let mut replay = Replay { dir: dir.to_owned(), groups: BTreeMap::new(), last: None };
        let options = LogOptions { extension: EXTENSION.to_owned(), segment_bytes };
        let log = Log::open(disk, dir, options, &mut |position, kind, payload| {
            replay.take(position, kind, payload)
        })?;
        Ok((RaftLog { log, unsynced: false }, replay.finish()?))
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
    last: Option<Position>,
}

impl Replay {
    fn take(&mut self, position: Position, kind: u8, payload: &[u8]) -> Result<()> {
        self.last = Some(position);
        let (group, record) = record::decode(kind, payload).map_err(|what| self.corrupt(position, what))?;
        let group = GroupId(group);
        let known = self.groups.entry(group);
        if let Record::State { peer, hard, base, installing } = record {
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
