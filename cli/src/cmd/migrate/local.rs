//! The steps on a directory: `plan`, `init`, `status`, `report`.

use super::rows::{self, Rows};
use crate::args::Global;
use crate::args::migrate::{Init, Plan, Status};
use crate::cmd::{reach, startup};
use crate::errors::{Code, Failure, Result};
use crate::holder;
use nokv_env::Env;
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{RegionRuntimeStatusRequest, RegionRuntimeStatusResponse};
use nokv_raftstore::migrate::progress::{self, Checkpoint};
use nokv_raftstore::migrate::{self, Done, Ids, seed_snapshot};
use nokv_raftstore::mode::{self, Mode, State};
use serde_json::{Value, json};
use std::path::Path;

/// What comes after a plan without blockers.
const INIT: &str = "nokv migrate init";

/// The whole path, as far as it can be told.
fn absolute(dir: &Path) -> String {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()).display().to_string()
}

/// Refuses what is no directory of ours, by what is there.
fn must_be_a_directory(env: &Env, dir: &Path) -> Result {
    let no = |what: &str| {
        Err(Failure::new(Code::NotAWorkdir, format!("{}: {what}", absolute(dir)))
            .next("give the directory of a stand-alone database, the one that holds CURRENT")
            .detail("path", absolute(dir)))
    };
    if !dir.exists() {
        return no("no such directory");
    }
    if !dir.is_dir() {
        return no("is no directory");
    }
    let names = env.disk.list(dir).map_err(|error| Failure::io(format!("list {}", dir.display()), &error))?;
    if names.is_empty() { no("the directory is empty") } else { Ok(()) }
}

fn look(env: &Env, dir: &Path) -> Result<migrate::Plan> {
    must_be_a_directory(env, dir)?;
    let mut plan = migrate::plan(env.disk.clone(), dir).map_err(|error| startup::store(&error))?;
    if let Some(holder) = holder::of_lock(&dir.join("LOCK")) {
        plan.blockers.push(format!("the directory is open in another process ({})", holder.describe()));
    }
    Ok(plan)
}

fn plan_json(plan: &migrate::Plan) -> Value {
    let mut object = json!({
        "workdir": absolute(&plan.workdir),
        "mode": plan.mode.name(),
        "eligible": plan.is_eligible(),
        "local_catalog_regions": plan.local_catalog_regions,
        "rows": plan.rows,
        "bytes": plan.bytes,
        "bytes_needed": plan.bytes_needed,
        "bytes_free": plan.bytes_free,
    });
    if plan.is_eligible() {
        object["next"] = json!(INIT);
    }
    for (name, lines) in [("blockers", &plan.blockers), ("warnings", &plan.warnings)] {
        if !lines.is_empty() {
            object[name] = json!(lines);
        }
    }
    object
}

/// Says whether the directory can be migrated: exit code 5 if not.
pub fn plan(env: &Env, args: &Plan, global: &Global) -> Result<u8> {
    let plan = look(env, &args.workdir)?;
    let mut rows = Rows::default();
    rows.add("Workdir", absolute(&plan.workdir));
    rows.add("Mode", plan.mode.name());
    rows.add("Eligible", plan.is_eligible());
    rows.add("LocalCatalogRegions", plan.local_catalog_regions);
    if plan.bytes_needed > 0 {
        rows.add("Rows", format!("{} ({} bytes)", plan.rows, plan.bytes));
        rows.add("Disk", format!("{} bytes needed, {} free", plan.bytes_needed, plan.bytes_free));
    }
    rows.add_all("Blockers", &plan.blockers);
    rows.add_all("Warnings", &plan.warnings);
    if plan.is_eligible() {
        let next = format!("{INIT} --workdir {} --store ID --region ID --peer ID", plan.workdir.display());
        rows.add("Next", next);
    }
    rows.show(&plan_json(&plan), global)?;
    Ok(if plan.is_eligible() { 0 } else { Code::Refused.exit() })
}

/// Migrates the directory.
pub async fn init(env: &Env, args: &Init, global: &Global) -> Result<u8> {
    must_be_a_directory(env, &args.workdir)?;
    let ids = Ids { store: args.store, region: args.region, peer: args.peer };
    let options = nokv_engine::Options::default();
    let done = migrate::init(env, &args.workdir, ids, &options).await;
    let done = done.map_err(|error| not_migrated(env, args, &error))?;
    let state = mode::read(&*env.disk, &args.workdir).map_err(|error| startup::store(&error))?;
    let snapshot = absolute(&seed_snapshot::dir(&args.workdir, args.region));
    if let Done::Already(_) = done {
        eprintln!("note: already {}, nothing to do", state.mode.name());
    }
    let mut rows = Rows::default();
    rows.add("Workdir", absolute(&args.workdir));
    rows.add("Mode", state.mode.name());
    rows.add("Store", ids.store);
    rows.add("Region", ids.region);
    rows.add("Peer", ids.peer);
    rows.add("SnapshotDir", &snapshot);
    if state.mode == Mode::Seeded {
        rows.add("Next", serve(&args.workdir, ids.store));
    }
    let object = json!({
        "workdir": absolute(&args.workdir), "mode": state.mode.name(), "store_id": ids.store, "region_id": ids.region,
        "peer_id": ids.peer, "snapshot_dir": snapshot,
    });
    rows.show(&object, global)?;
    Ok(0)
}

