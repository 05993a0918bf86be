//! List-append: every list has one history, of which every reader sees a beginning.
//!
//! Appends read the list, add a unique value and write it back in a transaction. A lost update shows as an
//! acknowledged value that is missing, a dirty read as a value that was never committed, a stale read as a
//! list that is shorter than one seen (or acknowledged) before.

use super::{Violation, show_span};
use crate::history::{Append, Effect, ListRead};
use std::collections::BTreeMap;

const CHECKER: &str = "transactions";

/// Judges appends and reads of all lists.
pub fn check(appends: &[Append], reads: &[ListRead]) -> Result<(), Violation> {
    let mut lists: BTreeMap<u32, Vec<&ListRead>> = BTreeMap::new();
    for read in reads {
        lists.entry(read.key).or_default().push(read);
    }
    for (key, reads) in lists {
        one_list(appends, key, &reads)
            .map_err(|facts| Violation::new(CHECKER, format!("list {key}: {facts}")))?;
    }
    Ok(())
}

fn one_list(appends: &[Append], key: u32, reads: &[&ListRead]) -> Result<(), String> {
    let by_value: BTreeMap<u64, &Append> =
        appends.iter().filter(|append| append.key == key).map(|append| (append.value, append)).collect();
    let Some(longest) = reads.iter().max_by_key(|read| read.values.len()) else { return Ok(()) };
    for read in reads {
        if !longest.values.starts_with(&read.values) {
            return Err(format!(
                "two readers saw different histories: {:x?} ({}) and {:x?} ({})",
                read.values,
                show_span(&read.span),
                longest.values,
                show_span(&longest.span)
            ));
        }
    }
    let mut position = BTreeMap::new();
    for (index, value) in longest.values.iter().enumerate() {
        if position.insert(*value, index).is_some() {
            return Err(format!("value {value:#x} was appended twice: {:x?}", longest.values));
        }
        match by_value.get(value) {
            None => return Err(format!("value {value:#x} was never appended: {:x?}", longest.values)),
            Some(append) if append.effect == Effect::Refused => {
                return Err(format!("value {value:#x} is there although it was refused"));
            }
            Some(_) => {}
        }
    }
    for read in reads {
        let known = by_value
            .values()
            .filter(|append| append.effect == Effect::Done && append.span.returned_ns < read.span.invoked_ns)
            .find(|append| position.get(&append.value).is_none_or(|index| *index >= read.values.len()));
        if let Some(lost) = known {
            return Err(format!(
                "value {:#x}, acknowledged ({}), is missing in {:x?} ({})",
                lost.value,
                show_span(&lost.span),
                read.values,
                show_span(&read.span)
            ));
        }
        let future = read.values.iter().find(|value| {
            by_value.get(value).is_some_and(|append| append.span.invoked_ns > read.span.returned_ns)
        });
        if let Some(value) = future {
            return Err(format!("value {value:#x} was read before its append began"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Span;

    fn append(at: u64, value: u64, effect: Effect) -> Append {
        Append { span: Span { session: 0, invoked_ns: at, returned_ns: at + 1 }, key: 1, value, effect }
    }
    fn read(at: u64, values: &[u64]) -> ListRead {
        ListRead {
            span: Span { session: 0, invoked_ns: at, returned_ns: at + 1 },
            key: 1,
            values: values.to_vec(),
        }
    }

    #[test]
    fn good_histories_pass() {
        let appends = [append(0, 1, Effect::Done), append(2, 2, Effect::Unknown), append(4, 3, Effect::Done)];
        assert_eq!(check(&appends, &[read(2, &[1]), read(9, &[1, 3])]), Ok(()));
        assert_eq!(check(&appends, &[read(2, &[1]), read(9, &[1, 2, 3])]), Ok(()));
    }

    #[test]
    fn bad_histories_are_found() {
        let appends = [append(0, 1, Effect::Done), append(2, 2, Effect::Done), append(4, 3, Effect::Refused)];
        assert!(check(&appends, &[read(9, &[2])]).is_err(), "lost update");
        assert!(check(&appends, &[read(9, &[1])]).is_err(), "stale");
        assert!(check(&appends, &[read(9, &[1, 2]), read(9, &[2, 1])]).is_err(), "two histories");
        assert!(check(&appends, &[read(9, &[1, 2, 3])]).is_err(), "refused but there");
        assert!(check(&appends, &[read(9, &[1, 2, 2])]).is_err(), "twice");
        assert!(check(&appends, &[read(9, &[1, 2, 8])]).is_err(), "from nowhere");
    }
}
