//! Worlds side by side: each is single-threaded, so threads are for running several at once.

use crate::errors::Result;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How often somebody who shows progress is called when nothing ends.
const TICK: Duration = Duration::from_millis(250);

/// The number of threads that was asked for, or one a processor.
pub fn jobs(asked: Option<u32>) -> u64 {
    let cores = || std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    asked.map_or_else(cores, u64::from)
}

/// Runs `numbers`, lowest first, on threads of their own, until `stop`. `each` sees what came of them as it comes, and
/// is called with `None` now and then.
pub fn spread<T: Send>(
    numbers: Range<u64>,
    jobs: u64,
    stop: &AtomicBool,
    run: &(dyn Fn(u64) -> T + Sync),
    mut each: impl FnMut(Option<(u64, T)>),
) {
    let next = AtomicU64::new(numbers.start);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(numbers.end - numbers.start) {
            let (send, next, end) = (send.clone(), &next, numbers.end);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end || send.send((number, run(number))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        loop {
            match receive.recv_timeout(TICK) {
                Ok(done) => each(Some(done)),
                Err(RecvTimeoutError::Timeout) => each(None),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
}

/// Like [`spread`]; `show` sees the outcomes in order, so that equal commands print equal lines. It says whether that
/// is enough.
pub fn in_order<T: Send>(
    numbers: Range<u64>,
    asked: Option<u32>,
    run: &(dyn Fn(u64) -> T + Sync),
    mut show: impl FnMut(T) -> Result<bool>,
) -> Result {
    let stop = AtomicBool::new(false);
    let (mut early, mut wanted, mut ended) = (BTreeMap::new(), numbers.start, Ok(()));
    spread(numbers, jobs(asked), &stop, run, |done| {
        early.extend(done);
        while !stop.load(Ordering::Relaxed) {
            let Some(outcome) = early.remove(&wanted) else { return };
            wanted += 1;
            let shown = show(outcome);
            stop.store(!matches!(shown, Ok(false)), Ordering::Relaxed);
            ended = shown.map(|_| ());
        }
    });
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_shown_in_order_until_enough() {
        let mut shown = Vec::new();
        let ended = in_order(3..50, Some(4), &|number| number, |number| {
            shown.push(number);
            Ok(number == 20)
        });
        assert!(ended.is_ok());
        assert_eq!(shown, (3..=20).collect::<Vec<_>>());
    }

    #[test]
    fn whoever_stops_gets_what_was_under_way() {
        let stop = AtomicBool::new(false);
        let mut done = Vec::new();
        spread(0..1_000_000, 2, &stop, &|number| number, |outcome| {
            done.extend(outcome.map(|(number, _)| number));
            stop.store(done.len() >= 10, Ordering::Relaxed);
        });
        done.sort_unstable();
        assert!(done.len() >= 10 && done.len() < 1_000_000);
        assert_eq!(done, (0..done.len() as u64).collect::<Vec<_>>(), "no number is left out");
    }
}
