//! The steps on running stores: `expand`, `remove-peer`, `transfer-leader`.
//!
//! Each step asks the leader for the change, and then looks until it is there. A change that is there already is not asked for,
//! so a step that was interrupted is simply run again.

use super::rows::{self, Rows};
use crate::args::Global;
use crate::args::migrate::{Expand, OnePeer, Patience};
use crate::args::values::{address, show_duration};
use crate::cmd::{reach, startup};
use crate::errors::{Code, Failure, Result};
use crate::signals::Signals;
use nokv_env::{ClockExt, Env, Instant};
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{
    AddPeerRequest, RegionRuntimeStatusRequest, RegionRuntimeStatusResponse, RemovePeerRequest,
    TransferLeaderRequest,
};
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_raftstore::migrate::Ids;
use nokv_raftstore::migrate::progress::{self, Checkpoint, Stage};
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::{Code as Grpc, Status};

/// Patience with one answer.
const CALL: Duration = Duration::from_secs(3);
/// How long a step that does not wait for its effect looks for somebody who takes the order.
const ORDER: Duration = Duration::from_secs(5);

/// Where a new peer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    store: u64,
    peer: u64,
    addr: Option<String>,
}

/// Reads all `--target` values; the error names the one that is wrong.
fn targets(given: &[String]) -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    for (at, text) in given.iter().enumerate() {
        let wrong = |why: String| {
            Failure::usage(format!("target #{} '{text}': {why}", at + 1))
                .next("--target STORE:PEER[@HOST:PORT], for instance --target 2:201@127.0.0.1:20171")
        };
        let want = || wrong("want <store>:<peer>[@addr]".into());
        let (ids, addr) = match text.split_once('@') {
            Some((ids, addr)) => (ids, Some(address(addr).map_err(wrong)?)),
            None => (text.as_str(), None),
        };
        let (store, peer) = ids.split_once(':').ok_or_else(want)?;
        let (store, peer) =
            (store.parse::<u64>().map_err(|_| want())?, peer.parse::<u64>().map_err(|_| want())?);
        if store == 0 || peer == 0 {
            return Err(wrong("ids begin at 1".into()));
        }
        if targets.iter().any(|other| other.store == store) {
            return Err(wrong(format!("store {store} is given twice")));
        }
        if targets.iter().any(|other| other.peer == peer) {
            return Err(wrong(format!("peer {peer} is given twice")));
        }
        targets.push(Target { store, peer, addr });
    }
    Ok(targets)
}

/// A region as its leader reports it.
struct Seen {
    addr: String,
    status: RegionRuntimeStatusResponse,
}

impl Seen {
    fn region(&self) -> RegionDescriptor {
        self.status.region.clone().unwrap_or_default()
    }

    fn votes(&self, peer: u64) -> bool {
        self.region().peer(peer).is_some() && !self.status.learner_peer_ids.contains(&peer)
    }
}

/// One region, reached through any store that hosts it.
struct Way<'a> {
    env: &'a Env,
    region: u64,
    patience: &'a Patience,
    give_up: Instant,
    /// Where the leader was last.
    addr: Mutex<String>,
}

impl<'a> Way<'a> {
    fn new(env: &'a Env, addr: &str, region: u64, patience: &'a Patience) -> Self {
        let wait = if patience.wait.is_zero() { ORDER } else { patience.wait };
        let give_up = env.clock.now() + wait;
        Self { env, region, patience, give_up, addr: Mutex::new(addr.to_owned()) }
    }

    fn admin(&self, addr: &str) -> RaftAdminClient<nokv_env::Channel> {
        RaftAdminClient::new(self.env.net.connect(addr))
    }

    fn is_over(&self) -> bool {
        self.env.clock.now() >= self.give_up
    }

    async fn pause(&self) {
        self.env.clock.sleep(self.patience.poll_interval).await;
    }

    /// What the store at `addr` says of the region.
    async fn status_at(
        &self,
        addr: &str,
    ) -> std::result::Result<RegionRuntimeStatusResponse, reach::NoAnswer> {
        let request = RegionRuntimeStatusRequest { region_id: self.region };
        reach::ask(self.env, CALL, self.admin(addr).region_runtime_status(request)).await
    }

