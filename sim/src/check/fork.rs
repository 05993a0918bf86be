//! Long forks: two readers must not see two independent writes in opposite orders.
//!
//! Keys come in pairs and are written, never deleted. Each reader looks at a pair in one snapshot: if one reader saw only
//! the first and another only the second, no order of the two writes explains both. This judge knows neither
//! timestamps nor real time.

use super::{Violation, show_span};
use crate::history::PairRead;
use std::collections::BTreeMap;

/// Judges all reads of pairs.
pub fn check(reads: &[PairRead]) -> Result<(), Violation> {
    let mut halves: BTreeMap<(u32, usize), &PairRead> = BTreeMap::new();
    for read in reads {
        let half = match read.seen {
            [true, false] => 0,
            [false, true] => 1,
            _ => continue,
        };
        halves.entry((read.pair, half)).or_insert(read);
        if let Some(other) = halves.get(&(read.pair, 1 - half)) {
            return Err(Violation::new(
                "transactions",
                format!(
                    "long fork at pair {}: {} saw {}, {} saw {}",
                    read.pair,
                    show_span(&read.span),
                    show(read.seen),
                    show_span(&other.span),
                    show(other.seen)
                ),
            ));
        }
    }
    Ok(())
}

fn show(seen: [bool; 2]) -> &'static str {
    if seen[0] { "the first write only" } else { "the second write only" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Span;

    fn read(pair: u32, seen: [bool; 2]) -> PairRead {
        PairRead { span: Span { session: 0, invoked_ns: 0, returned_ns: 9 }, pair, seen }
    }

    #[test]
    fn one_order_for_everybody() {
        let good =
            [read(1, [false, false]), read(1, [true, false]), read(1, [true, true]), read(2, [false, true])];
        assert_eq!(check(&good), Ok(()));
        let bad = [read(1, [true, false]), read(2, [true, false]), read(1, [false, true])];
        assert!(check(&bad).is_err_and(|violation| violation.facts.contains("pair 1")));
    }
}
