//! Who writes next: a queue of writers, one of which leads and writes for others too.
//!
//! The first writer to come leads. It takes a group of those who came meanwhile, writes all of it, answers, and calls the first
//! who still waits: nobody leads now. Whoever comes first then leads, also a newcomer, because a thread that runs is faster than
//! one that must wake up first. Who was called and came too late is written with the next group.
//!
//! A group that is synced takes everybody along: the disk is what costs. One that is not takes only those who came too late, as
//! long as few wait: a wake-up costs more than a write to the log. If all were answered together, all would meet again at the
//! next write, each asleep once a write and woken by another, which was seen to double the processor time of a put; a lock, too,
//! wakes one at a time and lets others overtake.
//!
//! The lead is a value ([`Baton`]). Whoever drops it, even a cancelled future, lets others lead.

use crate::batch::WriteBatch;
use crate::db::Inner;
use crate::{Error, Result, lock};
use nokv_env::Instant;
use std::collections::VecDeque;
use std::mem::{replace, take};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// A leader stops gathering here.
const GROUP_BYTES: usize = 1 << 20;
/// With so many waiting one write for all saves more than the wake-ups cost.
const MANY: usize = 8;

/// Waits until the batch is written by somebody, or may be written: the caller leads then.
pub(super) async fn turn(inner: &Arc<Inner>, batch: WriteBatch, sync: bool, asked: Instant) -> Turn {
    let waiting = {
        let mut queue = lock(&inner.queue);
        if !queue.led {
            queue.led = true;
            return Turn::Lead(Baton(inner.clone()), batch, asked);
        }
        queue.push(inner, Request { batch, sync, asked, passed_over: false, seat: Arc::default() })
    };
    waiting.await
}

/// Writers that wait for a leader.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Request>,
    /// Requests that have left the queue: the ticket of the first one in it.
    taken: u64,
    /// Whether somebody holds the baton.
    led: bool,
}

impl Queue {
    /// Batches that wait, changes in them, and bytes of those.
    pub(super) fn load(&self) -> (u64, u64, u64) {
        let add = |(depth, changes, bytes), request: &Request| {
            let batch = &request.batch;
            (depth + 1, changes + batch.len() as u64, bytes + batch.bytes() as u64)
        };
        self.waiting.iter().fold((0, 0, 0), add)
    }

    /// Queues a request.
    fn push(&mut self, inner: &Arc<Inner>, request: Request) -> Waiting {
        let ticket = self.taken + self.waiting.len() as u64;
        let waiting = Waiting { inner: inner.clone(), ticket, seat: request.seat.clone() };
        self.waiting.push_back(request);
        waiting
    }

    /// The first request that somebody waits for, if it is wanted.
    fn pop_if(&mut self, is_wanted: impl FnOnce(&Request) -> bool) -> Option<Request> {
        self.skip_left();
        if !is_wanted(self.waiting.front()?) {
            return None;
        }
        self.taken += 1;
        self.waiting.pop_front()
    }

    /// The seat of the first writer that still waits.
    fn first(&mut self) -> Option<Arc<Seat>> {
        self.skip_left();
        self.waiting.front().map(|request| request.seat.clone())
    }

    fn skip_left(&mut self) {
        while self.waiting.front().is_some_and(|request| request.seat.is_left()) {
            self.waiting.pop_front();
            self.taken += 1;
        }
    }
}

/// A batch that wants to be written.
struct Request {
    batch: WriteBatch,
    sync: bool,
    /// Since when.
    asked: Instant,
    /// Whether it came too late when it was called.
    passed_over: bool,
    seat: Arc<Seat>,
}

/// Where a waiting writer hears of its batch. Whoever holds the queue may lock a seat, not the other way round.
#[derive(Default)]
struct Seat(Mutex<Heard>);

#[derive(Default)]
enum Heard {
    #[default]
    Nothing,
    /// Nothing, and the writer sleeps.
    Asleep(Waker),
    /// Nobody leads.
    Called,
    /// Somebody wrote the batch.
    Written(Result<u64>),
    /// The writer does not wait any more.
    Left,
}

impl Seat {
    fn is_left(&self) -> bool {
        matches!(*lock(&self.0), Heard::Left)
    }

