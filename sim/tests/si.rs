//! Our judge of list transactions against another one, on histories of a store that has snapshot isolation, or nearly.
//!
//! The other one is not used in runs: its search ends by the wall clock and its maps are iterated in random order, so
//! its verdicts do not replay.

use adya::history::{Interner, Mop, Op, OpType, ReadValue, Scalar};
use adya::{History, Opts, Report, Valid, Workload};
use nokv_sim::check::si;
use nokv_sim::draw::Draw;
use nokv_sim::history::{Effect, ListStep, ListTxn, NEVER, Span};
use std::time::Duration;

const HISTORIES: u64 = 40_000;
const LISTS: u64 = 3;

/// What is wrong with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// Writers do not notice each other.
    NoConflicts,
    /// Snapshots may be old.
    Stale,
    /// Each read has its own snapshot.
    Fractured,
    /// Refused transactions take effect.
    Dirty,
    /// Some answers lack their last value.
    Forgetful,
}

/// A transaction's moments and what it will do.
struct Plan {
    invoked: u64,
    start: u64,
    commit: u64,
    returned: u64,
    ops: Vec<(u32, bool)>,
    refused: bool,
    unknown: bool,
}

fn plans(draw: &mut Draw) -> Vec<Plan> {
    let count = draw.between(2, 7);
    let mut times: Vec<u64> = (0..4 * count).collect();
    let mut moment = |draw: &mut Draw| {
        let near = draw.pick(&[3, 8, 30]).min(times.len() as u64 - 1);
        times.remove(draw.between(0, near) as usize)
    };
    (0..count)
        .map(|_| {
            let mut four = [moment(draw), moment(draw), moment(draw), moment(draw)];
            four.sort_unstable();
            let [invoked, start, commit, returned] = four;
            let ops =
                (0..draw.between(1, 3)).map(|_| (draw.between(1, LISTS) as u32, draw.one_in(2))).collect();
            let (refused, unknown) = (draw.one_in(12), draw.one_in(8));
            Plan { invoked, start, commit, returned, ops, refused, unknown }
        })
        .collect()
}

/// Runs the plans in a store with a bug.
fn history(draw: &mut Draw, bug: Bug) -> Vec<ListTxn> {
    let mut plans = plans(draw);
    plans.sort_by_key(|plan| plan.commit);
    // Versions of each list by commit.
    let mut store: Vec<Vec<(u64, Vec<u64>)>> = vec![Vec::new(); LISTS as usize + 1];
    let mut txns = Vec::new();
    for (number, plan) in (1..).zip(plans) {
        let mut at = plan.start;
        if bug == Bug::Stale && draw.one_in(3) {
            at = draw.between(0, at);
        }
        let (mut steps, mut written, mut next) = (Vec::new(), Vec::<(u32, Vec<u64>)>::new(), number << 4);
        for (list, append) in &plan.ops {
            if bug == Bug::Fractured && draw.one_in(3) {
                at = draw.between(0, plan.commit);
            }
            let own = written.iter().find(|(own, _)| own == list).map(|(_, values)| values.clone());
            let mut values = own.unwrap_or_else(|| {
                let versions = store[*list as usize].iter().rev();
                versions
                    .clone()
                    .find(|(commit, _)| *commit < at)
                    .map_or_else(Vec::new, |(_, values)| values.clone())
            });
            let mut shown = values.clone();
            if bug == Bug::Forgetful && draw.one_in(8) {
                shown.pop();
            }
            // Refused and unknown ones tell nothing, as the other judge has it.
            if !plan.refused && !plan.unknown {
                steps.push(ListStep::Read { list: *list, values: shown });
            }
            if *append {
                next += 1;
                values.push(next);
                steps.push(ListStep::Append { list: *list, value: next });
                written.retain(|(own, _)| own != list);
                written.push((*list, values));
            }
        }
        let conflict = written
            .iter()
            .any(|(list, _)| store[*list as usize].last().is_some_and(|(commit, _)| *commit > plan.start));
        let refused = plan.refused || conflict && bug != Bug::NoConflicts;
        if refused {
            steps.retain(|step| matches!(step, ListStep::Append { .. }));
        }
        let takes_effect = if refused { bug == Bug::Dirty } else { !plan.unknown || draw.one_in(2) };
        if takes_effect {
            for (list, values) in written {
                store[list as usize].push((plan.commit, values));
            }
        }
        let effect = match (refused, plan.unknown) {
            (true, _) => Effect::Refused,
            (false, true) => Effect::Unknown,
            (false, false) => Effect::Done,
        };
        let returned_ns = if effect == Effect::Unknown { NEVER } else { plan.returned };
        let span = Span { session: 0, invoked_ns: plan.invoked, returned_ns };
        txns.push(ListTxn { span, id: number << 4, effect, steps });
    }
    txns
}

