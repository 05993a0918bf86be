//! A disk in memory that forgets what was not synced.
//!
//! A [`MemDisk`] is the platter of one node. It outlives the node's incarnations: each one works on a handle
//! from [`MemDisk::mount`], a crash kills all handles and decides what the next mount finds.
//!
//! ```
//! use nokv_env::disk::{Disk, OpenMode, is_crashed};
//! use nokv_env::mem_disk::{CrashMode, MemDisk};
//! use std::path::Path;
//!
//! let platter = MemDisk::new(7);
//! let disk = platter.mount();
//! let file = disk.open(Path::new("/log"), OpenMode::Create)?;
//! file.write_at(b"kept", 0)?;
//! file.sync_data()?;
//! disk.sync_dir(Path::new("/"))?;
//! file.write_at(b"lost", 4)?;
//!
//! platter.crash(CrashMode::PowerLossWorst);
//! assert!(is_crashed(&file.len().unwrap_err()));
//! assert_eq!(nokv_env::disk::read_all(&*platter.mount(), Path::new("/log"))?, b"kept");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # What a power loss leaves
//!
//! - Of a file's unsynced pages (4 KiB), any subset, and a page may be torn between its 512 byte sectors.
//! - Of a file's growth, any part, possibly as zeros; a cut happened or not.
//! - Of names created, renamed, linked or removed since their directory was synced, any subset that keeps the
//!   order of operations on one name. `sync_data` of a file does not make its name durable.
//! - A directory made by `create_dir_all`, always. Locks, never.
//!
//! All draws come from streams of the disk's seed, one for each crash, so equal seeds and calls give equal
//! disks. No executor is needed: operations do not wait, they charge an account ([`MemDisk::take_latency`]).
//!
//! `faults` says what can go wrong, `content` holds one file's bytes, `names` the directory tree.

mod content;
mod faults;
mod names;
#[cfg(test)]
mod tests;

use crate::disk::{Disk, File, LockGuard, OpenMode};
use crate::rng::RngSource;
use content::Content;
pub use faults::{Counters, CrashMode, DiskFaults, LatencyModel};
use faults::{Dice, Fate, Gate, Op, crashed, io_error};
use names::{Names, Node, View, named};
use rand_core::Rng;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Capacity of a disk whose free space is not limited by a fault.
const CAPACITY: u64 = 1 << 40;
/// A file this long is a bug of the caller.
const FILE_BYTES_MAX: u64 = 1 << 35;

/// The platter of one simulated node.
pub struct MemDisk {
    rng: RngSource,
    /// Bytes in pages of all files that exist or are open.
    used: Arc<AtomicU64>,
    state: Mutex<State>,
}

/// Everything that calls share. Held for the whole of each call, so a crash falls between calls or in one,
/// never beside one.
struct State {
    gate: Gate,
    names: Names,
    /// Who holds which lock: the lock's number and the owner's line.
    locks: BTreeMap<PathBuf, (u64, String)>,
    capacity: u64,
    /// Source of numbers for files and locks.
    next_id: u64,
}

impl MemDisk {
    /// An empty disk; everything random about it comes from `seed`.
    pub fn new(seed: u64) -> Arc<MemDisk> {
        let rng = RngSource::new(seed, 0);
        let state = State {
            gate: Gate::new(&rng),
            names: Names::new(),
            locks: BTreeMap::new(),
            capacity: CAPACITY,
            next_id: 1,
        };
        Arc::new(MemDisk { rng, used: Arc::default(), state: Mutex::new(state) })
    }

    /// A handle for one incarnation of the node, good until the next crash.
    pub fn mount(self: &Arc<Self>) -> Arc<dyn Disk> {
        Arc::new(Mount { generation: self.state().gate.generation, platter: self.clone() })
    }

    /// The node goes down: handles die, locks are released, and `mode` decides what survives.
    pub fn crash(&self, mode: CrashMode) {
        let mut state = self.state();
        state.gate.counters.crashes += 1;
        state.gate.generation += 1;
        state.gate.dead = false;
        state.gate.take_latency();
        state.locks.clear();
        let crash = state.gate.counters.crashes;
        let mut dice = Dice::new(self.rng.stream(&format!("disk crash {crash}")));
        match mode {
            CrashMode::ProcessKill => {
                state
                    .names
                    .nodes(View::Running)
                    .values()
                    .for_each(|node| node.content().survive_kill(&mut dice));
            }
            CrashMode::PowerLoss => {
                state.names.lose_power(|| dice.keep());
                state
                    .names
                    .nodes(View::Durable)
                    .values()
                    .for_each(|node| node.content().lose_power(&mut dice));
            }
            CrashMode::PowerLossWorst => {
                state.names.lose_power(|| false);
                state.names.nodes(View::Durable).values().for_each(|node| node.content().lose_all_unsynced());
            }
        }
    }

