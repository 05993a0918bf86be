//! Windows of numbers on loan from the meta-root: the pure core under `AllocID` and `Tso`.
//!
//! A window is the stretch `(last, fence]` that the meta-root committed for one lease generation. Numbers are
//! taken from its lower end; when it runs dry, or soon will, the caller asks the root for a higher fence and
//! reports the answer with [`Window::extend`]. A new generation starts with an unknown fence, because only the
//! root can say where the predecessor stopped; [`Window::open`] tells it.
//!
//! Invariants: `last <= fence`; every number handed out lies in `(floor, fence]` for a fence that the root
//! had committed before; within one window numbers only grow.
//!
//! Timestamps use the same window: [`Window::take_timestamps`] additionally never hands out a value below the
//! wall clock's, so timestamps are hybrid: physical milliseconds << 18 | counter. The clock only pushes
//! forward; uniqueness and order never depend on it.

use nokv_proto::id::PHYSICAL_SHIFT;

/// What a holder of one lease generation may still hand out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// The lease generation that this window belongs to; 0 = none yet.
    generation: u64,
    /// Last number handed out (or below the first that may be).
    last: u64,
    /// Highest number that may be handed out: committed by the root.
    fence: u64,
    /// The newest generation whose window was closed for good.
    closed: u64,
}

impl Window {
    /// Starts the window of `generation`: everything up to `floor` belongs to the past. One that was closed stays closed.
    pub fn open(&mut self, generation: u64, floor: u64) {
        if generation > self.closed {
            *self = Window { generation, last: floor, fence: floor, closed: self.closed };
        }
    }

    /// Ends the window of `generation` for good. Gives the last number that may have been handed out under it; `None` when
    /// the window was not open, so that only the root can say.
    pub fn close(&mut self, generation: u64) -> Option<u64> {
        let last = self.is_open(generation).then_some(self.last);
        self.closed = self.closed.max(generation);
        if self.generation <= self.closed {
            self.generation = 0;
        }
        last
    }

    /// Raises the fence after the root committed it for `generation`. An answer to an older question is ignored.
    pub fn extend(&mut self, generation: u64, fence: u64) {
        if generation == self.generation {
            self.fence = self.fence.max(fence);
        }
    }

    /// Whether the window belongs to `generation`.
    pub fn is_open(&self, generation: u64) -> bool {
        self.generation == generation && generation != 0
    }

    /// Takes `count` consecutive numbers and returns the first, or `None` when the window is too small.
    pub fn take(&mut self, count: u64) -> Option<u64> {
        self.take_above(self.last.checked_add(1)?, count)
    }

    /// Takes `count` consecutive timestamps, none below `now_millis`; `None` when the window is too small.
    pub fn take_timestamps(&mut self, now_millis: u64, count: u64) -> Option<u64> {
        let physical = now_millis.checked_mul(1 << PHYSICAL_SHIFT)?;
        self.take_above(self.last.checked_add(1)?.max(physical), count)
    }

    fn take_above(&mut self, first: u64, count: u64) -> Option<u64> {
        debug_assert!(count > 0);
        let last = first.checked_add(count - 1)?;
        if last > self.fence {
            return None;
        }
        self.last = last;
        Some(first)
    }

    /// The fence to ask for so that `count` numbers and `ahead` more fit.
    pub fn wanted(&self, floor: u64, count: u64, ahead: u64) -> u64 {
        self.last.max(floor).saturating_add(count).saturating_add(ahead)
    }

    /// Last number handed out.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Highest number that may be handed out.
    pub fn fence(&self) -> u64 {
        self.fence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::RngSource;
    use rand_core::Rng;

    #[test]
    fn nothing_is_handed_out_above_the_fence() {
        let mut window = Window::default();
        window.open(1, 10);
        assert_eq!(window.take(1), None);
        window.extend(1, 12);
        assert_eq!(window.take(2), Some(11));
        assert_eq!(window.take(1), None);
    }

    #[test]
    fn an_answer_for_an_older_generation_changes_nothing() {
        let mut window = Window::default();
        window.open(1, 10);
        window.open(2, 20);
        window.extend(1, 1000);
        assert_eq!(window.take(1), None);
        assert!(window.is_open(2) && !window.is_open(1));
    }

    #[test]
    fn a_closed_window_stays_closed() {
        let mut window = Window::default();
        assert_eq!(window.close(1), None, "never opened: the root knows better");
        window.open(1, 10);
        assert!(!window.is_open(1));
        window.open(2, 10);
        window.extend(2, 20);
        assert_eq!((window.take(5), window.close(2)), (Some(11), Some(15)));
        window.open(2, 20); // an answer that was under way
        window.extend(2, 30);
        assert!(!window.is_open(2));
        window.open(3, 30);
        assert!(window.is_open(3));
    }

    #[test]
    fn timestamps_follow_the_clock_and_never_go_back() {
        let mut window = Window::default();
        window.open(1, 0);
        window.extend(1, 1000 << PHYSICAL_SHIFT);
        assert_eq!(window.take_timestamps(5, 2), Some(5 << PHYSICAL_SHIFT));
        assert_eq!(window.take_timestamps(3, 1), Some((5 << PHYSICAL_SHIFT) + 2), "the clock went back");
        assert_eq!(window.take_timestamps(6, 1), Some(6 << PHYSICAL_SHIFT));
        assert_eq!(window.take_timestamps(1001, 1), None, "the clock ran past the fence");
    }

    #[test]
    fn random_lives_are_unique_and_monotonic_over_generations() {
        let mut rng = RngSource::new(1, 0).stream("test");
        let (mut window, mut committed, mut generation, mut highest, mut clock) =
            (Window::default(), 0, 0, 0, 50);
        for _ in 0..20_000 {
            clock = (clock + rng.next_u64() % 3)
                .saturating_sub(u64::from(rng.next_u64().is_multiple_of(50)) * 20);
            match rng.next_u64() % 8 {
                0 => {
                    generation += 1;
                    window.open(generation, committed);
                }
                1 if generation > 0 => {
                    committed = committed.max(window.wanted(clock << PHYSICAL_SHIFT, 1, 3 << PHYSICAL_SHIFT));
                    window.extend(generation, committed);
                }
                _ => {
                    let count = 1 + rng.next_u64() % 4;
                    if let Some(first) = window.take_timestamps(clock, count) {
                        assert!(first > highest && first + count - 1 <= committed);
                        highest = first + count - 1;
                    }
                }
            }
        }
        assert!(highest > 0);
    }
}
