//! `nokv sim shrink`: a failing run made small.

use super::{of_seed, pool, read_case};
use crate::args::Format;
use crate::args::sim::Shrink;
use crate::errors::{Failure, Result};
use crate::output::Out;
use nokv_sim::cases::Case;
use nokv_sim::report;
use nokv_sim::shrink::{Effort, Shrunk};
use std::time::Instant;

/// Shrinks a seed or a case.
pub fn run(args: &Shrink, format: Format) -> Result<u8> {
    let (name, options) = match (&args.case, args.seed) {
        (Some(path), _) => {
            let case = read_case(path)?;
            (case.about.clone(), case.options())
        }
        (None, seed) => {
            let seed = seed.unwrap_or_default();
            (format!("seed {seed}"), of_seed(seed, args.given))
        }
    };
    let effort = Effort { tries: args.tries, jobs: pool::jobs(args.jobs) as usize };
    let began = Instant::now();
    let mut shown = None;
    let mut progress = |smaller: &Shrunk| {
        let size = (smaller.atoms(), smaller.ops());
        if shown.replace(size) != Some(size) {
            let (atoms, ops) = size;
            eprintln!(
                "after {} runs: {atoms} atoms, {ops} operations, {} ms of load",
                smaller.tries, smaller.run.load_ms
            );
        }
    };
    let shrunk = nokv_sim::shrink::shrink(options.resolve(), effort, &mut progress)
        .ok_or_else(|| Failure::usage(format!("{name} does not fail: there is nothing to shrink")))?;
    let checker = shrunk.verdict.failure.as_ref().map(|failure| failure.checker.as_str()).unwrap_or_default();
    let about = if args.case.is_some() { name } else { format!("{name}, checker {checker}") };
    let text = format!("{:#}\n", serde_json::json!(Case::of(about, &shrunk.run)));
    let mut out = Out::new();
    let Some(path) = &args.out else {
        out.write(text.as_bytes())?;
        out.flush()?;
        return Ok(0);
    };
    super::write(path, text)?;
    if format != Format::Plain {
        out.json(&serde_json::json!({
            "verdict": super::document(&shrunk.verdict),
            "atoms": shrunk.atoms(),
            "operations": shrunk.ops(),
            "runs": shrunk.tries,
            "written": path.display().to_string(),
        }))?;
        out.flush()?;
        return Ok(0);
    }
    out.line(report::failure_of_case(&shrunk.verdict, path).trim_end())?;
    out.line(&format!(
        "shrunk to {} atoms and {} operations in {} runs, {:.0} s; saved as {}",
        shrunk.atoms(),
        shrunk.ops(),
        shrunk.tries,
        began.elapsed().as_secs_f64(),
        path.display()
    ))?;
    out.flush()?;
    Ok(0)
}
