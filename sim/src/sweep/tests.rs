use super::*;
use crate::Given;
use crate::RunOptions;
use crate::coverage::{Required, catalogue};
use crate::watch::Tally;
use std::sync::OnceLock;

/// A short run, to be changed into what a test needs.
fn verdict(seed: u64) -> Verdict {
    static TEMPLATE: OnceLock<Verdict> = OnceLock::new();
    let short = || RunOptions { given: Given::duration(Duration::from_millis(200)), ..RunOptions::seed(1) };
    let template = TEMPLATE.get_or_init(|| crate::run(short())).clone();
    Verdict {
        seed,
        failure: None,
        trace: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        events: 1_000 + seed,
        sim_ns: 20_000_000_000,
        wall: Some(Duration::from_millis(100)),
        ops: 60,
        answered: 50,
        tally: Tally { elections: seed, snapshots: 0, leases: 1 },
        struck: BTreeMap::from([("kill".to_owned(), 2)]),
        probes: BTreeMap::from([("engine.create".to_owned(), 9)]),
        ..template
    }
}

fn failing(seed: u64) -> Verdict {
    let failure = Failure { checker: "transactions".to_owned(), facts: "1 < 2".to_owned(), at_ns: 5 };
    Verdict { failure: Some(failure), ..verdict(seed) }
}

fn sweep(repeat_percent: u64) -> Sweep {
    Sweep::new(Asked { seeds: 10..20, repeat_percent, given: Given::duration(Duration::from_secs(5)) })
}

fn summary(sweep: &Sweep) -> Summary {
    sweep.summary(Ended::Complete, &[], 2, Duration::from_secs(1))
}

#[test]
fn the_order_of_runs_does_not_matter() {
    let (mut forth, mut back) = (sweep(0), sweep(0));
    for seed in 10..20 {
        forth.add(&verdict(seed));
        back.add(&Verdict {
            struck: BTreeMap::from([("pause".to_owned(), 1), ("kill".to_owned(), 1)]),
            ..verdict(29 - seed)
        });
    }
    assert_ne!(summary(&forth), summary(&back), "other faults struck");
    let mut back = sweep(0);
    (10..20).rev().for_each(|seed| back.add(&verdict(seed)));
    assert_eq!(summary(&forth), summary(&back));
    assert_eq!(page::page(&summary(&forth)), page::page(&summary(&back)));
}

#[test]
fn coverage_counts_runs_and_names_what_is_missing() {
    let mut sweep = sweep(0);
    for seed in 10..20 {
        let mut verdict = verdict(seed);
        if seed >= 17 {
            verdict.struck.insert("pause".to_owned(), 1);
        }
        if seed >= 18 {
            verdict.probes.insert("engine.flush".to_owned(), 4);
        }
        sweep.add(&verdict);
    }
    let required = |name: &str| Required { name: name.to_owned(), why: "so".to_owned() };
    let required = [
        required("engine.flush"),
        required("fault:pause"),
        required("fault:blackout"),
        required("engine.compaction"),
    ];
    let summary = sweep.summary(Ended::Complete, &required, 2, Duration::from_secs(1));

    let runs = |name: &str| summary.reached.iter().find(|one| one.name == name).expect("known").runs;
    assert_eq!((runs("kill"), runs("pause"), runs("engine.flush"), runs("engine.compaction")), (10, 3, 2, 0));
    let Matrix { faults, probes, fault_runs, probe_runs, runs } = &summary.matrix;
    let at = |names: &[String], name: &str| names.iter().position(|other| other == name).expect("listed");
    let flush = at(probes, "engine.flush");
    assert_eq!((probe_runs[flush], fault_runs[at(faults, "pause")]), (2, 3));
    assert_eq!((runs[flush][at(faults, "pause")], runs[flush][at(faults, "kill")]), (2, 2));
    assert_eq!(runs[at(probes, "engine.create")][at(faults, "pause")], 3);
    assert_eq!(runs[flush][at(faults, "blackout")], 0);

    let missing: Vec<&str> = summary.required_missing.iter().map(|missing| missing.name.as_str()).collect();
    assert_eq!(missing, ["fault:blackout", "engine.compaction"]);
    assert!(!summary.passed() && summary.failed == 0);
    let never =
        summary.never_of("fault").len() + summary.never_of("probe").len() + summary.never_of("chance").len();
    let known = catalogue();
    assert_eq!(never + 4, known.faults.len() + known.marks().count());
    let text = text::text(&summary);
    assert!(text.contains("required, and no run reached it: fault:blackout (so)"), "{text}");
    let page = page::page(&summary);
    assert!(page.contains("fault:blackout") && page.contains("engine.compaction"));
}

