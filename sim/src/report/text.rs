//! A verdict in words.

use crate::check::seconds;
use crate::run::Verdict;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

/// The verdict line.
pub fn line(verdict: &Verdict) -> String {
    let wall = verdict.wall.map_or_else(|| "?".to_owned(), |wall| format!("{:.3}", wall.as_secs_f64()));
    let undecided = match verdict.findings.undecided {
        0 => String::new(),
        keys => format!(" undecided={keys}"),
    };
    format!(
        "seed={} verdict={} sim={:.3}s wall={wall}s events={} trace={:016x} faults={} decisions={} ops={}{undecided}",
        verdict.seed,
        if verdict.passed() { "pass" } else { "fail" },
        verdict.sim_ns as f64 / 1e9,
        verdict.events,
        verdict.trace,
        verdict.faults,
        verdict.decisions,
        verdict.ops,
    )
}

/// What failed, and how to see it again. Empty for a pass.
pub fn failure(verdict: &Verdict) -> String {
    let replay = replay(verdict);
    let page = replay.replacen(" run ", " report ", 1);
    failed(verdict, &replay, &page)
}

/// The same of the case saved as `file`: its seed alone does not say all that it is.
pub fn failure_of_case(verdict: &Verdict, file: &Path) -> String {
    let file = file.display();
    failed(verdict, &format!("nokv sim cases {file}"), &format!("nokv sim report {file}"))
}

fn failed(verdict: &Verdict, replay: &str, page: &str) -> String {
    let Some(failure) = &verdict.failure else { return String::new() };
    let mut text = String::new();
    let _ = writeln!(text, "checker: {}", failure.checker);
    let _ = writeln!(text, "time:    {} of simulated time", seconds(failure.at_ns));
    let _ = writeln!(text, "facts:   {}", failure.facts);
    let _ = writeln!(text, "replay:  {replay}");
    let _ = writeln!(text, "page:    {page}");
    text
}

/// The command that runs the same world again.
pub fn replay(verdict: &Verdict) -> String {
    format!("nokv sim run --seed {}{}", verdict.seed, verdict.given.flags())
}

/// The timeline up to the failure, one line an entry; the newest `lines_max` of those that say something: every node
/// starts at zero, and every root hears of the same lease.
pub fn timeline(verdict: &Verdict, lines_max: usize) -> String {
    let until = verdict.failure.as_ref().map_or(u64::MAX, |failure| failure.at_ns);
    let mut heard = BTreeSet::new();
    let mut news =
        |line: &str| line.split_once(" (seen by").is_none_or(|(lease, _)| heard.insert(lease.to_owned()));
    let lines: Vec<_> =
        verdict.timeline.iter().filter(|(at_ns, line)| (1..=until).contains(at_ns) && news(line)).collect();
    let skip = lines.len().saturating_sub(lines_max);
    lines.into_iter().skip(skip).fold(String::new(), |mut text, (at_ns, line)| {
        let _ = writeln!(text, "{:>12} {line}", seconds(*at_ns));
        text
    })
}
