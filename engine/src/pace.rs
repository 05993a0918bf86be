//! How fast background work goes: it lets others run now and then, and keeps to
//! [`crate::Options::background_bytes_per_second`].
//!
//! Work is done first and paid for afterwards: what was read and written is *charged*, and time *pays* it
//! off at the limit. Who charged waits until all is paid that was charged up to then. Nothing is asked for
//! in advance, so a table's end, a large value or a sync may be as large as they are; the next wait makes up
//! for it. Work that ends does not wait for its last bytes: the next one does.
//!
//! ```text
//! charged   ────────┬────────┬──────────►      a piece of work adds its bytes here, takes the place as its ticket ...
//! paid      ─────►                             ... and goes on when this has come there
//! ```
//!
//! There are two such accounts. *All* is paid at the limit, and compactions wait for it. *Flushes* is paid
//! at nine tenths of it and has the bytes of flushes only: a flush does not wait for compactions, because
//! writers wait for flushes, and a tenth is left to compactions however much is flushed. Waits are short
//! sleeps, so that whoever waits sees in time that the limit is let go of.
//!
//! *The limit gives way* ([`Relief`]) when work that is put off would be paid for by writers. Between the
//! point at which work is due and the one at which writers would be slowed down, the limit grows without
//! bound, so that background work finds the speed that it needs and writers never feel the limit.
//!
//! Origin: RocksDB's `GenericRateLimiter` gives out bytes in advance, by priority in queues, and moves its
//! limit up and down within a factor of 20 by how busy it is.

use nokv_env::{Clock, ClockExt, Env, Instant};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::lock;
use crate::stats::{Timer, Timing};

/// Bytes of keys and values between two yields.
const PIECE_BYTES: usize = 256 << 10;
/// With a limit pieces are small enough that each takes about this long, but not smaller than so many bytes.
const PIECE_TIME_MS: u64 = 20;
const PIECE_BYTES_MIN: usize = 1 << 10;
/// Time between two looks whether a wait still makes sense.
const LOOK: Duration = Duration::from_millis(20);
/// A pause earns no more than what can be read and written in this time.
const CREDIT_MS: u128 = 100;
/// Share of the limit that flushes may take.
const FLUSH_PERCENT: u128 = 90;
/// Accounts are kept in billionths of bytes: what one byte a second pays in a nanosecond.
const NANO: u128 = 1_000_000_000;

/// What kind of work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Memtables become tables: writers may be waiting.
    Flush,
    /// All other: compactions, collections of values, copies of rows.
    Other,
}

/// How far the limit gives way, from 0 (not at all) to 1000 (there is none): at 500 it is twice as high.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Relief {
    /// For flushes.
    pub(crate) flush: u64,
    /// For all other work, and for all together.
    pub(crate) all: u64,
}

const RELIEF_MAX: u64 = 1000;

impl Relief {
    /// There is no limit.
    pub(crate) const FULL: Self = Self { flush: RELIEF_MAX, all: RELIEF_MAX };

    fn of(self, work: Work) -> u64 {
        match work {
            Work::Flush => self.flush,
            Work::Other => self.all,
        }
    }
}

/// Bytes that were charged and paid, in billionths.
#[derive(Debug, Default)]
struct Account {
    charged: u128,
    paid: u128,
}

impl Account {
    /// Time passed that pays `amount`; `None` pays all.
    fn pay(&mut self, amount: Option<u128>, credit: u128) {
        let most = self.charged + credit;
        self.paid = amount.map_or(most, |amount| self.paid.saturating_add(amount).min(most));
    }
}

#[derive(Debug, Default)]
struct Accounts {
    /// When they were brought up to date.
    at: Instant,
    flush: Account,
    all: Account,
}

/// The place on an account up to which has to be paid.
#[derive(Debug, Clone, Copy)]
struct Ticket(u128);

