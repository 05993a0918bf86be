//! `nokv serve`.

use crate::args::servers::Serve;
use crate::cmd::{observe, regions, security, server, startup};
use crate::config;
use crate::errors::{Failure, Result};
use crate::output::say;
use crate::signals::Reason;
use nokv_env::task::Stop;
use nokv_raftstore::Config;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Where a store listens when nobody says otherwise.
const ADDR: &str = "127.0.0.1:20160";
const TICK: Duration = Duration::from_millis(100);
/// How long a store that stops waits for others to lead its regions.
const HANDOVER: Duration = Duration::from_secs(4);
/// Kept free of the disk, unless a twentieth of it is less.
const DISK_RESERVE: u64 = 512 << 20;
/// Regions shown at start.
const SAMPLE: usize = 5;

/// Runs one store until it is stopped.
pub fn run(args: &Serve) -> Result<u8> {
    let mut config = settings(args)?;
    if args.raft_debug_log && std::env::var_os(crate::logging::VARIABLE).is_none() {
        crate::logging::start("info,nokv_replica=debug")?;
    }
    let listeners = [("--addr", config.listen_addr.as_str())];
    let tls = security::server(
        &args.security,
        args.file.config.as_deref(),
        &listeners,
        args.metrics_addr.as_ref(),
    )?;
    server::run(tls, async |env, mut signals| {
        config.disk_reserve = match args.disk_reserve {
            Some(bytes) => bytes,
            None => (env.disk.total_space(&config.workdir).unwrap_or(0) / 20).min(DISK_RESERVE),
        };
        server::announce("store", &config);
        let started = signals.race(nokv_raftstore::Store::start(env.clone(), config.clone())).await;
        let Ok(started) = started else { return Ok(()) };
        let store = started.map_err(|error| startup::store(&error))?;
        introduce(&store, &config);
        let stats = store.stats_source();
        let look = store.observer();
        let vars = move || {
            let ahead = look().engine.readahead;
            vec![
                ("NoKV.Stats", serde_json::json!(stats())),
                ("NoKV.Prefetch.Launched", serde_json::json!(ahead.launched)),
                ("NoKV.Prefetch.Completed", serde_json::json!(ahead.completed)),
                ("NoKV.Prefetch.Aborted", serde_json::json!(ahead.aborted)),
            ]
        };
        let stops = Stop::new();
        let pages = observe::pages("store", observe::store::watch(store.observer()), &stops);
        let metrics = server::metrics(args.metrics_addr.as_ref(), "Serve", vars, pages).await?;
        say("Press Ctrl+C to stop");
        let ended = server::until_stopped(&mut signals, store.failed()).await;
        stops.stop();
        // Without its parent the whole cluster goes, and nobody is left to take over; a store that failed leads nothing.
        let others_stay = ended.as_ref().is_ok_and(|reason| *reason != Reason::ParentGone);
        let stopped = server::end(&env, &mut signals, async {
            if others_stay {
                let handed_over = store.hand_over(HANDOVER).await;
                tracing::info!(
                    moved = handed_over.moved,
                    kept = handed_over.kept,
                    "leaders were handed over"
                );
            }
            store.stop().await;
        });
        let stopped = stopped.await;
        drop(metrics);
        ended.and(stopped)
    })
}

/// The lines of a start.
fn introduce(store: &nokv_raftstore::Store, config: &Config) {
    let hosted = store.regions();
    if hosted.is_empty() {
        say("Serve lifecycle: bootstrap-wait (no region here yet; see `nokv config seed`)");
    } else {
        say(&format!("Local peer catalog regions: {0}, local peers started: {0}", hosted.len()));
        say("Serve lifecycle: restart-recover (hosted regions come from the local catalog)");
        say("Sample regions:");
        for region in hosted.iter().take(SAMPLE) {
            say(&regions::line(region));
        }
        if hosted.len() > SAMPLE {
            say(&format!("  ... ({} more)", hosted.len() - SAMPLE));
        }
    }
    say(&format!("NoKV service listening on {} (store={})", store.addr(), config.store_id));
    say(&format!("Serve mode: cluster (coordinator enabled, addr={})", config.coordinators.join(",")));
    if !config.store_addrs.is_empty() {
        let pairs: Vec<String> = config.store_addrs.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
        say(&format!("Configured store address overrides: {}", pairs.join(", ")));
    }
    say(&format!("coordinator heartbeat sink enabled: {}", config.coordinators.join(",")));
}

