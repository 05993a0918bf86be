//! The compaction loop: pick, run, install, until no level asks for more; and when writers pause, what is left.

use crate::compaction::output::{Output, Written};
use crate::compaction::parts::parts;
use crate::compaction::pick::{Cursors, Hull, Job, pick};
use crate::compaction::run::run;
use crate::compaction::settle::{may_hide_much, most_hiding};
use crate::db::new_files::NewFiles;
use crate::db::{Inner, add};
use crate::edit::Edit;
use crate::error::IoContext;
use crate::key::Span;
use crate::pace::{Pace, Work};
use crate::table::Table;
use crate::version::Version;
use crate::{Error, Result, lock};
use nokv_env::{ClockExt, Env, Instant, TasksExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Writers pause when no table came for so long. Longer than it takes one who writes all the time to fill a memtable.
const PAUSE: Duration = Duration::from_secs(5);

/// The place of the one compaction that runs.
#[derive(Default)]
pub(super) struct Compacting {
    /// Where it will put its tables. Changes under `manifest`, or when it is done.
    pub(super) running: Option<Hull>,
    /// How many do not want another one to begin.
    holds: usize,
}

impl Compacting {
    /// Whether somebody waits for a compaction to end.
    pub(super) fn is_in_the_way(&self) -> bool {
        self.holds > 0 && self.running.is_some()
    }
}

/// While it lives no compaction begins.
pub(super) struct Hold<'a>(&'a Inner);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        lock(&self.0.compacting).holds -= 1;
        self.0.look_for_compact_work();
    }
}

