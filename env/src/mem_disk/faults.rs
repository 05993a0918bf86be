//! What can go wrong on a [`MemDisk`](super::MemDisk), as plain values, and the toll gate every call passes.

use crate::disk::Crashed;
use crate::rng::RngSource;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use std::io;
use std::time::Duration;

/// How a node goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashMode {
    /// Power loss: of what was not synced, any subset survives, drawn from the disk's seed.
    PowerLoss,
    /// The least a power loss may leave: exactly what was synced.
    PowerLossWorst,
    /// The process dies (`kill -9`), the machine stays up: the page cache survives, still unsynced.
    ProcessKill,
}

/// Faults to come. Numbers of operations and syncs count as [`Counters::ops`] and [`Counters::syncs`] do, so
/// "the next operation" is `counters().ops + 1`. What has struck is reset to `None` by the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// The node dies in this operation, which may have taken effect, wholly or in part, or not.
    pub crash_at_op: Option<u64>,
    /// This operation fails with an I/O error and has no effect (a sync then counts as a failed sync).
    pub io_error_at_op: Option<u64>,
    /// This sync (of a file or a directory) fails. The file's dirty pages are forgotten: later syncs succeed
    /// although some of the data never reached the platter.
    pub sync_error_at: Option<u64>,
    /// This operation, if it is a read of two bytes or more, returns fewer bytes than it could.
    pub short_read_at_op: Option<u64>,
    /// Bytes left on the file system. `None`: plenty.
    pub free_space: Option<u64>,
    /// From this operation on there is no room, whatever is removed, until other faults are set. A write in an operation
    /// with an odd number fills the last page of its file, one with an even number makes no file longer.
    pub full_from_op: Option<u64>,
    /// Syncs report success and do nothing. The product promises nothing on such a disk.
    pub lying_sync: bool,
}

/// How long operations take. Every operation adds between half and one and a half times its model time to
/// the account that [`MemDisk::take_latency`](super::MemDisk::take_latency) empties. All zero by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LatencyModel {
    /// A read, and looking up names.
    pub read_ns: u64,
    /// A write into the page cache, and changing names.
    pub write_ns: u64,
    /// A sync of a file or directory.
    pub sync_ns: u64,
    /// Each KiB read, written or synced.
    pub kib_ns: u64,
    /// Added once, to the next operation, and then zero again: the disk hangs.
    pub stall: Duration,
}

/// What the disk has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of any kind on mounted handles.
    pub ops: u64,
    /// Syncs asked for, of files and directories.
    pub syncs: u64,
    /// Bytes handed to writes.
    pub bytes_written: u64,
    /// Bytes returned by reads.
    pub bytes_read: u64,
    /// Crashes survived.
    pub crashes: u64,
}

/// What a call is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// Looks something up.
    Look,
    /// Changes names or lengths.
    Change,
    /// Reads up to so many bytes.
    Read(usize),
    /// Writes so many bytes.
    Write(usize),
    /// Makes so many bytes durable.
    Sync(u64),
}

/// What becomes of a call that was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It happens.
    Happens,
    /// The sync fails.
    SyncFails,
    /// The sync only pretends.
    SyncLies,
    /// The read is cut short.
    Short,
    /// The node dies in it; the number decides how much of it takes effect.
    Dies(u64),
}

impl Fate {
    /// Whether an all-or-nothing call takes effect.
    pub(super) fn acts(self) -> bool {
        match self {
            Fate::Dies(draw) => draw % 2 == 0,
            _ => true,
        }
    }

    /// How many of `len` bytes take effect.
    pub(super) fn part(self, len: usize) -> usize {
        match self {
            Fate::Dies(draw) => (draw % (len as u64 + 1)) as usize,
            _ => len,
        }
    }

    /// What the caller sees after the call took its effect.
    pub(super) fn finish<T>(self, value: T) -> io::Result<T> {
        match self {
            Fate::Dies(_) => Err(crashed()),
            _ => Ok(value),
        }
    }
}

/// The error of every call after a crash.
pub(super) fn crashed() -> io::Error {
    io::Error::other(Crashed)
}

/// The toll gate: counts, delays, and lets faults strike.
pub(super) struct Gate {
    pub(super) faults: DiskFaults,
    pub(super) latency: LatencyModel,
    pub(super) counters: Counters,
    /// Grows with every crash; handles of an older generation are dead.
    pub(super) generation: u64,
    /// The current generation died in an operation and waits for `crash` to settle what survives.
    pub(super) dead: bool,
    latency_ns: u64,
    fate_draws: ChaCha8Rng,
    latency_draws: ChaCha8Rng,
}