/// Why a migration ended; half way, the directory says how to go on.
fn not_migrated(env: &Env, args: &Init, error: &nokv_raftstore::Error) -> Failure {
    let failure = startup::store(error);
    let state = mode::read(&*env.disk, &args.workdir).unwrap_or_default();
    let refused = matches!(
        error,
        nokv_raftstore::Error::AlreadySeeded { .. } | nokv_raftstore::Error::NotEligible { .. }
    );
    if state.mode != Mode::Preparing || refused {
        return failure;
    }
    let next = failure.hint().map(|hint| format!("{hint}; then run the same command again"));
    let next = next.unwrap_or_else(|| "run the same command again: it goes on".into());
    Failure::new(Code::PartlyDone, format!("the migration stopped half way: {}", failure.message()))
        .why("nothing is lost; the directory says `preparing`, and only this command opens it")
        .next(next)
        .detail("cause", failure.code().name())
        .detail("path", absolute(&args.workdir))
}

fn serve(workdir: &Path, store: u64) -> String {
    format!("nokv serve --workdir {} --store-id {store} --coordinator-addr <coordinator>", workdir.display())
}

/// Everything that is known of a directory.
struct Known {
    state: State,
    regions: usize,
    snapshot_dir: Option<String>,
    snapshot_present: bool,
    checkpoint: Option<Checkpoint>,
    warnings: Vec<String>,
    next: String,
    resume_hint: Option<String>,
    /// The store's answer, or why there is none; nothing if nobody was asked.
    runtime: Option<std::result::Result<RegionRuntimeStatusResponse, String>>,
    region_id: u64,
}

async fn know(env: &Env, args: &Status) -> Result<Known> {
    let dir = &args.workdir;
    must_be_a_directory(env, dir)?;
    let state = mode::read(&*env.disk, dir).map_err(|error| startup::store(&error))?;
    let checkpoint = progress::read(&*env.disk, dir).map_err(|error| startup::store(&error))?;
    let mut warnings = Vec::new();
    let region_id = if args.region != 0 { args.region } else { origin(&state).map_or(0, |ids| ids.region) };
    let options = nokv_engine::Options::default();
    let catalog = nokv_engine::Db::open_read_only(env.disk.clone(), dir, options)
        .map_err(|error| error.to_string())
        .and_then(|db| nokv_raftstore::catalog::read(&db).map_err(|error| error.to_string()));
    let regions = catalog.map_or_else(
        |error| {
            warnings.push(error);
            0
        },
        |regions| regions.len(),
    );
    let (mut snapshot_dir, mut snapshot_present) = (None, false);
    if let Some(ids) = origin(&state) {
        snapshot_dir = Some(absolute(&seed_snapshot::dir(dir, ids.region)));
        match seed_snapshot::read(&*env.disk, dir, ids.region) {
            Ok(found) => snapshot_present = found.is_some(),
            Err(error) => warnings.push(error.to_string()),
        }
    }
    let runtime = match &args.addr {
        Some(addr) => Some(ask(env, addr, region_id, args.timeout).await),
        None => None,
    };
    let next = next_step(dir, &state);
    let resume_hint = resume_hint(&state, checkpoint.as_ref());
    Ok(Known {
        state,
        regions,
        snapshot_dir,
        snapshot_present,
        checkpoint,
        warnings,
        next,
        resume_hint,
        runtime,
        region_id,
    })
}

/// The ids that the directory was migrated under; they outlive those of the mode file in its `seed`.
fn origin(state: &State) -> Option<Ids> {
    let (region, peer) = state.seed.strip_prefix("migrated-")?.split_once('-')?;
    Some(Ids { store: state.store_id, region: region.parse().ok()?, peer: peer.parse().ok()? })
}

