//! What machinery asks the servers: `/metrics`, `/livez`, `/readyz`.
//!
//! `/livez` fails when the process hangs and should be started again; `/readyz` when it cannot do its work just now, with
//! a line a check under `?verbose`, and always when it fails. A role gives its numbers and its checks as a [`Watch`];
//! names, help and types of all metrics are in `docs/monitoring.md`, which a test compares.

pub mod coordinator;
pub mod exposition;
pub mod meta_root;
mod process;
pub mod store;
#[cfg(test)]
mod tests;

use crate::args::values::show_duration;
use exposition::Exposition;
use nokv_env::task::Stop;
use nokv_realenv::http::{Page, Reply};
use std::sync::Arc;
use std::time::Duration;

/// A loop that has not begun a turn for so long hangs. Longer than a crowded machine stands still, and than a sync on a
/// disk that is merely slow.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// One thing that must be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    name: &'static str,
    /// Why it is not.
    problem: Option<String>,
}

impl Check {
    fn new(name: &'static str, problem: Option<String>) -> Self {
        Self { name, problem }
    }

    fn line(&self) -> String {
        match &self.problem {
            None => format!("[+]{} ok\n", self.name),
            // A reason of several lines would look like several checks.
            Some(problem) => format!("[-]{}: {}\n", self.name, problem.trim_end().replace('\n', " ")),
        }
    }
}

/// What one role shows.
pub struct Watch {
    /// Writes its metrics.
    pub metrics: Box<dyn Fn(&mut Exposition) + Send + Sync>,
    /// Whether it makes progress.
    pub live: Box<dyn Fn() -> Vec<Check> + Send + Sync>,
    /// Whether it can do its work.
    pub ready: Box<dyn Fn() -> Vec<Check> + Send + Sync>,
}

impl Watch {
    /// `look` is asked anew for each page.
    fn new<T: 'static>(
        look: impl Fn() -> T + Send + Sync + 'static,
        metrics: fn(&mut Exposition, &T),
        live: fn(&T) -> Vec<Check>,
        ready: fn(&T) -> Vec<Check>,
    ) -> Self {
        let look = Arc::new(look);
        let (for_live, for_ready) = (look.clone(), look.clone());
        Self {
            metrics: Box::new(move |page| metrics(page, &look())),
            live: Box::new(move || live(&for_live())),
            ready: Box::new(move || ready(&for_ready())),
        }
    }
}

/// The paths and their pages. A server that `stops` is alive and not ready.
pub fn pages(role: &'static str, watch: Watch, stops: &Stop) -> Vec<(String, Page)> {
    let Watch { metrics, live, ready } = watch;
    let metrics: Page = Arc::new(move |_| {
        let mut page = Exposition::default();
        process::metrics(&mut page, role);
        metrics(&mut page);
        Reply { kind: exposition::KIND, ..Reply::json(page.into_text()) }
    });
    let live: Page = Arc::new(move |query| answer("livez", &live(), query));
    let stops = stops.clone();
    let ready: Page = Arc::new(move |query| {
        let shutdown = stops.is_stopped().then(|| "the server is stopping".to_owned());
        let mut checks = vec![Check::new("shutdown", shutdown)];
        checks.extend(ready());
        answer("readyz", &checks, query)
    });
    vec![("/metrics".to_owned(), metrics), ("/livez".to_owned(), live), ("/readyz".to_owned(), ready)]
}

/// As Kubernetes words it.
fn answer(name: &str, checks: &[Check], query: &str) -> Reply {
    let failed = checks.iter().any(|check| check.problem.is_some());
    let verbose = query.split('&').any(|word| word == "verbose" || word.starts_with("verbose="));
    if !failed && !verbose {
        return Reply::text(http::StatusCode::OK, "ok");
    }
    let mut text: String = checks.iter().map(Check::line).collect();
    text.push_str(&format!("{name} check {}\n", if failed { "failed" } else { "passed" }));
    let status = if failed { http::StatusCode::SERVICE_UNAVAILABLE } else { http::StatusCode::OK };
    Reply::text(status, text)
}

/// What is wrong with a loop that last began a turn so long ago.
fn hangs(turned_ago: Option<Duration>) -> Option<String> {
    let ago = turned_ago.filter(|ago| *ago > HANGS_AFTER)?;
    Some(format!("the loop hangs, its last turn began {} ago", shown(ago)))
}

/// A time for people; seconds are enough.
fn shown(duration: Duration) -> String {
    show_duration(Duration::from_secs(duration.as_secs()))
}

/// Seconds by which a timestamp is behind the wall clock; nothing when there is none yet.
fn lag_seconds(timestamp: nokv_proto::id::Timestamp, unix_millis: u64) -> Option<f64> {
    let behind = unix_millis.saturating_sub(timestamp.physical_ms());
    (timestamp.0 != 0).then_some(behind as f64 / 1e3)
}

fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| duration.as_secs_f64())
}

fn label(name: &'static str, value: impl ToString) -> exposition::Labels {
    vec![(name, value.to_string())]
}
