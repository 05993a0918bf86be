//! A peer's log in short: the term of every entry, as runs of equal terms.
//!
//! ```text
//!  base 4 (term 1)   runs: 5 → term 1, 9 → term 3        last 12
//!  ....●│ 1 1 1 1 │ 3 3 3 3
//! ```

/// The terms of a log behind its base.
#[derive(Debug, Clone, Default)]
pub(super) struct Mirror {
    /// Last index that is not in the log any more, and its term.
    base: (u64, u64),
    last: u64,
    /// (first index, term), ascending; the first begins behind the base.
    runs: Vec<(u64, u64)>,
}

impl Mirror {
    /// A log that begins behind `base`.
    pub(super) fn new(base: u64, base_term: u64) -> Self {
        Self { base: (base, base_term), last: base, runs: Vec::new() }
    }

    pub(super) fn base(&self) -> u64 {
        self.base.0
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Term of the entry at `index`; `None` when the log does not have it, any more or yet.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        if index < self.base.0 || index > self.last {
            return None;
        }
        self.runs.iter().rev().find(|(first, _)| *first <= index).map(|(_, term)| *term)
    }

    /// Puts an entry at `index`, replacing what is there and behind. False when that leaves a hole.
    pub(super) fn put(&mut self, index: u64, term: u64) -> bool {
        if index <= self.base.0 || index > self.last + 1 {
            return false;
        }
        while self.runs.last().is_some_and(|(first, _)| *first >= index) {
            self.runs.pop();
        }
        if self.runs.last().is_none_or(|(_, before)| *before != term) {
            self.runs.push((index, term));
        }
        self.last = index;
        true
    }

    /// Forgets entries up to `index`.
    pub(super) fn purge(&mut self, index: u64) {
        let Some(term) = self.term(index) else { return };
        self.base = (index, term);
        while self.runs.get(1).is_some_and(|(first, _)| *first <= index + 1) {
            self.runs.remove(0);
        }
        if self.last == index {
            self.runs.clear();
        } else if let Some(front) = self.runs.first_mut() {
            front.0 = front.0.max(index + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_found_after_every_change() {
        let mut log = Mirror::new(4, 1);
        for (index, term) in [(5, 1), (6, 1), (7, 3), (8, 3)] {
            assert!(log.put(index, term));
        }
        assert!(!log.put(10, 3), "a hole");
        assert!(!log.put(4, 3), "behind the base");
        let terms = |log: &Mirror| (3..10).map(|index| log.term(index)).collect::<Vec<_>>();
        assert_eq!(terms(&log), [None, Some(1), Some(1), Some(1), Some(3), Some(3), None]);
        assert!(log.put(6, 4), "replaces 6 and what follows");
        assert_eq!(terms(&log), [None, Some(1), Some(1), Some(4), None, None, None]);
        assert!(log.put(7, 4));
        log.purge(5);
        assert_eq!((log.base(), log.last()), (5, 7));
        assert_eq!(terms(&log), [None, None, Some(1), Some(4), Some(4), None, None]);
        log.purge(7);
        assert_eq!(terms(&log), [None, None, None, None, Some(4), None, None]);
        assert!(log.put(8, 9));
        assert_eq!(log.term(8), Some(9));
    }
}