impl Accounts {
    /// Brings them up to date.
    fn advance(&mut self, now: Instant, limit: u64, relief: Relief) {
        let nanos = now.since(self.at).as_nanos();
        let paid = |relief: u64, percent: u128| {
            speed(limit, relief, percent).map(|speed| speed.saturating_mul(nanos))
        };
        let credit = u128::from(limit) * CREDIT_MS * NANO / 1000;
        self.flush.pay(paid(relief.flush, FLUSH_PERCENT), credit);
        self.all.pay(paid(relief.all, 100), credit);
        self.at = self.at.max(now);
    }

    fn charge(&mut self, work: Work, bytes: u64) -> Ticket {
        let amount = u128::from(bytes) * NANO;
        self.all.charged += amount;
        match work {
            Work::Flush => {
                self.flush.charged += amount;
                Ticket(self.flush.charged)
            }
            Work::Other => Ticket(self.all.charged),
        }
    }

    /// How long it takes to pay what is left of a ticket at the present speed. `None`: it is paid.
    fn time_to(&self, work: Work, ticket: Ticket, limit: u64, relief: Relief) -> Option<Duration> {
        let (account, speed) = match work {
            Work::Flush => (&self.flush, speed(limit, relief.flush, FLUSH_PERCENT)),
            Work::Other => (&self.all, speed(limit, relief.all, 100)),
        };
        let left = ticket.0.checked_sub(account.paid).filter(|left| *left > 0)?;
        let nanos = left.div_ceil(speed?.max(1));
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

/// Bytes a second; `None`: as many as come.
fn speed(limit: u64, relief: u64, percent: u128) -> Option<u128> {
    let kept = RELIEF_MAX.checked_sub(relief).filter(|kept| *kept > 0)?;
    Some(u128::from(limit) * percent * u128::from(RELIEF_MAX) / (100 * u128::from(kept)))
}

/// Holds all background work of a database to one limit.
#[derive(Default)]
pub(crate) struct Limiter {
    /// 0: there is none.
    bytes_per_second: u64,
    accounts: Mutex<Accounts>,
    waited_bytes: AtomicU64,
    waits: Timer,
}

impl Limiter {
    /// `bytes_per_second` of 0 is no limit.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, ..Self::default() }
    }

    /// Bytes that waited.
    pub(crate) fn waited_bytes(&self) -> u64 {
        self.waited_bytes.load(Ordering::Relaxed)
    }

    /// The waits.
    pub(crate) fn waits(&self) -> Timing {
        self.waits.read()
    }

    fn charge(&self, now: Instant, work: Work, bytes: u64, relief: Relief) -> Ticket {
        let mut accounts = lock(&self.accounts);
        accounts.advance(now, self.bytes_per_second, relief);
        accounts.charge(work, bytes)
    }

    fn time_to(&self, now: Instant, work: Work, ticket: Ticket, relief: Relief) -> Option<Duration> {
        let mut accounts = lock(&self.accounts);
        accounts.advance(now, self.bytes_per_second, relief);
        accounts.time_to(work, ticket, self.bytes_per_second, relief)
    }

    /// Charges `bytes` and waits until they are paid.
    async fn pay(&self, env: &Env, work: Work, bytes: u64, relief: &(dyn Fn() -> Relief + Send + Sync)) {
        let clock: &dyn Clock = &*env.clock;
        let begun = clock.now();
        let ticket = self.charge(begun, work, bytes, relief());
        let mut waited = false;
        while let Some(left) = self.time_to(clock.now(), work, ticket, relief()) {
            waited = true;
            clock.sleep(left.min(LOOK)).await;
        }
        if waited {
            self.waits.add(clock.now().since(begun));
            self.waited_bytes.fetch_add(bytes, Ordering::Relaxed);
            env.probe("engine.background.waited");
            if relief().of(work) == RELIEF_MAX {
                env.probe("engine.background.let_go");
            }
        }
    }
}

/// The pace of one piece of background work.
pub(crate) struct Pace<'a> {
    env: &'a Env,
    limiter: &'a Limiter,
    work: Work,
    relief: &'a (dyn Fn() -> Relief + Send + Sync),
    /// Bytes of keys and values since the last yield, and how many there may be.
    piece: usize,
    piece_bytes: usize,
    read: Arc<AtomicU64>,
    /// Bytes read and written that were charged.
    charged: u64,
}

