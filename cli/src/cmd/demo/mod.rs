//! `nokv demo`: a whole cluster on this machine, as child processes of this one.
//!
//! One directory holds the configuration file, the data and the logs; running again with it goes on with the same
//! data on the same ports. Children are ordinary `nokv meta-root`, `coordinator` and `serve` processes whose standard
//! input is a pipe from here: when it closes, because we stop them or because this process died, they stop
//! gracefully. A child that dies is reported and left dead, so that one can watch the others go on without it.
#![allow(clippy::disallowed_methods, reason = "writes its own configuration file and starts processes")]

mod certificates;
mod layout;
mod processes;

use crate::args::Scope;
use crate::args::tools::Demo;
use crate::args::values::show_duration;
use crate::cmd::{server, startup};
use crate::config::{self, Cluster};
use crate::errors::{Code, Failure, Result};
use crate::holder;
use crate::output::{say, table};
use crate::signals::{Reason, Signals};
use nokv_client::{Client, ClientConfig, ClientError};
use nokv_env::disk::{LockGuard, write_atomically};
use nokv_env::{ClockExt, Env, Instant};
use processes::Processes;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two looks at the children.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the cluster until Ctrl-C.
pub fn run(args: &Demo) -> Result<u8> {
    crate::logging::start("warn")?;
    let runtime = crate::cmd::runtime()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        demo(&crate::cmd::real_env(None)?, args, &mut signals).await
    });
    runtime.shutdown_background();
    ended.map(|()| 0)
}

async fn demo(env: &Env, args: &Demo, signals: &mut Signals) -> Result {
    let began = env.clock.now();
    let dir = std::path::absolute(&args.dir)
        .map_err(|error| Failure::io(format!("find {}", args.dir.display()), &error))?;
    let _lock = own(env, &dir)?;
    let file = dir.join(layout::CONFIG_NAME);
    let cluster = configuration(env, &file, &dir, args)?;
    let secured = crate::cmd::real_env(certificates::ours(&cluster, &dir)?)?;
    check_ports(&cluster)?;
    seed(env, &cluster).await?;
    let mut processes = Processes::start(&dir, &file, &cluster)?;
    let ready = signals.race(wait_ready(&secured, &cluster, args.ready_timeout, &mut processes)).await;
    let ended = match ready {
        Ok(Ok(())) => {
            announce(&processes, &cluster, &file, env.clock.now().since(began));
            watch(env, signals, &mut processes).await;
            Ok(())
        }
        Ok(Err(failure)) => Err(failure),
        Err(_) => Ok(()),
    };
    say("\nstopping...");
    let killed = processes.stop(env).await;
    match killed.as_slice() {
        [] => {
            say(&format!(
                "stopped cleanly, data in {} (go on with: nokv demo --dir {0})",
                args.dir.display()
            ));
        }
        some => say(&format!("stopped; {} had to be killed (nothing acknowledged is lost)", some.join(", "))),
    }
    ended
}

/// One demo a directory.
fn own(env: &Env, dir: &Path) -> Result<Box<dyn LockGuard>> {
    env.disk
        .create_dir_all(&dir.join("logs"))
        .map_err(|error| Failure::io(format!("create {}", dir.display()), &error))?;
    let path = dir.join("LOCK");
    let owner = format!("pid {}, nokv demo", std::process::id());
    env.disk.lock(&path, &owner).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => server::in_use_failure(&path, &error.to_string())
            .next("stop that demo, or run a second one: nokv demo --dir DIR --port-offset 100"),
        _ => Failure::io(format!("lock {}", path.display()), &error),
    })
}

/// Reads the configuration of an earlier run, or writes one.
fn configuration(env: &Env, file: &Path, dir: &Path, args: &Demo) -> Result<Cluster> {
    let port_offset = args.port_offset;
    let exists = env.disk.exists(file).map_err(|error| Failure::io("look for the configuration", &error))?;
    if !exists {
        let tls = args.tls.then(|| certificates::make(dir)).transpose()?;
        let text = layout::configuration(dir, port_offset, tls.as_ref());
        write_atomically(&*env.disk, file, text.as_bytes())
            .map_err(|error| Failure::io(format!("write {}", file.display()), &error))?;
    }
    let cluster = config::load(file)?;
    let first = cluster.coordinators(Scope::Host).first().cloned().unwrap_or_default();
    if exists && port_offset != 0 && first != layout::coordinator_addr(port_offset) {
        return Err(Failure::usage(format!("{} was made with other ports ({first})", file.display()))
            .next("leave --port-offset out, or choose another --dir"));
    }
    if args.tls && cluster.tls.is_none() {
        return Err(Failure::usage(format!("{} was made without --tls", file.display()))
            .next("leave --tls out, or choose another --dir"));
    }
    Ok(cluster)
}

