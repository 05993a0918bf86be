//! What is made from the tree of commands: completions, manual pages, and the list of all commands in `docs/commands.md`.
#![allow(clippy::disallowed_methods, reason = "writes manual pages to the directory that the user names")]

use crate::args::Cli;
use crate::args::daily::{Completions, Man};
use crate::errors::{Failure, Result, table};
use crate::output::Out;
use clap::{Arg, ArgAction, Command, CommandFactory};

/// The whole tree, with everything that clap adds.
fn tree() -> Command {
    let mut tree = Cli::command();
    tree.build();
    tree
}

fn print(text: &[u8]) -> Result<u8> {
    let mut out = Out::new();
    out.write(text)?;
    out.flush()?;
    Ok(0)
}

/// Prints a completion script.
pub fn completions(args: &Completions) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut tree(), "nokv", &mut script);
    print(&script)
}

/// Prints nokv(1), or writes the pages of all commands.
pub fn pages(args: &Man) -> Result<u8> {
    let Some(dir) = &args.to else { return print(&page(tree())?) };
    let failed = |doing: String| move |error: std::io::Error| Failure::io(doing, &error);
    std::fs::create_dir_all(dir).map_err(failed(format!("create the directory {}", dir.display())))?;
    let mut count = 0;
    for command in with_subcommands(tree()) {
        let path = dir.join(clap_mangen::Man::new(command.clone()).get_filename());
        std::fs::write(&path, page(command)?).map_err(failed(format!("write {}", path.display())))?;
        count += 1;
    }
    print(format!("{count} pages in {}\n", dir.display()).as_bytes())
}

fn page(command: Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    let source = format!("nokv {}", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command).source(source).manual("NoKV");
    man.render(&mut page).map_err(|error| Failure::io("write a page", &error))?;
    Ok(page)
}

/// A command, then what is below it, in the order of the help.
fn with_subcommands(command: Command) -> Vec<Command> {
    let below: Vec<Command> = command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned().collect();
    let mut all = vec![command];
    all.extend(below.into_iter().flat_map(with_subcommands));
    all
}

/// Every command with every flag, its default and its variable.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Commands\n\n\
         Made from the command line itself (`nokv help markdown`). A flag wins over its variable, that over the configuration file, and that over\n\
         the default. Every command also takes `--json` and `-o plain|json|jsonl`, and `--help`.\n",
    );
    for command in with_subcommands(tree()).iter().skip(1) {
        section(command, &mut text);
    }
    text.push_str(&format!("\n## Exit codes\n\n```text\n{}```\n", table()));
    text
}

fn section(command: &Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let level = if name.split(' ').count() > 2 { "###" } else { "##" };
    text.push_str(&format!("\n{level} {name}\n"));
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        text.push_str(&format!("\n{}.\n", about.to_string().trim_end_matches('.')));
    }
    if !command.has_subcommands() {
        let usage = command.clone().render_usage().to_string();
        text.push_str(&format!("\n```text\n{}\n```\n", usage.trim_start_matches("Usage: ").trim_end()));
    }
    let args: Vec<&Arg> = command.get_arguments().filter(|arg| is_own(arg)).collect();
    if !args.is_empty() {
        text.push_str("\n| | meaning | default | variable |\n|---|---|---|---|\n");
        for arg in args {
            text.push_str(&row(arg));
        }
    }
    if let Some(more) = command.get_after_help() {
        text.push_str(&format!("\n```text\n{}\n```\n", more.to_string().trim_end()));
    }
}

/// Not one of the flags of every command.
fn is_own(arg: &Arg) -> bool {
    !arg.is_hide_set() && !arg.is_global_set() && !["help", "version"].contains(&arg.get_id().as_str())
}

fn row(arg: &Arg) -> String {
    let values: Vec<&str> =
        arg.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let value = if takes_value { format!(" {}", values.join(" ")) } else { String::new() };
    let name = match (arg.get_long(), arg.get_short()) {
        (Some(long), Some(short)) => format!("-{short}, --{long}{value}"),
        (Some(long), None) => format!("--{long}{value}"),
        (None, Some(short)) => format!("-{short}{value}"),
        (None, None) => value.trim_start().to_owned(),
    };
    let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let mut possible = Vec::new();
    if takes_value && !arg.is_hide_possible_values_set() {
        possible.extend(arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())));
    }
    if !possible.is_empty() {
        meaning.push_str(&format!(": {}", possible.join(", ")));
    }
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let default = if takes_value { defaults.join(", ") } else { String::new() };
    let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
    format!("| `{name}` | {} | {default} | {variable} |\n", meaning.replace('|', "\\|").replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn the_list_of_commands_is_not_stale() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");
        if std::env::var_os("UPDATE_COMMANDS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let is_same = std::fs::read_to_string(path).is_ok_and(|written| written == markdown());
        assert!(
            is_same,
            "docs/commands.md is stale; UPDATE_COMMANDS=1 cargo test -p nokv-cli writes it anew"
        );
    }

    #[test]
    fn every_command_and_flag_is_listed() {
        let text = markdown();
        for command in with_subcommands(tree()).iter().skip(1) {
            assert!(text.contains(&format!("# {}\n", command.get_bin_name().unwrap())), "{command:?}");
            for arg in command.get_arguments().filter(|arg| is_own(arg)) {
                let name = arg
                    .get_long()
                    .map_or_else(|| arg.get_value_names().unwrap()[0].to_string(), |l| format!("--{l}"));
                assert!(text.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn every_shell_and_every_page_can_be_made() {
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut tree(), "nokv", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("coordinator-addr") && script.contains("backup"), "{shell}");
        }
        let names: Vec<String> = with_subcommands(tree())
            .into_iter()
            .map(|command| {
                assert!(page(command.clone()).unwrap().starts_with(b".ie"), "{command:?}");
                clap_mangen::Man::new(command).get_filename()
            })
            .collect();
        for name in ["nokv.1", "nokv-put.1", "nokv-backup-restore.1"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
    }
}