    /// The region as its leader sees it; tells when the leader is elsewhere than it was.
    async fn leader(&self) -> Result<Seen> {
        loop {
            let addr = self.addr.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let why = match self.status_at(&addr).await {
                Ok(status) if status.leader => return Ok(Seen { addr, status }),
                Ok(status) if !status.known => {
                    return Err(Failure::new(
                        Code::RegionNotFound,
                        format!("{addr} does not host region {}", self.region),
                    )
                    .next(format!("nokv execution --addr {addr}; nokv regions"))
                    .detail("region_id", self.region));
                }
                Ok(status) if !status.leader_addr.is_empty() && status.leader_addr != addr => {
                    eprintln!(
                        "note: {addr} does not lead region {}; going on at {}",
                        self.region, status.leader_addr
                    );
                    *self.addr.lock().unwrap_or_else(PoisonError::into_inner) = status.leader_addr;
                    if self.is_over() { "the leader moves".to_owned() } else { continue }
                }
                Ok(_) => format!("{addr}: region {} has no known leader", self.region),
                Err(reach::NoAnswer::OtherKind) => {
                    return Err(Failure::new(Code::WrongService, format!("{addr} is not a store"))
                        .next("stores usually listen on :20160; their addresses: nokv status"));
                }
                Err(error) => match error.about_trust(&addr) {
                    Some(failure) => return Err(failure),
                    None => format!("{addr}: {error}"),
                },
            };
            if self.is_over() {
                return Err(self.late("nobody leads the region", &why));
            }
            self.pause().await;
        }
    }

    fn late(&self, what: &str, why: &str) -> Failure {
        let wait = show_duration(self.patience.wait);
        Failure::new(Code::Unavailable, format!("region {}: {what} (waited {wait})", self.region))
            .why(why)
            .next("run the same command again: it goes on; nokv status")
    }

    /// Whether an order that was answered like this may succeed later; the failure if not.
    async fn again(&self, what: &str, status: &Status) -> Result {
        if let Some(failure) = reach::NoAnswer::from(status).about_trust(what) {
            return Err(failure);
        }
        let passing = [
            Grpc::FailedPrecondition,
            Grpc::Unavailable,
            Grpc::Aborted,
            Grpc::NotFound,
            Grpc::DeadlineExceeded,
        ];
        let message = status.message();
        if !passing.contains(&status.code()) {
            return Err(Failure::new(Code::Refused, format!("{what}: {message}")).next("nokv regions"));
        }
        if self.is_over() {
            let would_lose = message.contains("would lose quorum");
            let code = if would_lose { Code::WouldLoseQuorum } else { Code::Unavailable };
            let wait = show_duration(self.patience.wait);
            return Err(Failure::new(code, format!("{what}: not done (waited {wait})"))
                .why(message)
                .next("nokv status"));
        }
        self.pause().await;
        Ok(())
    }

    fn note(&self, stage: Stage, target: (u64, u64), (done, total): (usize, usize)) -> Result {
        let Some(workdir) = &self.patience.workdir else { return Ok(()) };
        let mode =
            nokv_raftstore::mode::read(&*self.env.disk, workdir).map_err(|error| startup::store(&error))?;
        let ids = Ids { store: mode.store_id, region: self.region, peer: 0 };
        let checkpoint = Checkpoint {
            target_store_id: target.0,
            target_peer_id: target.1,
            completed_targets: done as u64,
            total_targets: total as u64,
            ..Checkpoint::new(stage, ids)
        };
        progress::write(self.env, workdir, &checkpoint).map_err(|error| startup::store(&error))
    }
}

/// How far one target came.
#[derive(Debug, Clone, Default)]
struct Step {
    store: u64,
    /// The peer that was asked for, or the one that the store has.
    peer: u64,
    target_addr: Option<String>,
    leader_addr: String,
    region: Option<RegionDescriptor>,
    at_target: Option<RegionRuntimeStatusResponse>,
    /// In words, for whoever waits.
    state: String,
    done: bool,
    waited: bool,
}

impl Step {
    fn of(target: &Target) -> Self {
        Self {
            store: target.store,
            peer: target.peer,
            target_addr: target.addr.clone(),
            state: "not begun".into(),
            ..Self::default()
        }
    }

    /// Remembers the state and says it when it is a new one.
    fn say(&mut self, state: impl Into<String>) {
        let state = state.into();
        if state != self.state {
            eprintln!("target {}:{}: {state}", self.store, self.peer);
            self.state = state;
        }
    }