    /// Says that nobody leads. False: there is nobody to hear it.
    fn call(&self) -> bool {
        let mut heard = lock(&self.0);
        match *heard {
            Heard::Left => return false,
            // Somebody was faster than this call.
            Heard::Written(_) => return true,
            Heard::Nothing | Heard::Asleep(_) | Heard::Called => {}
        }
        wake(replace(&mut *heard, Heard::Called), heard);
        true
    }

    fn answer(&self, result: Result<u64>) {
        let mut heard = lock(&self.0);
        if !matches!(*heard, Heard::Left) {
            wake(replace(&mut *heard, Heard::Written(result)), heard);
        }
    }
}

/// Wakes a sleeper, who must not run into our lock.
fn wake(before: Heard, held: MutexGuard<'_, Heard>) {
    drop(held);
    if let Heard::Asleep(waker) = before {
        waker.wake();
    }
}

/// What a waiting writer comes to.
pub(super) enum Turn {
    /// Somebody wrote the batch for it.
    Written(Result<u64>),
    /// It leads, since then, and writes its own batch first.
    Lead(Baton, WriteBatch, Instant),
}

/// A writer in the queue.
struct Waiting {
    inner: Arc<Inner>,
    ticket: u64,
    seat: Arc<Seat>,
}

impl Future for Waiting {
    type Output = Turn;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn> {
        // Asleep before it looks whether it may lead: whoever leads instead finds whom to wake.
        let heard = replace(&mut *lock(&self.seat.0), Heard::Asleep(context.waker().clone()));
        match heard {
            Heard::Written(result) => Poll::Ready(Turn::Written(result)),
            Heard::Called => self.try_lead().map_or(Poll::Pending, Poll::Ready),
            Heard::Nothing | Heard::Asleep(_) | Heard::Left => Poll::Pending,
        }
    }
}

impl Waiting {
    /// Takes the lead, if nobody was faster. If somebody was, it writes our batch too, or calls again when it is done.
    fn try_lead(&self) -> Option<Turn> {
        let mut queue = lock(&self.inner.queue);
        let place = usize::try_from(self.ticket.checked_sub(queue.taken)?).ok()?;
        let led = queue.led;
        let request = queue.waiting.get_mut(place)?;
        if led {
            request.passed_over = true;
            return None;
        }
        let batch = take(&mut request.batch);
        queue.led = true;
        *lock(&self.seat.0) = Heard::Left;
        drop(queue);
        Some(Turn::Lead(Baton(self.inner.clone()), batch, self.inner.now()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let heard = replace(&mut *lock(&self.seat.0), Heard::Left);
        if matches!(heard, Heard::Called) {
            call_next(&self.inner, lock(&self.inner.queue));
        }
    }
}

/// The right to take from the queue and write.
pub(super) struct Baton(Arc<Inner>);

impl Baton {
    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }
}

impl Drop for Baton {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        queue.led = false;
        call_next(&self.0, queue);
    }
}

/// Makes sure that somebody will lead, if anybody waits.
fn call_next<'a>(inner: &'a Inner, mut queue: MutexGuard<'a, Queue>) {
    while !queue.led
        && let Some(seat) = queue.first()
    {
        drop(queue);
        if seat.call() {
            return;
        }
        queue = lock(&inner.queue);
    }
}

/// Answers that are given whatever happens to the leader: that the database is closed, unless it says otherwise.
pub(super) struct Answers(Vec<(Arc<Seat>, Result<u64>)>);

impl Answers {
    /// What each will hear, in their order.
    pub(super) fn set(&mut self, results: impl Iterator<Item = Result<u64>>) {
        for (answer, result) in self.0.iter_mut().zip(results) {
            answer.1 = result;
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        for (seat, result) in self.0.drain(..) {
            seat.answer(result);
        }
    }
}

/// The leader's batch and what is written together with it: what fits, if it waits for the disk or many wait; otherwise only
/// those who were called in vain.
pub(super) fn gather(inner: &Inner, batch: WriteBatch, mut sync: bool) -> (Vec<WriteBatch>, Answers, bool) {
    // A clock costs as much as the rest of this, so it is asked only if somebody waited.
    let mut now = None;
    let mut bytes = batch.bytes();
    let mut batches = vec![batch];
    let mut answers = Answers(Vec::new());
    let mut queue = lock(&inner.queue);
    let many = queue.waiting.len() >= MANY;
    while bytes < GROUP_BYTES
        && let Some(request) = queue.pop_if(|request| sync || many || request.passed_over)
    {
        bytes += request.batch.bytes();
        let now = *now.get_or_insert_with(|| inner.now());
        inner.counters.write_wait.add(now.since(request.asked));
        sync |= request.sync;
        batches.push(request.batch);
        answers.0.push((request.seat, Err(Error::Closed)));
    }
    (batches, answers, sync)
}

#[cfg(test)]
mod tests {
    use crate::testing::{World, content, put};
    use crate::{Options, WriteOptions};
    use futures_util::future::poll_fn;
    use futures_util::stream::{FuturesUnordered, StreamExt};
    use futures_util::{FutureExt, poll};
    use proptest::prelude::*;
    use std::task::Poll;

