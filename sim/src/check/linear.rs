//! Linearizability of single keys, after Wing and Gong with Lowe's memoisation.
//!
//! Each key is a register; a delete writes "nothing". The search places operations one after another: an operation
//! may come next if it was invoked before any of the unplaced ones returned. What keeps it short:
//! - a read that fits is placed at once: it changes nothing and only gets in the way later;
//! - values are unique, so one that readers still wait for must not be overwritten;
//! - a state (which operations are placed, what the register holds) is entered once. It is remembered as a 128-bit
//!   sum of numbers drawn per operation, so a step costs little, however many operations are placed.
//!
//! Operations with unknown outcome may have happened at any time after their invocation, or never:
//! - a *write* of a value that somebody read happened, before the first such read returned: it becomes an ordinary
//!   write that ends there. One that nobody read matters only to an insert that was refused because there was
//!   something; it is used right there, if nothing else helps;
//! - a *delete* is used right before an operation that needs nothing to be there.
//!
//! Both kinds differ only in when they were invoked, so the oldest is used first.
//!
//! The search has a budget of steps. A key that exceeds it is *undecided*, which is counted, never a pass in silence.
//! A key without explanation is cut down to the few operations that cannot be explained even alone.

use super::{Violation, oracle::WriteId, show_span};
use crate::history::{Effect, KvOp, NEVER, Register};
use std::collections::{BTreeMap, BTreeSet};

/// Steps that the search for one key may take.
pub const STEPS_MAX: u64 = 500_000;
/// Steps that one attempt to cut a counterexample down may take.
const CUT_STEPS_MAX: u64 = 20_000;

/// What the search for one key came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains everything.
    Explained,
    /// The budget is used up.
    Undecided,
    /// There is none. The facts: the fewest operations found that have no explanation.
    Violated(String),
}

/// Judges the operations of all keys. Gives the number of keys that are undecided.
pub fn check(ops: &[KvOp]) -> Result<u64, Violation> {
    let mut keys: BTreeMap<u32, Vec<KvOp>> = BTreeMap::new();
    for op in ops {
        keys.entry(op.key).or_default().push(*op);
    }
    let mut undecided = 0;
    for (key, ops) in keys {
        match judge(&ops, STEPS_MAX) {
            Verdict::Explained => {}
            Verdict::Undecided => undecided += 1,
            Verdict::Violated(facts) => {
                return Err(Violation::new("linearizability", format!("key {key}: {facts}")));
            }
        }
    }
    Ok(undecided)
}

