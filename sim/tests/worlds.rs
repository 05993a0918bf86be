//! A few whole worlds: they pass, and equal seeds give equal traces, whatever ran before in the process.

use nokv_sim::run::run_keeping;
use nokv_sim::trace::Keep;
use nokv_sim::{Given, RunOptions, check_determinism, record, report, run};
use std::time::Duration;

fn options(seed: u64) -> RunOptions {
    RunOptions { given: Given::duration(Duration::from_secs(6)), ..RunOptions::seed(seed) }
}

#[test]
fn some_seeds_pass() {
    for seed in 100..104 {
        let verdict = run(options(seed));
        println!("{}", report::line(&verdict));
        assert!(verdict.passed(), "{}\n{}", report::timeline(&verdict, 60), report::failure(&verdict));
        assert!(verdict.answered > 0, "seed {seed}: no operation was answered");
    }
}

#[test]
fn a_seed_replays_event_by_event_also_after_other_seeds() {
    let (first, difference) = check_determinism(&options(7));
    assert_eq!(difference, None);
    let other = run(options(8));
    let again = run(options(7));
    assert_eq!((first.trace, first.events), (again.trace, again.events));
    assert_ne!(first.trace, other.trace);
}

#[test]
fn recorded_decisions_replay_a_run_and_without_them_it_is_another() {
    let drawn = run_keeping(&options(5), Keep::Hash);
    assert!(drawn.decisions.len() > 20, "{}", drawn.decisions.len());
    let given = RunOptions { decisions: Some(drawn.decisions.clone()), ..options(5) };
    let replayed = run_keeping(&given, Keep::Hash);
    assert_eq!(replayed.verdict.trace, drawn.verdict.trace);
    assert_eq!(replayed.decisions, drawn.decisions);

    let calm = run_keeping(&RunOptions { decisions: Some(Default::default()), ..options(5) }, Keep::Hash);
    assert!(calm.verdict.passed(), "{}", report::failure(&calm.verdict));
    assert_eq!(calm.decisions.len(), 0);
    assert_ne!(calm.verdict.trace, drawn.verdict.trace);
}

#[test]
fn recording_a_run_changes_nothing_in_it() {
    let plain = run(options(7));
    let recorded = run_keeping(&options(7), Keep::Recording(Box::default()));
    assert_eq!((plain.trace, plain.events), (recorded.verdict.trace, recorded.verdict.events));
    let Keep::Recording(recording) = recorded.kept else { panic!("recorded") };
    assert!(recording.operations.iter().any(|operation| operation.returned_ns < record::NEVER));
    assert!(recording.packets.iter().any(|packet| !packet.keys.is_empty()), "requests name their keys");
    assert!(recording.packets.iter().any(|packet| !packet.content.is_empty()), "raft batches are named");
}
