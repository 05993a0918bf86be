//! `nokv config`: checks a configuration file, lists what it says, seeds store directories from it.

mod show;

use crate::args::tools::{Config, ConfigFile, Seed};
use crate::args::values::show_hex;
use crate::args::{Format, Global, Scope};
use crate::cmd::security::Dial;
use crate::cmd::startup;
use crate::config::{self, Cluster, Region, Store};
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Carries out a `nokv config` command.
pub fn run(command: &Config, global: &Global) -> Result<u8> {
    let format = global.format();
    match command {
        Config::Check(file) => check(file, format),
        Config::Stores(file) => {
            let cluster = config::load(&file.config)?;
            let rows = cluster.stores.iter().map(|store| store_row(&cluster, store)).collect();
            list(&STORE_MEMBERS, rows, format)
        }
        Config::Regions(file) => {
            let cluster = config::load(&file.config)?;
            list(&REGION_MEMBERS, cluster.regions.iter().map(region_row).collect(), format)
        }
        Config::Coordinators { file, scope } => {
            let cluster = config::load(&file.config)?;
            let rows = cluster.coordinators(*scope).iter().map(|addr| vec![json!(addr)]).collect();
            list(&["addr"], rows, format)
        }
        Config::MetaRoots { file, scope } => {
            let cluster = config::load(&file.config)?;
            list(&ROOT_MEMBERS, root_rows(&cluster, *scope), format)
        }
        Config::Seed(args) => crate::cmd::client(Dial::nobody(), async |env| seed(&env, args, format).await),
        Config::Show(args) => show::run(args, format),
        Config::Init { no_comments } => init(*no_comments),
    }
}

/// The example, with comments.
const EXAMPLE: &str = include_str!("config/example.jsonc");

fn init(no_comments: bool) -> Result<u8> {
    let mut out = Out::new();
    let is_wanted = |line: &&str| !no_comments || !line.trim_start().starts_with("//");
    EXAMPLE.lines().filter(is_wanted).try_for_each(|line| out.line(line))?;
    out.flush()?;
    Ok(0)
}

/// Regions that are named one by one.
const SHOWN: usize = 8;

const STORE_MEMBERS: [&str; 7] =
    ["store_id", "listen_addr", "addr", "docker_listen_addr", "docker_addr", "work_dir", "docker_work_dir"];
const REGION_MEMBERS: [&str; 7] =
    ["id", "start_key", "end_key", "version", "conf_version", "peers", "leader_store_id"];
const ROOT_MEMBERS: [&str; 4] = ["node_id", "addr", "transport_addr", "work_dir"];

fn check(file: &ConfigFile, format: Format) -> Result<u8> {
    let cluster = config::load(&file.config)?;
    let (stores, regions, roots) = (cluster.stores.len(), cluster.regions.len(), cluster.meta_roots.len());
    let mut out = Out::new();
    match format {
        Format::Plain => out.line(&format!(
            "{}: ok ({stores} stores, {regions} regions, {roots} meta-roots)",
            file.config.display()
        ))?,
        _ => out.json(&json!({
            "ok": true, "stores": stores, "regions": regions, "meta_roots": roots, "max_retries": cluster.max_retries,
        }))?,
    }
    out.flush()?;
    Ok(0)
}

/// Prints rows: words with `-` for nothing, or objects with named members.
fn list(members: &[&str], rows: Vec<Vec<Value>>, format: Format) -> Result<u8> {
    let mut out = Out::new();
    let word = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> =
                items.iter().map(|peer| format!("{}:{}", peer["store_id"], peer["peer_id"])).collect();
            items.join(",")
        }
        other => other.to_string(),
    };
    if format == Format::Plain {
        for row in &rows {
            let words: Vec<String> = row.iter().map(word).collect();
            out.line(&words.join(" "))?;
        }
    } else {
        let named = |row: Vec<Value>| -> Value {
            members.iter().map(|name| (*name).to_owned()).zip(row).collect::<serde_json::Map<_, _>>().into()
        };
        let all: Vec<Value> = rows.into_iter().map(named).collect();
        if format == Format::Json {
            out.json(&json!(all))?;
        } else {
            all.iter().try_for_each(|row| out.line(&row.to_string()))?;
        }
    }
    out.flush()?;
    Ok(0)
}

fn path(path: Option<PathBuf>) -> Value {
    json!(path.map(|path| path.display().to_string()))
}

fn store_row(cluster: &Cluster, store: &Store) -> Vec<Value> {
    vec![
        json!(store.store_id),
        json!(store.listen_addr),
        json!(store.addr),
        json!(store.docker_listen_addr),
        json!(store.docker_addr),
        path(cluster.store_workdir(store, Scope::Host)),
        path(cluster.store_workdir(store, Scope::Docker)),
    ]
}

