//! The same worlds on madsim, which intercepts entropy and clocks and forbids threads.
//!
//! ```text
//! RUSTFLAGS="--cfg madsim" CARGO_TARGET_DIR=target/madsim cargo test -p nokv-sim --test madsim
//! ```
#![cfg(madsim)]

use nokv_sim::run::ExecutorKind;
use nokv_sim::{Given, RunOptions, check_determinism, report};
use std::time::Duration;

fn options(seed: u64) -> RunOptions {
    RunOptions {
        executor: ExecutorKind::Madsim,
        given: Given::duration(Duration::from_secs(10)),
        ..RunOptions::seed(seed)
    }
}

#[test]
fn worlds_pass_and_are_reproducible_on_madsim() {
    for seed in 1..=20 {
        let (verdict, difference) = check_determinism(&options(seed));
        println!("{}", report::line(&verdict));
        assert!(verdict.passed(), "{}\n{}", report::timeline(&verdict, 50), report::failure(&verdict));
        assert_eq!(difference, None, "seed {seed}");
    }
}
