//! `nokv meta-root`.

use crate::args::servers::MetaRoot;
use crate::cmd::{observe, security, server, startup};
use crate::config;
use crate::errors::{Failure, Result};
use crate::output::say;
use nokv_env::task::Stop;
use nokv_metaroot::Config;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a meta-root listens when nobody says otherwise.
const ADDR: &str = "127.0.0.1:2380";

/// Runs one meta-root until it is stopped.
pub fn run(args: &MetaRoot) -> Result<u8> {
    let config = settings(args)?;
    let listeners =
        [("--addr", config.listen_addr.as_str()), ("--transport-addr", config.transport_addr.as_str())];
    let tls = security::server(
        &args.security,
        args.file.config.as_deref(),
        &listeners,
        args.metrics_addr.as_ref(),
    )?;
    server::run(tls, async |env, mut signals| {
        server::announce("meta-root", &config);
        let started = signals.race(nokv_metaroot::MetaRoot::start(env.clone(), config.clone())).await;
        let Ok(started) = started else { return Ok(()) };
        let root = Arc::new(started.map_err(|error| startup::meta_root(&error))?);
        say(&format!("Metadata root service listening on {}", root.addr()));
        say(&format!("Metadata root node id: {}", config.node_id));
        let watched = Arc::downgrade(&root);
        let vars = move || {
            let status = watched.upgrade().map(|root| serde_json::json!(root.status()));
            vec![("nokv_meta_root", status.unwrap_or_default())]
        };
        let stops = Stop::new();
        let watched = Arc::downgrade(&root);
        let watch =
            observe::meta_root::watch(move || watched.upgrade().map(|root| (root.status(), root.observe())));
        let pages = observe::pages("meta-root", watch, &stops);
        let addr = args.metrics_addr.as_ref();
        let metrics = server::metrics(addr, "Metadata root", vars, pages).await?;
        let ended = server::until_stopped(&mut signals, root.failed()).await;
        stops.stop();
        let stopped = server::end(&env, &mut signals, async {
            if let Some(root) = server::sole_owner(&env, root).await {
                root.stop().await;
            }
        });
        let stopped = stopped.await;
        drop(metrics);
        ended.and(stopped)
    })
}

/// Flags, then the file, then defaults.
pub(super) fn settings(args: &MetaRoot) -> Result<Config> {
    let file = args.file.config.as_deref().map(config::load).transpose()?;
    let scope = args.file.scope;
    let own = file.as_ref().and_then(|file| file.meta_root(args.node_id));
    let peers = match &file {
        Some(file) if args.peer.is_empty() && !file.meta_roots.is_empty() => file
            .meta_roots
            .iter()
            .filter_map(|root| Some((root.node_id, root.transport_addr(scope)?.clone())))
            .collect::<BTreeMap<_, _>>(),
        _ => server::exactly_three("--peer", &args.peer)?,
    };
    let Some(told) = peers.get(&args.node_id) else {
        let ids: Vec<String> = peers.keys().map(u64::to_string).collect();
        return Err(Failure::usage(format!(
            "--node-id {} is not among the peers ({})",
            args.node_id,
            ids.join(", ")
        )));
    };
    let workdir: PathBuf =
        args.workdir.clone().or_else(|| own.and_then(|root| root.workdir(scope)).cloned()).ok_or_else(
            || Failure::usage("no directory").next("give --workdir, or a work_dir in the file"),
        )?;
    let addr = args
        .addr
        .clone()
        .or_else(|| own.and_then(|root| root.addr(scope)).cloned())
        .unwrap_or_else(|| ADDR.into());
    let transport = args.transport_addr.clone().unwrap_or_else(|| told.clone());
    if addr == transport {
        return Err(Failure::usage(format!(
            "--addr and --transport-addr are both {addr}; they need two ports"
        )));
    }
    let mut config = Config::new(args.node_id, workdir, &addr, &transport, peers);
    config.tick = args.tick_interval;
    config.validate().map_err(|error| startup::meta_root(&error))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parsed(line: &str) -> Result<Config> {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::MetaRoot(args) => settings(&args),
            _ => unreachable!(),
        }
    }

    const GOOD: &str =
        "nokv meta-root --workdir d --node-id 2 --transport-addr h:2 --peer 1=h:1 --peer 2=h:2";

    #[test]
    fn exactly_three_peers() {
        let message = |line: &str| parsed(line).unwrap_err().message().to_owned();
        assert!(message(GOOD).contains("need exactly 3 --peer, got 2 (1, 2)"));
        assert!(message(&format!("{GOOD} --peer 3=h:3 --peer 4=h:4")).contains("got 4 (1, 2, 3, 4)"));
        assert!(message(&format!("{GOOD} --peer 2=h:3")).contains("id 2 is given twice"));
        assert!(message(&format!("{GOOD} --peer 3=h:2")).contains("address h:2 is given twice"));
        let config = parsed(&format!("{GOOD} --peer 3=h:3")).unwrap();
        assert_eq!((config.listen_addr.as_str(), config.transport_addr.as_str()), (ADDR, "h:2"));
        assert!(
            message("nokv meta-root --workdir d --node-id 9 --peer 1=h:1 --peer 2=h:2 --peer 3=h:3")
                .contains("not among")
        );
    }

    #[test]
    fn the_file_fills_what_flags_leave_open() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../raft_config.example.json");
        let config = parsed(&format!("nokv meta-root --node-id 2 --config {file}")).unwrap();
        assert_eq!(config.workdir, PathBuf::from("./artifacts/cluster/meta-root-2"));
        assert_eq!(
            (config.listen_addr.as_str(), config.transport_addr.as_str()),
            ("127.0.0.1:2381", "127.0.0.1:3381")
        );
        let config =
            parsed(&format!("nokv meta-root --node-id 2 --config {file} --addr h:9 --workdir w")).unwrap();
        assert_eq!((config.listen_addr.as_str(), config.workdir), ("h:9", PathBuf::from("w")));
    }
}