    fn to_json(&self, region_id: u64) -> Value {
        let at_target = self.at_target.clone().unwrap_or_default();
        let mut object = json!({
            "addr": self.leader_addr, "region_id": region_id, "store_id": self.store, "peer_id": self.peer,
            "leader_known": self.region.is_some(), "target_known": at_target.known, "target_hosted": at_target.hosted,
            "waited": self.waited, "state": self.state, "done": self.done,
        });
        if let Some(addr) = &self.target_addr {
            object["target_admin_addr"] = json!(addr);
        }
        if let Some(region) = &self.region {
            object["leader_region"] = rows::region(region);
        }
        let numbers = [
            ("target_local_peer_id", at_target.local_peer_id),
            ("target_applied_index", at_target.applied_index),
            ("target_applied_term", at_target.applied_term),
        ];
        rows::put_numbers(&mut object, numbers);
        object
    }

    fn line(&self) -> String {
        let at_target = self.at_target.clone().unwrap_or_default();
        format!(
            "store={} peer={} hosted={} applied={}",
            self.store, self.peer, at_target.hosted, at_target.applied_index
        )
    }
}

/// Brings the region to all targets, one after the other. Interrupted or too late, it says how far each one came.
pub fn expand(args: &Expand, global: &Global) -> Result<u8> {
    let targets = targets(&args.target)?;
    let steps = Mutex::new(targets.iter().map(Step::of).collect::<Vec<_>>());
    crate::logging::start("warn")?;
    let tls = crate::cmd::security::Dial::flags(&args.security).tls()?;
    let runtime = crate::cmd::runtime()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let env = crate::cmd::real_env(tls)?;
        let work = async {
            for at in 0..targets.len() {
                expand_one(&env, args, &steps, at).await?;
            }
            Ok(())
        };
        signals.race(work).await.unwrap_or_else(|reason| Err(reason.failure()))
    });
    runtime.shutdown_background();
    let steps = steps.into_inner().unwrap_or_else(PoisonError::into_inner);
    match ended {
        Ok(()) => show_expanded(args, &steps, global),
        Err(failure) => Err(unfinished(args, &steps, failure)),
    }
}

fn show_expanded(args: &Expand, steps: &[Step], global: &Global) -> Result<u8> {
    let mut rows = Rows::default();
    rows.add("LeaderAddr", steps.last().map_or(&args.addr, |step| &step.leader_addr));
    rows.add("Region", args.region);
    for (at, step) in steps.iter().enumerate() {
        rows.add("Step", format!("[{at}] {}", step.line()));
    }
    let results: Vec<Value> = steps.iter().map(|step| step.to_json(args.region)).collect();
    rows.show(&json!({ "addr": args.addr, "region_id": args.region, "results": results }), global)?;
    Ok(0)
}

/// Partly done, if anything was.
fn unfinished(args: &Expand, steps: &[Step], cause: Failure) -> Failure {
    let done = steps.iter().filter(|step| step.done).count();
    let begun = steps.iter().any(|step| step.done || step.state != "not begun");
    let interrupted = matches!(cause.code(), Code::Interrupted | Code::Terminated);
    if !begun || !(interrupted || cause.code() == Code::Unavailable || done > 0) {
        return cause;
    }
    let table: Vec<String> = steps
        .iter()
        .enumerate()
        .map(|(at, step)| format!("target #{} {}:{}: {}", at + 1, step.store, step.peer, step.state))
        .collect();
    let results: Vec<Value> = steps.iter().map(|step| step.to_json(args.region)).collect();
    Failure::new(
        Code::PartlyDone,
        format!("{done} of {} targets done: {}\n{}", steps.len(), cause.message(), table.join("\n")),
    )
    .why(cause.reason().unwrap_or("the region goes on by itself with what was begun"))
    .next("rerun the same command to go on")
    .detail("cause", cause.code().name())
    .detail("results", results)
}

