//! `nokv shell`: commands at a prompt, or a script from standard input.
//!
//! `parse` reads a line, [`Session`] carries it out; both know nothing of where lines come from. On a terminal an editor
//! gives them, with history and completion; errors are shown and the next line is asked for. Otherwise standard input is a
//! script. A transaction that nobody committed is rolled back: it has written nothing yet.
#![allow(
    clippy::disallowed_methods,
    reason = "keeps its history file and reads standard input on a thread of its own"
)]

mod line;
mod session;

use crate::args::Global;
use crate::args::daily::Shell;
use crate::errors::{Code, Failure, Result};
use crate::signals::Signals;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{FileHistory, History};
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};
use session::{Next, Session};
use std::fs::Permissions;
use std::io::{BufRead, IsTerminal};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Lines that the history file keeps.
const HISTORY_LINES: usize = 2000;

/// Runs a shell.
pub fn run(args: &Shell, global: &Global) -> Result<u8> {
    crate::logging::start("error")?;
    let tls = crate::cmd::security::Dial::cluster(&args.cluster).tls()?;
    let runtime = crate::cmd::runtime()?;
    let env = runtime.block_on(async { crate::cmd::real_env(tls) })?;
    let mut session = Session::new(&env, args, global)?;
    let ended = if std::io::stdin().is_terminal() {
        interactive(&runtime, args, &mut session)
    } else {
        runtime.block_on(script(args, &mut session))
    };
    drop(session);
    runtime.shutdown_background();
    ended
}

/// A script: a command a line. The exit code is that of the first command that failed.
async fn script(args: &Shell, session: &mut Session<'_>) -> Result<u8> {
    let mut signals = Signals::new()?;
    let (lines, mut next) = tokio::sync::mpsc::channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let (mut number, mut first) = (0u64, None);
    loop {
        let line = match signals.race(next.recv()).await {
            Ok(Some(line)) => line.map_err(|error| Failure::io("read standard input", &error))?,
            Ok(None) => break,
            Err(reason) => return Err(reason.failure().at(format!("line {}", number + 1))),
        };
        number += 1;
        let ended =
            signals.race(session.carry_out(&line)).await.unwrap_or_else(|reason| Err(reason.failure()));
        match ended {
            Ok(Next::Go) => {}
            Ok(Next::Exit) => break,
            Err(failure) => {
                let failure = failure.at(format!("line {number}")).detail("line", number);
                if args.stop_on_error
                    || failure.code() == Code::Interrupted
                    || failure.code() == Code::Terminated
                {
                    return Err(failure);
                }
                failure.print(session.as_json());
                first.get_or_insert(failure.code().exit());
            }
        }
    }
    if session.in_transaction() {
        return Err(Failure::usage("the script ends inside a transaction: nothing of it is written")
            .next("end it with commit or rollback"));
    }
    Ok(first.unwrap_or(0))
}

/// A prompt.
fn interactive(runtime: &tokio::runtime::Runtime, args: &Shell, session: &mut Session<'_>) -> Result<u8> {
    let history = if args.no_history { None } else { history_file() };
    let mut editor = editor(history.as_deref())?;
    end_with_sigterm(runtime)?;
    println!("nokv {}: help lists the commands, Ctrl-D leaves", env!("CARGO_PKG_VERSION"));
    loop {
        let prompt = if session.in_transaction() { "nokv (txn)> " } else { "nokv> " };
        let line = match editor.readline(prompt) {
            Ok(line) => line,
            // Ctrl-C clears the line.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(ReadlineError::Io(error)) => return Err(Failure::io("read from the terminal", &error)),
            Err(error) => {
                return Err(Failure::new(Code::Io, format!("cannot read from the terminal: {error}")));
            }
        };
        if !line.trim().is_empty() {
            remember(&mut editor, &line, history.as_deref());
        }
        let ended = runtime.block_on(async {
            let mut signals = Signals::new()?;
            signals
                .race(session.carry_out(line.as_bytes()))
                .await
                .unwrap_or_else(|reason| Err(reason.failure()))
        });
        match ended {
            Ok(Next::Go) => {}
            Ok(Next::Exit) => break,
            Err(failure) => failure.print(session.as_json()),
        }
    }
    if session.in_transaction() {
        eprintln!("the transaction is rolled back");
    }
    Ok(0)
}

type Line = Editor<Words, FileHistory>;

fn editor(history: Option<&Path>) -> Result<Line> {
    let failed = |error: ReadlineError| Failure::new(Code::Io, format!("cannot use the terminal: {error}"));
    let config = rustyline::Config::builder()
        .history_ignore_space(true)
        .max_history_size(HISTORY_LINES)
        .and_then(|config| config.history_ignore_dups(true))
        .map_err(failed)?
        .auto_add_history(false)
        .build();
    let mut editor = Line::with_config(config).map_err(failed)?;
    editor.set_helper(Some(Words));
    if let Some(history) = history.filter(|path| path.exists()) {
        // Without old lines one can work all the same.
        if let Err(error) = editor.load_history(history) {
            eprintln!("note: cannot read the history {}: {error}", history.display());
        }
    }
    Ok(editor)
}

/// `$XDG_STATE_HOME/nokv/history`, which nobody else may read.
fn history_file() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let dir = state.join("nokv");
    let made = std::fs::create_dir_all(&dir).and_then(|()| {
        let path = dir.join("history");
        std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(path)
    });
    made.map_err(|error| eprintln!("note: no history is kept in {}: {error}", dir.display())).ok()
}

/// Adds a line to the history and its file at once: the next crash may be ours.
fn remember(editor: &mut Line, line: &str, history: Option<&Path>) {
    let is_new = editor.history_mut().add(line).unwrap_or(false);
    if let Some(path) = history.filter(|_| is_new)
        && let Err(error) = editor.append_history(path)
    {
        eprintln!("note: cannot write the history {}: {error}", path.display());
    }
}

/// While a line is edited the terminal is in another mode, which must not outlive us.
fn end_with_sigterm(runtime: &tokio::runtime::Runtime) -> Result {
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let before = tcgetattr(std::io::stdin()).ok();
    let listen = || tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let mut terminate =
        runtime.block_on(async { listen() }).map_err(|error| Failure::io("listen for signals", &error))?;
    runtime.spawn(async move {
        terminate.recv().await;
        if let Some(before) = before {
            // The best that can be done; the process ends either way.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
        }
        std::process::exit(i32::from(Code::Terminated.exit()));
    });
    Ok(())
}

/// Completes the first word of a line.
struct Words;

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(candidates(line, pos))
    }
}

impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

fn candidates(line: &str, pos: usize) -> (usize, Vec<String>) {
    let typed = &line[..pos];
    let start = typed.len() - typed.trim_start().len();
    let words: &[&str] = match typed[start..].split_once(char::is_whitespace) {
        None => &line::COMMANDS,
        Some(("txn", rest)) if !rest.contains(char::is_whitespace) => &["begin", "commit", "rollback"],
        Some(_) => return (pos, Vec::new()),
    };
    let from = typed.rfind(char::is_whitespace).map_or(start, |at| at + 1);
    let fitting = words.iter().filter(|word| word.starts_with(&typed[from..]));
    (from, fitting.map(|word| format!("{word} ")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_completed_and_keys_are_not() {
        assert_eq!(candidates("sc", 2), (0, vec!["scan ".to_owned()]));
        assert_eq!(candidates(" ro", 3), (1, vec!["rollback ".to_owned()]));
        assert_eq!(candidates("txn c", 5), (4, vec!["commit ".to_owned()]));
        assert_eq!(candidates("get g", 5), (5, vec![]));
    }
}