/// Judges the operations of one key within `steps_max` steps.
pub fn judge(ops: &[KvOp], steps_max: u64) -> Verdict {
    match explain(ops, steps_max) {
        Answer::Yes => Verdict::Explained,
        Answer::Spent => Verdict::Undecided,
        Answer::Wrong(facts) => Verdict::Violated(facts),
        Answer::No => {
            let few = cut(ops);
            let mut facts = format!("no order explains these {} operations:", few.len());
            for op in few {
                facts.push_str("\n  ");
                facts.push_str(&show(&op));
            }
            Verdict::Violated(facts)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    Spent,
    /// No search is needed to see that it is wrong.
    Wrong(String),
}

fn explain(ops: &[KvOp], steps_max: u64) -> Answer {
    match Search::new(ops) {
        Ok(mut search) => search.run(steps_max),
        Err(facts) => Answer::Wrong(facts),
    }
}

/// What the register holds: a value, nothing, or a value that nobody read.
const NOTHING: u64 = 0;
const UNREAD: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Finds this.
    Read(u64),
    /// Finds anything but nothing.
    Present,
    /// Leaves this.
    Write(u64),
    /// Finds nothing, leaves this.
    Insert(u64),
}

#[derive(Debug, Clone, Copy)]
struct Op {
    invoked: u64,
    returned: u64,
    action: Action,
}

/// What changes from one point of the search to the next.
#[derive(Debug, Clone, Copy)]
struct Held {
    value: u64,
    deletes_used: usize,
    writes_used: usize,
}

/// A choice that was made, and what else could be chosen.
struct Choice {
    placed: usize,
    before: Held,
    others: Vec<usize>,
}

struct Search {
    /// By invocation.
    ops: Vec<Op>,
    /// Unplaced operations, as a ring in order; the last place is the head.
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Unplaced reads of each value.
    awaited: BTreeMap<u64, u32>,
    /// Invocations of deletes, and of writes of unread values, that may have happened.
    deletes: Vec<u64>,
    writes: Vec<u64>,
    register: Held,
    /// Sum over the placed operations.
    sum: u128,
    seen: BTreeSet<u128>,
}

impl Search {
    fn new(history: &[KvOp]) -> Result<Self, String> {
        let writers: BTreeMap<u64, &KvOp> =
            history.iter().filter_map(|op| written(op).map(|value| (value, op))).collect();
        let mut first_read: BTreeMap<u64, u64> = BTreeMap::new();
        for op in history {
            let Register::Read(Some(value)) = op.action else { continue };
            match writers.get(&value) {
                None => return Err(format!("a value was read that was never written: {}", show(op))),
                Some(writer) if writer.effect == Effect::Refused => {
                    return Err(format!("a refused write was read: {}; {}", show(writer), show(op)));
                }
                Some(_) => {}
            }
            let first = first_read.entry(value).or_insert(NEVER);
            *first = (*first).min(op.span.returned_ns);
        }
        let (mut ops, mut deletes, mut writes) = (Vec::new(), Vec::new(), Vec::new());
        for op in history {
            let (invoked, mut returned) = (op.span.invoked_ns, op.span.returned_ns);
            let action = match op.action {
                Register::Read(value) => Action::Read(value.unwrap_or(NOTHING)),
                Register::Present => Action::Present,
                Register::Write(value) => Action::Write(value.unwrap_or(NOTHING)),
                Register::Insert(value) => Action::Insert(value),
            };
            if op.effect != Effect::Done {
                let Some(value) = written(op) else {
                    if op.effect == Effect::Unknown {
                        deletes.push(invoked);
                    }
                    continue;
                };
                let Some(first) = first_read.get(&value) else {
                    if op.effect == Effect::Unknown {
                        writes.push(invoked);
                    }
                    continue;
                };
                returned = *first;
            }
            ops.push(Op { invoked, returned, action });
        }
        ops.sort_by_key(|op| (op.invoked, op.returned));
        deletes.sort_unstable();
        writes.sort_unstable();
        let mut awaited = BTreeMap::new();
        for op in &ops {
            if let Action::Read(value) = op.action {
                *awaited.entry(value).or_default() += 1;
            }
        }
        let count = ops.len();
        Ok(Self {
            ops,
            next: (1..=count).chain([0]).collect(),
            previous: std::iter::once(count).chain(0..count).collect(),
            awaited,
            deletes,
            writes,
            register: Held { value: NOTHING, deletes_used: 0, writes_used: 0 },
            sum: 0,
            seen: BTreeSet::new(),
        })
    }

    fn run(&mut self, steps_max: u64) -> Answer {
        let mut choices: Vec<Choice> = Vec::new();
        for _ in 0..steps_max {
            let head = self.ops.len();
            if self.next[head] == head {
                return Answer::Yes;
            }
            let (mut options, forced) = self.options();
            loop {
                let Some(op) = options.pop() else {
                    // A dead end: go back to the last choice that has an alternative.
                    let Some(choice) = choices.pop() else { return Answer::No };
                    self.take_back(choice.placed, choice.before);
                    options = choice.others;
                    continue;
                };
                let before = self.register;
                if !self.place(op) {
                    continue;
                }
                if forced || self.seen.insert(self.fingerprint()) {
                    choices.push(Choice { placed: op, before, others: options });
                    break;
                }
                self.take_back(op, before);
            }
        }
        Answer::Spent
    }

    /// Operations that may come next, the most promising last; true if there is no choice to make.
    fn options(&self) -> (Vec<usize>, bool) {
        let (candidates, _) = self.candidates();
        let held = self.register.value;
        let fits = |op: &usize| match self.ops[*op].action {
            Action::Read(value) => value == held,
            Action::Present => held != NOTHING,
            Action::Write(_) | Action::Insert(_) => false,
        };
        if let Some(op) = candidates.iter().find(|op| fits(op)) {
            return (vec![*op], true);
        }
        if self.awaited.get(&held).is_some_and(|reads| held != NOTHING && *reads > 0) {
            return (Vec::new(), false);
        }
        (candidates.into_iter().rev().collect(), false)
    }

    /// Unplaced operations that were invoked before any unplaced one returned, and when that is.
    fn candidates(&self) -> (Vec<usize>, u64) {
        let head = self.ops.len();
        let mut candidates = Vec::new();
        let mut first_return = NEVER;
        let mut at = self.next[head];
        while at != head && self.ops[at].invoked <= first_return {
            first_return = first_return.min(self.ops[at].returned);
            candidates.push(at);
            at = self.next[at];
        }
        candidates.retain(|op| self.ops[*op].invoked <= first_return);
        (candidates, first_return)
    }

    /// Places an operation, with the help of an unknown one if need be; false if it does not fit.
    fn place(&mut self, op: usize) -> bool {
        let action = self.ops[op].action;
        let mut after = self.register;
        let needs_nothing = matches!(action, Action::Read(NOTHING) | Action::Insert(_));
        if needs_nothing && after.value != NOTHING {
            if !self.helps(self.deletes.get(after.deletes_used)) {
                return false;
            }
            after.deletes_used += 1;
            after.value = NOTHING;
        }
        match action {
            Action::Read(value) if value != after.value => return false,
            Action::Present if after.value == NOTHING => {
                if !self.helps(self.writes.get(after.writes_used)) {
                    return false;
                }
                after.writes_used += 1;
                after.value = UNREAD;
            }
            Action::Read(_) | Action::Present => {}
            Action::Write(value) | Action::Insert(value) => after.value = value,
        }
        if let Action::Read(value) = action {
            self.awaited.entry(value).and_modify(|reads| *reads -= 1);
        }
        self.register = after;
        self.sum = self.sum.wrapping_add(weight(op as u64));
        let (previous, next) = (self.previous[op], self.next[op]);
        self.next[previous] = next;
        self.previous[next] = previous;
        true
    }

    /// Whether an unknown operation invoked then can come now.
    fn helps(&self, invoked: Option<&u64>) -> bool {
        invoked.is_some_and(|invoked| *invoked <= self.candidates().1)
    }

    /// Takes the operation placed last back.
    fn take_back(&mut self, op: usize, before: Held) {
        let (previous, next) = (self.previous[op], self.next[op]);
        self.next[previous] = op;
        self.previous[next] = op;
        if let Action::Read(value) = self.ops[op].action {
            self.awaited.entry(value).and_modify(|reads| *reads += 1);
        }
        self.sum = self.sum.wrapping_sub(weight(op as u64));
        self.register = before;
    }

    fn fingerprint(&self) -> u128 {
        let Held { value, deletes_used, writes_used } = self.register;
        let used = (deletes_used as u64) << 32 | writes_used as u64;
        self.sum ^ weight(value ^ 0x5555_5555_5555_5555) ^ weight(used ^ 0x3333_3333_3333_3333)
    }
}

/// A number of 128 well mixed bits for each number of 64.
fn weight(number: u64) -> u128 {
    let half = |salt: u64| {
        let mut word = (number ^ salt).wrapping_add(0x9e37_79b9_7f4a_7c15);
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    };
    u128::from(half(0)) << 64 | u128::from(half(0xd6e8_feb8_6659_fd93))
}

fn written(op: &KvOp) -> Option<u64> {
    match op.action {
        Register::Write(value) => value,
        Register::Insert(value) => Some(value),
        Register::Read(_) | Register::Present => None,
    }
}

fn only_looks(op: &KvOp) -> bool {
    matches!(op.action, Register::Read(_) | Register::Present)
}

/// Leaves out operations as long as what is left has no explanation.
fn cut(ops: &[KvOp]) -> Vec<KvOp> {
    let violated = |ops: &[KvOp]| explain(ops, CUT_STEPS_MAX) == Answer::No;
    let mut left = ops.to_vec();
    left.sort_by_key(|op| (op.span.invoked_ns, op.span.returned_ns));
    // First whatever happened after the first contradiction.
    let mut ends: Vec<u64> = left.iter().filter(|op| only_looks(op)).map(|op| op.span.returned_ns).collect();
    ends.sort_unstable();
    let until = ends.partition_point(|end| !violated(&up_to(&left, *end)));
    if let Some(early) = ends.get(until).map(|end| up_to(&left, *end)).filter(|early| violated(early)) {
        left = early;
    }
    let mut chunk = left.len().div_ceil(2);
    while chunk > 0 {
        let (before, mut at) = (left.len(), 0);
        while at < left.len() {
            let end = (at + chunk).min(left.len());
            let rest: Vec<KvOp> = left[..at].iter().chain(&left[end..]).copied().collect();
            if left[at..end].iter().all(|op| may_go(op, &rest)) && violated(&rest) {
                left = rest;
            } else {
                at = end;
            }
        }
        // Single ones again and again: what goes may make others needless.
        if chunk > 1 || left.len() == before {
            chunk /= 2;
        }
    }
    left
}

/// What is known of the key when `end` comes.
fn up_to(ops: &[KvOp], end: u64) -> Vec<KvOp> {
    let seen: Vec<KvOp> =
        ops.iter().filter(|op| !only_looks(op) || op.span.returned_ns <= end).copied().collect();
    seen.iter().filter(|op| op.span.invoked_ns <= end || !may_go(op, &seen)).copied().collect()
}

/// Whether a history that is explained stays so when `op` is left out and `rest` remains.
fn may_go(op: &KvOp, rest: &[KvOp]) -> bool {
    let needs_nothing = |other: &&KvOp| matches!(other.action, Register::Read(None) | Register::Insert(_));
    match op.action {
        Register::Read(_) | Register::Present => true,
        // A delete may go if it explains no absence: it came too late, or its effect was overwritten in time.
        Register::Write(None) => rest.iter().filter(needs_nothing).all(|absent| {
            op.span.invoked_ns > absent.span.returned_ns
                || rest.iter().any(|other| {
                    matches!(other.action, Register::Write(Some(_)))
                        && other.effect == Effect::Done
                        && op.span.returned_ns < other.span.invoked_ns
                        && other.span.returned_ns < absent.span.invoked_ns
                })
        }),
        // A value may go if nobody saw it.
        Register::Write(Some(value)) | Register::Insert(value) => rest
            .iter()
            .all(|other| other.action != Register::Present && other.action != Register::Read(Some(value))),
    }
}

fn show_value(value: Option<u64>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| WriteId(value).to_string())
}