impl<'a> Pace<'a> {
    /// `relief` is asked now and then how far the limit gives way.
    pub(crate) fn new(
        env: &'a Env,
        limiter: &'a Limiter,
        work: Work,
        relief: &'a (dyn Fn() -> Relief + Send + Sync),
    ) -> Self {
        let piece_bytes = match limiter.bytes_per_second {
            0 => PIECE_BYTES,
            limit => {
                ((limit.saturating_mul(PIECE_TIME_MS) / 1000) as usize).clamp(PIECE_BYTES_MIN, PIECE_BYTES)
            }
        };
        Self { env, limiter, work, relief, piece: 0, piece_bytes, read: Arc::default(), charged: 0 }
    }

    /// Counts the bytes that are read for this work.
    pub(crate) fn read_meter(&self) -> &Arc<AtomicU64> {
        &self.read
    }

    /// Keys and values of so many bytes were worked on; `written` tells how many bytes have been made of
    /// them since the begin. Now and then lets others run, and waits for the limit; whether it did.
    pub(crate) async fn after(&mut self, bytes: usize, written: impl FnOnce() -> u64) -> bool {
        self.piece += bytes;
        if self.piece < self.piece_bytes {
            return false;
        }
        self.piece = 0;
        self.env.tasks.yield_now().await;
        if self.limiter.bytes_per_second > 0 {
            let bytes = self.uncharged(written());
            self.limiter.pay(self.env, self.work, bytes, self.relief).await;
        }
        true
    }

    /// The work is done: what comes next waits for the rest of it.
    pub(crate) fn end(mut self, written: u64) {
        if self.limiter.bytes_per_second > 0 {
            let bytes = self.uncharged(written);
            self.limiter.charge(self.env.clock.now(), self.work, bytes, (self.relief)());
        }
    }

    fn uncharged(&mut self, written: u64) -> u64 {
        let sum = self.read.load(Ordering::Relaxed) + written;
        // A block that is compressed shrinks.
        let more = sum.saturating_sub(self.charged);
        self.charged += more;
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, content, put};
    use crate::{Cf, Compression, Db, Options, Pressure, WriteOptions};
    use bytes::Bytes;

    const LIMIT: u64 = 1_000_000;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    /// Charges at `ms` and says, in milliseconds, how long it takes to pay.
    fn charge(limiter: &Limiter, ms: u64, work: Work, bytes: u64, relief: Relief) -> u64 {
        let ticket = limiter.charge(at(ms), work, bytes, relief);
        limiter.time_to(at(ms), work, ticket, relief).map_or(0, |left| left.as_millis() as u64)
    }

    #[test]
    fn work_waits_for_what_was_charged_before_it() {
        let (limiter, none) = (Limiter::new(LIMIT), Relief::default());
        assert_eq!(charge(&limiter, 0, Work::Other, 500_000, none), 500);
        assert_eq!(charge(&limiter, 200, Work::Other, 100_000, none), 400);
        // A flush is behind nobody but flushes; all other is behind it too.
        assert_eq!(charge(&limiter, 200, Work::Flush, 90_000, none), 0);
        assert_eq!(charge(&limiter, 200, Work::Flush, 90_000, none), 88);
        assert_eq!(charge(&limiter, 200, Work::Other, 10_000, none), 590);
        // A long rest earns a little.
        assert_eq!(charge(&limiter, 60_000, Work::Other, 100_000, none), 0);
        assert_eq!(charge(&limiter, 60_000, Work::Other, 100_000, none), 100);
    }

