//! `nokv help`: a command's help, or the table of errors.

use crate::args::{Cli, tools};
use crate::cmd::manual;
use crate::errors::{Code, Failure, Result, table};
use crate::output::Out;
use crate::usage::near_miss;
use clap::CommandFactory;

/// Prints help on a topic.
pub fn run(args: &tools::Help) -> Result<u8> {
    let text = match args.topic.first().map(String::as_str) {
        Some("errors") => table(),
        Some("markdown") => manual::markdown(),
        _ => command_help(&args.topic)?,
    };
    let mut out = Out::new();
    out.write(text.as_bytes())?;
    out.flush()?;
    Ok(0)
}

fn command_help(path: &[String]) -> Result<String> {
    let mut root = Cli::command();
    root.build();
    let mut command = &mut root;
    for name in path {
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        command = match command.find_subcommand_mut(name) {
            Some(found) => found,
            None => return Err(unknown(name, names)),
        };
    }
    Ok(command.render_long_help().to_string())
}

fn unknown(name: &str, mut known: Vec<String>) -> Failure {
    known.extend(["errors".into(), "markdown".into()]);
    let near = near_miss(name, known.iter().map(String::as_str)).unwrap_or_default();
    Failure::new(Code::UnknownCommand, format!("no help on '{name}'{near}")).next("nokv help")
}
