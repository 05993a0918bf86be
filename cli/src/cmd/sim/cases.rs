//! `nokv sim cases`: what once failed, and scenarios written by hand, run for ever.

use super::printer::{Judged, Printer};
use super::{pool, timed};
use crate::args::Format;
use crate::args::sim::Cases;
use crate::errors::{Code, Failure, Result};
use std::path::{Path, PathBuf};

/// Runs every case of a directory, or one.
pub fn run(args: &Cases, format: Format) -> Result<u8> {
    let mut all = Vec::new();
    for path in files(&args.path)? {
        all.push((super::read_case(&path)?, path));
    }
    let run = |number: u64| {
        let (case, path) = &all[number as usize];
        Judged {
            verdict: timed(|| case.run()),
            case: Some(path.file_stem().unwrap_or_default().to_string_lossy().into_owned()),
            file: Some(path.clone()),
            replay: format!("nokv sim cases {}", path.display()),
            difference: None,
        }
    };
    let mut printer = Printer::new(format, false);
    pool::in_order(0..all.len() as u64, args.jobs, &run, |judged| printer.show(&judged).map(|()| false))?;
    printer.end()
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries =
        std::fs::read_dir(path).map_err(|error| Failure::io(format!("list {}", path.display()), &error))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    if files.is_empty() {
        Err(Failure::new(Code::FileNotFound, format!("no *.json case in {}", path.display())))
    } else {
        Ok(files)
    }
}
