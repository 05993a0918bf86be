//! Bringing a group's log and its machine together after a start.
//!
//! The machine may be behind the log: what it lacks is applied again. It must not be ahead of it, with one exception: a
//! crash between the durable installation of a snapshot and its record in the log. The intent to install that very
//! snapshot is in the log then, and recovery completes it.

use crate::config::{BIRTH, GroupConfig, GroupId};
use crate::error::Error;
use crate::group_log::GroupLog;
use crate::record::Place;
use std::path::Path;

/// The log to start `config` with, given what the log on disk knows. True when it differs from that and must be
/// recorded.
pub(crate) fn adopt(
    dir: &Path,
    config: &GroupConfig,
    known: Option<GroupLog>,
) -> Result<(GroupLog, bool), Error> {
    let group = config.group;
    // A group that was born in memory may be durable in the machine before its log is: nothing was promised yet.
    let is_newborn = config.born && (config.applied_index, config.applied_term) == BIRTH;
    if known.is_none() && config.applied_index > 0 && !is_newborn {
        return Err(Error::LogBehind { group, dir: dir.to_owned(), last: 0, applied: config.applied_index });
    }
    match known {
        // A message created the group before its birth was carried out here: its log is empty, its vote counts.
        Some(mut log) if is_newborn && log.last_index() == 0 && log.peer == config.peer => {
            log.reset(Place { index: BIRTH.0, term: BIRTH.1 });
            log.hard.term = log.hard.term.max(BIRTH.1);
            Ok((log, true))
        }
        Some(log) if is_newborn && log.last_index() == 0 => {
            tracing::info!(%group, peer = log.peer, "another peer's empty log is forgotten");
            adopt_or_begin(dir, config, None)
        }
        known => adopt_or_begin(dir, config, known),
    }
}

/// Like [`adopt`], but a group without a log may begin at any index: it is new on this node.
pub(crate) fn adopt_or_begin(
    dir: &Path,
    config: &GroupConfig,
    known: Option<GroupLog>,
) -> Result<(GroupLog, bool), Error> {
    check(config)?;
    let applied = Place { index: config.applied_index, term: config.applied_term };
    let Some(mut log) = known else {
        return Ok((GroupLog::new(config.peer, applied), true));
    };
    let group = config.group;
    let mismatch = |what: String| Error::Mismatch { group, dir: dir.to_owned(), what };
    if log.peer != config.peer {
        return Err(mismatch(format!("the log is of peer {}, the state of peer {}", log.peer, config.peer)));
    }
    let mut changed = false;
    if let Some(place) = log.installing.take() {
        changed = true;
        let ahead = log.term(place.index) != Some(place.term);
        if applied.index == place.index && ahead {
            log.reset(place);
        }
    }
    let base = log.base();
    if applied.index < base.index {
        let (first, applied) = (base.index, applied.index);
        return Err(Error::MachineBehind { group, dir: dir.to_owned(), first, applied });
    }
    match log.term(applied.index) {
        None => Err(Error::LogBehind {
            group,
            dir: dir.to_owned(),
            last: log.last_index(),
            applied: applied.index,
        }),
        Some(term) if applied.term != 0 && term != applied.term => Err(mismatch(format!(
            "entry {} has term {term} and was applied with term {}",
            applied.index, applied.term
        ))),
        Some(_) => {
            // The commit index is not synced on its own, and an unfinished installation may have raised it too far.
            let commit = log.hard.commit.min(log.last_index()).max(applied.index);
            changed |= commit != log.hard.commit;
            log.hard.commit = commit;
            Ok((log, changed))
        }
    }
}

