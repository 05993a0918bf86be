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
mod rows;
mod signals;
mod usage;

use args::{Cli, Command, Format, Output};
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

/// Refuses two answers to one question, and rows of what has none.
fn check_format(global: &args::Global, command: &Command) -> errors::Result {
    match global.output {
        Some(output @ (Output::Plain | Output::Table | Output::Csv)) if global.json => {
            Err(Failure::usage(format!("--json and -o {} contradict each other", output.name())))
        }
        Some(output @ (Output::Table | Output::Csv)) if !command.lists_rows() => Err(Failure::usage(
            format!("this command lists no rows, so there is no -o {}", output.name()),
        )
        .next("scan, regions, operators, transitions, store list and status --hot do; others have -o json")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(line: &str) -> std::result::Result<(), String> {
        let cli = Cli::try_parse_from(line.split(' ')).expect("a command line");
        check_format(&cli.global, &cli.command).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn one_question_has_one_answer() {
        for format in ["plain", "text", "table", "csv"] {
            let text = checked(&format!("nokv --json -o {format} scan")).unwrap_err();
            assert!(text.starts_with("--json and -o") && text.ends_with("contradict each other"), "{text}");
        }
        for format in ["json", "jsonl"] {
            assert_eq!(checked(&format!("nokv --json -o {format} scan")), Ok(()));
        }
    }

    #[test]
    fn rows_are_laid_out_where_there_are_some() {
        for command in [
            "scan",
            "regions",
            "operators",
            "transitions",
            "store list",
            "status --hot",
            "regions --workdir d",
        ] {
            assert_eq!(checked(&format!("nokv {command} -o csv")), Ok(()), "{command}");
        }
        for command in ["get k", "status", "stats", "store decommission 1", "version"] {
            let text = checked(&format!("nokv -o table {command}")).unwrap_err();
            assert_eq!(text, "this command lists no rows, so there is no -o table", "{command}");
        }
    }
}
