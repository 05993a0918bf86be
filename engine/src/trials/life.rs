//! A short life in which everything happens, beside a model of what may be found after a crash.
//!
//! Writes go four ways, each into a family of its own: through the log, past it, as imported tables, and as files of another
//! database. Of each family the model keeps every state that was attempted. A crash may take the newest of them, but it
//! leaves *one* of the states, whole, and none older than the last one that was promised to last. A copy that a checkpoint
//! makes is there as a whole or not at all, and stays what it was whatever becomes of the original.
//!
//! A step takes a second, and some rows have an end. Of a state that is seen which has not ended yet.

use super::elsewhere;
use crate::files::{self, Kind};
use crate::inspect::SegmentInfo;
use crate::testing::{Map, World};
use crate::value::NEVER;
use crate::{
    Cf, Db, Error, ExportedTable, Import, Options, Result, Snapshot, WriteBatch, WriteOptions, inspect,
};
use bytes::Bytes;
use nokv_env::mem_disk::CrashMode;
use nokv_env::{OpenMode, disk};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Something that a database is asked to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// A batch through the log, synced or not.
    Write { sync: bool },
    /// A batch past the log.
    Apply,
    /// Everything so far into tables.
    Flush,
    /// The same, without waiting for it.
    RequestFlush,
    /// Background work runs until there is none.
    Settle,
    /// The same, and nobody does anything else for a while.
    Pause,
    /// A snapshot is taken, and kept over what follows.
    Hold,
    /// The snapshot must still be what it was. It goes.
    Release,
    /// A table is written beside the database and joins it.
    Import,
    /// A table is written beside the database and thrown away.
    DropImport,
    /// A range of keys goes, in both families that batches go to.
    DeleteRange,
    /// Files of another database are taken in.
    Ingest,
    /// All rows, of the snapshot if one is held, as files, which must hold those rows and no others. They go.
    Export,
    /// A copy is made, and kept over what follows. An older one goes first.
    Checkpoint,
    /// The copy must still be what it was. It goes.
    DropCopy,
    /// An orderly end, and a new beginning.
    Reopen,
    /// The process is killed, and another one begins.
    Die,
}

use Step::{Apply, DeleteRange, Die, Flush, Hold, Pause, Release, Reopen, RequestFlush, Settle};
use Step::{Checkpoint, DropCopy, DropImport, Export, Import as Adopt, Ingest};
const WRITE: Step = Step::Write { sync: false };
const SYNC: Step = Step::Write { sync: true };

/// Memtables switch, the log rolls, levels fill, values are collected, the manifest is rewritten: all of it within a hundred
/// steps.
pub(super) fn script() -> Vec<Step> {
    let parts: [&[Step]; 10] = [
        &[WRITE, SYNC, Apply, WRITE, Apply, WRITE, SYNC, WRITE, SYNC, Settle, SYNC, WRITE],
        &[Flush, WRITE, Apply, WRITE, Hold, SYNC, Apply, DeleteRange, WRITE, RequestFlush, WRITE, Apply],
        &[Settle, Adopt, WRITE, Export, Checkpoint, Release, WRITE, Reopen],
        &[WRITE, SYNC, WRITE, SYNC, WRITE, WRITE, Apply, DropImport, Apply, Flush, Hold, SYNC],
        &[Apply, Adopt, WRITE, Ingest, Settle, DropCopy, WRITE, WRITE, Die],
        &[SYNC, WRITE, Apply, WRITE, SYNC, Flush, Settle, SYNC, WRITE, DeleteRange, SYNC, Apply, Apply],
        &[Apply, Apply, Apply, Settle, Adopt, Settle, Checkpoint, WRITE, Die],
        &[Apply, Flush, WRITE, WRITE, SYNC, Ingest, WRITE, SYNC, WRITE, Settle, WRITE, Flush, Settle, SYNC],
        &[
            WRITE,
            Reopen,
            Settle,
            WRITE,
            SYNC,
            Apply,
            DeleteRange,
            WRITE,
            Flush,
            Pause,
            WRITE,
            Flush,
            SYNC,
            Flush,
        ],
        &[SYNC, WRITE, SYNC, SYNC, WRITE, WRITE, SYNC, SYNC, WRITE, SYNC, WRITE, SYNC, WRITE, SYNC, SYNC],
    ];
    parts.concat()
}

/// Sets of options to live by.
pub(super) const SHAPES: u64 = 3;

