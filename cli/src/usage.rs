//! clap's errors in the shape of the error contract.

use crate::errors::{Code, Failure};
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// How alike two names must be to be suggested.
const SIMILAR: f64 = 0.75;

/// The known name that is most like `name`.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// What to add to the message that `name` is unknown, if a known one is like it.
pub fn near_miss<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(name, known).map(|near| format!("; did you mean '{near}'?"))
}

/// Those of clap's suggestions that are about as much like `name` as the best one, that one first.
fn alike(name: &str, suggested: Vec<String>) -> String {
    const MUCH_LESS: f64 = 0.1;
    let mut rated: Vec<(f64, String)> =
        suggested.into_iter().map(|known| (strsim::jaro_winkler(name, &known), known)).collect();
    rated.sort_by(|a, b| b.0.total_cmp(&a.0));
    let best = rated.first().map_or(0.0, |(likeness, _)| *likeness);
    let near = rated.iter().filter(|(likeness, _)| best - likeness < MUCH_LESS);
    let quoted: Vec<String> = near.map(|(_, known)| format!("'{known}'")).collect();
    if quoted.is_empty() { String::new() } else { format!("; did you mean {}?", quoted.join(" or ")) }
}

/// Says in our words what is wrong with the command line.
pub fn failure(error: &clap::Error) -> Failure {
    let next = format!("see: {} --help", command_of(error));
    let failure = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = text(error, ContextKind::InvalidSubcommand);
            let mut message = format!("unknown command '{name}'");
            message.push_str(&alike(&name, texts(error, ContextKind::SuggestedSubcommand)));
            Failure::new(Code::UnknownCommand, message)
        }
        ErrorKind::UnknownArgument => {
            let name = text(error, ContextKind::InvalidArg);
            let mut message = if name.starts_with('-') {
                format!("unknown flag '{name}'")
            } else {
                format!("unexpected argument '{name}'")
            };
            suggest(&mut message, error, ContextKind::SuggestedArg);
            Failure::usage(message)
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let (flag, value) =
                (text(error, ContextKind::InvalidArg), text(error, ContextKind::InvalidValue));
            let why = std::error::Error::source(error).map(|source| source.to_string());
            let mut message = match (value.is_empty(), why) {
                (true, None) => format!("{flag} needs a value"),
                (_, None) => format!("{flag}: '{value}' is not possible"),
                (_, Some(why)) if why.contains(&format!("'{value}'")) => format!("{flag}: {why}"),
                (_, Some(why)) => format!("{flag}: '{value}' {why}"),
            };
            let valid = text(error, ContextKind::ValidValue);
            if !valid.is_empty() {
                message.push_str(&format!("; one of: {valid}"));
            }
            suggest(&mut message, error, ContextKind::SuggestedValue);
            Failure::usage(message)
        }
        _ => Failure::usage(first_lines(error)),
    };
    failure.next(next)
}

/// What clap wrote before its usage lines.
fn first_lines(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let body = rendered.strip_prefix("error: ").unwrap_or(&rendered);
    let lines: Vec<&str> = body
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .collect();
    lines.join("\n").trim_end().to_owned()
}

fn suggest(message: &mut String, error: &clap::Error, kind: ContextKind) {
    let quoted: Vec<String> = texts(error, kind).iter().map(|name| format!("'{name}'")).collect();
    if !quoted.is_empty() {
        message.push_str(&format!("; did you mean {}?", quoted.join(" or ")));
    }
}

fn text(error: &clap::Error, kind: ContextKind) -> String {
    texts(error, kind).join(", ")
}

/// What clap knows of a kind.
fn texts(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::None) | None => Vec::new(),
        Some(other) => vec![other.to_string()],
    }
}

/// `nokv put` of `Usage: nokv put [OPTIONS] ...`, for the pointer to help.
fn command_of(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let words = usage.split_whitespace().skip_while(|word| *word != "nokv");
    let words: Vec<&str> =
        words.take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    // Of an unknown command clap does not say below which one it was looked for.
    if words.len() > 1 { words.join(" ") } else { known_path(std::env::args().skip(1)) }
}

/// The command that a command line is about, as far as its words are known.
fn known_path(words: impl Iterator<Item = String>) -> String {
    let (mut command, mut path) = (&crate::args::Cli::command(), "nokv".to_owned());
    for word in words.filter(|word| !word.starts_with('-')) {
        let Some(sub) = command.find_subcommand(&word) else { break };
        command = sub;
        path.push_str(&format!(" {}", sub.get_name()));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    fn said(line: &str) -> String {
        failure(&Cli::try_parse_from(line.split(' ')).unwrap_err()).to_text()
    }

    #[test]
    fn near_misses_are_suggested() {
        let text = said("nokv statsu");
        assert!(
            text.starts_with(
                "error[unknown_command]: unknown command 'statsu'; did you mean 'status' or 'stats'?"
            ),
            "{text}"
        );
        let text = said("nokv get --timeuot 3s k");
        assert!(text.contains("unknown flag '--timeuot'; did you mean '--timeout'?"), "{text}");
        assert!(text.contains("nokv get --help"), "{text}");
    }

    #[test]
    fn help_is_pointed_at_where_it_is() {
        let path = |line: &str| known_path(line.split_whitespace().map(str::to_owned));
        assert_eq!(path("region exprt"), "nokv region");
        assert_eq!(path("-o json config show srve --store-id 1"), "nokv");
        assert_eq!(path("config show --origin srve"), "nokv config show");
        assert_eq!(path("delete a"), "nokv del");
        assert_eq!(path(""), "nokv");
    }

    #[test]
    fn the_most_alike_are_suggested_first() {
        let known = || ["transitions", "status", "stats"].map(str::to_owned).to_vec();
        assert_eq!(alike("stat", known()), "; did you mean 'stats' or 'status'?");
        assert_eq!(alike("transition", known()), "; did you mean 'transitions'?");
        assert_eq!(alike("x", Vec::new()), "");
        let text = said("nokv region exprt");
        assert!(text.contains("unknown command 'exprt'; did you mean 'export'"), "{text}");
    }

    #[test]
    fn values_say_what_is_wrong_with_them() {
        let text = said("nokv get --timeout 30 k");
        assert!(text.contains("'30' needs a unit: write 30s"), "{text}");
        let text = said("nokv scan -o xml");
        assert!(text.contains("'xml' is not possible; one of: plain, json, jsonl"), "{text}");
        let text = said("nokv serve --workdir d");
        assert!(text.contains("--store-id"), "{text}");
        let text = said("nokv get --coordinator-addr localhost k");
        assert!(text.contains("'localhost' has no port"), "{text}");
    }
}