async fn expand_one(env: &Env, args: &Expand, steps: &Mutex<Vec<Step>>, at: usize) -> Result {
    let update = |change: &mut dyn FnMut(&mut Step)| {
        let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut steps[at]);
        steps[at].clone()
    };
    let total = steps.lock().unwrap_or_else(PoisonError::into_inner).len();
    let way = Way::new(env, &args.addr, args.region, &args.patience);
    let step = update(&mut |step| step.waited = !args.patience.wait.is_zero());
    if at == 0 {
        way.note(Stage::ExpandRolloutStarted, (0, 0), (0, total))?;
    }
    let seen = ask_for_peer(&way, &step, &|peer| {
        update(&mut |step| step.peer = peer);
    })
    .await?;
    let step = update(&mut |step| {
        step.leader_addr.clone_from(&seen.addr);
        step.region = Some(seen.region());
        step.say("proposed");
    });
    way.note(Stage::ExpandTargetPending, (step.store, step.peer), (at, total))?;
    if args.patience.wait.is_zero() {
        return Ok(());
    }
    let why = loop {
        let seen = way.leader().await?;
        let region = seen.region();
        let published = region.peer(step.peer).is_some();
        let at_target = match &step.target_addr {
            Some(addr) => Some(way.status_at(addr).await),
            None => None,
        };
        let hosted = match &at_target {
            Some(Ok(status)) => {
                status.hosted && status.local_peer_id == step.peer && status.applied_index > 0
            }
            Some(Err(_)) => false,
            None => true,
        };
        let votes = seen.votes(step.peer);
        let why = match &at_target {
            Some(Err(error)) => format!(
                "published; its store at {} does not answer: {error}",
                step.target_addr.as_deref().unwrap_or_default()
            ),
            _ if !published => "proposed".into(),
            _ if !hosted => "published; its store has no snapshot yet".into(),
            _ if !votes => "hosted; catching up, no vote yet".into(),
            _ => format!(
                "hosted, applied {}, votes",
                at_target
                    .as_ref()
                    .and_then(|status| status.as_ref().ok())
                    .map_or(seen.status.applied_index, |status| status.applied_index)
            ),
        };
        let done = published && hosted && votes;
        update(&mut |step| {
            step.leader_addr.clone_from(&seen.addr);
            step.region = Some(region.clone());
            step.at_target = at_target.as_ref().and_then(|status| status.as_ref().ok()).cloned();
            step.done = done;
            step.say(why.clone());
        });
        if done {
            return way.note(Stage::ExpandTargetHosted, (step.store, step.peer), (at + 1, total));
        }
        if way.is_over() {
            break why;
        }
        way.pause().await;
    };
    Err(way.late(&format!("target #{} {}:{} is not there yet", at + 1, step.store, step.peer), &why))
}

/// Has the leader add the peer, unless the store has one. `settle` is told the id of the peer that it is.
async fn ask_for_peer(way: &Way<'_>, step: &Step, settle: &dyn Fn(u64)) -> Result<Seen> {
    let what = format!("add peer {} on store {}", step.peer, step.store);
    loop {
        let seen = way.leader().await?;
        let region = seen.region();
        if let Some(there) = region.peer_on_store(step.store) {
            if there.peer_id != step.peer {
                eprintln!(
                    "note: store {} has peer {} of region {} already; it is taken for {}:{}",
                    step.store, there.peer_id, way.region, step.store, step.peer
                );
                settle(there.peer_id);
            }
            return Ok(seen);
        }
        if let Some(other) = region.peer(step.peer) {
            let text = format!(
                "{what}: peer {} is the one on store {}; every peer has an id of its own",
                step.peer, other.store_id
            );
            return Err(Failure::new(Code::Refused, text).next("choose another id"));
        }
        let request = AddPeerRequest {
            region_id: way.region,
            store_id: step.store,
            peer_id: step.peer,
            ..AddPeerRequest::default()
        };
        match reach_status(way, way.admin(&seen.addr).add_peer(request)).await {
            Ok(()) => return way.leader().await,
            Err(status) => way.again(&what, &status).await?,
        }
    }
}