    const NO_SYNC: WriteOptions = WriteOptions { sync: false };

    #[test]
    fn whoever_comes_first_leads_and_takes_along_who_came_too_late() {
        let world = World::new(1);
        let db = world.open(&Options::tiny()).unwrap();
        let write = |key: &'static str| Box::pin(db.write(put(key, "v"), NO_SYNC));
        world.run(async {
            let [mut first, mut called, mut behind] = ["1", "2", "3"].map(write);
            assert!(
                poll!(&mut first).is_pending()
                    && poll!(&mut called).is_pending()
                    && poll!(&mut behind).is_pending()
            );
            assert_eq!(first.await.unwrap(), 1);
            let mut faster = write("4");
            assert!(poll!(&mut faster).is_pending() && poll!(&mut called).is_pending());
            assert_eq!(faster.await.unwrap(), 2, "it wrote for itself only");
            let mut next = write("5");
            assert!(poll!(&mut next).is_pending());
            assert_eq!((next.await.unwrap(), called.await.unwrap()), (3, 4));
            assert_eq!(behind.await.unwrap(), 5);
        });
        assert_eq!(db.stats().wal_groups, 4);
    }

    #[test]
    fn many_are_written_at_once() {
        let world = World::new(1);
        let db = world.open(&Options::tiny()).unwrap();
        let writes: FuturesUnordered<_> =
            (0..50).map(|n| db.write(put(format!("{n}"), "v"), NO_SYNC)).collect();
        world.run(writes.for_each(|written| async move { assert!(written.is_ok()) }));
        assert_eq!(db.stats().wal_groups, 2, "the first writer, then everybody else");
    }

    /// A writer of the test below.
    #[derive(Debug, Clone)]
    struct Writer {
        sync: bool,
        /// It is cancelled at this poll of this write, before or after it.
        cancelled: Option<(usize, usize, bool)>,
    }

    fn writer() -> impl Strategy<Value = Writer> {
        let cancelled = proptest::option::of((0..4_usize, 0..4_usize, any::<bool>()));
        (any::<bool>(), cancelled).prop_map(|(sync, cancelled)| Writer { sync, cancelled })
    }

    proptest! {
        /// A wake-up that gets lost is a deadlock, and the world panics.
        #[test]
        fn nobody_waits_for_ever_and_what_was_acknowledged_is_there(
            writers in prop::collection::vec(writer(), 1..20),
        ) {
            let world = World::new(1);
            let db = &world.open(&Options::tiny()).unwrap();
            let lives = writers.iter().enumerate().map(|(number, writer)| async move {
                let mut acknowledged = Vec::new();
                for round in 0..4 {
                    let key = format!("{number}/{round}");
                    let mut write = Box::pin(db.write(put(key.clone(), "v"), WriteOptions { sync: writer.sync }));
                    let mut polls = 0;
                    let written = poll_fn(|context| {
                        let is_last = |after| writer.cancelled == Some((round, polls, after));
                        if is_last(false) {
                            return Poll::Ready(None);
                        }
                        let polled = write.poll_unpin(context).map(Some);
                        if polled.is_pending() && is_last(true) {
                            return Poll::Ready(None);
                        }
                        polls += 1;
                        polled
                    });
                    match written.await {
                        Some(written) => assert!(written.is_ok()),
                        None => continue,
                    }
                    acknowledged.push(key);
                }
                acknowledged
            });
            let lives: FuturesUnordered<_> = lives.collect();
            let acknowledged: Vec<Vec<String>> = world.run(lives.collect());
            let found = content(db).unwrap();
            for key in acknowledged.iter().flatten() {
                prop_assert!(found.contains_key(key.as_bytes()), "{key} is lost");
            }
            prop_assert!(found.len() <= 4 * writers.len());
        }
    }
}
