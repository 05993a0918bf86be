//! Linearizability of single keys, after Wing and Gong with Lowe's memoisation.
//!
//! Each key is a register; a delete writes "absent". The search places operations one after another: an
//! operation may come next if it was invoked before any of the unplaced ones returned. A state of the search
//! is (which operations are placed, what the register holds); states seen before are not entered again.
//!
//! Operations with unknown outcome may have happened at any time after their invocation, or never:
//! - a *write* of a value that nobody read is left out: removing it changes no read. One whose value was read
//!   happened, and before the first such read returned: it becomes an ordinary write that ends there;
//! - a *delete* is kept as optional, and used only right before a read that saw nothing while the register
//!   holds something. Optional deletes differ only in when they were invoked, so the oldest is used first.

use super::{Violation, show_span};
use crate::history::{Effect, KvOp, NEVER, Register};
use std::collections::{BTreeMap, BTreeSet};

/// Judges the operations of all keys.
pub fn check(ops: &[KvOp]) -> Result<(), Violation> {
    let mut keys: BTreeMap<u32, Vec<KvOp>> = BTreeMap::new();
    for op in ops {
        keys.entry(op.key).or_default().push(*op);
    }
    for (key, ops) in keys {
        check_key(&ops).map_err(|facts| Violation::new("linearizability", format!("key {key}: {facts}")))?;
    }
    Ok(())
}

/// Judges the operations of one key; an error shows the operations around the point that has no explanation.
fn check_key(ops: &[KvOp]) -> Result<(), String> {
    let known = ops.iter().filter(|op| matches!(op.action, Register::Write(Some(_)))).collect::<Vec<_>>();
    let mut first_read: BTreeMap<u64, u64> = BTreeMap::new();
    for op in ops {
        if let Register::Read(Some(value)) = op.action {
            if !known.iter().any(|write| write.action == Register::Write(Some(value))) {
                return Err(format!("value {value:#x} was read but never written: {}", show(op)));
            }
            let first = first_read.entry(value).or_insert(NEVER);
            *first = (*first).min(op.span.returned_ns);
        }
    }
    let mut certain = Vec::new();
    let mut optional_deletes = Vec::new();
    for op in ops {
        match (op.action, op.effect) {
            (_, Effect::Done) => certain.push(*op),
            (Register::Write(Some(value)), effect) => {
                if let Some(returned_ns) = first_read.get(&value) {
                    if effect == Effect::Refused {
                        return Err(format!(
                            "value {value:#x} was read although it was refused: {}",
                            show(op)
                        ));
                    }
                    let mut op = *op;
                    op.span.returned_ns = *returned_ns;
                    certain.push(op);
                }
            }
            (Register::Write(None), Effect::Unknown) => optional_deletes.push(op.span.invoked_ns),
            _ => {}
        }
    }
    certain.sort_by_key(|op| (op.span.invoked_ns, op.span.returned_ns));
    optional_deletes.sort_unstable();
    Search { ops: &certain, deletes: &optional_deletes }.run()
}

struct Search<'a> {
    /// By invocation.
    ops: &'a [KvOp],
    /// Invocations of deletes that may have happened.
    deletes: &'a [u64],
}

/// A point of the search. All operations below `placed` are placed, and those of the bit set above it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    placed: usize,
    ahead: Vec<u64>,
    value: Option<u64>,
    deletes_used: usize,
}

impl State {
    fn is_placed(&self, op: usize) -> bool {
        let bit = op - self.placed;
        self.ahead.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    fn place(&self, op: usize, value: Option<u64>) -> State {
        let mut next = self.clone();
        next.value = value;
        let bit = op - self.placed;
        if next.ahead.len() <= bit / 64 {
            next.ahead.resize(bit / 64 + 1, 0);
        }
        next.ahead[bit / 64] |= 1 << (bit % 64);
        while next.ahead.first().is_some_and(|word| word & 1 == 1) {
            next.shift();
        }
        while next.ahead.last() == Some(&0) {
            next.ahead.pop();
        }
        next
    }

    fn shift(&mut self) {
        self.placed += 1;
        let mut carry = 0;
        for word in self.ahead.iter_mut().rev() {
            let low = *word & 1;
            *word = *word >> 1 | carry << 63;
            carry = low;
        }
    }
}

impl Search<'_> {
    fn run(&self) -> Result<(), String> {
        let start = State { placed: 0, ahead: Vec::new(), value: None, deletes_used: 0 };
        let mut seen = BTreeSet::from([start.clone()]);
        let mut stack = vec![start];
        let mut deepest: Option<State> = None;
        while let Some(state) = stack.pop() {
            if state.placed == self.ops.len() {
                return Ok(());
            }
            for next in self.successors(&state) {
                if seen.insert(next.clone()) {
                    stack.push(next);
                }
            }
            if deepest.as_ref().is_none_or(|deepest| deepest.placed < state.placed) {
                deepest = Some(state);
            }
        }
        Err(deepest.map_or_else(String::new, |state| self.explain(&state)))
    }

