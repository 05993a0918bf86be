//! When a transaction may commit in one round trip. Pure.
//!
//! The client has drawn its commit timestamp C before the request reaches us, so a read at V ≥ C may have been
//! answered already, without the value. The leader therefore remembers the highest timestamp read (`max_read_ts`)
//! and lets only C above it through; a read at V that comes later waits until every command let through before it
//! is applied (`last_index`). Both happen under one lock, so for any pair one of them sees the other:
//!
//! ```text
//! read V, then commit C ≤ V      the commit sees max_read_ts ≥ V, and becomes a plain prewrite
//! commit C ≤ V, then read V      the read waits for the commit's index, and finds the value
//! ```
//!
//! A new leader does not know what its predecessors have answered. All of that was at timestamps drawn before its
//! election, so it fetches a timestamp once it leads and treats it as read. Until then everything takes two phases.

/// A region's bookkeeping for commits in one round trip.
#[derive(Debug, Default)]
pub(crate) struct OnePc {
    /// No command at or below this may commit in one round trip.
    max_read_ts: u64,
    /// Index of the newest command of this leadership that was let through.
    last_index: u64,
    /// The leadership that `last_index` belongs to.
    term: u64,
    /// `max_read_ts` covers what was read before `term`.
    ready: bool,
}

impl OnePc {
    /// A read at `version` begins. Returns the index that must be applied before it looks.
    ///
    /// Version 0 (and the largest) reads whatever is newest: it claims nothing about timestamps.
    pub(crate) fn admit_read(&mut self, version: u64) -> u64 {
        if version == 0 || version == u64::MAX {
            return 0;
        }
        self.max_read_ts = self.max_read_ts.max(version);
        self.last_index
    }

    /// Whether the command proposed at (term, index) may commit at `commit_ts` in one round trip.
    pub(crate) fn take(&mut self, term: u64, index: u64, commit_ts: u64) -> bool {
        let taken = self.ready && self.term == term && commit_ts > self.max_read_ts;
        if taken {
            self.last_index = self.last_index.max(index);
        }
        taken
    }

    /// This peer leads in `term`.
    pub(crate) fn lead(&mut self, term: u64) {
        if self.term != term {
            // What earlier leaderships proposed is below the read index of this one, or gone.
            (self.term, self.last_index, self.ready) = (term, 0, false);
        }
    }

    /// The leadership for which a timestamp is wanted.
    pub(crate) fn wants(&self) -> Option<u64> {
        (!self.ready && self.term != 0).then_some(self.term)
    }

    /// `ts` was drawn after this peer became leader of `term`.
    pub(crate) fn enable(&mut self, term: u64, ts: u64) {
        if self.term == term {
            self.max_read_ts = self.max_read_ts.max(ts);
            self.ready = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(term: u64, ts: u64) -> OnePc {
        let mut region = OnePc::default();
        region.lead(term);
        region.enable(term, ts);
        region
    }

    #[test]
    fn only_above_everything_read() {
        let mut region = leader(3, 10);
        assert!(!region.take(3, 7, 10) && region.take(3, 7, 11));
        assert_eq!(region.admit_read(20), 7);
        assert!(!region.take(3, 8, 20) && region.take(3, 8, 21));
        assert_eq!(region.admit_read(15), 8);
    }

    #[test]
    fn a_new_leader_waits_for_a_timestamp() {
        let mut region = leader(3, 10);
        assert!(region.take(3, 7, 11));
        region.lead(4);
        assert!(!region.take(4, 8, 50) && !region.take(3, 8, 50));
        region.enable(3, 60);
        assert!(!region.take(4, 8, 70), "a timestamp drawn for an older leadership proves nothing");
        assert_eq!(region.wants(), Some(4));
        region.enable(4, 60);
        assert_eq!(region.wants(), None);
        assert!(!region.take(4, 8, 60) && region.take(4, 8, 61));
    }

    #[test]
    fn leading_again_forgets_indexes_that_may_be_gone_but_no_reads() {
        let mut region = leader(3, 10);
        assert!(region.take(3, 700, 11));
        region.admit_read(100);
        region.lead(5);
        assert_eq!(region.admit_read(12), 0);
        region.enable(5, 50);
        assert!(!region.take(5, 9, 100));
        region.lead(5);
        assert!(region.take(5, 9, 101), "being told twice changes nothing");
    }

    #[test]
    fn reading_the_newest_state_claims_no_timestamp() {
        let mut region = leader(3, 10);
        region.admit_read(0);
        region.admit_read(u64::MAX);
        assert!(region.take(3, 7, 11));
    }
}