fn next_step(dir: &Path, state: &State) -> String {
    match (state.mode, origin(state)) {
        (Mode::Standalone, _) => format!("nokv migrate plan --workdir {}", dir.display()),
        (Mode::Preparing, Some(ids)) => format!(
            "{INIT} --workdir {} --store {} --region {} --peer {}",
            dir.display(),
            ids.store,
            ids.region,
            ids.peer
        ),
        (Mode::Cluster, Some(ids)) => format!(
            "nokv migrate expand --addr <store {}> --region {} --target <store>:<peer>@<addr>",
            ids.store, ids.region
        ),
        (Mode::Cluster, None) => "nokv status".into(),
        (Mode::Preparing | Mode::Seeded, _) => serve(dir, state.store_id),
    }
}

fn resume_hint(state: &State, checkpoint: Option<&Checkpoint>) -> Option<String> {
    match state.mode {
        Mode::Standalone => None,
        Mode::Preparing => Some(format!(
            "a migration stopped after {}; run init again with the same ids",
            checkpoint.map_or("its first step", |checkpoint| checkpoint.stage.name())
        )),
        Mode::Seeded => Some("local standalone-to-seed promotion already completed".into()),
        Mode::Cluster => checkpoint
            .filter(|checkpoint| checkpoint.completed_targets < checkpoint.total_targets)
            .map(|checkpoint| {
                format!(
                    "{} of {} targets of the last expand are there; run the same command again",
                    checkpoint.completed_targets, checkpoint.total_targets
                )
            }),
    }
}

async fn ask(
    env: &Env,
    addr: &str,
    region_id: u64,
    patience: std::time::Duration,
) -> std::result::Result<RegionRuntimeStatusResponse, String> {
    if region_id == 0 {
        return Err("the directory names no region; give --region".into());
    }
    let mut admin = RaftAdminClient::new(env.net.connect(addr));
    let request = RegionRuntimeStatusRequest { region_id };
    let asked = reach::ask(env, patience, admin.region_runtime_status(request)).await;
    asked.map_err(|error| format!("{addr}: {error}"))
}

impl Known {
    fn to_json(&self, args: &Status) -> Value {
        let mut object = json!({
            "workdir": absolute(&args.workdir), "mode": self.state.mode.name(), "next": self.next,
        });
        let ids = origin(&self.state);
        let (region, peer) = ids.map_or((0, 0), |ids| (ids.region, ids.peer));
        let numbers = [
            ("store_id", self.state.store_id),
            ("region_id", region),
            ("peer_id", peer),
            ("local_catalog_regions", self.regions as u64),
        ];
        rows::put_numbers(&mut object, numbers);
        if let Some(dir) = &self.snapshot_dir {
            object["seed_snapshot_dir"] = json!(dir);
            object["seed_snapshot_present"] = json!(self.snapshot_present);
        }
        if let Some(hint) = &self.resume_hint {
            object["resume_hint"] = json!(hint);
        }
        if !self.warnings.is_empty() {
            object["warnings"] = json!(self.warnings);
        }
        if let Some(checkpoint) = &self.checkpoint {
            object["checkpoint"] = json!(checkpoint);
        }
        match (&self.runtime, &args.addr) {
            (Some(Ok(runtime)), Some(addr)) => {
                object["runtime"] = runtime_json(runtime, addr, self.region_id);
            }
            (Some(Err(why)), _) => object["runtime_error"] = json!(why),
            _ => {}
        }
        object
    }

    fn to_rows(&self, args: &Status) -> Rows {
        let mut rows = Rows::default();
        rows.add("Workdir", absolute(&args.workdir));
        rows.add("Mode", self.state.mode.name());
        if self.state.store_id != 0 {
            rows.add("Store", self.state.store_id);
        }
        if let Some(ids) = origin(&self.state) {
            rows.add("Region", ids.region);
            rows.add("Peer", ids.peer);
        }
        if self.regions > 0 {
            rows.add("Catalog", format!("{} region(s)", self.regions));
        }
        if let Some(dir) = &self.snapshot_dir {
            rows.add("SeedDir", dir);
            rows.add("Seeded", self.snapshot_present);
        }
        rows.add_all("Warnings", &self.warnings);
        rows.add("Next", &self.next);
        if let Some(hint) = &self.resume_hint {
            rows.add("Resume", hint);
        }
        if let Some(checkpoint) = &self.checkpoint {
            rows.add("Phase", checkpoint.stage.name());
            rows.add("Updated", &checkpoint.updated_at);
        }
        match &self.runtime {
            Some(Ok(runtime)) => {
                let region = runtime.region.clone().unwrap_or_default();
                rows.add("Runtime", if runtime.hosted { "hosted" } else { "not hosted" });
                rows.add("Peers", rows::peers_line(&region));
                rows.add("Leader", runtime.leader_peer_id);
                rows.add("Local", runtime.local_peer_id);
                rows.add("Applied", format!("{} (term {})", runtime.applied_index, runtime.applied_term));
            }
            Some(Err(why)) => rows.add("Remote", why),
            None => {}
        }
        rows
    }
}

