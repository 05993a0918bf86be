//! `nokv coordinator`.

use crate::args::Scope;
use crate::args::servers::Coordinator;
use crate::args::values::show_duration;
use crate::cmd::{console, observe, reach, security, server, startup};
use crate::config;
use crate::errors::{Failure, Result};
use crate::output::say;
use nokv_coordinator::Config;
use nokv_env::task::Stop;
use nokv_env::{ClockExt, Env};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the first lines wait for the meta-root before they are printed without it.
const ROOT_WAIT: Duration = Duration::from_secs(2);

/// Runs one coordinator until it is stopped.
pub fn run(args: &Coordinator) -> Result<u8> {
    let config = settings(args)?;
    let listeners = [("--addr", config.listen_addr.as_str())];
    let tls = security::server(
        &args.security,
        args.file.config.as_deref(),
        &listeners,
        args.metrics_addr.as_ref(),
    )?;
    server::run(tls, async |env, mut signals| {
        server::announce("coordinator", &config);
        let started = signals.race(nokv_coordinator::Coordinator::start(env.clone(), config.clone())).await;
        let Ok(started) = started else { return Ok(()) };
        let coordinator = started.map_err(|error| startup::coordinator(&error))?;
        say(&format!("Coordinator service listening on {}", coordinator.addr()));
        let stops = Stop::new();
        let watch = observe::coordinator::watch(coordinator.observer());
        let mut pages = observe::pages("coordinator", watch, &stops);
        if args.metrics_addr.is_some() {
            pages.extend(console::pages(&env, coordinator.survey_source(), peers(args)?));
        }
        let status = coordinator.status_source();
        let vars = move || vec![("nokv_coordinator", status())];
        let metrics = server::metrics(args.metrics_addr.as_ref(), "Coordinator", vars, pages).await?;
        if let Some(metrics) = &metrics {
            say(&format!("Coordinator console: http://{}/", metrics.local_addr()));
        }
        let introduced = signals.race(introduce(&env, &coordinator, &config)).await;
        let ended = match introduced {
            Ok(()) => server::until_stopped(&mut signals, std::future::pending()).await.map(drop),
            Err(_) => Ok(()),
        };
        stops.stop();
        let stopped = server::end(&env, &mut signals, coordinator.stop()).await;
        drop(metrics);
        ended.and(stopped)
    })
}

/// Prints what was learned from the meta-root.
async fn introduce(env: &Env, coordinator: &nokv_coordinator::Coordinator, config: &Config) {
    let available = || coordinator.status_json()["state"]["root"]["available"] == true;
    let deadline = env.clock.now() + ROOT_WAIT;
    while !available() && env.clock.now() < deadline {
        env.clock.sleep(Duration::from_millis(20)).await;
    }
    let (regions, id, ts) = coordinator.summary();
    if available() {
        say(&format!("Coordinator restored {regions} region(s) from remote metadata root"));
        say(&format!("Coordinator allocator starts: id={id} ts={ts}"));
    } else {
        tracing::warn!("no meta-root answers yet; serving nothing until two of three do");
    }
    say(&format!(
        "Coordinator lease owner: id={} ttl={} renew_before={}",
        config.coordinator_id,
        show_duration(config.lease_ttl),
        show_duration(config.lease_renew_before)
    ));
}