impl Inner {
    /// Keeps compactions from beginning, and waits for the one that runs if it has to do with `spans`.
    pub(super) async fn hold_compactions(&self, spans: &[Span]) -> Result<Hold<'_>> {
        lock(&self.compacting).holds += 1;
        let hold = Hold(self);
        let is_done = || {
            let is_in_the_way = |hull: &Hull| spans.iter().any(|span| hull.overlaps(span));
            match self.check() {
                Ok(()) if lock(&self.compacting).running.as_ref().is_some_and(is_in_the_way) => None,
                checked => Some(checked),
            }
        };
        self.until(is_done).await.map(|()| hold)
    }

    pub(super) async fn compact_loop(self: &Arc<Self>, env: &Env) -> Result<()> {
        let mut cursors = Cursors::default();
        let mut pause_at = None;
        loop {
            if self.wait_for_compact_work(env, pause_at).await {
                pause_at = Some(env.clock.now() + PAUSE);
            }
            let is_pause = pause_at.is_some_and(|at| at <= env.clock.now());
            let asked = self.compact_asked.load(Ordering::Acquire);
            let is_asked_again = || self.compact_asked.load(Ordering::Acquire) != asked;
            while self.check().is_ok() {
                let has_time = is_pause && !is_asked_again();
                let sinking = if has_time { most_hiding(&self.view().version) } else { None };
                let Some(job) = self.pick(&cursors, sinking).map(Arc::new) else { break };
                let done = self.compact(env, &job).await;
                lock(&self.compacting).running = None;
                self.progress.notify_waiters();
                match done {
                    Err(Error::Closed) => return Ok(()),
                    // There may be room for all that anybody writes.
                    Err(error) if job.is_sinking && error.is_disk_full() => {
                        env.probe("engine.compaction.pause.no_room");
                        break;
                    }
                    other => {
                        if self.or_room(env, other).await?.is_none() {
                            continue;
                        }
                    }
                }
                self.took();
                cursors[job.level] = job.inputs.iter().map(|table| table.meta.largest.clone()).max();
                drop(job);
                self.bury()?;
                self.progress.notify_waiters();
                env.tasks.yield_now().await;
            }
            if self.check().is_err() {
                return Ok(());
            }
            if is_pause || !may_hide_much(&self.view().version) {
                pause_at = None;
            }
            if pause_at.is_none() {
                self.compact_settled.store(asked, Ordering::Release);
            }
        }
    }

    /// Tables came or went: there may be work for compactions, now or in a pause.
    pub(super) fn look_for_compact_work(&self) {
        self.compact_asked.fetch_add(1, Ordering::Release);
        self.compact_work.notify_one();
    }

    /// Waits until somebody says that there is work for compactions; or until `pause_at`, or until there may be some because of
    /// rows that have ended meanwhile. Whether somebody said so.
    async fn wait_for_compact_work(&self, env: &Env, pause_at: Option<Instant>) -> bool {
        let pause = pause_at.map(|at| at.since(env.clock.now()));
        let work = self.compact_work.notified();
        match pause.into_iter().chain(self.until_next_expiry()).min() {
            None => {
                work.await;
                true
            }
            Some(time) => env.clock.timeout(time, work).await.is_ok(),
        }
    }

    /// The next job; see [`pick`]. Tables that come from outside meanwhile keep out of its way.
    fn pick(&self, cursors: &Cursors, sinking: Option<u64>) -> Option<Job> {
        let _no_edits = lock(&self.manifest);
        let mut compacting = lock(&self.compacting);
        if compacting.holds > 0 {
            return None;
        }
        let version = self.view().version.clone();
        let now = if version.expiring() > 0 { self.unix_millis() } else { 0 };
        let job = pick(&version, &self.options, cursors, now, sinking)?;
        compacting.running = job.hull();
        Some(job)
    }

    async fn compact(self: &Arc<Self>, env: &Env, job: &Arc<Job>) -> Result<()> {
        let begun = env.clock.now();
        let files = NewFiles::new(self);
        let removed = job.tables().map(|table| table.meta.number).collect();
        let written = if job.is_move() {
            add(&self.counters.compaction_moves, 1);
            env.probe("engine.compaction.move");
            Written {
                tables: job.inputs.iter().map(|table| table.meta.clone()).collect(),
                ..Written::default()
            }
        } else {
            self.rewrite(env, job, &files).await?
        };
        let added = written.tables.into_iter().map(|meta| (job.target, meta)).collect();
        let edit = Edit { added, removed, segments_added: written.segments, ..Edit::default() };
        files.join(|| self.install(edit, |_| {}))?;
        let took = env.clock.now().since(begun);
        let (counters, inputs) = (&self.counters, job.inputs.len() as u64);
        counters.compaction_time.add(took);
        if job.is_sinking {
            add(&counters.compactions_in_pauses, 1);
            env.probe("engine.compaction.pause");
        }
        if job.is_gathering() {
            counters.gathering.add(took);
            add(&counters.gathered, inputs);
            env.probe("engine.compaction.gather");
        } else if job.level == 0 && !job.is_move() {
            counters.draining.add(took);
            add(&counters.drained, inputs);
        }
        Ok(())
    }

    async fn rewrite(self: &Arc<Self>, env: &Env, job: &Arc<Job>, files: &NewFiles<'_>) -> Result<Written> {
        let version = self.view().version.clone();
        let written = self.merge(env, job, &version, files).await?;
        if !written.tables.is_empty() {
            self.disk().sync_dir(self.dir()).at(self.dir(), "sync")?;
        }
        add(&self.counters.compactions, 1);
        add(&self.counters.compaction_read_bytes, job.tables().map(|table| table.meta.bytes).sum());
        add(&self.counters.compaction_write_bytes, written.bytes());
        add(&self.counters.collected_bytes, written.moved_bytes);
        self.note_expired(env, written.expired);
        let unread = |table: &&Arc<Table>| job.is_in_place() && job.leaves_nothing(&version, table);
        let unread = job.inputs.iter().filter(unread).count() as u64;
        if unread > 0 {
            add(&self.counters.expired_tables, unread);
            env.probe("engine.expired.tables");
        }
        env.probe("engine.compaction");
        if job.is_collection() {
            add(&self.counters.collections, 1);
            env.probe("engine.vlog.collect");
        } else if written.moved_bytes > 0 {
            env.probe("engine.vlog.collect.passing");
        }
        Ok(written)
    }

    /// Merges in one part here, or in several at the same time, of which the first is done here.
    async fn merge(
        self: &Arc<Self>,
        env: &Env,
        job: &Arc<Job>,
        version: &Arc<Version>,
        files: &NewFiles<'_>,
    ) -> Result<Written> {
        let mut spans = parts(job, version, &self.options).into_iter();
        let first = spans.next().unwrap_or_else(Span::all);
        let part = |span| Part { job: job.clone(), version: version.clone(), span };
        let others: Vec<_> = spans.map(part).collect();
        let halted = Arc::new(AtomicBool::new(false));
        if !others.is_empty() {
            add(&self.counters.compaction_parts, 1 + others.len() as u64);
            env.probe("engine.compaction.parts");
        }
        let others: Vec<_> = others.into_iter().map(|part| self.spawn(env, part, &halted)).collect();
        let mut done = vec![self.merge_part(env, &part(first), &halted).await];
        for other in others {
            // Who is gone without a word did not end well.
            let what = "a part of a compaction ended before its time";
            done.push(other.await.unwrap_or_else(|_| Err(Error::Poisoned(what.to_owned()))));
        }
        let (mut written, mut failures) = (Written::default(), Vec::new());
        for part in done {
            match part {
                Ok((part, numbers)) => {
                    files.take_over(numbers);
                    written.append(part);
                }
                Err(error) => failures.push(error),
            }
        }
        // Parts that were halted because of another one say that they were closed.
        let cause = failures.iter().position(|error| !matches!(error, Error::Closed)).unwrap_or(0);
        match failures.into_iter().nth(cause) {
            Some(error) => Err(error),
            None => Ok(written),
        }
    }

    /// Starts a part beside this one.
    fn spawn(self: &Arc<Self>, env: &Env, part: Part, halted: &Arc<AtomicBool>) -> oneshot::Receiver<Merged> {
        let (done, receiver) = oneshot::channel();
        let (this, world, halted) = (self.clone(), env.clone(), halted.clone());
        env.tasks.go_dedicated("engine-compact-part", async move {
            let merged = this.merge_part(&world, &part, &halted).await;
            // Whoever hears of the end may count on it that nobody holds tables any more.
            drop((part, this));
            drop(done.send(merged));
        });
        receiver
    }

    /// Merges a part. When it fails, the others need not go on; its files go then.
    async fn merge_part(&self, env: &Env, part: &Part, halted: &AtomicBool) -> Merged {
        let files = NewFiles::new(self);
        let next_file = || files.next_number();
        let Part { job, version, span } = part;
        // At level 0 a table more is one more for reads to look at.
        let table_bytes = if job.is_gathering() { u64::MAX } else { self.options.table_bytes };
        let output = Output::new(&self.context, &self.options, job.target, table_bytes, version, &next_file);
        // All parts judge by the time of the job.
        let output = output.collecting(job.collect.clone()).expiring(job.now);
        let relief = || self.relief();
        let pace = Pace::new(env, &self.limiter, Work::Other, &relief);
        let stopped = || halted.load(Ordering::Relaxed) || self.check().is_err();
        let written = run(job, span, version, output, pace, stopped).await;
        if written.is_err() {
            halted.store(true, Ordering::Relaxed);
        }
        Ok((written?, files.hand_over()))
    }
}