    /// Operations that may come next: invoked before any unplaced one returned.
    fn candidates(&self, state: &State) -> (Vec<usize>, u64) {
        let mut candidates = Vec::new();
        let mut first_return = NEVER;
        for (index, op) in self.ops.iter().enumerate().skip(state.placed) {
            if op.span.invoked_ns > first_return {
                break;
            }
            if !state.is_placed(index) {
                candidates.push(index);
                first_return = first_return.min(op.span.returned_ns);
            }
        }
        candidates.retain(|index| self.ops[*index].span.invoked_ns <= first_return);
        (candidates, first_return)
    }

    fn successors(&self, state: &State) -> Vec<State> {
        let (candidates, first_return) = self.candidates(state);
        // A read that fits can always come at once: it changes nothing and only gets in the way later.
        let fitting = candidates.iter().find(|index| self.ops[**index].action == Register::Read(state.value));
        if let Some(index) = fitting {
            return vec![state.place(*index, state.value)];
        }
        let mut successors = Vec::new();
        for index in candidates {
            match self.ops[index].action {
                Register::Write(value) => successors.push(state.place(index, value)),
                Register::Read(None) => {
                    let delete = self.deletes.get(state.deletes_used);
                    if delete.is_some_and(|invoked| *invoked <= first_return) {
                        let mut next = state.place(index, None);
                        next.deletes_used += 1;
                        successors.push(next);
                    }
                }
                Register::Read(Some(_)) => {}
            }
        }
        successors
    }

    fn explain(&self, state: &State) -> String {
        let (candidates, _) = self.candidates(state);
        let mut lines = vec![format!(
            "no order explains what follows {} explained operations; the key holds {}; none of these fits next:",
            state.placed,
            show_value(state.value)
        )];
        lines.extend(candidates.iter().take(8).map(|index| format!("  {}", show(&self.ops[*index]))));
        if let Some(value) = candidates.iter().find_map(|index| match self.ops[*index].action {
            Register::Read(Some(value)) if Some(value) != state.value => Some(value),
            _ => None,
        }) {
            let writer = self.ops.iter().find(|op| op.action == Register::Write(Some(value)));
            lines.extend(writer.map(|op| format!("  value {value:#x} came from: {}", show(op))));
        }
        if let Some(value) = state.value {
            let writer = self.ops.iter().find(|op| op.action == Register::Write(Some(value)));
            lines.extend(writer.map(|op| format!("  the key's value came from: {}", show(op))));
        }
        lines.join("\n")
    }
}

fn show_value(value: Option<u64>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| format!("{value:#x}"))
}

