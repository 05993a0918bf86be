//! What the three servers have in common: logging, signals, the pages under `--metrics-addr`, an orderly end.

use crate::errors::{Code, Failure, Result};
use crate::holder;
use crate::output::say;
use crate::signals::{Reason, Signals};
use nokv_env::{ClockExt, Env};
use nokv_realenv::http::{self, HttpServer, Page, Reply};
use nokv_realenv::tls::Tls;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Runs a server to its end; with `tls` every connection but those for metrics is secured.
pub fn run<W: AsyncFnOnce(Env, Signals) -> Result>(tls: Option<Arc<Tls>>, work: W) -> Result<u8> {
    nokv_realenv::process::started();
    crate::logging::start("info")?;
    nokv_realenv::exit_on_panic();
    warn_about_file_limit();
    let runtime = crate::cmd::runtime()?;
    let ended = runtime.block_on(async { work(crate::cmd::real_env(tls)?, Signals::new()?).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended.map(|()| 0)
}

/// Waits until somebody stops the server, and says why, or until it fails. `failed` resolves with the reason of a failure.
pub async fn until_stopped(signals: &mut Signals, failed: impl Future<Output = String>) -> Result<Reason> {
    match signals.race(failed).await {
        Ok(reason) => Err(Failure::new(Code::Internal, format!("the server stopped itself: {reason}"))
            .why("it does not go on from a state it cannot trust; the other replicas take over")
            .next("look at the log above, then start it again")),
        Err(Reason::ParentGone) => {
            tracing::info!("the parent process is gone");
            Ok(Reason::ParentGone)
        }
        Err(reason) => {
            say("\nShutting down...");
            Ok(reason)
        }
    }
}

/// How long an orderly end may take. What has not ended by then is left to the end of the process, as after a crash.
const STOP_PATIENCE: Duration = Duration::from_secs(9);

/// Says in the log what is about to run. `settings` are those in effect, wherever they came from.
pub fn announce(role: &str, settings: &dyn std::fmt::Debug) {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    tracing::info!(role, version, build, pid, ?settings, "starting");
}

/// Waits for an orderly end; not for ever, and not after a second request to stop.
pub async fn end(env: &Env, signals: &mut Signals, stop: impl Future<Output = ()> + Send) -> Result {
    signals.forget_parent();
    match signals.race(env.clock.timeout(STOP_PATIENCE, stop)).await {
        Ok(Ok(())) => tracing::info!("stopped"),
        Ok(Err(_)) => {
            tracing::warn!(after = ?STOP_PATIENCE, "not stopped in time; ending as after a crash");
        }
        Err(reason) => {
            tracing::warn!(?reason, "asked to stop a second time; ending as after a crash");
            return Err(reason.failure());
        }
    }
    Ok(())
}

/// Stops something that the pages may be looking at just now.
pub async fn sole_owner<T>(env: &Env, mut shared: Arc<T>) -> Option<T> {
    for _ in 0..200 {
        match Arc::try_unwrap(shared) {
            Ok(inner) => return Some(inner),
            Err(still) => shared = still,
        }
        env.tasks.yield_now().await;
    }
    None
}

/// Serves `/debug/vars` with the members that `vars` gives, and `more`, if an address is given.
pub async fn metrics(
    addr: Option<&String>,
    role: &str,
    vars: impl Fn() -> Vec<(&'static str, serde_json::Value)> + Send + Sync + 'static,
    more: Vec<(String, Page)>,
) -> Result<Option<HttpServer>> {
    let Some(addr) = addr else { return Ok(None) };
    let page: Page = Arc::new(move |_| {
        let mut document = crate::cmd::vars::of_process();
        for (name, value) in vars() {
            document[name] = value;
        }
        Reply::json(format!("{document:#}\n"))
    });
    let mut routes = vec![("/debug/vars".to_owned(), page)];
    routes.extend(more);
    let server =
        http::serve(addr, routes).await.map_err(|error| listen_failure(addr, "--metrics-addr", &error))?;
    say(&format!("{role} metrics endpoint listening on http://{}/debug/vars", server.local_addr()));
    Ok(Some(server))
}

/// An address cannot be served on.
pub fn listen_failure(addr: &str, flag: &str, error: &io::Error) -> Failure {
    let next = format!("stop the other process, or choose another address with {flag}");
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let failure = Failure::new(Code::AddressInUse, format!("{addr} is in use by another process"));
            let failure = match holder::of_port(addr) {
                Some(holder) => {
                    failure.why(format!("it belongs to {}", holder.describe())).detail("pid", holder.pid)
                }
                None => failure,
            };
            failure.detail("addr", addr).next(next)
        }
        io::ErrorKind::AddrNotAvailable => {
            Failure::usage(format!("cannot listen on {addr}: it is no address of this machine")).next(next)
        }
        _ => Failure::new(Code::Io, format!("cannot listen on {addr}: {error}"))
            .detail("addr", addr)
            .next(next),
    }
}

/// A directory is locked by another process.
pub fn in_use_failure(lock: &Path, owner: &str) -> Failure {
    let dir = lock.parent().unwrap_or(lock).display().to_string();
    let holder = holder::of_lock(lock);
    let who = holder.as_ref().map_or_else(|| owner.trim().to_owned(), holder::Holder::describe);
    let failure = Failure::new(Code::WorkdirInUse, format!("{dir} is open in another process ({who})"))
        .why(format!("only one process may hold {}", lock.display()))
        .next("stop that process, or give another --workdir")
        .detail("path", dir);
    match holder {
        Some(holder) => failure.detail("pid", holder.pid),
        None => failure,
    }
}

/// Three addresses by node id, as flags gave them.
pub fn exactly_three(
    flag: &str,
    given: &[crate::args::values::IdAddress],
) -> Result<std::collections::BTreeMap<u64, String>> {
    let ids: Vec<String> = given.iter().map(|peer| peer.id.to_string()).collect();
    let list = if ids.is_empty() { String::new() } else { format!(" ({})", ids.join(", ")) };
    if given.len() != 3 {
        return Err(Failure::usage(format!("need exactly 3 {flag}, got {}{list}", given.len()))
            .next(format!("give {flag} ID=HOST:PORT three times, or --config with a meta_root section")));
    }
    let mut peers = std::collections::BTreeMap::new();
    for peer in given {
        if peers.values().any(|addr| *addr == peer.addr) {
            return Err(Failure::usage(format!("{flag}: address {} is given twice", peer.addr)));
        }
        if peers.insert(peer.id, peer.addr.clone()).is_some() {
            return Err(Failure::usage(format!("{flag}: id {} is given twice{list}", peer.id)));
        }
    }
    Ok(peers)
}

/// A database needs many files open; says so before it runs out.
fn warn_about_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const FILES_MIN: u64 = 4096;
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(1 << 20);
    if limit.current.is_some_and(|current| current < wanted) {
        // The soft limit is ours to raise up to the hard one; if it fails, the old one stays.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
    if let Some(current) = getrlimit(Resource::Nofile).current.filter(|&current| current < FILES_MIN) {
        tracing::warn!(current, wanted = FILES_MIN, "few open files are allowed; raise `ulimit -n`");
    }
}