/// Flags, then the file, then defaults.
pub(super) fn settings(args: &Coordinator) -> Result<Config> {
    let file = args.file.config.as_deref().map(config::load).transpose()?;
    let roots = match &file {
        Some(file) if args.root_peer.is_empty() && !file.meta_roots.is_empty() => file
            .meta_roots
            .iter()
            .filter_map(|root| Some((root.node_id, root.addr(args.file.scope)?.clone())))
            .collect::<BTreeMap<_, _>>(),
        _ => server::exactly_three("--root-peer", &args.root_peer)?,
    };
    let mut config = Config::new(&args.coordinator_id, &listen_addr(args, file.as_ref())?, roots);
    // A port that the system chooses is not known yet.
    config.console_addr = args.metrics_addr.clone().filter(|addr| !addr.ends_with(":0")).unwrap_or_default();
    config.lease_ttl = args.lease_ttl;
    config.lease_renew_before = args.lease_renew_before;
    config.root_refresh = args.root_refresh;
    config.gc_life = args.gc_life;
    // Each step wakes every region once.
    config.gc_interval = (args.gc_life / 5).max(Duration::from_secs(1)).min(config.gc_interval);
    config.schedule.balance = !args.no_balance;
    if args.no_scheduler {
        config.schedule.interval = Duration::ZERO;
    }
    config.schedule.replicas = args.replicas as usize;
    config.schedule.repair_after = args.repair_after;
    config.schedule.merge_after = args.merge_after;
    config.schedule.snapshots_per_store = args.snapshots_per_store as usize;
    config.id_start = args.id_start;
    config.ts_start = args.ts_start;
    if config.lease_renew_before >= config.lease_ttl {
        return Err(Failure::usage(format!(
            "--lease-renew-before must be below --lease-ttl ({} >= {})",
            show_duration(config.lease_renew_before),
            show_duration(config.lease_ttl)
        )));
    }
    config.validate().map_err(|error| startup::coordinator(&error))?;
    Ok(config)
}

/// All coordinators, as far as the file knows them.
fn peers(args: &Coordinator) -> Result<Vec<String>> {
    let file = args.file.config.as_deref().map(config::load).transpose()?;
    Ok(file.map_or_else(Vec::new, |file| file.coordinators(args.file.scope).to_vec()))
}

/// The file lists all coordinators but does not say which one this is.
fn listen_addr(args: &Coordinator, file: Option<&config::Cluster>) -> Result<String> {
    if let Some(addr) = &args.addr {
        return Ok(addr.clone());
    }
    match file.map(|file| file.coordinators(args.file.scope)) {
        None | Some([]) => Ok(reach::COORDINATOR.to_owned()),
        Some([one]) if args.file.scope == Scope::Host => Ok(one.clone()),
        Some(_) if args.file.scope == Scope::Docker => Ok("0.0.0.0:2379".to_owned()),
        Some(many) => Err(Failure::usage(format!("the file lists {} coordinators", many.len()))
            .next("say which one this is with --addr")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parsed(line: &str) -> Result<Config> {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Coordinator(args) => settings(&args),
            _ => unreachable!(),
        }
    }

    #[test]
    fn flags_are_checked_together() {
        let two = "nokv coordinator --coordinator-id c1 --root-peer 1=h:1 --root-peer 2=h:2";
        let message = |line: &str| parsed(line).unwrap_err().message().to_owned();
        assert!(message(two).contains("need exactly 3 --root-peer, got 2 (1, 2)"));
        let three = format!("{two} --root-peer 3=h:3");
        assert_eq!(parsed(&three).unwrap().listen_addr, "127.0.0.1:2379");
        assert!(message(&format!("{three} --lease-ttl 2s")).contains("(3s >= 2s)"));
    }

    #[test]
    fn lease_and_allocators_begin_as_told() {
        let base =
            "nokv coordinator --coordinator-id c1 --root-peer 1=h:1 --root-peer 2=h:2 --root-peer 3=h:3";
        let told = "--lease-ttl 20s --lease-renew-before 5s --root-refresh 300ms --id-start 40 --ts-start 50";
        let config = parsed(&format!("{base} --addr h:9 {told}")).unwrap();
        assert_eq!((config.coordinator_id.as_str(), config.listen_addr.as_str()), ("c1", "h:9"));
        assert_eq!((config.lease_ttl, config.lease_renew_before), (secs(20), secs(5)));
        assert_eq!((config.root_refresh, config.id_start, config.ts_start), (secs(3) / 10, 40, 50));
    }

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_file_names_the_roots() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../raft_config.example.json");
        let config = parsed(&format!("nokv coordinator --coordinator-id c1 --config {file}")).unwrap();
        assert_eq!(config.root_peers[&3], "127.0.0.1:2382");
        let docker =
            parsed(&format!("nokv coordinator --coordinator-id c1 --config {file} --scope docker")).unwrap();
        assert_eq!(
            (docker.root_peers[&1].as_str(), docker.listen_addr.as_str()),
            ("meta-root-1:2380", "0.0.0.0:2379")
        );
    }
}
