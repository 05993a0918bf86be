//! `nokv sim report`: one run as one page of HTML.

use super::{of_seed as options_of_seed, read_case};
use crate::args::Format;
use crate::args::sim::Report;
use crate::errors::Result;
use crate::output::Out;
use nokv_sim::report::page::{Commands, page};
use nokv_sim::{RunOptions, report};
use std::path::{Path, PathBuf};

/// Runs a case or a seed, recorded, and writes what happened.
pub fn run(args: &Report, format: Format) -> Result<u8> {
    let (options, commands, name) = match (&args.case, args.seed) {
        (Some(path), _) => of_case(path)?,
        (None, seed) => of_seed(seed.unwrap_or_default(), args),
    };
    let (verdict, html) = page(&options, &commands);
    let path = args.out.clone().unwrap_or(name);
    super::write(&path, html)?;
    let mut out = Out::new();
    if format == Format::Plain {
        out.line(&report::line(&verdict))?;
        let failure = match &args.case {
            Some(path) => report::failure_of_case(&verdict, path),
            None => report::failure(&verdict),
        };
        out.write(failure.as_bytes())?;
        out.line(&format!("written to {}", path.display()))?;
    } else {
        let written = path.display().to_string();
        out.json(&serde_json::json!({"verdict": super::document(&verdict), "written": written}))?;
    }
    out.flush()?;
    Ok(0)
}

fn of_seed(seed: u64, args: &Report) -> (RunOptions, Commands, PathBuf) {
    let options = options_of_seed(seed, args.given);
    let flags = options.given.flags();
    let commands = Commands {
        title: format!("seed {seed}"),
        replay: format!("nokv sim run --seed {seed}{flags}"),
        shrink: Some(format!("nokv sim shrink --seed {seed}{flags} --out case.json")),
        report: format!("nokv sim report --seed {seed}{flags}"),
    };
    (options, commands, PathBuf::from(format!("seed-{seed}.html")))
}

fn of_case(path: &Path) -> Result<(RunOptions, Commands, PathBuf)> {
    let case = read_case(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let shown = path.display();
    let commands = Commands {
        title: format!("case {name}: {}", case.about),
        replay: format!("nokv sim report {shown}"),
        shrink: Some(format!("nokv sim shrink {shown} --out smaller.json")),
        report: format!("nokv sim report {shown}"),
    };
    Ok((case.options(), commands, PathBuf::from(format!("{name}.html"))))
}
