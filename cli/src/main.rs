//! `nokv`: one binary for servers, clients, tools and the simulator. It parses, calls and prints.
//!
//! [`args`] is the command line as clap sees it, [`usage`] words its errors, [`cmd`] holds one file a verb. Every
//! failure is an [`errors::Failure`], whose code decides the exit code. Servers get the real environment of
//! `nokv_realenv`; `nokv sim` gets the simulator instead. Nothing below this crate knows which.

#![allow(clippy::format_push_string, reason = "messages for people; clarity before an allocation")]

mod args;
mod cmd;
mod config;
mod errors;
mod holder;
mod logging;
mod output;
mod signals;
mod usage;

use args::{Cli, Format};
use clap::Parser;
use clap::error::ErrorKind;
use errors::{Code, Failure};
use mimalloc::MiMalloc;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let as_json = cli.global.format() != Format::Plain;
    match cmd::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) if output::is_gone(&failure) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(as_json);
            ExitCode::from(failure.code().exit())
        }
    }
}

/// Help and version are no errors; everything else is wrong usage.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is the reader's choice.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(Code::Usage.exit())
        }
        _ => {
            let failure = usage::failure(error);
            failure.print(wants_json());
            ExitCode::from(failure.code().exit())
        }
    }
}

/// Whether the command line asks for JSON, looked up by hand because it could not be parsed.
fn wants_json() -> bool {
    let words: Vec<_> = std::env::args_os().skip(1).take_while(|word| word != "--").collect();
    let is = |at: usize, text: &str| words.get(at).is_some_and(|word| word == text);
    (0..words.len()).any(|at| {
        is(at, "--json")
            || ["-o", "--output"]
                .iter()
                .any(|flag| is(at, flag) && (is(at + 1, "json") || is(at + 1, "jsonl")))
            || ["-ojson", "-o=json", "--output=json", "-ojsonl", "-o=jsonl", "--output=jsonl"]
                .iter()
                .any(|flag| is(at, flag))
    })
}

/// Refuses two answers to one question.
fn check_format(global: &args::Global) -> errors::Result {
    match global.output {
        Some(Format::Plain) if global.json => {
            Err(Failure::usage("--json and -o plain contradict each other"))
        }
        _ => Ok(()),
    }
}