/// An order, in bounded time.
async fn reach_status<T>(
    way: &Way<'_>,
    call: impl Future<Output = std::result::Result<tonic::Response<T>, Status>> + Send,
) -> std::result::Result<(), Status> {
    match way.env.clock.timeout(CALL, call).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// Prints what became of one peer.
fn show_one(
    args: &OnePeer,
    global: &Global,
    mut object: Value,
    seen: &Seen,
    target: Option<&RegionRuntimeStatusResponse>,
) -> Result<u8> {
    let target = target.cloned().unwrap_or_default();
    object["addr"] = json!(seen.addr);
    object["region_id"] = json!(args.region);
    object["peer_id"] = json!(args.peer);
    object["leader_known"] = json!(true);
    object["leader_region"] = rows::region(&seen.region());
    object["target_known"] = json!(target.known);
    object["target_hosted"] = json!(target.hosted);
    object["waited"] = json!(!args.patience.wait.is_zero());
    if let Some(addr) = &args.target_addr {
        object["target_admin_addr"] = json!(addr);
    }
    let numbers =
        [("target_local_peer_id", target.local_peer_id), ("target_applied_index", target.applied_index)];
    rows::put_numbers(&mut object, numbers);
    let mut rows = Rows::default();
    rows.add("LeaderAddr", &seen.addr);
    if let Some(addr) = &args.target_addr {
        rows.add("TargetAdminAddr", addr);
    }
    rows.add("Region", args.region);
    if object.get("target_leader").is_some() {
        rows.add("TargetPeer", args.peer);
        rows.add("LeaderKnown", true);
        rows.add("LeaderPeer", seen.status.leader_peer_id);
        rows.add("TargetLeader", &object["target_leader"]);
    } else {
        rows.add("Peer", args.peer);
        rows.add("LeaderKnown", true);
        rows.add("TargetKnown", target.known);
        rows.add("TargetHosted", target.hosted);
    }
    rows.show(&object, global)?;
    Ok(0)
}

/// Takes a peer away. One that is not there is gone.
pub async fn remove_peer(env: &Env, args: &OnePeer, global: &Global) -> Result<u8> {
    let way = Way::new(env, &args.addr, args.region, &args.patience);
    let what = format!("remove peer {} of region {}", args.peer, args.region);
    way.note(Stage::RemovePeerStarted, (0, args.peer), (0, 0))?;
    let mut asked = false;
    let seen = loop {
        let seen = way.leader().await?;
        let region = seen.region();
        if region.peer(args.peer).is_none() {
            if !asked {
                eprintln!(
                    "note: nothing to do, region {} has no peer {} (it has {})",
                    args.region,
                    args.peer,
                    rows::peers_line(&region)
                );
            }
            break seen;
        }
        if region.peers.len() == 1 {
            return Err(Failure::new(Code::WouldLoseQuorum, format!("{what}: it is the only one"))
                .why("the region's data would be gone")
                .next("bring it to other stores first: nokv migrate expand"));
        }
        if region.leaving_peer_id == args.peer || (asked && args.patience.wait.is_zero()) {
            break seen;
        }
        let conf_version = region.epoch_pair().1;
        let request = RemovePeerRequest { region_id: args.region, peer_id: args.peer, conf_version };
        match reach_status(&way, way.admin(&seen.addr).remove_peer(request)).await {
            Ok(()) => asked = true,
            Err(status) => way.again(&what, &status).await?,
        }
    };
    let mut target = None;
    let mut last = seen;
    while !args.patience.wait.is_zero() {
        last = way.leader().await?;
        let left = last.region().peer(args.peer).is_none();
        let gone = match &args.target_addr {
            None => true,
            Some(addr) => match way.status_at(addr).await {
                Ok(status) => {
                    let gone = !(status.hosted && status.local_peer_id == args.peer);
                    target = Some(status);
                    gone
                }
                Err(_) => false,
            },
        };
        if left && gone {
            way.note(Stage::RemovePeerFinished, (0, args.peer), (0, 0))?;
            break;
        }
        if way.is_over() {
            let why = if left {
                "the region has let it go; its store still hosts it"
            } else {
                "the region still has it"
            };
            return Err(way.late(&format!("peer {} is not gone yet", args.peer), why));
        }
        way.pause().await;
    }
    show_one(args, global, json!({}), &last, target.as_ref())
}

/// Has another peer lead.
pub async fn transfer_leader(env: &Env, args: &OnePeer, global: &Global) -> Result<u8> {
    let way = Way::new(env, &args.addr, args.region, &args.patience);
    let what = format!("have peer {} lead region {}", args.peer, args.region);
    way.note(Stage::TransferLeaderStarted, (0, args.peer), (0, 0))?;
    let mut asked = false;
    let seen = loop {
        let seen = way.leader().await?;
        let region = seen.region();
        if region.peer(args.peer).is_none() {
            let text = format!("{what}: it has no such peer (it has {})", rows::peers_line(&region));
            return Err(Failure::new(Code::Refused, text).next("nokv regions"));
        }
        if seen.status.leader_peer_id == args.peer {
            if !asked {
                eprintln!("note: nothing to do, peer {} leads already", args.peer);
            }
            break seen;
        }
        if !seen.votes(args.peer) {
            let text = format!("{what}: it has no vote yet");
            return Err(Failure::new(Code::Refused, text)
                .why("it is still catching up with the others")
                .next("run the command again in a moment"));
        }
        if asked && args.patience.wait.is_zero() {
            break seen;
        }
        let request = TransferLeaderRequest { region_id: args.region, peer_id: args.peer };
        let status = match reach_status(&way, way.admin(&seen.addr).transfer_leader(request)).await {
            Ok(()) => Status::unavailable("it was asked to, and has not taken over yet"),
            Err(status) => status,
        };
        asked = true;
        if !args.patience.wait.is_zero() || status.code() != Grpc::Unavailable {
            way.again(&what, &status).await?;
        }
    };
    let mut target = None;
    while let (Some(addr), false) = (&args.target_addr, args.patience.wait.is_zero()) {
        if let Ok(status) = way.status_at(addr).await {
            let leads = status.leader && status.local_peer_id == args.peer;
            target = Some(status);
            if leads {
                break;
            }
        }
        if way.is_over() {
            return Err(
                way.late(&format!("peer {} leads", args.peer), &format!("{addr} does not say so yet"))
            );
        }
        way.pause().await;
    }
    way.note(Stage::TransferLeaderFinished, (0, args.peer), (0, 0))?;
    let leads = seen.status.leader_peer_id == args.peer;
    let object = json!({ "leader_peer_id": seen.status.leader_peer_id, "target_leader": leads });
    show_one(args, global, object, &seen, target.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> std::result::Result<Vec<Target>, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        targets(&texts).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn targets_are_read() {
        let all = read(&["2:201@127.0.0.1:20171", "3:301"]).unwrap();
        assert_eq!(all[0], Target { store: 2, peer: 201, addr: Some("127.0.0.1:20171".into()) });
        assert_eq!(all[1], Target { store: 3, peer: 301, addr: None });
    }

    #[test]
    fn a_wrong_target_is_named() {
        for text in ["2", "2:", ":2", "x:y", "2:201:3", "-1:2", "99999999999999999999:1"] {
            let said = read(&["3:301", text]).unwrap_err();
            assert_eq!(said, format!("target #2 '{text}': want <store>:<peer>[@addr]"));
        }
        assert!(read(&["0:1"]).unwrap_err().contains("ids begin at 1"));
        assert!(read(&["2:201@"]).unwrap_err().starts_with("target #1 '2:201@': "));
        assert!(read(&["2:201@host"]).unwrap_err().contains("has no port"));
        assert_eq!(read(&["2:201", "2:202"]).unwrap_err(), "target #2 '2:202': store 2 is given twice");
        assert_eq!(read(&["2:201", "3:201"]).unwrap_err(), "target #2 '3:201': peer 201 is given twice");
    }

    #[test]
    fn what_was_begun_is_told() {
        let args = Expand {
            addr: "h:1".into(),
            region: 1,
            target: Vec::new(),
            patience: Patience { workdir: None, wait: CALL, poll_interval: CALL },
            security: Default::default(),
        };
        let all = read(&["2:201", "3:301"]).unwrap();
        let mut steps: Vec<Step> = all.iter().map(Step::of).collect();
        let cause = || Failure::new(Code::Interrupted, "interrupted");
        assert_eq!(unfinished(&args, &steps, cause()).code(), Code::Interrupted);
        steps[0].done = true;
        steps[0].state = "hosted, applied 9, votes".into();
        let failure = unfinished(&args, &steps, cause());
        assert_eq!(failure.code(), Code::PartlyDone);
        assert_eq!(
            failure.message(),
            "1 of 2 targets done: interrupted\ntarget #1 2:201: hosted, applied 9, votes\ntarget #2 3:301: not begun"
        );
        assert!(failure.to_text().contains("rerun the same command to go on"));
    }
}