fn check(config: &GroupConfig) -> Result<(), Error> {
    let fault = |what: &str| Err(Error::Group { group: config.group, what: what.to_owned() });
    if config.group == GroupId(0) || config.peer == 0 {
        return fault("group and peer ids must not be zero");
    }
    if config.voters.is_empty() && (config.applied_index > 0 || !config.learners.is_empty()) {
        return fault("it has no voters");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Hard;
    use raft::eraftpb::Entry;

    fn config(applied_index: u64, applied_term: u64) -> GroupConfig {
        GroupConfig {
            group: GroupId(1),
            peer: 7,
            applied_index,
            applied_term,
            voters: vec![7, 8, 9],
            ..GroupConfig::default()
        }
    }

    fn log() -> GroupLog {
        let mut log = GroupLog::new(7, Place { index: 10, term: 2 });
        log.append(1, (11..=14).map(|index| Entry { index, term: 3, ..Entry::default() }).collect());
        log.hard = Hard { term: 3, vote: 8, commit: 12 };
        log
    }

    fn start(config: &GroupConfig, log: Option<GroupLog>) -> Result<(GroupLog, bool), Error> {
        adopt(Path::new("raft"), config, log)
    }

    #[test]
    fn a_new_group_begins_at_zero() {
        let (log, changed) = start(&config(0, 0), None).expect("new");
        assert_eq!((log.last_index(), log.hard, changed), (0, Hard::default(), true));
    }

    #[test]
    fn the_commit_index_covers_what_was_applied() {
        let (behind, changed) = start(&config(11, 3), Some(log())).expect("behind");
        assert_eq!((behind.hard.commit, changed), (12, false));
        let (ahead, changed) = start(&config(14, 3), Some(log())).expect("ahead");
        assert_eq!((ahead.hard.commit, changed), (14, true));
    }

    #[test]
    fn a_lost_log_is_an_error() {
        assert!(matches!(start(&config(5, 1), None), Err(Error::LogBehind { last: 0, applied: 5, .. })));
        assert!(matches!(start(&config(20, 3), Some(log())), Err(Error::LogBehind { last: 14, .. })));
        assert!(matches!(start(&config(9, 2), Some(log())), Err(Error::MachineBehind { first: 10, .. })));
        assert!(matches!(start(&config(12, 2), Some(log())), Err(Error::Mismatch { .. })));
        let other = GroupConfig { peer: 6, ..config(12, 3) };
        assert!(matches!(start(&other, Some(log())), Err(Error::Mismatch { .. })));
    }

    #[test]
    fn a_born_group_may_be_durable_before_its_log() {
        let newborn = GroupConfig { born: true, ..config(BIRTH.0, BIRTH.1) };
        let (log, changed) = start(&newborn, None).expect("newborn");
        assert_eq!((log.last_index(), log.term(BIRTH.0), changed), (BIRTH.0, Some(BIRTH.1), true));
        let mut blank = GroupLog::new(7, Place::default());
        blank.hard = Hard { term: 9, vote: 8, commit: 0 };
        let (log, changed) = start(&newborn, Some(blank)).expect("a message was first");
        assert_eq!((log.last_index(), log.hard.term, log.hard.vote, changed), (BIRTH.0, 9, 8, true));
        let grown = GroupConfig { born: true, ..config(BIRTH.0 + 1, BIRTH.1 + 1) };
        assert!(matches!(start(&grown, None), Err(Error::LogBehind { .. })));
        assert!(matches!(start(&config(BIRTH.0, BIRTH.1), None), Err(Error::LogBehind { .. })));
    }

    #[test]
    fn an_interrupted_installation_is_completed_or_forgotten() {
        let mut interrupted = log();
        interrupted.installing = Some(Place { index: 50, term: 4 });
        let (done, changed) = start(&config(50, 4), Some(interrupted.clone())).expect("completed");
        assert_eq!(
            (done.base(), done.last_index(), done.hard.commit),
            (Place { index: 50, term: 4 }, 50, 50)
        );
        assert!(changed && done.hard.vote == 8);
        let (undone, changed) = start(&config(12, 3), Some(interrupted)).expect("forgotten");
        assert_eq!((undone.last_index(), undone.installing, changed), (14, None, true));
    }
}
