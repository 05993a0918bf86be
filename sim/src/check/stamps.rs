//! Timestamps and ids as clients got them: unique, and growing in real time.
//!
//! Ids need not grow, but the windows they come from do, and a coordinator that hands out an id below one
//! that was handed out before is a coordinator that has lost its lease; so both are held to the same rule
//! only for timestamps, and ids to uniqueness.

use super::{Violation, seconds};
use crate::history::Stamp;
use std::collections::BTreeMap;

/// Judges the stamps of one kind; `checker` is `timestamps` or `ids`.
pub fn check(checker: &'static str, stamps: &[Stamp]) -> Result<(), Violation> {
    let mut seen: BTreeMap<u64, &Stamp> = BTreeMap::new();
    for stamp in stamps {
        if let Some(twin) = seen.insert(stamp.value, stamp) {
            return Err(Violation::new(
                checker,
                format!(
                    "{} was handed out twice: at {} and at {}",
                    stamp.value,
                    seconds(twin.span.returned_ns),
                    seconds(stamp.span.returned_ns)
                ),
            ));
        }
    }
    if checker == "timestamps" { monotonic(checker, stamps) } else { Ok(()) }
}

/// What was asked for after another had returned must be greater.
fn monotonic(checker: &'static str, stamps: &[Stamp]) -> Result<(), Violation> {
    let mut by_return: Vec<&Stamp> = stamps.iter().collect();
    by_return.sort_by_key(|stamp| stamp.span.returned_ns);
    let mut by_invocation: Vec<&Stamp> = stamps.iter().collect();
    by_invocation.sort_by_key(|stamp| stamp.span.invoked_ns);
    let mut returned = by_return.into_iter().peekable();
    let mut highest: Option<&Stamp> = None;
    for stamp in by_invocation {
        while let Some(earlier) = returned.next_if(|earlier| earlier.span.returned_ns < stamp.span.invoked_ns)
        {
            if highest.is_none_or(|highest| highest.value < earlier.value) {
                highest = Some(earlier);
            }
        }
        if let Some(highest) = highest
            && highest.value >= stamp.value
        {
            return Err(Violation::new(
                checker,
                format!(
                    "{} was asked for at {}, after {} had been handed out at {}",
                    stamp.value,
                    seconds(stamp.span.invoked_ns),
                    highest.value,
                    seconds(highest.span.returned_ns)
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Span;

    fn stamp(invoked_ns: u64, returned_ns: u64, value: u64) -> Stamp {
        Stamp { span: Span { session: 0, invoked_ns, returned_ns }, value }
    }

    #[test]
    fn concurrent_stamps_come_in_any_order_later_ones_grow() {
        assert_eq!(check("timestamps", &[stamp(0, 10, 5), stamp(1, 9, 4), stamp(11, 12, 6)]), Ok(()));
        assert!(check("timestamps", &[stamp(0, 1, 5), stamp(2, 3, 4)]).is_err());
        assert!(check("timestamps", &[stamp(0, 1, 5), stamp(0, 1, 5)]).is_err());
        assert_eq!(check("ids", &[stamp(0, 1, 5), stamp(2, 3, 4)]), Ok(()));
    }
}
