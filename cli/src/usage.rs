//! clap's errors in the shape of the error contract.

use crate::errors::{Code, Failure};
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

/// Says in our words what is wrong with the command line.
pub fn failure(error: &clap::Error) -> Failure {
    let next = format!("see: {} --help", command_of(error));
    let failure = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = text(error, ContextKind::InvalidSubcommand);
            let mut message = format!("unknown command '{name}'");
            suggest(&mut message, error, ContextKind::SuggestedSubcommand);
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
    if words.is_empty() { "nokv".into() } else { words.join(" ") }
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
            text.starts_with("error[unknown_command]: unknown command 'statsu'; did you mean 'status'?"),
            "{text}"
        );
        let text = said("nokv get --timeuot 3s k");
        assert!(text.contains("unknown flag '--timeuot'; did you mean '--timeout'?"), "{text}");
        assert!(text.contains("nokv get --help"), "{text}");
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
