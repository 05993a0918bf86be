//! Room on the disk: a store takes no new data before its disk is full, and takes it again when there is room.
//!
//! A full disk stops a store: votes and entries can no longer be made durable. So a reserve is kept. Two steps, both
//! taken back by themselves:
//!
//! | free space | what is refused |
//! |---|---|
//! | below the reserve | new data: prewrites, with `disk_full`. What ends transactions goes on, and so do reads |
//! | below a quarter of it | also entries and snapshots of leaders elsewhere, as if they were lost on the way |
//!
//! The second step keeps a replica of little use alive: the others of its regions are a majority without it, and send it
//! what it missed once there is room.

use crate::store::Shared;
use nokv_env::ClockExt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// Time between two looks: what is written meanwhile must fit into the last quarter of the reserve.
const LOOK: Duration = Duration::from_millis(200);

/// How much is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// There is room.
    #[default]
    Open,
    /// No new data.
    Short,
    /// Nothing that leaders elsewhere send, either.
    Critical,
}

/// What is known of the disk.
#[derive(Debug, Default)]
pub(crate) struct Room {
    level: AtomicU8,
    free: AtomicU64,
}

impl Room {
    pub(crate) fn level(&self) -> Level {
        match self.level.load(Ordering::Relaxed) {
            0 => Level::Open,
            1 => Level::Short,
            _ => Level::Critical,
        }
    }

    /// Bytes that were free at the last look.
    pub(crate) fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    fn set(&self, level: Level, free: u64) {
        self.free.store(free, Ordering::Relaxed);
        self.level.store(level as u8, Ordering::Relaxed);
    }
}

/// The level at `free` bytes. A level that was reached is left with an eighth to spare, so that nobody goes to and fro.
fn judge(before: Level, free: u64, reserve: u64) -> Level {
    let reached = |limit: u64| free < limit;
    let left = |limit: u64| free < limit.saturating_add(limit / 8);
    let critical = reserve / 4;
    if reached(critical) || (before == Level::Critical && left(critical)) {
        Level::Critical
    } else if reached(reserve) || (before >= Level::Short && left(reserve)) {
        Level::Short
    } else {
        Level::Open
    }
}

/// Looks at the disk, for ever.
pub(crate) async fn watch(shared: &Shared) {
    loop {
        look(shared);
        shared.env.clock.sleep(LOOK).await;
    }
}

pub(crate) fn look(shared: &Shared) {
    // A look that fails says nothing; what was known last counts.
    let Ok(free) = shared.env.disk.free_space(&shared.config.workdir) else { return };
    let (before, reserve) = (shared.room.level(), shared.config.disk_reserve);
    let level = judge(before, free, reserve);
    shared.room.set(level, free);
    if level == before {
        return;
    }
    shared.raft.close_to_entries(level == Level::Critical);
    match level {
        Level::Open => {
            shared.env.probe("store.room.open");
            tracing::info!(free, reserve, "there is room on the disk again: new data is taken");
        }
        Level::Short => {
            shared.env.probe("store.room.short");
            tracing::error!(free, reserve, "the disk is nearly full: no new data is taken, reads go on");
        }
        Level::Critical => {
            shared.env.probe("store.room.critical");
            tracing::error!(
                free,
                reserve,
                "the disk is all but full: nothing of other leaders is taken either"
            );
        }
    }
    // Coordinators shall know.
    shared.bells.report();
}

/// What a refused writer is told.
pub(crate) fn refusal(shared: &Shared) -> String {
    let (store, free, reserve) = (shared.config.store_id, shared.room.free(), shared.config.disk_reserve);
    format!("disk_full: store {store} takes no new data: {free} bytes are free, it keeps {reserve}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_left_later_than_they_are_reached() {
        let walk = |frees: &[u64]| {
            let mut level = Level::Open;
            let step = |free: &u64| {
                level = judge(level, *free, 800);
                level
            };
            frees.iter().map(step).collect::<Vec<_>>()
        };
        use Level::{Critical, Open, Short};
        assert_eq!(walk(&[900, 800, 799, 800, 899, 900]), [Open, Open, Short, Short, Short, Open]);
        assert_eq!(walk(&[200, 199, 224, 225, 5000]), [Short, Critical, Critical, Short, Open]);
        assert_eq!(walk(&[0, 900]), [Critical, Open]);
        assert_eq!(judge(Open, 0, 0), Open, "without a reserve nothing is refused");
    }
}