fn show(op: &KvOp) -> String {
    let what = match op.action {
        Register::Read(value) => format!("read {}", show_value(value)),
        Register::Write(None) => "delete".to_owned(),
        Register::Write(Some(value)) => format!("put {value:#x}"),
    };
    let doubt = if op.effect == Effect::Unknown { " (outcome unknown)" } else { "" };
    format!("{what}{doubt}, {}", show_span(&op.span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;
    use crate::history::Span;

    fn op(invoked_ns: u64, returned_ns: u64, action: Register) -> KvOp {
        let effect = if returned_ns == NEVER { Effect::Unknown } else { Effect::Done };
        KvOp { key: 1, span: Span { session: 0, invoked_ns, returned_ns }, action, effect }
    }
    fn put(invoked_ns: u64, returned_ns: u64, value: u64) -> KvOp {
        op(invoked_ns, returned_ns, Register::Write(Some(value)))
    }
    fn del(invoked_ns: u64, returned_ns: u64) -> KvOp {
        op(invoked_ns, returned_ns, Register::Write(None))
    }
    fn get(invoked_ns: u64, returned_ns: u64, value: Option<u64>) -> KvOp {
        op(invoked_ns, returned_ns, Register::Read(value))
    }

    #[test]
    fn good_histories_pass() {
        assert_eq!(
            check(&[get(0, 1, None), put(2, 3, 7), get(4, 5, Some(7)), del(6, 7), get(8, 9, None)]),
            Ok(())
        );
        // Concurrent writes may be seen in either order, also the first one last.
        assert_eq!(check(&[put(0, 10, 1), put(0, 10, 2), get(11, 12, Some(1))]), Ok(()));
        // A read during a write may see either.
        assert_eq!(check(&[put(0, 1, 1), put(2, 9, 2), get(3, 4, Some(2)), get(5, 6, Some(2))]), Ok(()));
        // A timed-out write may land late, or never.
        assert_eq!(check(&[put(0, 1, 1), put(2, NEVER, 2), get(5, 6, Some(1)), get(8, 9, Some(2))]), Ok(()));
        assert_eq!(check(&[put(0, 1, 1), put(2, NEVER, 2), get(5, 6, Some(1)), get(8, 9, Some(1))]), Ok(()));
        // One timed-out delete explains one disappearance.
        assert_eq!(
            check(&[put(0, 1, 1), del(2, NEVER), get(3, 4, Some(1)), get(5, 6, None), put(7, 8, 2)]),
            Ok(())
        );
    }

    #[test]
    fn stale_and_lost_values_are_found() {
        assert!(check(&[put(0, 1, 1), put(2, 3, 2), get(4, 5, Some(1))]).is_err(), "stale read");
        assert!(check(&[put(0, 1, 1), get(2, 3, None)]).is_err(), "lost write");
        assert!(check(&[put(0, 1, 1), del(2, 3), get(4, 5, Some(1))]).is_err(), "risen from the dead");
        assert!(
            check(&[put(0, 1, 1), put(2, 9, 2), get(3, 4, Some(2)), get(5, 6, Some(1))]).is_err(),
            "went back"
        );
        assert!(check(&[get(0, 1, Some(9))]).is_err(), "never written");
        assert!(
            check(&[put(0, 1, 1), del(2, NEVER), get(3, 4, None), put(5, 6, 2), get(7, 8, None)]).is_err(),
            "one unknown delete cannot act twice"
        );
        assert!(
            check(&[put(0, 1, 1), get(2, 3, None), del(4, NEVER)]).is_err(),
            "deleted before it was asked"
        );
    }

    /// Tries every order and every fate of unknown operations.
    fn brute_force(rest: &[KvOp], value: Option<u64>) -> bool {
        if rest.iter().all(|op| op.effect == Effect::Unknown) {
            return true;
        }
        let first_return = rest
            .iter()
            .filter(|op| op.effect == Effect::Done)
            .map(|op| op.span.returned_ns)
            .min()
            .unwrap_or(NEVER);
        (0..rest.len()).any(|index| {
            let op = rest[index];
            if op.span.invoked_ns > first_return {
                return false;
            }
            let next = match op.action {
                Register::Read(seen) if seen != value => return false,
                Register::Read(_) => value,
                Register::Write(written) => written,
            };
            let mut rest = rest.to_vec();
            rest.remove(index);
            brute_force(&rest, next)
        })
    }

    #[test]
    fn agrees_with_trying_every_order() {
        let mut verdicts = [0, 0];
        for seed in 0..3_000 {
            let mut draw = Draw::new(seed, "linear-test");
            let mut ops = Vec::new();
            for value in 1..=draw.between(3, 7) {
                let invoked = draw.between(0, 12);
                let returned = invoked + draw.between(1, 6);
                ops.push(match draw.between(0, 9) {
                    0..=2 => put(invoked, returned, value),
                    3 => put(invoked, NEVER, value),
                    4 => del(invoked, returned),
                    5 => del(invoked, NEVER),
                    _ => {
                        let seen = draw.between(0, value);
                        get(invoked, returned, (seen > 0).then_some(seen))
                    }
                });
            }
            let ours = check(&ops).is_ok();
            let mut sorted = ops.clone();
            sorted.sort_by_key(|op| op.span.invoked_ns);
            assert_eq!(ours, brute_force(&sorted, None), "seed {seed}: {ops:?}");
            verdicts[usize::from(ours)] += 1;
        }
        assert!(verdicts.iter().all(|count| *count > 200), "{verdicts:?}");
    }
}