fn region_row(region: &Region) -> Vec<Value> {
    let key = |key: &str| {
        if key.chars().all(|c| c.is_ascii_graphic()) {
            json!(key)
        } else {
            json!(format!("hex:{}", show_hex(key.as_bytes())))
        }
    };
    let peers: Vec<Value> =
        region.peers.iter().map(|(store, peer)| json!({"store_id": store, "peer_id": peer})).collect();
    vec![
        json!(region.id),
        key(&region.start_key),
        key(&region.end_key),
        json!(region.version),
        json!(region.conf_version),
        json!(peers),
        json!(region.leader_store_id),
    ]
}

fn root_rows(cluster: &Cluster, scope: Scope) -> Vec<Vec<Value>> {
    let row = |root: &config::MetaRoot| {
        let workdir = path(root.workdir(scope).cloned());
        vec![json!(root.node_id), json!(root.addr(scope)), json!(root.transport_addr(scope)), workdir]
    };
    cluster.meta_roots.iter().map(row).collect()
}

/// A file in a directory that is none of ours, if there is one.
pub fn foreign(env: &nokv_env::Env, dir: &Path) -> Result<Option<String>> {
    let names = match env.disk.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io(format!("list {}", dir.display()), &error)),
    };
    let known = |name: &String| {
        let name = name.trim_end_matches(".tmp");
        matches!(name, "LOCK" | "CURRENT" | "MODE.json" | "BALLAST" | "raft" | "vlog")
            || name.ends_with("_SNAPSHOTS")
            || name.starts_with("MANIFEST-")
            || Path::new(name).extension().is_some_and(|extension| extension == "wal" || extension == "sst")
    };
    Ok(names.into_iter().find(|name| !known(name)))
}

/// Refuses a directory that somebody uses for something else.
fn only_ours(env: &nokv_env::Env, dir: &Path) -> Result {
    let Some(foreign) = foreign(env, dir)? else { return Ok(()) };
    Err(Failure::new(Code::WorkdirNotFresh, format!("{} holds other things: {foreign}", dir.display()))
        .why("a store's directory is its own; seeding between other files would mix them up")
        .next("choose an empty or new directory")
        .detail("path", dir.display().to_string()))
}

/// Writes the first regions of one store into its fresh directory.
async fn seed(env: &nokv_env::Env, args: &Seed, format: Format) -> Result<u8> {
    let cluster = config::load(&args.file.config)?;
    let store = cluster.store(args.store_id).ok_or_else(|| {
        Failure::usage(format!("the file has no store {}", args.store_id))
            .next(format!("nokv config stores --config {}", args.file.config.display()))
    })?;
    let workdir =
        args.workdir.clone().or_else(|| cluster.store_workdir(store, args.scope)).ok_or_else(|| {
            Failure::usage("no directory").next("give --workdir, or a work_dir in the file")
        })?;
    let regions = cluster.regions_of(args.store_id);
    if regions.is_empty() {
        return Err(Failure::new(
            Code::RegionNotFound,
            format!("the file has no region on store {}", args.store_id),
        ));
    }
    only_ours(env, &workdir)?;
    nokv_raftstore::seed::seed_regions(env, &workdir, args.store_id, &regions)
        .await
        .map_err(|error| startup::store(&error))?;
    let ids: Vec<u64> = regions.iter().map(|region| region.region_id).collect();
    let mut out = Out::new();
    match format {
        Format::Plain => {
            let mut shown: Vec<String> = ids.iter().take(SHOWN).map(u64::to_string).collect();
            if ids.len() > SHOWN {
                shown.push(format!("and {} more", ids.len() - SHOWN));
            }
            let (workdir, regions) = (workdir.display(), shown.join(", "));
            out.line(&format!("seeded {workdir} for store {}: regions {regions}", args.store_id))?;
        }
        _ => out.json(&json!({
            "store_id": args.store_id, "workdir": workdir.display().to_string(), "regions": ids,
        }))?,
    }
    out.flush()?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_with_comments_says_what_the_example_says() {
        let kept: Vec<&str> = EXAMPLE.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let stripped = kept.join(
            "
",
        );
        let plain: Value = serde_json::from_str(&stripped).unwrap();
        let example = include_str!("../../../raft_config.example.json");
        assert_eq!(plain, serde_json::from_str::<Value>(example).unwrap());
        assert!(config::is_good(EXAMPLE) && config::is_good(&stripped));
    }
}
