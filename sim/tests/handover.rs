//! How long nobody hands out timestamps when the lease changes hands. Bounds are checked; the numbers of the design note come
//! from `cargo test --release -p nokv-sim --test handover -- --nocapture`.

use nokv_env::{Duty, Fact};
use nokv_sim::config::WorldConfig;
use nokv_sim::plan::{Fault, HOLDER, Plan, Timed};
use nokv_sim::record::Told;
use nokv_sim::run::run_keeping;
use nokv_sim::trace::Keep;
use nokv_sim::{RunOptions, report};

const SECOND: u64 = 1_000_000_000;
const LEASE_MS: u64 = 5_000;

/// The time without timestamps around the first change of generation after the fault, in nanoseconds, and whether a seal of
/// the holder's own hand came before it.
fn silence(seed: u64, fault: Fault) -> (u64, bool) {
    let config = WorldConfig { clients: 3, lease_ttl_ms: LEASE_MS, ..WorldConfig::plain() };
    let plan = Plan { faults: vec![Timed { at_ms: 4_000, fault }] };
    let options = RunOptions {
        config: Some(config),
        plan: Some(plan),
        given: nokv_sim::Given::duration(std::time::Duration::from_secs(20)),
        ..RunOptions::seed(seed)
    };
    let ran = run_keeping(&options, Keep::Recording(Box::default()));
    assert!(ran.verdict.passed(), "{}", report::failure(&ran.verdict));
    let Keep::Recording(recording) = ran.kept else { panic!("not recorded") };
    let granted: Vec<(u64, u64)> = recording
        .told
        .iter()
        .filter_map(|(at, _, told)| match told {
            Told::Fact(Fact::Granted { duty: Duty::Timestamps, generation, .. }) => Some((*at, *generation)),
            _ => None,
        })
        .collect();
    let change = granted.windows(2).find(|pair| pair[0].1 != pair[1].1).expect("the lease changes hands");
    let sealed = ran.verdict.probes.contains_key("coordinator.generation.sealed");
    (change[1].0 - change[0].0, sealed)
}

#[test]
fn a_graceful_hand_over_takes_moments_and_a_crash_one_life_of_the_lease() {
    let (mut graceful, mut crash) = (Vec::new(), Vec::new());
    for seed in 0..10 {
        let node = HOLDER.to_owned();
        let (gap, sealed) = silence(seed, Fault::Restart { node: node.clone(), down_ms: 9_000 });
        assert!(sealed && gap < SECOND / 2, "seed {seed}: {gap} ns after a clean stop, sealed: {sealed}");
        graceful.push(gap);
        let (gap, _) = silence(seed, Fault::Kill { node, power: true, down_ms: 9_000 });
        let bound = LEASE_MS * SECOND / 1_000;
        assert!((bound / 2..bound * 3 / 2).contains(&gap), "seed {seed}: {gap} ns after a crash");
        crash.push(gap);
    }
    let show = |gaps: &mut Vec<u64>| {
        gaps.sort_unstable();
        let ms = |at: usize| gaps[at] as f64 / 1e6;
        format!("{:.0} ms, median {:.0} ms, to {:.0} ms", ms(0), ms(gaps.len() / 2), ms(gaps.len() - 1))
    };
    println!("without timestamps: graceful {}; crash {}", show(&mut graceful), show(&mut crash));
}