/// Flags, then the file, then defaults.
pub(super) fn settings(args: &Serve) -> Result<Config> {
    let file = args.file.config.as_deref().map(config::load).transpose()?;
    let scope = args.file.scope;
    let own = match &file {
        Some(file) => Some(file.store(args.store_id).ok_or_else(|| {
            let ids: Vec<String> = file.stores.iter().map(|store| store.store_id.to_string()).collect();
            Failure::usage(format!("the file has no store {} (it has {})", args.store_id, ids.join(", ")))
        })?),
        None => None,
    };
    let from_file = file.as_ref().zip(own);
    let workdir: PathBuf = args
        .workdir
        .clone()
        .or_else(|| from_file.and_then(|(file, store)| file.store_workdir(store, scope)))
        .ok_or_else(|| Failure::usage("no directory").next("give --workdir, or a work_dir in the file"))?;
    let addr = args
        .addr
        .clone()
        .or_else(|| own.and_then(|store| store.listen_addr(scope)).cloned())
        .unwrap_or_else(|| ADDR.into());
    let coordinators = match (&args.coordinator_addr, &file) {
        (Some(addresses), _) => addresses.0.clone(),
        (None, Some(file)) => file.coordinators(scope).to_vec(),
        (None, None) => Vec::new(),
    };
    if coordinators.is_empty() {
        return Err(
            Failure::usage("no coordinator").next("give --coordinator-addr, or coordinator.addr in the file")
        );
    }
    let advertised = args.advertise_addr.clone().or_else(|| own.and_then(|store| store.addr(scope)).cloned());
    let advertised = advertised.unwrap_or_else(|| addr.clone());
    if ["0.0.0.0:", "[::]:"].iter().any(|any| advertised.starts_with(any)) {
        return Err(Failure::usage(format!("other processes cannot reach this store at {advertised}"))
            .next("say how they can with --advertise-addr"));
    }
    if args.election_tick <= args.heartbeat_tick || args.heartbeat_tick == 0 {
        return Err(Failure::usage(format!(
            "--election-tick must be above --heartbeat-tick, and that above 0 (got {} and {})",
            args.election_tick, args.heartbeat_tick
        )));
    }
    if (1..4096).contains(&args.background_bytes_per_second) {
        return Err(Failure::usage(format!(
            "--background-bytes-per-second must be 0 or at least 4096 (got {})",
            args.background_bytes_per_second
        )));
    }
    let mut config = Config::new(args.store_id, workdir, addr, coordinators);
    config.advertise_addr = advertised;
    config.store_addrs = store_addrs(args, file.as_ref())?;
    config.tick = if args.raft_tick_interval.is_zero() { TICK } else { args.raft_tick_interval };
    config.election_ticks = args.election_tick;
    config.heartbeat_ticks = args.heartbeat_tick;
    config.max_message_bytes = args.raft_max_msg_bytes;
    config.max_inflight = args.raft_max_inflight;
    config.split.bytes = args.split_bytes;
    config.split.requests = args.split_requests;
    config.check_interval = args.check_interval;
    config.engine.background_bytes_per_second = args.background_bytes_per_second;
    config.slow_log = args.slow_log;
    config.coordinator_timeout = args.coordinator_timeout;
    config.engine.lock_owner = format!("pid {}, nokv serve --store-id {}", std::process::id(), args.store_id);
    config.validate().map_err(|error| startup::store(&error))?;
    Ok(config)
}

