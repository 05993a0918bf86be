//! When a transaction may commit at a timestamp that was drawn before its keys were locked: in one round trip, or
//! asynchronously. Pure.
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
//! election, so it fetches a timestamp once it leads and treats it as read. Until then everything takes two phases. The same
//! when the region takes another one over, whose leader may have been anywhere.

/// A region's bookkeeping for commits in one round trip.
#[derive(Debug, Default)]
pub(crate) struct OnePc {
    /// No command at or below this may commit in one round trip.
    max_read_ts: u64,
    /// Index of the newest command of this leadership that was let through.
    last_index: u64,
    /// The leadership that `last_index` belongs to.
    term: u64,
    /// `max_read_ts` covers what was read before `term`, and in what the region has taken over.
    ready: bool,
    /// Regions that were taken over.
    merges: u64,
}

/// A wish for a timestamp that is drawn after it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want {
    term: u64,
    merges: u64,
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

    /// The region has taken over another one, in which anything may have been read until now.
    pub(crate) fn merged(&mut self) {
        self.merges += 1;
        self.ready = false;
    }

    /// Whether a timestamp is wanted.
    pub(crate) fn wants(&self) -> Option<Want> {
        (!self.ready && self.term != 0).then_some(Want { term: self.term, merges: self.merges })
    }

    /// `ts` was drawn after it was wanted.
    pub(crate) fn enable(&mut self, want: Want, ts: u64) {
        if want == (Want { term: self.term, merges: self.merges }) {
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
        region.enable(want(term), ts);
        region
    }

    fn want(term: u64) -> Want {
        Want { term, merges: 0 }
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
        region.enable(want(3), 60);
        assert!(!region.take(4, 8, 70), "a timestamp drawn for an older leadership proves nothing");
        assert_eq!(region.wants(), Some(want(4)));
        region.enable(want(4), 60);
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
        region.enable(want(5), 50);
        assert!(!region.take(5, 9, 100));
        region.lead(5);
        assert!(region.take(5, 9, 101), "being told twice changes nothing");
    }

    #[test]
    fn what_was_read_in_a_region_that_was_taken_over_counts() {
        let mut region = leader(3, 10);
        let before = want(3);
        region.merged();
        assert!(!region.take(3, 7, 500), "somebody may have read at 600 there");
        region.enable(before, 500);
        assert!(!region.take(3, 7, 550), "drawn before the merge");
        let now = region.wants().expect("a timestamp");
        region.enable(now, 600);
        assert!(!region.take(3, 7, 600) && region.take(3, 7, 601));
    }

    #[test]
    fn reading_the_newest_state_claims_no_timestamp() {
        let mut region = leader(3, 10);
        region.admit_read(0);
        region.admit_read(u64::MAX);
        assert!(region.take(3, 7, 11));
    }
}
