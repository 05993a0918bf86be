//! The closing words of a sweep.

use super::{Ended, Summary};
use crate::check::seconds;
use std::fmt::Write as _;

/// Names of a kind that are printed before the rest is only counted.
const NAMES_MAX: usize = 12;

/// The summary for a terminal.
pub fn text(summary: &Summary) -> String {
    let mut text = String::new();
    for failed in &summary.failures {
        let when = if failed.at_ns == 0 { String::new() } else { format!(" at {}", seconds(failed.at_ns)) };
        let _ = writeln!(text, "seed {} failed, {}{when}: {}", failed.seed, failed.checker, failed.facts);
    }
    let _ = writeln!(text, "{}", headline(summary));
    let _ = writeln!(text, "{}", speed(summary));
    let _ = writeln!(
        text,
        "\n{:<22} {:>12} {:>12} {:>12} {:>12} {:>10}",
        "in a run", "min", "median", "nine in ten", "max", "runs with 0"
    );
    for shape in &summary.shapes {
        let _ = writeln!(
            text,
            "{:<22} {:>12} {:>12} {:>12} {:>12} {:>10}",
            shape.name, shape.min, shape.median, shape.p90, shape.max, shape.zero
        );
    }
    let total = |sort: &str| summary.reached.iter().filter(|reached| reached.sort == sort).count();
    text.push('\n');
    for (sort, what) in
        [("fault", "fault kinds struck"), ("probe", "probes reached"), ("chance", "chance points taken")]
    {
        let never = summary.never_of(sort);
        let all = total(sort);
        let _ = write!(text, "{} of {all} {what}", all - never.len());
        let _ = writeln!(
            text,
            "{}",
            if never.is_empty() { String::new() } else { format!("; never: {}", some(&never)) }
        );
    }
    if summary.required > 0 {
        let _ = writeln!(
            text,
            "{} of {} required reached",
            summary.required - summary.required_missing.len() as u64,
            summary.required
        );
    }
    for missing in &summary.required_missing {
        let _ = writeln!(text, "required, and no run reached it: {} ({})", missing.name, missing.why);
    }
    text
}

/// One line: what ran and what came of it.
pub fn headline(summary: &Summary) -> String {
    let ended = match summary.ended {
        Ended::Complete => "",
        Ended::AtFailure => ", ended at the first failure",
        Ended::Interrupted => ", interrupted",
    };
    format!(
        "seeds {}..{}: {} runs{ended}, {} failed; {} run twice, {} of them differ; trace {}",
        summary.first_seed,
        summary.end_seed,
        summary.runs,
        summary.failed,
        summary.repeated,
        summary.mismatches,
        summary.trace
    )
}

/// One line: how fast it was.
pub fn speed(summary: &Summary) -> String {
    let speed = &summary.speed;
    format!(
        "{:.0} simulated seconds a wall second on one core, {:.1} seeds a minute a core; {} at once for {:.1} s",
        speed.sim_per_wall_on_one_core, speed.seeds_per_minute_on_one_core, speed.jobs, speed.wall_s
    )
}

fn some(names: &[&str]) -> String {
    match names.len().checked_sub(NAMES_MAX) {
        Some(more) if more > 0 => format!("{} and {more} more", names[..NAMES_MAX].join(", ")),
        _ => names.join(", "),
    }
}