/// Says which port is taken before anything is started.
fn check_ports(cluster: &Cluster) -> Result {
    let roots = cluster
        .meta_roots
        .iter()
        .flat_map(|root| [root.addr(Scope::Host), root.transport_addr(Scope::Host)])
        .flatten();
    let stores = cluster.stores.iter().filter_map(|store| store.listen_addr(Scope::Host));
    let coordinators = cluster.coordinators(Scope::Host);
    let consoles: Vec<String> = coordinators.iter().filter_map(|addr| layout::console_addr(addr)).collect();
    for addr in roots.chain(stores).chain(coordinators).chain(&consoles) {
        if let Some(holder) = holder::of_port(addr) {
            return Err(Failure::new(Code::AddressInUse, format!("{addr} is in use by another process"))
                .why(format!("it belongs to {}", holder.describe()))
                .next("is another cluster running? a second one: nokv demo --dir DIR --port-offset 100")
                .detail("addr", addr.as_str())
                .detail("pid", holder.pid));
        }
    }
    Ok(())
}

/// Gives fresh store directories their first regions; the others have theirs.
async fn seed(env: &Env, cluster: &Cluster) -> Result {
    for store in &cluster.stores {
        let Some(dir) = cluster.store_workdir(store, Scope::Host) else { continue };
        let used = env.disk.exists(&dir.join(nokv_raftstore::mode::FILE_NAME));
        if used.map_err(|error| Failure::io(format!("look at {}", dir.display()), &error))? {
            continue;
        }
        nokv_raftstore::seed::seed_regions(env, &dir, store.store_id, &cluster.regions_of(store.store_id))
            .await
            .map_err(|error| startup::store(&error))?;
    }
    Ok(())
}

/// Waits until every region can be read and timestamps are handed out.
async fn wait_ready(env: &Env, cluster: &Cluster, patience: Duration, processes: &mut Processes) -> Result {
    let deadline = env.clock.now() + patience;
    let mut config = ClientConfig::new(cluster.coordinators(Scope::Host).to_vec());
    config.deadline = patience;
    let client = Client::new(env.clone(), config);
    let mut serving = std::pin::pin!(serves(&client, cluster));
    loop {
        match env.clock.timeout(LOOK_INTERVAL, serving.as_mut()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => return Err(not_ready(env, deadline, patience, &error.to_string())),
            Err(_) if env.clock.now() >= deadline => {
                return Err(not_ready(env, deadline, patience, "no region answers"));
            }
            Err(_) => {}
        }
        if let Some(ended) = processes.newly_ended().first() {
            return Err(Failure::new(
                Code::NotReady,
                format!("{} ended while the cluster was starting ({})", ended.name, ended.how),
            )
            .why(ended.last_words.clone())
            .next(format!("the whole log: {}", ended.log.display())));
        }
    }
}

async fn serves(client: &Client, cluster: &Cluster) -> std::result::Result<(), ClientError> {
    client.tso(1).await?;
    for region in &cluster.regions {
        let key = if region.start_key.is_empty() { "\0".to_owned() } else { region.start_key.clone() };
        client.get(key).await?;
    }
    Ok(())
}

fn not_ready(env: &Env, deadline: Instant, patience: Duration, why: &str) -> Failure {
    let waited = patience.saturating_sub(deadline.since(env.clock.now()));
    Failure::new(
        Code::NotReady,
        format!("the cluster does not serve after {}", show_duration(Duration::from_secs(waited.as_secs()))),
    )
    .why(why)
    .next("look at the logs in the demo's directory; --ready-timeout waits longer")
}

fn announce(processes: &Processes, cluster: &Cluster, file: &Path, took: Duration) {
    let rows: Vec<Vec<String>> = processes
        .all()
        .map(|process| {
            vec![
                process.name.clone(),
                process.pid().to_string(),
                process.addr.clone(),
                relative(&process.log),
            ]
        })
        .collect();
    say(&table(&["process", "pid", "address", "log"], &rows));
    let coordinators = cluster.coordinators(Scope::Host);
    let usual = coordinators.first().is_some_and(|addr| addr == crate::cmd::reach::COORDINATOR);
    let export = if usual {
        String::new()
    } else {
        format!("  export NOKV_COORDINATOR_ADDR={}\n", coordinators.join(","))
    };
    let export = export + &certificates::exports(cluster, file.parent().unwrap_or(file));
    say(&format!("ready in {:.1} s\n", took.as_secs_f64()));
    if let Some(console) = coordinators.first().and_then(|addr| layout::console_addr(addr)) {
        say(&format!("console: http://{console}/\n"));
    }
    say(&format!(
        "next, in another terminal:\n{export}  nokv put hello world\n  nokv get hello\n  nokv status --config {}\n\
         kill one of the processes and look again; Ctrl-C here stops everything, the data stays",
        relative(file)
    ));
}

/// A path as seen from here, when that is shorter.
fn relative(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    match path.strip_prefix(&here) {
        Ok(inside) => format!("./{}", inside.display()),
        Err(_) => path.display().to_string(),
    }
}

/// Waits for Ctrl-C; tells of children that end meanwhile.
async fn watch(env: &Env, signals: &mut Signals, processes: &mut Processes) {
    loop {
        let stopped: std::result::Result<(), Reason> = signals.race(env.clock.sleep(LOOK_INTERVAL)).await;
        if stopped.is_err() {
            return;
        }
        for ended in processes.newly_ended() {
            say(&format!(
                "{} (pid {}) ended: {}. The others go on; bring it back with:",
                ended.name, ended.pid, ended.how
            ));
            say(&format!("  {}", ended.command));
        }
    }
}