    /// Whether the mounted generation died in an operation ([`DiskFaults::crash_at_op`]) and nobody called
    /// [`MemDisk::crash`] yet.
    pub fn crashed(&self) -> bool {
        self.state().gate.dead
    }

    /// Replaces the disk by an empty one; handles die.
    pub fn wipe(&self) {
        self.crash(CrashMode::PowerLossWorst);
        self.state().names = Names::new();
    }

    /// The faults still to come, with the space that is left now.
    pub fn faults(&self) -> DiskFaults {
        let state = self.state();
        let free_space = (state.capacity != CAPACITY).then(|| self.free(&state));
        DiskFaults { free_space, ..state.gate.faults.clone() }
    }

    /// Sets the faults to come.
    pub fn set_faults(&self, faults: DiskFaults) {
        let mut state = self.state();
        state.capacity = match faults.free_space {
            Some(free) => self.used_bytes().saturating_add(free),
            None => CAPACITY,
        };
        state.gate.faults = faults;
    }

    /// The latency model in force.
    pub fn latency(&self) -> LatencyModel {
        self.state().gate.latency
    }

    /// Sets the latency model.
    pub fn set_latency(&self, model: LatencyModel) {
        self.state().gate.latency = model;
    }

    /// How long the operations since the last call took by the latency model.
    pub fn take_latency(&self) -> Duration {
        self.state().gate.take_latency()
    }

    /// Operations so far.
    pub fn ops(&self) -> u64 {
        self.state().gate.counters.ops
    }

    /// Everything counted so far.
    pub fn counters(&self) -> Counters {
        self.state().gate.counters
    }

    /// Bytes that files take, in whole pages.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The files that running processes see, with their lengths, in order of paths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state();
        let files = state.names.files(View::Running).into_iter();
        files.map(|(path, node)| (PathBuf::from(path), node.content().len())).collect()
    }

    /// The files whose names are durable, with their durable lengths, in order of paths.
    pub fn durable_files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state();
        let files = state.names.files(View::Durable).into_iter();
        files.map(|(path, node)| (PathBuf::from(path), node.content().durable_len())).collect()
    }

    /// What a power loss would certainly leave of a file; `None` when its name is not durable.
    pub fn read_durable(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let node = state.names.file(path, View::Durable).ok()?;
        Some(node.content().durable_bytes())
    }

    /// Bit rot: flips one bit of a file. False when there is no such byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let state = self.state();
        let node = state.names.file(path, View::Running);
        node.is_ok_and(|node| node.content().rot(offset, 1 << (bit % 8)))
    }

    /// Rot of a whole range: every byte in it becomes another one. Returns how many bytes were there.
    pub fn damage(&self, path: &Path, range: Range<u64>) -> u64 {
        let state = self.state();
        let Ok(node) = state.names.file(path, View::Running) else { return 0 };
        let mut draws = self.rng.stream(&format!("disk damage {} {range:?}", path.display()));
        let mut content = node.content();
        range.filter(|offset| content.rot(*offset, (draws.next_u64() % 255) as u8 + 1)).count() as u64
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self, state: &State) -> u64 {
        if state.gate.is_full() { 0 } else { state.capacity.saturating_sub(self.used_bytes()) }
    }

    /// Draws for the `sync`-th sync, which fails.
    fn failed_sync_dice(&self, sync: u64) -> Dice {
        Dice::new(self.rng.stream(&format!("disk failed sync {sync}")))
    }
}

impl State {
    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// The disk as one incarnation of the node sees it.
struct Mount {
    platter: Arc<MemDisk>,
    generation: u64,
}

impl Mount {
    /// Runs `effect` unless a fault prevents it; for calls that happen wholly or not at all.
    fn call<T>(&self, op: Op, effect: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.platter.state();
        let fate = state.gate.enter(self.generation, op)?;
        if !fate.acts() {
            return Err(crashed());
        }
        let value = effect(&mut state)?;
        drop(state); // a lock guard that nobody gets to see gives its lock back
        fate.finish(value)
    }

    fn new_file(&self, state: &mut State, path: &Path) -> io::Result<Arc<Node>> {
        let node = Node::new(state.new_id(), Content::new(self.platter.used.clone()));
        state.names.link(path, node.clone())?;
        Ok(node)
    }

    fn open_or_create(&self, state: &mut State, path: &Path) -> io::Result<Arc<Node>> {
        match state.names.file(path, View::Running) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.new_file(state, path),
            found => found,
        }
    }
}

