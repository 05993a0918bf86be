//! What a coordinator's grant must look like before it is believed.
//!
//! Ids and timestamps are granted under lease generations that only grow, and each reply says how far its
//! generation has handed out. A coordinator that lost its lease and has not noticed shows itself by an old
//! generation or a frontier that does not fit; its reply is thrown away and the next endpoint is asked.

/// A reply to `AllocID` or `Tso`, reduced to what both have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant {
    /// First id or timestamp handed out.
    pub(crate) first: u64,
    /// How many, consecutive.
    pub(crate) count: u64,
    /// Lease generation it was granted under.
    pub(crate) generation: u64,
    /// Last value the generation has handed out.
    pub(crate) frontier: u64,
    /// Highest generation the coordinator knows to be sealed.
    pub(crate) sealed: u64,
}

/// Marks a reply whose evidence was withheld.
const GENERATION_SUPPRESSED: u64 = u64::MAX;

/// What earlier replies have taught.
#[derive(Debug, Default)]
pub(crate) struct Verifier {
    generation: u64,
    sealed: u64,
    last: u64,
}

impl Verifier {
    /// Accepts a grant for `count` values, or says what is wrong with it. Grants must be strictly above all
    /// earlier ones when `ordered`, which holds for requests that follow each other.
    pub(crate) fn accept(&mut self, grant: &Grant, count: u64, ordered: bool) -> Result<(), String> {
        if grant.count != count {
            return Err(format!("asked for {count}, got {}", grant.count));
        }
        if grant.first == 0 || grant.first.checked_add(count - 1) != Some(grant.frontier) {
            return Err(format!("{count} from {} do not end at {}", grant.first, grant.frontier));
        }
        if grant.generation == GENERATION_SUPPRESSED || grant.generation < self.generation {
            return Err(format!("lease generation {} after {}", grant.generation, self.generation));
        }
        let sealed = self.sealed.max(grant.sealed);
        if sealed != 0 && grant.generation <= sealed {
            return Err(format!("lease generation {} is sealed", grant.generation));
        }
        if ordered && grant.first <= self.last {
            return Err(format!("{} is not above {}, which was handed out before", grant.first, self.last));
        }
        self.generation = grant.generation;
        self.sealed = sealed;
        self.last = self.last.max(grant.frontier);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(generation: u64, first: u64, count: u64) -> Grant {
        Grant { first, count, generation, frontier: first + count - 1, sealed: 0 }
    }

    #[test]
    fn generations_and_values_only_grow() {
        let mut verifier = Verifier::default();
        assert!(verifier.accept(&grant(3, 10, 2), 2, true).is_ok());
        assert!(verifier.accept(&grant(2, 100, 1), 1, true).is_err(), "an old lease holder");
        assert!(verifier.accept(&grant(3, 11, 1), 1, true).is_err(), "handed out before");
        assert!(verifier.accept(&grant(4, 12, 1), 1, true).is_ok());
    }

    #[test]
    fn the_parts_must_fit_each_other() {
        let mut verifier = Verifier::default();
        assert!(verifier.accept(&grant(1, 10, 3), 2, true).is_err());
        assert!(verifier.accept(&Grant { frontier: 12, ..grant(1, 10, 2) }, 2, true).is_err());
        assert!(verifier.accept(&grant(GENERATION_SUPPRESSED, 10, 1), 1, true).is_err());
        assert!(verifier.accept(&Grant { first: u64::MAX, count: 2, ..grant(1, 1, 1) }, 2, true).is_err());
    }

    #[test]
    fn a_sealed_generation_is_refused_for_good() {
        let mut verifier = Verifier::default();
        assert!(verifier.accept(&Grant { sealed: 4, ..grant(5, 10, 1) }, 1, true).is_ok());
        assert!(verifier.accept(&grant(5, 11, 1), 1, true).is_ok());
        assert!(verifier.accept(&Grant { sealed: 5, ..grant(5, 12, 1) }, 1, true).is_err());
    }
}