fn runtime_json(runtime: &RegionRuntimeStatusResponse, addr: &str, region_id: u64) -> Value {
    let mut object = json!({
        "addr": addr, "region_id": region_id, "known": runtime.known, "hosted": runtime.hosted,
        "leader": runtime.leader,
    });
    let members = runtime.region.as_ref().map_or(0, |region| region.peers.len());
    let numbers = [
        ("local_peer_id", runtime.local_peer_id),
        ("leader_peer_id", runtime.leader_peer_id),
        ("membership_peers", members as u64),
        ("applied_index", runtime.applied_index),
        ("applied_term", runtime.applied_term),
    ];
    rows::put_numbers(&mut object, numbers);
    if let Some(region) = &runtime.region {
        object["region"] = rows::region(region);
    }
    object
}

/// What the directory is.
pub async fn status(env: &Env, args: &Status, global: &Global) -> Result<u8> {
    let known = know(env, args).await?;
    known.to_rows(args).show(&known.to_json(args), global)?;
    Ok(0)
}

/// The same, summed up.
pub async fn report(env: &Env, args: &Status, global: &Global) -> Result<u8> {
    let known = know(env, args).await?;
    let plan = if known.state.mode == Mode::Standalone { Some(look(env, &args.workdir)?) } else { None };
    let eligible = plan.as_ref().is_some_and(migrate::Plan::is_eligible);
    let ready_for_serve = known.state.mode == Mode::Seeded
        && known.state.store_id != 0
        && known.regions > 0
        && (known.snapshot_present || known.snapshot_dir.is_none());
    let (stage, summary) = match known.state.mode {
        Mode::Standalone if eligible => {
            ("standalone-ready", "A stand-alone database that can be migrated.".to_owned())
        }
        Mode::Standalone => {
            let count = plan.as_ref().map_or(0, |plan| plan.blockers.len());
            (
                "standalone-blocked",
                format!("A stand-alone database; {count} thing(s) are in the way of a migration."),
            )
        }
        Mode::Preparing => {
            ("seed-preparing", "A migration has begun and not ended; nothing else opens it.".into())
        }
        Mode::Seeded => ("seed-ready", "Migrated, and ready for its store to be started.".into()),
        Mode::Cluster => ("cluster-active", "A store of a cluster.".into()),
    };
    let mut steps = vec![match known.state.mode {
        Mode::Standalone if eligible => format!(
            "{INIT} --workdir {} --store <store> --region <region> --peer <peer>",
            args.workdir.display()
        ),
        _ => known.next.clone(),
    }];
    if known.state.mode == Mode::Seeded {
        steps.push(next_step(&args.workdir, &State { mode: Mode::Cluster, ..known.state.clone() }));
    }
    let mut object = json!({
        "workdir": absolute(&args.workdir), "mode": known.state.mode.name(), "stage": stage, "summary": summary,
        "ready_for_init": eligible, "ready_for_serve": ready_for_serve, "next_steps": steps,
        "status": known.to_json(args),
    });
    if let Some(plan) = &plan {
        object["plan"] = plan_json(plan);
    }
    if let Some(hint) = &known.resume_hint {
        object["resume_hint"] = json!(hint);
    }
    if let (Some(Ok(runtime)), Some(addr)) = (&known.runtime, &args.addr) {
        object["cluster"] = cluster_json(runtime, addr, known.region_id);
    }
    let mut rows = known.to_rows(args);
    rows.add("Stage", stage);
    rows.add("Summary", &summary);
    rows.add("ReadyForInit", eligible);
    rows.add("ReadyForServe", ready_for_serve);
    if let Some(plan) = &plan {
        rows.add_all("Blockers", &plan.blockers);
    }
    rows.add_all("NextSteps", &steps);
    rows.show(&object, global)?;
    Ok(0)
}

fn cluster_json(runtime: &RegionRuntimeStatusResponse, addr: &str, region_id: u64) -> Value {
    let region = runtime.region.clone().unwrap_or_default();
    let leader = region.peer(runtime.leader_peer_id).map_or(0, |peer| peer.store_id);
    let mut object = json!({
        "source": "single-admin-endpoint", "admin_addr": addr, "region_id": region_id, "known": runtime.known,
        "hosted": runtime.hosted, "leader": runtime.leader, "membership": rows::peers(&region),
    });
    let numbers = [
        ("local_peer_id", runtime.local_peer_id),
        ("leader_peer_id", runtime.leader_peer_id),
        ("leader_store_id", leader),
        ("membership_peers", region.peers.len() as u64),
        ("applied_index", runtime.applied_index),
        ("applied_term", runtime.applied_term),
    ];
    rows::put_numbers(&mut object, numbers);
    object
}
