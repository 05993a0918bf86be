//! Logs go to standard error: text on a terminal, JSON otherwise, as much as `NOKV_LOG` asks for.

use crate::errors::{Failure, Result};
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;

/// The variable, in the syntax of `tracing`'s filters: `debug`, or `info,nokv_replica=trace`.
pub const VARIABLE: &str = "NOKV_LOG";

/// Starts logging; `default` counts when the variable is not set.
pub fn start(default: &str) -> Result {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) if !text.trim().is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            Failure::usage(format!("{VARIABLE}: '{text}' is no log filter: {error}"))
                .next(format!("{VARIABLE}=error|warn|info|debug|trace, or info,nokv_replica=debug"))
        })?,
        _ => EnvFilter::new(default),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // A second subscriber in one process can only be a test's; keep the first.
    if stderr().is_terminal() {
        let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let _ = builder.with_ansi(color).try_init();
    } else {
        let _ = builder.json().flatten_event(true).try_init();
    }
    Ok(())
}
