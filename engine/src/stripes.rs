//! Things of which there are several, so that threads which reach for them all the time do not fight over one.
//!
//! Which thread gets which is nobody's business: whatever is kept in stripes is the same in all of them, or added up.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// More threads than this share.
const STRIPES: usize = 16;

/// Stands in cache lines of its own; processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// Several of `T`.
#[derive(Default)]
pub(crate) struct Stripes<T>([Apart<T>; STRIPES]);

impl<T> Stripes<T> {
    pub(crate) fn of(make: impl Fn() -> T) -> Self {
        Self(std::array::from_fn(|_| Apart(make())))
    }

    /// The one of this thread.
    pub(crate) fn mine(&self) -> &T {
        &self.0[number() % STRIPES].0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|Apart(one)| one)
    }
}

/// A number of this thread. The first threads that ask have different ones.
fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<Option<usize>> = const { Cell::new(None) });
    NUMBER.get().unwrap_or_else(|| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        NUMBER.set(Some(number));
        number
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn threads_count_apart_and_are_added_up() {
        let counters = Stripes::<AtomicU64>::default();
        let count = || {
            for _ in 0..100 {
                counters.mine().fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|threads| {
            for _ in 0..2 * STRIPES {
                threads.spawn(count);
            }
        });
        let counts: Vec<u64> = counters.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(counts.iter().sum::<u64>(), 200 * STRIPES as u64);
        assert!(counts.iter().filter(|count| **count > 0).count() > 1, "{counts:?}");
    }
}