impl Gate {
    pub(super) fn new(rng: &RngSource) -> Self {
        Gate {
            faults: DiskFaults::default(),
            latency: LatencyModel::default(),
            counters: Counters::default(),
            generation: 1,
            dead: false,
            latency_ns: 0,
            fate_draws: rng.stream("disk fate"),
            latency_draws: rng.stream("disk latency"),
        }
    }

    /// Lets a call of a handle of `generation` in, or says why not.
    pub(super) fn enter(&mut self, generation: u64, op: Op) -> io::Result<Fate> {
        if self.dead || generation != self.generation {
            return Err(crashed());
        }
        self.counters.ops += 1;
        self.count(op);
        self.charge(op);
        let now = Some(self.counters.ops);
        let is_sync = matches!(op, Op::Sync(_));
        if self.faults.crash_at_op == now {
            self.faults.crash_at_op = None;
            self.dead = true;
            return Ok(Fate::Dies(self.fate_draws.next_u64()));
        }
        if self.faults.io_error_at_op == now {
            self.faults.io_error_at_op = None;
            return if is_sync { Ok(Fate::SyncFails) } else { Err(io_error()) };
        }
        if self.faults.short_read_at_op == now {
            self.faults.short_read_at_op = None;
            return Ok(if matches!(op, Op::Read(_)) { Fate::Short } else { Fate::Happens });
        }
        if is_sync && self.faults.sync_error_at == Some(self.counters.syncs) {
            self.faults.sync_error_at = None;
            return Ok(Fate::SyncFails);
        }
        Ok(if is_sync && self.faults.lying_sync { Fate::SyncLies } else { Fate::Happens })
    }

    /// Whether [`DiskFaults::full_from_op`] has struck.
    pub(super) fn is_full(&self) -> bool {
        self.faults.full_from_op.is_some_and(|from| self.counters.ops >= from)
    }

    /// Whether this operation, if it is a write, finds no room even in the last page of its file.
    pub(super) fn refuses_growth(&self) -> bool {
        self.is_full() && self.counters.ops.is_multiple_of(2)
    }

    /// Empties the latency account.
    pub(super) fn take_latency(&mut self) -> Duration {
        Duration::from_nanos(std::mem::take(&mut self.latency_ns))
    }

    fn count(&mut self, op: Op) {
        match op {
            Op::Sync(_) => self.counters.syncs += 1,
            Op::Write(len) => self.counters.bytes_written += len as u64,
            Op::Look | Op::Change | Op::Read(_) => {}
        }
    }

    fn charge(&mut self, op: Op) {
        let model = self.latency;
        if model == LatencyModel::default() {
            return;
        }
        let (base, bytes) = match op {
            Op::Look => (model.read_ns, 0),
            Op::Read(len) => (model.read_ns, len as u64),
            Op::Change => (model.write_ns, 0),
            Op::Write(len) => (model.write_ns, len as u64),
            Op::Sync(len) => (model.sync_ns, len),
        };
        let typical = base + bytes.saturating_mul(model.kib_ns) / 1024;
        let jitter = if typical == 0 { 0 } else { self.latency_draws.next_u64() % typical };
        let stall = u64::try_from(std::mem::take(&mut self.latency.stall).as_nanos()).unwrap_or(u64::MAX);
        self.latency_ns = self.latency_ns.saturating_add(typical / 2 + jitter).saturating_add(stall);
    }
}

/// The error an injected fault gives.
pub(super) fn io_error() -> io::Error {
    io::Error::other("injected I/O error")
}

/// The draws of one crash: how likely unsynced things survive is itself drawn, so that "almost everything",
/// "almost nothing" and "every other page" all come up.
pub(super) struct Dice {
    rng: ChaCha8Rng,
    keep_of_8: u64,
}

impl Dice {
    pub(super) fn new(rng: ChaCha8Rng) -> Self {
        let mut dice = Dice { rng, keep_of_8: 4 };
        dice.keep_of_8 = [0, 1, 4, 4, 7, 8][dice.below(6) as usize];
        dice
    }

    /// Whether one unsynced thing survives.
    pub(super) fn keep(&mut self) -> bool {
        self.below(8) < self.keep_of_8
    }

    /// A number in `0..bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }
}