    #[test]
    fn the_limit_gives_way() {
        let relief = |flush, all| Relief { flush, all };
        let limiter = Limiter::new(LIMIT);
        assert_eq!(charge(&limiter, 0, Work::Other, 1_000_000, relief(0, 500)), 500);
        assert_eq!(charge(&limiter, 0, Work::Other, 1_000_000, relief(0, 900)), 200);
        assert_eq!(charge(&limiter, 0, Work::Flush, 900_000, relief(0, 900)), 1000);
        assert_eq!(charge(&limiter, 0, Work::Flush, 900_000, relief(500, 900)), 1000);
        assert_eq!(charge(&limiter, 0, Work::Other, 1_000_000, Relief::FULL), 0);
        // What was let pass without a limit is not asked for again.
        assert_eq!(charge(&limiter, 0, Work::Other, 300_000, relief(0, 0)), 200);
    }

    /// However much is flushed, compactions get their tenth, and both together keep to the limit.
    #[test]
    fn nobody_starves_and_the_limit_is_kept() {
        let (limiter, none) = (Limiter::new(LIMIT), Relief::default());
        let mut free = [(Work::Flush, 0_u64, 0_u64), (Work::Other, 0, 0)];
        for ms in 0..20_000 {
            for (work, until, bytes) in &mut free {
                if *until <= ms {
                    *until = ms + charge(&limiter, ms, *work, 20_000, none);
                    *bytes += 20_000;
                }
            }
        }
        let [(_, _, flushed), (_, _, other)] = free;
        assert!((17_500_000..18_200_000).contains(&flushed), "{flushed}");
        assert!((1_800_000..2_500_000).contains(&other), "{other}");
    }

    #[test]
    fn nonsense_limits_overflow_nothing() {
        for limit in [1, u64::MAX] {
            let limiter = Limiter::new(limit);
            for now in [Instant(0), Instant(u64::MAX), Instant(5)] {
                for relief in [Relief::default(), Relief { flush: 999, all: 999 }, Relief::FULL] {
                    let ticket = limiter.charge(now, Work::Flush, u64::MAX, relief);
                    limiter.time_to(now, Work::Flush, ticket, relief);
                }
            }
        }
    }

    /// A database whose background work may do 100 kB a second, with half a megabyte that waits for its
    /// flush.
    fn limited(world: &World) -> Db {
        let options = Options { background_bytes_per_second: 100_000, ..roomy() };
        let db = world.open(&options).unwrap();
        fill(&db, 0);
        db
    }

    /// Nothing presses.
    fn roomy() -> Options {
        Options {
            memtable_bytes: 4 << 20,
            compression: Compression::None,
            value_threshold: usize::MAX,
            ..Options::tiny()
        }
    }

    fn fill(db: &Db, round: usize) {
        for n in 0..1000 {
            db.apply(put(format!("key{n:05}"), format!("{n} in round {round} ").repeat(30))).unwrap();
        }
    }

    /// What the database has written, in milliseconds of the limit.
    fn worth(bytes: u64) -> u64 {
        bytes / 100
    }

    fn elapsed(world: &World, begun: Instant) -> u64 {
        world.now().since(begun).as_millis() as u64
    }

    #[test]
    fn a_flush_takes_its_time_and_callers_do_not() {
        let world = World::new(1);
        let db = limited(&world);
        db.request_flush();
        world.step();
        assert_eq!(db.stats().memtables_immutable, 1);
        let begun = world.now();
        world.run(db.write(put("other", "row"), WriteOptions { sync: true })).unwrap();
        assert_eq!(db.get(Cf(0), b"key00007").unwrap().unwrap().len(), "7 in round 0 ".len() * 30);
        assert_eq!(elapsed(&world, begun), 0, "a write or read waited");
        world.settle();
        let stats = db.stats();
        assert_eq!((stats.flushes, stats.memtables_immutable), (1, 0));
        // Nine tenths of the limit, and the end is paid for by the next one.
        let expected = worth(stats.flush_bytes) * 10 / 9;
        let took = elapsed(&world, begun);
        assert!((expected * 8 / 10..expected * 11 / 10).contains(&took), "{took} ms instead of {expected}");
        assert!(stats.background_waited_bytes * 10 > stats.flush_bytes * 8, "{stats:?}");
        let waited = stats.background_wait.total.as_millis() as u64;
        assert!(waited * 10 > took * 9 && waited <= took, "{waited} of {took} ms");
    }