/// One of them, which `seed` chooses: a memtable of less than a log segment with a value log, one of several with a value
/// log, and a small one without.
pub(super) fn options(seed: u64) -> Options {
    let shape = seed % SHAPES;
    Options {
        memtable_bytes: if shape == 1 { 16 << 10 } else { 2 << 10 },
        wal_segment_bytes: 4 << 10,
        table_bytes: 4 << 10,
        level_bytes_base: 4 << 10,
        level_multiplier: 2,
        block_bytes: 256,
        manifest_bytes: 700,
        value_threshold: if shape == 2 { usize::MAX } else { 120 },
        block_cache_bytes: 1 << 20,
        readahead_bytes: if shape == 2 { 0 } else { 1 << 10 },
        value_segment_bytes: 4 << 10,
        subcompactions: 1 + shape as usize,
        // Less than is written in the time that passes: nearly all background work waits.
        background_bytes_per_second: if shape == 1 { 0 } else { 100_000 },
        ..Options::tiny()
    }
}

const LOGGED: usize = 0;
const APPLIED: usize = 1;
const IMPORTED: usize = 2;
const INGESTED: usize = 3;
/// Content of all four families: what is seen.
pub(super) type Content = [Map; 4];
/// What was written to one family: values, and until when they are there.
pub(super) type State = BTreeMap<Bytes, (Bytes, u64)>;

/// What is seen of a state.
pub(super) fn seen(state: &State, now: u64) -> Map {
    let is_there =
        |(key, (value, until)): (&Bytes, &(Bytes, u64))| (*until > now).then(|| (key.clone(), value.clone()));
    state.iter().filter_map(is_there).collect()
}

/// What one family may hold.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// Every state that was attempted, in order. Two are alike only if they differ in what has ended since.
    states: Vec<State>,
    /// The newest state that was acknowledged.
    acknowledged: usize,
    /// The newest state that was promised to survive anything.
    durable: usize,
}

impl Stream {
    fn of(state: State) -> Self {
        Self { states: vec![state], acknowledged: 0, durable: 0 }
    }

    fn last(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    /// The newest state lasts as long as the machine does.
    fn acknowledge(&mut self) {
        self.acknowledged = self.states.len() - 1;
    }

    /// The newest state lasts.
    fn endure(&mut self) {
        self.acknowledge();
        self.durable = self.acknowledged;
    }

    /// The newest state of which this is seen.
    fn position(&self, found: &Map, now: u64) -> Option<usize> {
        self.states.iter().rposition(|state| seen(state, now) == *found)
    }
}

/// A machine, its database and the model.
pub(super) struct Life {
    pub(super) world: World,
    options: Options,
    pub(super) db: Option<Db>,
    streams: [Stream; 4],
    held: Option<(Snapshot, Content)>,
    copy: Option<Copy>,
    /// Since the last opening. Otherwise the operating system still has what was handed to it.
    lost_power: bool,
    /// Batches so far.
    count: usize,
    pub(super) reached: Reached,
    /// Background work may not come to an end: to wait for it is to wait a while.
    pub(super) is_patient: bool,
    /// The manifest in force after the last opening.
    manifest: u64,
}

/// The copy that a checkpoint makes, or made.
struct Copy {
    content: Content,
    /// What the clock said when it was made.
    made_at: u64,
    /// It is there, whatever happens. Otherwise it may be there.
    is_promised: bool,
}

/// What the engine did, to know that a life is worth surviving.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reached {
    pub(super) flushes: u64,
    pub(super) compactions: u64,
    pub(super) moves: u64,
    pub(super) parts: u64,
    /// Small tables of level 0 that became one.
    pub(super) gathered: u64,
    /// Compactions that waited for a pause.
    pub(super) in_pauses: u64,
    pub(super) waited_bytes: u64,
    /// Log segments that were removed.
    pub(super) purged: u64,
    /// Log segments that there were at once.
    pub(super) segments: u64,
    /// Tables that left because of their range.
    pub(super) tables_deleted: u64,
    /// Rows of such ranges in tables that stayed.
    pub(super) rows_buried: u64,
    /// Bytes of the value log that moved into new segments.
    pub(super) collected: u64,
    /// Segments of the value log that nobody pointed at any more.
    pub(super) values_removed: u64,
    /// Rows that had ended when a flush or compaction met them.
    pub(super) expired: u64,
    /// Tables that left unread because all of their rows had ended.
    pub(super) expired_tables: u64,
    /// Lives of a process in which the manifest was rewritten.
    pub(super) rewritten: u64,
    /// Openings that found a log to replay.
    pub(super) replayed: u64,
}

