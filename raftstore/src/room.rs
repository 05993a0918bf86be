//! Room on the disk: a store takes no new data before its disk is full, and takes it again when there is room.
//!
//! A full disk makes a store useless: votes and entries can no longer be made durable. So a reserve is kept. Two steps, both
//! taken back by themselves:
//!
//! | free space | what is refused |
//! |---|---|
//! | below the reserve | new data: prewrites, with `disk_full`. What ends transactions goes on, and so do reads |
//! | below a quarter of it | also entries of leaders elsewhere, as if they were lost on the way, and their snapshots, of which they are told |
//!
//! The second step keeps a replica of little use alive: the others of its regions are a majority without it, and send it
//! what it missed once there is room.
//!
//! The disk may be full all the same: somebody else filled it faster than we look, or there is no reserve. Then the raft
//! log and the engine wait, as for a disk that hangs, and the ballast goes: a file of [`crate::Config::disk_ballast`]
//! bytes that has no other use. What it leaves is enough to go on with the second step: reads are served, votes can be
//! kept. When there is room, the ballast is laid again, and then data is taken again.

use crate::Config;
use crate::store::Shared;
use nokv_env::{ClockExt, Disk, OpenMode};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// Time between two looks: what is written meanwhile must fit into the last quarter of the reserve.
const LOOK: Duration = Duration::from_millis(200);

const BALLAST_FILE: &str = "BALLAST";
/// The ballast is written in pieces.
const PIECE: usize = 64 << 10;

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
    /// The disk was full, or too full for the ballast, and the ballast has not been laid again.
    starves: AtomicBool,
    has_ballast: AtomicBool,
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

    /// Bytes that must be free for new data to be taken.
    pub(crate) fn needed(&self, config: &Config) -> u64 {
        let for_ballast = if self.starves.load(Ordering::Relaxed) { ballast_needs(config) } else { 0 };
        config.disk_reserve.max(for_ballast)
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

/// Whether anybody needs to look.
pub(crate) fn matters(config: &Config) -> bool {
    config.disk_reserve > 0 || config.disk_ballast > 0
}

/// What must be free before the ballast is laid: it must not be what fills the disk.
fn ballast_needs(config: &Config) -> u64 {
    config.disk_ballast.saturating_mul(2)
}

fn ballast(workdir: &Path) -> PathBuf {
    workdir.join(BALLAST_FILE)
}

/// Lets go of the ballast; no matter if there is none.
pub(crate) fn drop_ballast(disk: &dyn Disk, workdir: &Path) -> io::Result<()> {
    match disk.remove_file(&ballast(workdir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Bytes that no file system can leave out: zeros might not take any room.
fn lay_ballast(disk: &dyn Disk, config: &Config) -> io::Result<()> {
    let file = disk.open(&ballast(&config.workdir), OpenMode::Create)?;
    let (mut piece, mut word) = (Vec::with_capacity(PIECE), 0x9e37_79b9_7f4a_7c15_u64);
    while piece.len() < PIECE {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        piece.extend_from_slice(&word.to_le_bytes());
    }
    let mut at = 0;
    while at < config.disk_ballast {
        let len = (config.disk_ballast - at).min(PIECE as u64);
        file.write_at(&piece[..len as usize], at)?;
        at += len;
    }
    file.sync_data()?;
    disk.sync_dir(&config.workdir)
}

/// Whether the disk was full and is not yet itself again; with `free` bytes left now.
fn starves(shared: &Shared, free: u64) -> bool {
    let (disk, config, room) = (&*shared.env.disk, &shared.config, &shared.room);
    let refused = shared.raft.is_disk_full() || shared.db.is_disk_full();
    if !refused && room.has_ballast.load(Ordering::Relaxed) {
        return false;
    }
    let is_laid = !refused && free >= ballast_needs(config) && lay_ballast(disk, config).is_ok();
    if !is_laid && let Err(error) = drop_ballast(disk, &config.workdir) {
        tracing::warn!(%error, "cannot remove the ballast");
    }
    room.has_ballast.store(is_laid, Ordering::Relaxed);
    !is_laid
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
    let starves = shared.config.disk_ballast > 0 && starves(shared, free);
    shared.room.starves.store(starves, Ordering::Relaxed);
    let level = if starves { Level::Critical } else { judge(before, free, reserve) };
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
    let (store, free, needed) =
        (shared.config.store_id, shared.room.free(), shared.room.needed(&shared.config));
    format!("disk_full: store {store} takes no new data: {free} bytes are free, it keeps {needed}")
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