#[test]
fn failures_come_with_the_commands_to_go_on() {
    let mut sweep = sweep(0);
    for seed in [19, 11, 15] {
        sweep.add(&failing(seed));
    }
    sweep.add(&verdict(12));
    assert_eq!((sweep.runs(), sweep.failed()), (4, 3));
    let all = summary(&sweep);
    assert_eq!(all.failures.iter().map(|failed| failed.seed).collect::<Vec<_>>(), [11, 15, 19]);
    assert_eq!(all.failures[0].commands[0], "nokv sim run --seed 11 --duration 5000ms");
    assert!(page::page(&all).contains("1 &lt; 2"));

    sweep.end_at_first_failure();
    let first = summary(&sweep);
    assert_eq!((first.runs, first.failed, first.failures[0].seed), (1, 1, 11));
}

#[test]
fn a_share_of_the_seeds_runs_twice_and_differences_are_failures() {
    assert_eq!((10..20).filter(|seed| sweep(0).asked().repeats(*seed)).count(), 0);
    assert!(sweep(1).asked().repeats(10), "at least the first");
    let many = Asked { seeds: 0..2_000, repeat_percent: 5, given: Given::default() };
    let share = (0..2_000).filter(|seed| many.repeats(*seed)).count();
    assert!((60..150).contains(&share), "{share}");

    let mut sweep = sweep(100);
    (10..20).for_each(|seed| sweep.add(&verdict(seed)));
    assert_eq!(sweep.to_repeat(), (10..20).rev().collect::<Vec<_>>());
    assert!(sweep.add_again(&verdict(19)));
    assert!(!sweep.add_again(&Verdict { trace: 7, ..verdict(18) }));
    assert!(!sweep.add_again(&Verdict { events: 7, ..verdict(17) }));
    let summary = summary(&sweep);
    assert_eq!((summary.repeated, summary.mismatches, summary.failed), (3, 2, 2));
    assert_eq!(summary.failures[1].checker, "determinism");
    assert_eq!(summary.failures[1].commands, ["nokv sim diverge 18 18 --duration 5000ms"]);
}

#[test]
fn speed_is_simulated_time_by_the_time_of_single_runs() {
    let mut sweep = sweep(0);
    (10..20).for_each(|seed| sweep.add(&verdict(seed)));
    let speed = summary(&sweep).speed;
    assert!((speed.sim_per_wall_on_one_core - 200.0).abs() < 1e-6, "{speed:?}");
    assert!((speed.seeds_per_minute_on_one_core - 600.0).abs() < 1e-6, "{speed:?}");
    assert!((speed.runs_per_second - 10.0).abs() < 1e-6, "{speed:?}");
    let none = Sweep::new(Asked { seeds: 0..1, repeat_percent: 0, given: Given::default() });
    let none = none.summary(Ended::Interrupted, &[], 1, Duration::ZERO);
    assert_eq!((none.runs, none.slowest.len()), (0, 0));
    assert!(page::page(&none).contains("interrupted after 0 seeds"));
    assert!(!text::text(&none).contains("NaN"));
}
