//! Keeping the raft log short, and letting go of what nobody waits for any more.
//!
//! A group's entries are purged once they are durable in the machine, except some that slow followers may need. A
//! segment goes when no group has entries in it. When segments pile up, the groups in the oldest one are pressed: their
//! machine is asked to become durable, and the few entries they still need are written again at the log's end.

use crate::config::GroupId;
use crate::core::{Core, Halt};
use crate::group_log::GroupLog;
use crate::machine::{Fetching, Machine};
use crate::shared::{Counters, LogStatus};
use nokv_env::{ClockExt, Fact};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Time between two attempts on a full disk.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// Ticks between two looks at the log.
const PURGE_TICKS: u64 = 10;
/// Ticks between two searches for callers that gave up.
const SWEEP_TICKS: u64 = 10;

impl<M: Machine> Core<M> {
    /// What is due after a tick.
    pub(crate) fn after_tick(&mut self) -> Result<(), Halt> {
        let now = self.env.clock.now();
        let patience = self.config.tick * self.config.election_ticks as u32 * 2;
        let sweep = self.ticks.is_multiple_of(SWEEP_TICKS);
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            let Some(group) = self.groups.get_mut(&id).filter(|group| group.hibernation.is_none()) else {
                continue;
            };
            let patience =
                if self.env.chance("replica.read.expire_early", 0.002) { Duration::ZERO } else { patience };
            group.reads.expire(now, patience);
            if !group.sending.is_empty() {
                let peers: Vec<u64> = group.sending.keys().copied().collect();
                let mut gave_up = false;
                for peer in peers {
                    match self.machine.fetching(id, peer) {
                        Fetching::Took(at) => group.notice_fetch(peer, at, at + self.config.snapshot_timeout),
                        Fetching::GaveUp => {
                            group.snapshot_lost(peer);
                            gave_up = true;
                        }
                        Fetching::Unknown => {}
                    }
                }
                if group.check_sending(now) && !gave_up {
                    self.machine.release_snapshots(id);
                }
                self.dirty.insert(id);
            }
            if sweep {
                group.sweep();
                self.publish(id, true);
            }
        }
        if self.ticks.is_multiple_of(PURGE_TICKS) || self.env.chance("replica.purge.early", 0.02) {
            self.purge()?;
        }
        Ok(self.log.settle()?)
    }

    /// Waits a moment for room on a full disk; any other error is the end. Until there is room this node is like one whose
    /// disk hangs: it says nothing that it could not keep, and the others of its groups go on without it. What the log
    /// refused waits in memory, and is written to the same place: nothing of it was durable, so nothing is lost.
    pub(crate) async fn room(&mut self, error: nokv_engine::Error) -> Result<(), Halt> {
        if !error.is_disk_full() || self.shared.stop.is_stopped() {
            return Err(Halt::Log(error));
        }
        if self.shared.set_disk_full(true) {
            self.env.probe("replica.log.disk_full");
            tracing::error!(%error, "the disk is full: the raft driver waits for room");
        }
        self.env.clock.sleep(FULL_PAUSE).await;
        // It waits, it does not hang.
        self.shared.turns(self.env.clock.now());
        Ok(())
    }

    /// The log took what it was given.
    pub(crate) fn has_room(&self) {
        if self.shared.set_disk_full(false) {
            self.env.probe("replica.log.room_again");
            tracing::info!("there is room on the disk again: the raft driver goes on");
        }
    }

    /// Starts a new segment when the active one is full.
    pub(crate) async fn roll_if_full(&mut self) -> Result<bool, Halt> {
        if !self.log.is_full() {
            return Ok(false);
        }
        loop {
            let hosted = self.groups.iter().map(|(id, group)| (*id, group.log()));
            let orphans = self.orphans.iter().map(|(id, log)| (*id, log));
            match self.log.roll(hosted.chain(orphans)) {
                Ok(()) => break,
                Err(error) => self.room(error).await?,
            }
        }
        self.has_room();
        self.env.probe("replica.log.rolled");
        Ok(true)
    }

    /// Purges entries and segments that are not needed.
    pub(crate) fn purge(&mut self) -> Result<(), Halt> {
        let (count, oldest) = self.log.segments();
        let pressed = count > self.config.log_segments_max;
        let early = self.env.chance("replica.purge.all", 0.1);
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            let pinning = pressed
                && self.groups.get(&id).is_some_and(|group| group.log().oldest_segment() == Some(oldest));
            self.purge_group(id, pinning, early);
        }
        let needed = self.oldest_needed();
        if needed > oldest {
            match self.log.purge_below(needed) {
                // The next look tries again.
                Err(error) if error.is_disk_full() => return Ok(()),
                purged => purged?,
            }
            self.env.probe("replica.log.purged");
            let counters = &self.shared.counters;
            Counters::add(&counters.purges, 1);
            Counters::add(&counters.purged, needed - oldest);
            counters.purged_unix_ms.store(self.env.clock.unix_millis(), Ordering::Relaxed);
        }
        self.publish_log();
        Ok(())
    }

    /// Shows the log as it is now.
    pub(crate) fn publish_log(&self) {
        let hosted = self.groups.values().map(|group| group.log().oldest_segment());
        let orphans = self.orphans.values().map(GroupLog::oldest_segment);
        self.shared.update_log(LogStatus::of(self.log.stats(), hosted.chain(orphans)));
    }

    fn purge_group(&mut self, id: GroupId, pinning: bool, early: bool) {
        let durable = self.machine.durable_index(id);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let applied = group.applied.index;
        let limit = durable.min(applied).min(group.needed_by_snapshots());
        let by_count = applied.saturating_sub(self.config.log_keep_entries);
        let by_bytes = group.log().index_keeping(self.config.log_keep_bytes);
        let target = if pinning || early { limit } else { by_count.max(by_bytes).min(limit) };
        // A few entries at a time are not worth a record.
        let step = if pinning || early { 1 } else { (self.config.log_keep_entries / 8).max(1) };
        let base = group.log().base().index;
        if target >= base + step || (by_bytes > base && target > base) {
            self.log.truncate(id, group.log_mut(), target);
            self.env.probe("replica.log.truncated");
            self.tell(id, |peer| Fact::Purged { peer, index: target, durable });
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        let heavy = group.log().bytes() > self.config.log_keep_bytes.saturating_mul(2);
        if (pinning || heavy) && durable < applied {
            self.machine.request_durable(id);
        }
        if pinning && group.log().bytes() <= self.config.log_segment_bytes / 4 {
            self.log.relocate(id, group.log_mut());
            self.env.probe("replica.log.relocated");
        }
    }

    /// The oldest segment with entries that some group may need.
    fn oldest_needed(&self) -> u64 {
        let hosted = self.groups.values().filter_map(|group| group.log().oldest_segment());
        let orphans = self.orphans.values().filter_map(|log| log.oldest_segment());
        hosted.chain(orphans).min().unwrap_or(u64::MAX).min(self.log.active_segment())
    }
}