impl Life {
    pub(super) fn new(seed: u64, options: Options) -> Self {
        let streams = std::array::from_fn(|_| Stream::of(State::new()));
        Self {
            world: World::new(seed),
            options,
            db: None,
            streams,
            held: None,
            copy: None,
            lost_power: false,
            count: 0,
            reached: Reached::default(),
            is_patient: false,
            manifest: 0,
        }
    }

    /// Begins, and goes through the script up to its first failure.
    pub(super) fn live(&mut self, script: &[Step]) -> Result<()> {
        self.open()?;
        script.iter().try_for_each(|step| self.take(*step))
    }

    /// Goes on; nothing can fail.
    pub(super) fn live_on(&mut self, script: &[Step]) {
        for step in script {
            self.take(*step).unwrap();
        }
    }

    fn db(&self) -> Db {
        self.db.clone().expect("open")
    }

    /// Takes one step.
    pub(super) fn take(&mut self, step: Step) -> Result<()> {
        let db = self.db();
        self.world.set_clock(self.now() + if matches!(step, Step::Pause) { 10 * SECOND } else { SECOND });
        match step {
            Step::Write { sync } => {
                let batch = self.batch(LOGGED);
                self.world.run(db.write(batch, WriteOptions { sync }))?;
                self.streams[LOGGED].acknowledge();
                self.reached.segments = self.reached.segments.max(db.stats().wal_segments);
                if sync {
                    self.streams[LOGGED].endure();
                }
            }
            Step::Apply => {
                let batch = self.batch(APPLIED);
                db.apply(batch)?;
            }
            Step::Flush => {
                self.world.run(db.flush())?;
                self.streams.iter_mut().for_each(Stream::endure);
            }
            Step::RequestFlush => db.request_flush(),
            Step::Settle | Step::Pause => {
                if self.is_patient {
                    self.world.go_on_for_a_while();
                } else {
                    self.world.settle();
                }
                if let Some(failure) = db.failed() {
                    return Err(Error::Poisoned(failure));
                }
            }
            Step::Hold => self.held = Some((db.snapshot(), self.content())),
            Step::Release => {
                let (snapshot, content) = self.held.take().expect("held");
                assert_eq!(read(&snapshot)?, content, "the snapshot moved");
            }
            Step::Import | Step::DropImport => {
                let mut import = db.import(Path::new(STAGED))?;
                let state = self.import(&mut import)?;
                let mut imported = self.world.run(import.finish())?;
                // What is older than an import is in tables when it is finished.
                self.streams[LOGGED].endure();
                self.streams[APPLIED].endure();
                if matches!(step, Step::Import) {
                    self.streams[IMPORTED].states.push(state);
                    db.adopt(&mut imported)?;
                    self.streams[IMPORTED].endure();
                }
            }
            Step::DeleteRange => {
                let families = [LOGGED, APPLIED];
                let keys = self.range();
                for family in families {
                    let mut state = self.streams[family].last().clone();
                    state.retain(|key, _| !keys.contains(key));
                    // A state that is as the one before would be taken for that one.
                    if seen(&state, self.now()) != seen(self.streams[family].last(), self.now()) {
                        self.streams[family].states.push(state);
                    }
                }
                let ranges = families.map(|family| (Cf(family as u8), keys.clone()));
                let deleted = self.world.run(db.delete_ranges(&ranges))?;
                self.reached.tables_deleted += deleted.tables;
                self.reached.rows_buried += deleted.tombstones;
                self.streams.iter_mut().for_each(Stream::endure);
            }
            Step::Ingest => {
                let (state, files) = self.foreign()?;
                self.streams[INGESTED].states.push(state);
                self.world.run(db.ingest(&files))?;
                self.streams.iter_mut().for_each(Stream::endure);
                self.world.disk.remove_dir_all(Path::new(FOREIGN)).map_err(crashed)?;
            }
            Step::Export => {
                let now = || (db.snapshot(), self.content());
                let (snapshot, content) = self.held.as_ref().map_or_else(now, Clone::clone);
                let families = [LOGGED, APPLIED, IMPORTED, INGESTED].map(|family| Cf(family as u8));
                let tables = self.world.run(db.export(&snapshot, &families, .., Path::new(EXPORTED)))?;
                let read = |table: &ExportedTable| disk::read_all(&*self.world.disk, &table.file);
                let files = tables.iter().map(read).collect::<io::Result<_>>().map_err(crashed)?;
                assert_eq!(elsewhere::taken_in(files), content, "the export is another state");
                self.world.disk.remove_dir_all(Path::new(EXPORTED)).map_err(crashed)?;
            }
            Step::Checkpoint => {
                self.drop_copy()?;
                self.copy = Some(Copy { content: self.content(), made_at: self.now(), is_promised: false });
                self.world.run(db.checkpoint(Path::new(COPY)))?;
                self.streams.iter_mut().for_each(Stream::endure);
                self.copy.as_mut().expect("made").is_promised = true;
            }
            Step::DropCopy => {
                self.judge_copy()?;
                self.drop_copy()?;
            }
            Step::Reopen => {
                self.held = None;
                self.look_back();
                self.world.run(db.close())?;
                self.streams[LOGGED].endure();
                drop(db);
                self.open()?;
            }
            Step::Die => {
                self.look_back();
                drop(db);
                self.crash(CrashMode::ProcessKill);
                self.open()?;
            }
        }
        Ok(())
    }

