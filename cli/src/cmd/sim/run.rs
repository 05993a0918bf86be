//! `nokv sim run`: seeds, one verdict line each. Verdicts are printed in the order of seeds, whoever is done first, so
//! that equal commands print equal lines.

use super::printer::{Judged, Printer};
use super::{of_seed, pool, timed};
use crate::args::Format;
use crate::args::sim::Run;
use crate::errors::{Failure, Result};
use crate::output::Out;
use nokv_sim::cases::Case;
use nokv_sim::events::{self, Events};
use nokv_sim::plan::Plan;
use nokv_sim::run::Resolved;
use nokv_sim::trace::Keep;
use nokv_sim::{RunOptions, report};
use std::ops::Range;
use std::path::Path;

/// Events before and after the first difference.
const AROUND: usize = 8;

/// Runs seeds.
pub fn run(args: &Run, format: Format) -> Result<u8> {
    let plan = args.plan.as_deref().map(read_plan).transpose()?;
    let range = match (args.seed, &args.seeds) {
        (Some(seed), _) => seed..seed.saturating_add(1),
        (None, Some(range)) => range.clone(),
        (None, None) => return Err(Failure::usage("give --seed S or --seeds A..B")),
    };
    let options = |seed| RunOptions { plan: plan.clone(), ..of_seed(seed, args.given) };
    if args.print_plan {
        return print_plans(range, options);
    }
    if args.print_case {
        return print_cases(range, options);
    }
    let suffix = args.plan.as_ref().map(|path| format!(" --plan {}", path.display())).unwrap_or_default();
    let run = |seed| -> Result<Judged> {
        let mut difference = None;
        let mut saved = Ok(());
        let verdict = timed(|| match (&args.record, args.check_determinism) {
            (None, false) => nokv_sim::run(options(seed)),
            (record, again) => {
                let (verdict, first) = Events::of(format!("seed {seed}"), &options(seed));
                saved = record.as_deref().map_or(Ok(()), |path| super::write(path, first.to_bytes()));
                if again {
                    let (_, second) = Events::of(format!("seed {seed} again"), &options(seed));
                    difference = events::diverge(&first, &second, AROUND).map(|parting| parting.to_string());
                }
                verdict
            }
        });
        saved?;
        let replay = format!("{}{suffix}", report::replay(&verdict));
        Ok(Judged { verdict, case: None, file: None, replay, difference })
    };
    let mut printer = Printer::new(format, args.hashes);
    pool::in_order(range, args.jobs, &run, |judged| {
        let judged = judged?;
        printer.show(&judged)?;
        Ok(args.fail_fast && judged.failed())
    })?;
    printer.end()
}

fn read_plan(path: &Path) -> Result<Plan> {
    serde_json::from_str(&super::read_text(path)?).map_err(|error| {
        Failure::usage(format!("{}: no fault plan: {error}", path.display()))
            .next("`nokv sim run --seed S --print-plan` shows the format")
    })
}

/// Whole runs as data; what was decided on the way is known only afterwards.
fn print_cases(range: Range<u64>, options: impl Fn(u64) -> RunOptions) -> Result<u8> {
    let mut out = Out::new();
    for seed in range {
        let options = options(seed);
        let decisions = nokv_sim::run_keeping(&options, Keep::default()).decisions;
        let run = Resolved { decisions: Some(decisions), ..options.resolve() };
        out.json(&serde_json::json!(Case::of(format!("seed {seed}"), &run)))?;
    }
    out.flush()?;
    Ok(0)
}

fn print_plans(range: Range<u64>, options: impl Fn(u64) -> RunOptions) -> Result<u8> {
    let mut out = Out::new();
    for seed in range {
        let plan = options(seed).resolve().plan;
        out.json(&serde_json::json!(plan))?;
    }
    out.flush()?;
    Ok(0)
}