fn judged_by_adya(txns: &[ListTxn]) -> Report {
    let mut names = Interner::default();
    let mut ops: Vec<(u64, bool, Op)> = Vec::new();
    for (process, txn) in (0..).zip(txns) {
        let kind = match txn.effect {
            Effect::Done => OpType::Ok,
            Effect::Refused => OpType::Fail,
            Effect::Unknown => OpType::Info,
        };
        let mut number = |value: u64| names.intern(Scalar::Int(value as i64));
        let done: Vec<Mop> = txn
            .steps
            .iter()
            .map(|step| match step {
                ListStep::Append { list, value } => {
                    Mop::Append { key: number(u64::from(*list)), value: number(*value) }
                }
                ListStep::Read { list, values } => Mop::Read {
                    key: number(u64::from(*list)),
                    value: ReadValue::List(values.iter().map(|value| number(*value)).collect()),
                },
            })
            .collect();
        let asked = done.iter().map(|mop| match mop {
            Mop::Read { key, .. } => Mop::Read { key: *key, value: ReadValue::Nil },
            other => other.clone(),
        });
        let op = |kind, value| Op { index: 0, kind, process: Some(process), value, time: None };
        ops.push((txn.span.invoked_ns, false, op(OpType::Invoke, asked.collect())));
        ops.push((txn.span.returned_ns, true, op(kind, done)));
    }
    ops.sort_by_key(|(at, returns, _)| (*at, *returns));
    let ops = (0..).zip(ops).map(|(index, (_, _, op))| Op { index, ..op }).collect();
    let models = vec!["strong-snapshot-isolation".to_owned()];
    let opts = Opts { models, timeout: Duration::from_secs(600), ..Opts::default() };
    adya::check(&History::from_ops(ops, names), Workload::ListAppend, &opts)
}

#[test]
fn agrees_with_another_judge() {
    let bugs = [Bug::None, Bug::NoConflicts, Bug::Stale, Bug::Fractured, Bug::Dirty, Bug::Forgetful];
    let (mut good, mut bad, mut open) = (0, 0, 0);
    for seed in 0..HISTORIES {
        let mut draw = Draw::new(seed, "si-differential");
        let bug = draw.pick(&bugs);
        let txns = history(&mut draw, bug);
        let ours = si::check(&txns);
        assert!(ours.is_ok() || bug != Bug::None, "seed {seed}: {ours:?}\n{txns:#?}");
        let theirs = judged_by_adya(&txns);
        match theirs.valid {
            Valid::True if ours.is_ok() => good += 1,
            Valid::False if ours.is_err() => bad += 1,
            Valid::Unknown if theirs.anomaly_types == ["empty-transaction-graph"] => open += 1,
            _ => panic!("seed {seed} {bug:?}: we say {ours:?}, the other {:?}: {txns:#?}", theirs.anomalies),
        }
    }
    println!("{good} good, {bad} bad, {open} that say nothing");
    assert!(good >= 8_000 && bad >= 4_000);
}