/// What a part of a compaction has to do with.
struct Part {
    job: Arc<Job>,
    version: Arc<Version>,
    span: Span,
}

/// What a part wrote, and the numbers of its files.
type Merged = Result<(Written, Vec<u64>)>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::pick::Cursors;
    use crate::key::InternalKey;
    use crate::testing::{Map, World, content, delete, put};
    use crate::{Cf, Compression, Db, Options};
    use bytes::Bytes;
    use nokv_env::mem_disk::{CrashMode, DiskFaults};

    const ROWS: usize = 240;

    /// Nothing is compacted by itself.
    fn idle() -> Options {
        Options {
            memtable_bytes: 4 << 20,
            table_bytes: 4 << 10,
            block_bytes: 128,
            level0_tables_compact: 100,
            level0_tables_slowdown: 100,
            level0_tables_stop: 100,
            level_bytes_base: 1 << 20,
            compression: Compression::None,
            value_threshold: usize::MAX,
            ..Options::tiny()
        }
    }

    /// All of level 0 is compacted, in so many parts at most.
    fn busy(subcompactions: usize) -> Options {
        Options { level0_tables_compact: 2, subcompactions, ..idle() }
    }

    fn key(n: usize) -> Bytes {
        format!("key{n:05}").into()
    }

    /// Four tables at level 0, all over the same keys: every key has several versions, and some are deleted
    /// in the end.
    fn filled(world: &World, options: &Options, words: usize) -> Map {
        let db = world.open(options).unwrap();
        let mut model = Map::new();
        for round in 0..4 {
            for n in (0..ROWS).map(|n| n * 7 % ROWS) {
                if (n + round).is_multiple_of(6) {
                    db.apply(delete(key(n))).unwrap();
                    model.remove(&key(n));
                } else if !(n + round).is_multiple_of(4) {
                    let value = Bytes::from(format!("{n} in round {round} ").repeat(words));
                    db.apply(put(key(n), value.clone())).unwrap();
                    model.insert(key(n), value);
                }
            }
            world.run(db.flush()).unwrap();
        }
        world.run(db.close()).unwrap();
        model
    }

    fn entries(db: &Db) -> u64 {
        db.stats().levels.iter().map(|level| level.entries).sum()
    }

    #[test]
    fn several_parts_make_what_one_makes() {
        for (most, parts) in [(1, 0), (2, 2), (3, 3), (8, 8), (64, 30)] {
            let mut world = World::new(1);
            let model = filled(&world, &idle(), 4);
            let db = world.open(&busy(most)).unwrap();
            let before = db.snapshot();
            world.settle();
            let stats = db.stats();
            assert_eq!((stats.compactions, stats.levels[0].tables), (1, 0));
            assert!(stats.compaction_parts <= parts && stats.compaction_parts * 2 >= parts, "{stats:?}");
            // No version of a key but the newest is left, and no tombstone.
            assert_eq!((entries(&db), content(&db).unwrap()), (model.len() as u64, model.clone()));
            assert_eq!(before.iter(crate::Cf(0), ..).count(), model.len());
            drop((before, db));
            world.crash(CrashMode::PowerLossWorst);
            // Opening refuses tables of a level that are not apart.
            let db = world.open(&busy(1)).unwrap();
            assert_eq!(content(&db).unwrap(), model);
        }
    }

    #[test]
    fn tables_that_are_soon_written_again_may_do_without_compression() {
        let bytes = |uncompressed_levels| {
            let lz4 = |options| Options { compression: Compression::Lz4, uncompressed_levels, ..options };
            let world = World::new(1);
            let model = filled(&world, &lz4(idle()), 16);
            let upper = world.open(&lz4(idle())).unwrap();
            let first = upper.stats().levels[0].bytes;
            world.run(upper.close()).unwrap();
            drop(upper);
            let db = world.open(&lz4(busy(1))).unwrap();
            world.settle();
            assert_eq!(content(&db).unwrap(), model);
            [first, db.stats().levels[1].bytes]
        };
        let [none, one, two] = [0, 1, 2].map(bytes);
        assert!(none[0] * 2 < one[0] && none[1] * 2 < two[1], "{none:?} {one:?} {two:?}");
        assert_eq!((one[0], none[1]), (two[0], one[1]));
    }

    /// What is asked first, and holds few rows, is mistaken more rarely.
    #[test]
    fn upper_levels_have_larger_filters() {
        let world = World::new(1);
        let options = Options { bloom_bits_per_key: 8, ..idle() };
        let fill = |db: &Db, family: char| {
            (0..4000).for_each(|n| assert!(db.apply(put(format!("{family}{n:04}"), "v")).is_ok()));
            world.run(db.flush()).unwrap();
        };
        let db = world.open(&options).unwrap();
        fill(&db, 'a');
        world.run(db.close()).unwrap();
        drop(db);
        let db = world.open(&Options { level0_tables_compact: 1, ..options.clone() }).unwrap();
        world.settle();
        world.run(db.close()).unwrap();
        drop(db);
        let db = world.open(&options).unwrap();
        fill(&db, 'b');
        assert!(db.stats().levels[0].tables == 1 && db.stats().levels[1].tables > 0);
        let mistaken = |family: char| {
            let before = db.stats().filter_rejections;
            for n in 0..3999 {
                assert_eq!(db.get(Cf(0), format!("{family}{n:04}x").as_bytes()).unwrap(), None);
            }
            3999 - (db.stats().filter_rejections - before)
        };
        let (deep, upper) = (mistaken('a'), mistaken('b'));
        assert!((40..200).contains(&deep) && upper < deep / 4, "{deep}, {upper}");
    }

    #[test]
    fn parts_are_even_and_leave_nothing_out() {
        let world = World::new(1);
        filled(&world, &idle(), 4);
        let db = world.open(&idle()).unwrap();
        let version = db.inner.view().version.clone();
        let job = pick(&version, &busy(1), &Cursors::default(), 0, None).unwrap();
        for most in 2..6 {
            let spans = parts(&job, &version, &busy(most));
            assert_eq!(spans.len(), most);
            assert_eq!((&spans[0].low, &spans[most - 1].high), (&Span::all().low, &None));
            let follow = |pair: &[Span]| pair[0].high.as_ref() == Some(&pair[1].low);
            assert!(spans.windows(2).all(follow), "{spans:?}");
            for span in &spans {
                let rows = (0..ROWS).filter(|n| {
                    let version = |sequence| InternalKey::new(crate::Cf(0), key(*n), sequence);
                    let (newest, oldest) = (span.holds(&version(u64::MAX)), span.holds(&version(0)));
                    assert_eq!(newest, oldest, "versions of key {n} are in different parts of {spans:?}");
                    newest
                });
                let (rows, even) = (rows.count(), ROWS / most);
                assert!(
                    (even * 2 / 3..=even * 3 / 2).contains(&rows),
                    "{rows} of {ROWS} rows in one of {most}"
                );
            }
        }
        assert_eq!(parts(&job, &version, &busy(1)), [Span::all()]);
        let large = Options { table_bytes: 1 << 20, ..busy(4) };
        assert_eq!(parts(&job, &version, &large), [Span::all()], "it fits one table");
    }

    #[test]
    fn values_that_move_fill_their_segments() {
        for (segment_bytes, is_parted) in [(4 << 10, true), (1 << 20, false)] {
            let values = |value_garbage_percent, options| Options {
                value_threshold: 40,
                value_segment_bytes: segment_bytes,
                value_garbage_percent,
                ..options
            };
            let world = World::new(1);
            filled(&world, &values(99, idle()), 16);
            let db = world.open(&values(99, busy(1))).unwrap();
            world.settle();
            world.run(db.close()).unwrap();
            drop(db);
            // What is at level 1 now points at segments with garbage in them.
            let model = filled(&world, &values(99, idle()), 16);
            let db = world.open(&values(1, busy(4))).unwrap();
            world.settle();
            let stats = db.stats();
            assert_eq!(stats.compaction_parts > 0, is_parted, "{stats:?}");
            assert!(stats.collected_bytes > 0);
            assert_eq!(content(&db).unwrap(), model);
            world.expect_no_strays(&db);
        }
    }

    /// Every operation of a compaction in parts is one in which the disk is full, refuses or the machine
    /// goes down.
    #[test]
    fn parts_are_there_together_or_not_at_all() {
        let full = |at| DiskFaults { full_from_op: Some(at), ..DiskFaults::default() };
        let refused = |at| DiskFaults { io_error_at_op: Some(at), ..DiskFaults::default() };
        let crash = |at| DiskFaults { crash_at_op: Some(at), ..DiskFaults::default() };
        let faults: [&dyn Fn(u64) -> DiskFaults; 3] = [&full, &refused, &crash];
        for (kind, faults) in faults.into_iter().enumerate() {
            let mut harmed = 0;
            for after in (1 + kind as u64..).step_by(2) {
                let mut world = World::new(after);
                let model = filled(&world, &idle(), 4);
                let db = world.open(&busy(3)).unwrap();
                assert_eq!(db.stats().compactions, 0, "it is open before its loops get a turn");
                let ops = world.platter.ops();
                world.platter.set_faults(faults(ops + after));
                world.go_on_for_a_while();
                let is_harmed = match kind {
                    0 => db.is_disk_full(),
                    1 => db.failed().is_some(),
                    _ => world.platter.crashed(),
                };
                harmed += u64::from(is_harmed);
                if kind == 2 {
                    drop(db);
                    world.crash(CrashMode::PowerLossWorst);
                    world.platter.set_faults(DiskFaults::default());
                } else {
                    let is_done = !is_harmed && world.platter.ops() < ops + after;
                    world.platter.set_faults(DiskFaults::default());
                    assert_eq!(content(&db).unwrap(), model, "{kind}, after {after}");
                    world.settle();
                    if kind == 0 {
                        assert!(db.stats().compactions > 0);
                        assert_eq!(entries(&db), model.len() as u64);
                        world.expect_no_strays(&db);
                    }
                    drop(db);
                    world.crash(CrashMode::ProcessKill);
                    if is_done {
                        break;
                    }
                }
                let db = world.open(&busy(3)).unwrap();
                assert_eq!(content(&db).unwrap(), model, "{kind}, after {after}");
                world.settle();
                assert_eq!((content(&db).unwrap(), entries(&db)), (model.clone(), model.len() as u64));
                // What nobody knew to be in or not, the second start removes.
                world.run(db.close()).unwrap();
                drop(db);
                world.expect_no_strays(&world.open(&busy(3)).unwrap());
                if kind == 2 && !is_harmed {
                    break;
                }
            }
            assert!(harmed > 30, "only {harmed} operations of kind {kind}");
        }
    }

    #[test]
    fn parts_end_when_the_database_is_closed() {
        for steps in 0..12 {
            let world = World::new(1);
            // Rows that take many turns to merge.
            let options = |options| Options { memtable_bytes: 64 << 20, table_bytes: 256 << 10, ..options };
            let db = world.open(&options(idle())).unwrap();
            for round in 0..2 {
                for n in 0..ROWS {
                    db.apply(put(key(n), format!("{n} in round {round} ").repeat(300))).unwrap();
                }
                world.run(db.flush()).unwrap();
            }
            world.run(db.close()).unwrap();
            drop(db);
            let db = world.open(&options(busy(4))).unwrap();
            (0..steps).for_each(|_| world.step());
            world.run(db.close()).unwrap();
            assert_eq!(db.failed(), None);
            assert_eq!(db.snapshot().iter(crate::Cf(0), ..).count(), ROWS);
            if db.stats().compactions == 0 {
                world.expect_no_strays(&db);
            }
        }
    }
}