fn show(op: &KvOp) -> String {
    let what = match op.action {
        Register::Read(value) => format!("read {}", show_value(value)),
        Register::Present => "insert refused, there was something".to_owned(),
        Register::Write(None) => "delete".to_owned(),
        Register::Write(Some(value)) => format!("put {}", WriteId(value)),
        Register::Insert(value) => format!("insert {}", WriteId(value)),
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
    fn insert(invoked_ns: u64, returned_ns: u64, value: u64) -> KvOp {
        op(invoked_ns, returned_ns, Register::Insert(value))
    }
    fn present(invoked_ns: u64, returned_ns: u64) -> KvOp {
        op(invoked_ns, returned_ns, Register::Present)
    }
    fn del(invoked_ns: u64, returned_ns: u64) -> KvOp {
        op(invoked_ns, returned_ns, Register::Write(None))
    }
    fn get(invoked_ns: u64, returned_ns: u64, value: Option<u64>) -> KvOp {
        op(invoked_ns, returned_ns, Register::Read(value))
    }

    #[test]
    fn good_histories_pass() {
        let good = |ops: &[KvOp]| assert_eq!(check(ops), Ok(0));
        good(&[get(0, 1, None), put(2, 3, 7), get(4, 5, Some(7)), del(6, 7), get(8, 9, None)]);
        // Concurrent writes may be seen in either order, also the first one last.
        good(&[put(0, 10, 1), put(0, 10, 2), get(11, 12, Some(1))]);
        // A read during a write may see either.
        good(&[put(0, 1, 1), put(2, 9, 2), get(3, 4, Some(2)), get(5, 6, Some(2))]);
        // A timed-out write may land late, or never.
        good(&[put(0, 1, 1), put(2, NEVER, 2), get(5, 6, Some(1)), get(8, 9, Some(2))]);
        good(&[put(0, 1, 1), put(2, NEVER, 2), get(5, 6, Some(1)), get(8, 9, Some(1))]);
        // One timed-out delete explains one disappearance.
        good(&[put(0, 1, 1), del(2, NEVER), get(3, 4, Some(1)), get(5, 6, None), put(7, 8, 2)]);
        // Inserts find nothing, or are refused; a timed-out write explains a refusal.
        good(&[insert(0, 1, 1), present(2, 3), del(4, 5), insert(6, 7, 2), get(8, 9, Some(2))]);
        good(&[put(0, NEVER, 1), get(1, 2, None), present(3, 4), del(5, 6), get(7, 8, None)]);
    }

    #[test]
    fn stale_and_lost_values_are_found() {
        let bad = |ops: &[KvOp], why: &str| assert!(check(ops).is_err(), "{why}");
        bad(&[put(0, 1, 1), put(2, 3, 2), get(4, 5, Some(1))], "stale read");
        bad(&[put(0, 1, 1), get(2, 3, None)], "lost write");
        bad(&[put(0, 1, 1), del(2, 3), get(4, 5, Some(1))], "risen from the dead");
        bad(&[put(0, 1, 1), put(2, 9, 2), get(3, 4, Some(2)), get(5, 6, Some(1))], "went back");
        bad(&[get(0, 1, Some(9))], "never written");
        bad(
            &[put(0, 1, 1), del(2, NEVER), get(3, 4, None), put(5, 6, 2), get(7, 8, None)],
            "one unknown delete cannot act twice",
        );
        bad(&[put(0, 1, 1), get(2, 3, None), del(4, NEVER)], "deleted before it was asked");
        bad(&[put(0, 1, 1), insert(2, 3, 2)], "inserted over something");
        bad(&[put(0, 1, 1), del(2, 3), present(4, 5)], "refused although there was nothing");
    }

    #[test]
    fn counterexamples_are_small() {
        let mut ops = Vec::new();
        for round in 0..50 {
            let at = round * 20;
            ops.extend([put(at, at + 5, 2 * round + 1), get(at + 6, at + 7, Some(2 * round + 1))]);
            ops.extend([
                put(at + 8, at + 12, 2 * round + 2),
                del(at + 14, at + 15),
                get(at + 16, at + 17, None),
            ]);
        }
        assert_eq!(check(&ops), Ok(0));
        ops.push(get(413, 414, Some(41)));
        let violation = check(&ops).expect_err("stale read");
        let lines: Vec<&str> = violation.facts.lines().collect();
        assert_eq!(lines.len(), 4, "{}", violation.facts);
        assert!(lines[3].contains("read"), "{}", violation.facts);
    }

    #[test]
    fn what_takes_too_long_is_undecided() {
        let ops: Vec<KvOp> =
            (1..=12).map(|value| put(value, 100, value)).chain([get(200, 201, None)]).collect();
        assert_eq!(judge(&ops, 50), Verdict::Undecided);
        assert!(matches!(judge(&ops, STEPS_MAX), Verdict::Violated(_)));
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
                Register::Present if value.is_none() => return false,
                Register::Insert(_) if value.is_some() => return false,
                Register::Read(_) | Register::Present => value,
                Register::Write(written) => written,
                Register::Insert(written) => Some(written),
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
                ops.push(match draw.between(0, 11) {
                    0..=2 => put(invoked, returned, value),
                    3 => put(invoked, NEVER, value),
                    4 => del(invoked, returned),
                    5 => del(invoked, NEVER),
                    6 => insert(invoked, if draw.one_in(2) { NEVER } else { returned }, value),
                    7 => present(invoked, returned),
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