    #[test]
    fn a_compaction_takes_its_time() {
        for subcompactions in [1, 3] {
            let world = World::new(1);
            let db = limited(&world);
            world.run(db.flush()).unwrap();
            world.settle();
            fill(&db, 1);
            world.run(db.flush()).unwrap();
            world.run(db.close()).unwrap();
            drop(db);
            let options = Options {
                background_bytes_per_second: 100_000,
                level0_tables_slowdown: 100,
                level0_tables_stop: 100,
                subcompactions,
                ..roomy()
            };
            let db = world.open(&options).unwrap();
            let begun = world.now();
            world.settle();
            let stats = db.stats();
            assert!(
                stats.compactions > 0 && (stats.compaction_parts > 0) == (subcompactions > 1),
                "{stats:?}"
            );
            let expected = worth(stats.compaction_read_bytes + stats.compaction_write_bytes);
            let took = elapsed(&world, begun);
            assert!(
                (expected * 8 / 10..expected * 12 / 10).contains(&took),
                "{took} ms instead of {expected}"
            );
        }
    }

    #[test]
    fn nobody_who_waits_for_the_work_waits_for_the_limit() {
        let world = World::new(1);
        let db = limited(&world);
        let begun = world.now();
        world.run(db.flush()).unwrap();
        assert!(elapsed(&world, begun) < 100);
        // The same when it has begun already.
        fill(&db, 1);
        db.request_flush();
        (0..10).for_each(|_| world.step());
        let begun = world.now();
        world.run(db.flush()).unwrap();
        assert!(elapsed(&world, begun) < 100);
        // A range that is deleted waits for the compaction that both flushes started.
        (0..10).for_each(|_| world.step());
        assert_eq!(db.stats().compactions, 0, "it is done already");
        let begun = world.now();
        world.run(db.delete_range(Cf(0), Bytes::from("key00100")..)).unwrap();
        assert!(elapsed(&world, begun) < 100);
        assert_eq!(content(&db).unwrap().len(), 100);
    }

    #[test]
    fn a_close_does_not_wait_for_the_limit() {
        for flushes in [1, 2] {
            let world = World::new(1);
            let db = limited(&world);
            for round in 1..flushes {
                world.run(db.flush()).unwrap();
                fill(&db, round);
            }
            db.request_flush();
            (0..20).for_each(|_| world.step());
            let begun = world.now();
            world.run(db.close()).unwrap();
            assert!(elapsed(&world, begun) < 100);
        }
    }

    /// More is written than the limit would let through: writers never notice. Without relief they would be
    /// stopped.
    #[test]
    fn a_limit_below_the_rate_of_writes_gives_way_before_they_are_slowed_down() {
        for (limit, is_held) in [(20_000, true), (1_000_000_000, false)] {
            let world = World::new(1);
            let options = Options {
                background_bytes_per_second: limit,
                memtable_bytes: 64 << 10,
                value_threshold: usize::MAX,
                compression: Compression::None,
                ..Options::tiny()
            };
            let (db, env) = (world.open(&options).unwrap(), world.env());
            let mut most = 0;
            // 100 kB a second, for 30 s.
            for n in 0..3000_usize {
                let row = put(format!("key{:05}", n * 7919 % 5000), vec![b'x'; 980]);
                world.run(db.write(row, WriteOptions::default())).unwrap();
                world.run(env.clock.sleep(Duration::from_millis(10)));
                most = most.max(db.stats().pressure_permille);
                assert!(db.pressure() == Pressure::None, "{:?}", db.stats());
            }
            let stats = db.stats();
            assert_eq!((most, stats.slowdown_time.count), (0, 0));
            assert!(stats.compactions > 10 && stats.flushes > 40, "{stats:?}");
            assert_eq!(
                stats.background_wait.total > Duration::from_secs(8),
                is_held,
                "{:?}",
                stats.background_wait
            );
            let bytes = stats.flush_bytes + stats.compaction_read_bytes + stats.compaction_write_bytes;
            assert!(!is_held || bytes / 30 > limit * 3, "{bytes} bytes in 30 s");
        }
    }
}