/// Addresses of other stores: the file's, with those of the flags on top.
fn store_addrs(args: &Serve, file: Option<&config::Cluster>) -> Result<BTreeMap<u64, String>> {
    let stores = file.map(|file| file.stores.as_slice()).unwrap_or_default();
    let mut addrs: BTreeMap<u64, String> = stores
        .iter()
        .filter_map(|store| Some((store.store_id, store.addr(args.file.scope)?.clone())))
        .collect();
    let mut given = BTreeMap::new();
    for store in &args.store_addr {
        if given.insert(store.id, store.addr.clone()).is_some() {
            return Err(Failure::usage(format!("--store-addr: store {} is given twice", store.id)));
        }
    }
    if given.contains_key(&args.store_id) {
        return Err(Failure::usage(format!("--store-addr {}=...: that is this store itself", args.store_id))
            .next("its own address is --advertise-addr"));
    }
    addrs.append(&mut given);
    addrs.remove(&args.store_id);
    Ok(addrs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../raft_config.example.json");

    fn parsed(line: &str) -> Result<Config> {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Serve(args) => settings(&args),
            _ => unreachable!(),
        }
    }

    #[test]
    fn the_file_is_enough() {
        let config = parsed(&format!("nokv serve --store-id 2 --config {FILE}")).unwrap();
        assert_eq!(config.workdir, PathBuf::from("./artifacts/cluster/store-2"));
        assert_eq!(config.listen_addr, "127.0.0.1:20171");
        assert_eq!(config.coordinators, ["127.0.0.1:2379"]);
        assert_eq!(config.store_addrs.keys().copied().collect::<Vec<_>>(), [1, 3]);
        let docker = parsed(&format!("nokv serve --store-id 2 --config {FILE} --scope docker")).unwrap();
        assert_eq!(
            (docker.listen_addr.as_str(), docker.advertise_addr.as_str()),
            ("0.0.0.0:20160", "store-2:20160")
        );
    }

    #[test]
    fn flags_are_enough_and_win() {
        let config = parsed("nokv serve --store-id 7 --workdir d --coordinator-addr a:1,b:2").unwrap();
        assert_eq!((config.listen_addr.as_str(), config.coordinators.len()), (ADDR, 2));
        let defaults = nokv_raftstore::SplitLimits::default();
        assert_eq!((config.split.bytes, config.split.requests), (defaults.bytes, defaults.requests));
        let config = parsed(
            "nokv serve --store-id 7 --workdir d --coordinator-addr a:1 --split-bytes 0 --split-requests 9",
        )
        .unwrap();
        assert_eq!((config.split.bytes, config.split.requests), (0, 9));
        assert_eq!(config.engine.background_bytes_per_second, 0);
        let config = parsed(
            "nokv serve --store-id 7 --workdir d --coordinator-addr a:1 --background-bytes-per-second 5000000",
        )
        .unwrap();
        assert_eq!(config.engine.background_bytes_per_second, 5_000_000);
        let config =
            parsed(&format!("nokv serve --store-id 2 --config {FILE} --addr h:1 --store-addr 3=x:9"))
                .unwrap();
        assert_eq!((config.listen_addr.as_str(), config.store_addrs[&3].as_str()), ("h:1", "x:9"));
    }

    #[test]
    fn what_raft_is_told_arrives() {
        let base = "nokv serve --store-id 1 --workdir d --coordinator-addr a:1";
        let told = "--election-tick 30 --heartbeat-tick 3 --raft-max-msg-bytes 4000 --raft-max-inflight 50";
        let config = parsed(&format!("{base} {told} --raft-tick-interval 20ms")).unwrap();
        assert_eq!((config.election_ticks, config.heartbeat_ticks), (30, 3));
        assert_eq!((config.max_message_bytes, config.max_inflight), (4000, 50));
        assert_eq!(config.tick, Duration::from_millis(20));
        assert_eq!(parsed(base).unwrap().tick, Duration::from_millis(100));
    }

    #[test]
    fn mistakes_are_named() {
        let message = |line: &str| parsed(line).unwrap_err().message().to_owned();
        assert!(message("nokv serve --store-id 1 --coordinator-addr a:1").contains("no directory"));
        assert!(message("nokv serve --store-id 1 --workdir d").contains("no coordinator"));
        assert!(
            message(&format!("nokv serve --store-id 9 --config {FILE}"))
                .contains("no store 9 (it has 1, 2, 3)")
        );
        let base = "nokv serve --store-id 1 --workdir d --coordinator-addr a:1";
        assert!(message(&format!("{base} --election-tick 2")).contains("(got 2 and 2)"));
        assert!(message(&format!("{base} --background-bytes-per-second 100")).contains("(got 100)"));
        assert!(message(&format!("{base} --addr 0.0.0.0:1")).contains("cannot reach"));
        assert!(message(&format!("{base} --store-addr 2=a:1 --store-addr 2=a:2")).contains("given twice"));
    }
}
