//! Our linearizability checker against another one, on histories of one key: good ones, nearly good ones, and noise.
//!
//! The other one has no notion of unknown outcomes. An operation that may have happened is shown to it as one
//! that returns after everything else, and does nothing where it does not fit.

use nokv_sim::check::linear::{STEPS_MAX, Verdict, judge};
use nokv_sim::draw::Draw;
use nokv_sim::history::{Effect, KvOp, NEVER, Register, Span};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

const HISTORIES: u64 = 250_000;

/// An operation and whether its outcome is known.
#[derive(Debug, Clone, Copy)]
struct Asked(Register, bool);

struct OneKey;

impl Specification for OneKey {
    type State = Option<u64>;
    type Operation = Asked;

    fn init() -> Self::State {
        None
    }

    fn apply(Asked(action, known): &Asked, state: &Self::State) -> (bool, Self::State) {
        match action {
            Register::Read(seen) => (seen == state, *state),
            Register::Present => (state.is_some(), *state),
            Register::Write(value) => (true, *value),
            Register::Insert(value) if state.is_none() => (true, Some(*value)),
            Register::Insert(_) => (!known, *state),
        }
    }
}

fn judged_by_todc(ops: &[KvOp]) -> bool {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        events.extend([(op.span.invoked_ns, false, index), (op.span.returned_ns, true, index)]);
    }
    events.sort_unstable();
    let actions = events.into_iter().map(|(_, returns, index)| {
        let asked = Asked(ops[index].action, ops[index].effect == Effect::Done);
        (index, if returns { Action::Response(asked) } else { Action::Call(asked) })
    });
    WGLChecker::<OneKey>::is_linearizable(History::from_actions(actions.collect()))
}

/// Operations of a register that really is one, each at a moment between its invocation and its return.
fn good(draw: &mut Draw) -> Vec<KvOp> {
    let count = draw.between(2, 11);
    let mut times: Vec<u64> = (0..2 * count).collect();
    let mut plans: Vec<(u64, u64, u64, u64)> = Vec::new();
    for number in 1..=count {
        let width = draw.pick(&[2, 4, 8, 20]);
        let first = times.remove(draw.between(0, times.len() as u64 / 2) as usize);
        let last = times.remove(draw.between(0, width.min(times.len() as u64 - 1)) as usize);
        let (invoked, returned) = (first.min(last), first.max(last));
        plans.push((draw.between(invoked * 100 + 1, returned * 100 - 1), invoked, returned, number));
    }
    plans.sort_unstable();
    let mut register = None;
    let mut ops = Vec::new();
    for (_, invoked_ns, returned_ns, number) in plans {
        let mut known = !draw.one_in(5);
        let happens = known || draw.one_in(2);
        let action = match draw.between(0, 9) {
            0..=3 => Register::Write(Some(number)),
            4 => Register::Write(None),
            5 if !known || register.is_none() => Register::Insert(number),
            5 => Register::Present,
            _ => {
                known = true;
                Register::Read(register)
            }
        };
        register = match action {
            Register::Write(value) if happens => value,
            Register::Insert(value) if happens && register.is_none() => Some(value),
            _ => register,
        };
        let (returned_ns, effect) =
            if known { (returned_ns, Effect::Done) } else { (NEVER, Effect::Unknown) };
        ops.push(KvOp { key: 0, span: Span { session: 0, invoked_ns, returned_ns }, action, effect });
    }
    ops
}

/// Spoils a history a little: most often it is bad then.
fn spoil(draw: &mut Draw, ops: &mut [KvOp]) {
    let values: Vec<Option<u64>> = ops
        .iter()
        .map(|op| match op.action {
            Register::Write(value) => value,
            Register::Insert(value) => Some(value),
            Register::Read(_) | Register::Present => None,
        })
        .collect();
    for _ in 0..draw.between(1, 5) {
        let at = draw.between(0, ops.len() as u64 - 1) as usize;
        let value = draw.pick(&values);
        match &mut ops[at].action {
            Register::Read(seen) => *seen = value,
            Register::Present => ops[at].action = Register::Read(value),
            _ => {
                let to = draw.between(0, ops.len() as u64 - 1) as usize;
                (ops[at].span, ops[to].span) = (ops[to].span, ops[at].span);
                (ops[at].effect, ops[to].effect) = (ops[to].effect, ops[at].effect);
            }
        }
    }
    // A read without outcome says nothing and is not recorded.
    for op in ops.iter_mut().filter(|op| op.effect == Effect::Unknown) {
        if matches!(op.action, Register::Read(_) | Register::Present) {
            op.action = Register::Write(None);
        }
    }
}

#[test]
fn agrees_with_another_checker() {
    let (mut explained, mut violated, mut unknown) = (0, 0, 0);
    for seed in 0..HISTORIES {
        let mut draw = Draw::new(seed, "linear-differential");
        let mut ops = good(&mut draw);
        let spoiled = !draw.one_in(5);
        if spoiled {
            spoil(&mut draw, &mut ops);
        }
        unknown += u64::from(ops.iter().any(|op| op.effect == Effect::Unknown));
        let theirs = judged_by_todc(&ops);
        assert!(theirs || spoiled, "seed {seed}: the generator is wrong: {ops:#?}");
        match judge(&ops, STEPS_MAX) {
            Verdict::Explained if theirs => explained += 1,
            Verdict::Violated(_) if !theirs => violated += 1,
            ours => panic!("seed {seed}: we say {ours:?}, the other says {theirs}: {ops:#?}"),
        }
    }
    println!("{explained} explained, {violated} violated, {unknown} with unknown outcomes");
    assert!(explained >= 20_000 && violated >= 20_000 && unknown >= 20_000);
}