    /// The machine goes down.
    pub(super) fn crash(&mut self, mode: CrashMode) {
        (self.db, self.held) = (None, None);
        self.world.crash(mode);
        self.lost_power |= mode != CrashMode::ProcessKill;
    }

    /// The power has been lost, as far as promises go.
    pub(super) fn lose_power(&mut self) {
        self.lost_power = true;
    }

    /// The process ends: counts what it did.
    pub(super) fn look_back(&mut self) {
        let stats = self.db().stats();
        self.reached.flushes += stats.flushes;
        self.reached.compactions += stats.compactions;
        self.reached.moves += stats.compaction_moves;
        self.reached.parts += stats.compaction_parts;
        self.reached.gathered += stats.compaction_gathered;
        self.reached.in_pauses += stats.compactions_in_pauses;
        self.reached.waited_bytes += stats.background_waited_bytes;
        self.reached.purged += stats.wal_purged;
        self.reached.collected += stats.collected_bytes;
        self.reached.values_removed += stats.segments_removed;
        self.reached.expired += stats.expired_rows;
        self.reached.expired_tables += stats.expired_tables;
        self.reached.rewritten += u64::from(stats.manifest_number > self.manifest);
    }

    /// Opens the database and judges what is found. From then on that is the state, and it lasts.
    pub(super) fn open(&mut self) -> Result<()> {
        self.db = None;
        self.world.disk.create_dir_all(&World::dir().join("staged")).map_err(crashed)?;
        match self.world.disk.remove_file(Path::new(STAGED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(crashed(error)),
            _ => {}
        }
        [FOREIGN, EXPORTED].into_iter().try_for_each(|dir| self.clear(dir))?;
        self.judge_copy()?;
        let db = self.world.open(&self.options)?;
        let found = read(&db.snapshot())?;
        self.judge(&found);
        let now = self.now();
        for (stream, found) in self.streams.iter_mut().zip(&found) {
            let position = stream.position(found, now).expect("judged");
            *stream = Stream::of(stream.states.swap_remove(position));
        }
        self.lost_power = false;
        self.manifest = db.stats().manifest_number;
        self.reached.replayed += u64::from(db.stats().wal.records.total() > 0);
        self.db = Some(db);
        Ok(())
    }

    /// What is found must be one whole state of each family, and none older than was promised.
    pub(super) fn judge(&self, found: &Content) {
        for (family, (stream, found)) in self.streams.iter().zip(found).enumerate() {
            let Some(position) = stream.position(found, self.now()) else {
                panic!("family {family} is in a state that it never was in: {:?}", found.keys());
            };
            let promised = if self.lost_power { stream.durable } else { stream.acknowledged };
            assert!(position >= promised, "family {family}: state {position}, but {promised} was promised");
        }
    }

    /// A snapshot that is held is what it was.
    pub(super) fn look_at_held(&self) {
        if let Some((snapshot, content)) = &self.held {
            assert_eq!(read(snapshot).unwrap(), *content, "the snapshot moved");
        }
    }

    /// How many states of each family were attempted.
    pub(super) fn attempted(&self) -> [usize; 4] {
        std::array::from_fn(|family| self.streams[family].states.len())
    }

    /// What was attempted since then was refused: it never happened.
    pub(super) fn take_back(&mut self, attempted: [usize; 4]) {
        for (stream, len) in self.streams.iter_mut().zip(attempted) {
            stream.states.truncate(len);
        }
    }

    /// A copy is whole, and is there if it was promised.
    fn judge_copy(&self) -> Result<()> {
        let is_there = self.world.disk.exists(Path::new(COPY)).map_err(crashed)?;
        if is_there {
            let options = self.options.clone();
            let copy = self.copy.as_ref().expect("nobody made a copy");
            let disk = self.world.disk.clone();
            let db = Db::open_read_only_at(disk, Path::new(COPY), options, copy.made_at)?;
            assert_eq!(read(&db.snapshot())?, copy.content, "the copy is another state");
        } else {
            assert!(self.copy.as_ref().is_none_or(|copy| !copy.is_promised), "the copy is gone");
        }
        Ok(())
    }

    fn clear(&self, dir: &str) -> Result<()> {
        match self.world.disk.remove_dir_all(Path::new(dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(crashed(error)),
            _ => Ok(()),
        }
    }

    /// Takes the copy away, if there is one. The removal of a directory is not one step, so its name goes first.
    fn drop_copy(&mut self) -> Result<()> {
        let (copy, gone, disk) = (Path::new(COPY), Path::new(GONE), self.world.disk.clone());
        if let Some(copy) = &mut self.copy {
            copy.is_promised = false;
        }
        if disk.exists(gone).map_err(crashed)? {
            disk.remove_dir_all(gone).map_err(crashed)?;
        }
        if disk.exists(copy).map_err(crashed)? {
            disk.rename(copy, gone).map_err(crashed)?;
            disk.sync_dir(Path::new(COPIES)).map_err(crashed)?;
            disk.remove_dir_all(gone).map_err(crashed)?;
        }
        self.copy = None;
        Ok(())
    }

    /// What the database holds, by the model.
    pub(super) fn states(&self) -> [State; 4] {
        std::array::from_fn(|family| self.streams[family].last().clone())
    }

    /// What is seen of it.
    pub(super) fn content(&self) -> Content {
        self.states().map(|state| seen(&state, self.now()))
    }

    /// The wall clock.
    pub(super) fn now(&self) -> u64 {
        self.world.unix_millis()
    }

    /// The database goes on as if nothing had been: it takes writes, and gives up what nobody needs.
    pub(super) fn go_on(&mut self) {
        self.live_on(&[
            SYNC, Apply, Adopt, Checkpoint, Ingest, Flush, Settle, DropCopy, WRITE, Reopen, Settle,
        ]);
        assert_eq!(read(&self.db().snapshot()).unwrap(), self.content());
        let checked = inspect::check(&*self.world.disk, World::dir(), true).unwrap();
        assert_eq!((checked.findings, checked.notes), (vec![], vec![]));
        self.expect_no_orphans();
    }

    /// After two openings every file is one that somebody needs.
    fn expect_no_orphans(&self) {
        let info = inspect::manifest(&*self.world.disk, World::dir()).unwrap().expect("CURRENT");
        let is_at = |segment: &SegmentInfo, path: &Path| {
            path == files::segment(World::dir(), segment.bucket, segment.number)
        };
        for (path, _) in self.world.platter.files() {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            let is_needed = match Kind::of(name) {
                Some(Kind::Current) => true,
                Some(Kind::Manifest(number)) => number == info.number,
                Some(Kind::Table(number)) => info.tables.iter().any(|table| table.number == number),
                Some(Kind::Wal(number)) => number >= info.log_start,
                None => {
                    path == files::lock(World::dir())
                        || info.segments.iter().any(|segment| is_at(segment, &path))
                }
            };
            assert!(is_needed, "{} is needed by nobody", path.display());
        }
    }

    /// Changes of several keys, in the model too. A counter makes every state unlike all others.
    fn batch(&mut self, family: usize) -> WriteBatch {
        let n = self.next();
        let cf = Cf(family as u8);
        let mut batch = WriteBatch::new();
        batch.put(cf, "counter", format!("{n}"));
        batch.put_until(cf, key(n * 7), value(n), self.until(n));
        batch.delete(cf, key(n * 5 + 3));
        batch.put_until(cf, key(n * 3 + 1), format!("short {n}"), self.until(n + 1));
        let mut state = self.streams[family].last().clone();
        for change in &batch.changes {
            match &change.value {
                Some(value) => drop(state.insert(change.key.clone(), (value.clone(), change.until))),
                None => drop(state.remove(&change.key)),
            }
        }
        self.streams[family].states.push(state);
        batch
    }

    /// Fills an import, and says what it makes of its family.
    fn import(&mut self, import: &mut Import) -> Result<State> {
        let n = self.next();
        let cf = Cf(IMPORTED as u8);
        let mut state = self.streams[IMPORTED].last().clone();
        import.put(cf, "counter".into(), format!("{n}").into())?;
        state.insert("counter".into(), (format!("{n}").into(), NEVER));
        for k in 0..KEYS {
            match (n + k) % 4 {
                0 => {
                    let until = self.until(n + k / 4);
                    import.put_until(cf, key(k), value(n + k), until)?;
                    state.insert(key(k), (value(n + k), until));
                }
                1 => {
                    import.delete(cf, key(k))?;
                    state.remove(&key(k));
                }
                _ => {}
            }
        }
        Ok(state)
    }

    /// Two thirds of all keys, elsewhere each time.
    fn range(&mut self) -> Range<Bytes> {
        let low = self.next() * 7 % (KEYS / 2);
        let high = low + KEYS * 2 / 3;
        // Behind all keys, for there is no key `KEYS`.
        key(low)..if high < KEYS { key(high) } else { "key~".into() }
    }

    /// Files with some rows, and what they make of their family.
    fn foreign(&mut self) -> Result<(State, Vec<PathBuf>)> {
        let n = self.next();
        let row = |k: usize| (key(k), (value(n + k), self.until(n + k)));
        let mut rows: State = (0..KEYS).filter(|k| (n + k) % 3 < 2).map(row).collect();
        rows.insert("counter".into(), (format!("{n}").into(), NEVER));
        self.clear(FOREIGN)?;
        let disk = &self.world.disk;
        disk.create_dir_all(Path::new(FOREIGN)).map_err(crashed)?;
        let write = |(number, bytes): (usize, Vec<u8>)| {
            let path = Path::new(FOREIGN).join(format!("{number}.sst"));
            disk.open(&path, OpenMode::CreateNew)?.write_at(&bytes, 0)?;
            Ok(path)
        };
        let files = elsewhere::exported(Cf(INGESTED as u8), &rows).into_iter().enumerate().map(write);
        let files = files.collect::<io::Result<_>>().map_err(crashed)?;
        let mut state = self.streams[INGESTED].last().clone();
        state.extend(rows);
        Ok((state, files))
    }

    /// Until when a row is there: most for ever, some for a few steps, some have ended already.
    fn until(&self, n: usize) -> u64 {
        match n % 7 {
            0 => self.now() + n as u64 % 4 * SECOND,
            1 => self.now() + 60 * SECOND,
            _ => NEVER,
        }
    }

    fn next(&mut self) -> usize {
        self.count += 1;
        self.count
    }
}

const STAGED: &str = "/db/staged/import.sst";
const FOREIGN: &str = "/foreign";
const EXPORTED: &str = "/exported";
const COPIES: &str = "/copies";
const COPY: &str = "/copies/one";
const GONE: &str = "/copies/gone.tmp";
const KEYS: usize = 24;
const SECOND: u64 = 1000;

fn key(n: usize) -> Bytes {
    format!("key{:02}", n % KEYS).into()
}

/// Mostly a few hundred bytes, now and then more than a page of the disk. Not worth compressing.
fn value(n: usize) -> Bytes {
    let words = if n.is_multiple_of(5) { 900 } else { 10 + n % 30 };
    let word = |at: usize| crc32c::crc32c(&[n.to_le_bytes(), at.to_le_bytes()].concat()).to_le_bytes();
    (0..words).flat_map(word).chain(*b"words").collect()
}

fn crashed(error: io::Error) -> Error {
    Error::Io { file: World::dir().into(), doing: "prepare", source: error.into() }
}

/// Everything, read forward and checked against reading backward and key by key.
pub(super) fn read(snapshot: &Snapshot) -> Result<Content> {
    let mut content = Content::default();
    for (family, map) in content.iter_mut().enumerate() {
        let cf = Cf(family as u8);
        let forward = snapshot.iter(cf, ..).collect::<Result<Vec<_>>>()?;
        let mut backward = snapshot.iter_rev(cf, ..).collect::<Result<Vec<_>>>()?;
        backward.reverse();
        assert_eq!(forward, backward);
        *map = forward.into_iter().collect();
        for key in (0..KEYS).map(key) {
            assert_eq!(snapshot.get(cf, &key)?.as_ref(), map.get(&key), "{key:?}");
        }
    }
    Ok(content)
}