impl Disk for Mount {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let op = if matches!(mode, OpenMode::Read | OpenMode::Write) { Op::Look } else { Op::Change };
        let node = self.call(op, |state| match mode {
            OpenMode::Read | OpenMode::Write => state.names.file(path, View::Running),
            OpenMode::Create => self.open_or_create(state, path),
            OpenMode::CreateNew if state.names.get(path, View::Running).is_some() => {
                Err(named(io::ErrorKind::AlreadyExists, path))
            }
            OpenMode::CreateNew => self.new_file(state, path),
        })?;
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(MemFile { platter: self.platter.clone(), generation: self.generation, node, writable }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Op::Change, |state| state.names.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(Op::Change, |state| state.names.remove_file(path))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Op::Change, |state| {
            let node = state.names.file(from, View::Running)?;
            if state.names.get(to, View::Running).is_some() {
                return Err(named(io::ErrorKind::AlreadyExists, to));
            }
            state.names.link(to, node)
        })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.call(Op::Change, |state| state.names.create_dirs(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.call(Op::Change, |state| state.names.remove_dirs(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.call(Op::Look, |state| state.names.list(dir))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.call(Op::Look, |state| Ok(state.names.get(path, View::Running).is_some()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.platter.state();
        match state.gate.enter(self.generation, Op::Sync(0))? {
            Fate::SyncFails => Err(io_error()),
            Fate::SyncLies => Ok(()),
            fate if !fate.acts() => Err(crashed()),
            fate => {
                state.names.sync(dir)?;
                fate.finish(())
            }
        }
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Box<dyn LockGuard>> {
        self.call(Op::Change, |state| {
            if let Some((_, holder)) = state.locks.get(path) {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, holder.clone()));
            }
            let node = self.open_or_create(state, path)?;
            let mut content = node.content();
            content.truncate(0);
            content.write(owner.as_bytes(), 0);
            let id = state.new_id();
            state.locks.insert(path.to_owned(), (id, owner.to_owned()));
            Ok(Box::new(Lock { platter: self.platter.clone(), path: path.to_owned(), id })
                as Box<dyn LockGuard>)
        })
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        self.call(Op::Look, |state| Ok(self.platter.free(state)))
    }

    fn total_space(&self, _path: &Path) -> io::Result<u64> {
        self.call(Op::Look, |state| Ok(state.capacity))
    }
}

/// An open file.
struct MemFile {
    platter: Arc<MemDisk>,
    generation: u64,
    node: Arc<Node>,
    writable: bool,
}

impl MemFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl File for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.platter.state();
        let fate = state.gate.enter(self.generation, Op::Read(buf.len()))?;
        let wanted = if fate == Fate::Short && buf.len() > 1 { buf.len() / 2 } else { buf.len() };
        let n = self.node.content().read(&mut buf[..wanted], offset);
        state.gate.counters.bytes_read += n as u64;
        fate.finish(n)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        if offset.saturating_add(data.len() as u64) > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut state = self.platter.state();
        let fate = state.gate.enter(self.generation, Op::Write(data.len()))?;
        let part = &data[..fate.part(data.len())];
        let mut content = self.node.content();
        let fits = if state.gate.refuses_growth() {
            part.len().min(content.len().saturating_sub(offset) as usize)
        } else {
            content.fits(offset, part.len(), self.platter.free(&state))
        };
        content.write(&part[..fits], offset);
        if fits < part.len() {
            return fate.finish(()).and(Err(io::ErrorKind::StorageFull.into()));
        }
        fate.finish(())
    }

    fn len(&self) -> io::Result<u64> {
        let fate = self.platter.state().gate.enter(self.generation, Op::Look)?;
        fate.finish(self.node.content().len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        if len > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut state = self.platter.state();
        let fate = state.gate.enter(self.generation, Op::Change)?;
        if fate.acts() {
            self.node.content().truncate(len);
        }
        fate.finish(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.platter.state();
        let mut content = self.node.content();
        match state.gate.enter(self.generation, Op::Sync(content.dirty_bytes()))? {
            Fate::SyncFails => {
                content.fail_sync(&mut self.platter.failed_sync_dice(state.gate.counters.syncs));
                Err(io_error())
            }
            Fate::SyncLies => Ok(()),
            fate => {
                // A node that dies in a sync may still have finished it; a part of it is what a power loss leaves.
                if fate.acts() {
                    content.sync();
                }
                fate.finish(())
            }
        }
    }
}

/// Gives the lock back when dropped, unless a crash already did.
struct Lock {
    platter: Arc<MemDisk>,
    path: PathBuf,
    id: u64,
}

impl LockGuard for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.platter.state();
        if state.locks.get(&self.path).is_some_and(|(id, _)| *id == self.id) {
            state.locks.remove(&self.path);
        }
    }
}
