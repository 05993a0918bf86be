//! `nokv region`: what an operator does to one region of a live cluster.

use crate::args::client::{
    Region, RegionAddPeer, RegionForgetEvent, RegionMerge, RegionOnStore, RegionSplit,
};
use crate::args::{Format, Global};
use crate::cmd::reach::NoAnswer;
use crate::cmd::{carry, compare, kv, reach, regions};
use crate::errors::{Code, Failure, Result};
use crate::output::{Out, quote};
use nokv_env::{ClockExt, Env, Instant};
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{
    AddPeerRequest, ForgetRootEventRequest, MergeRegionsRequest, RegionRuntimeStatusRequest,
    RemovePeerRequest, SplitRegionRequest, TransferLeaderRequest,
};
use nokv_proto::coordinator::v1::RegionRoute;
use nokv_proto::meta::v1::RegionDescriptor;
use serde_json::json;
use std::time::Duration;
use tonic::{Code as Grpc, Status};

/// Between two looks at a region that is changing.
const PAUSE: Duration = Duration::from_millis(200);

/// Carries out the verb.
pub async fn run(env: &Env, command: &Region, global: &Global) -> Result<u8> {
    match command {
        Region::Split(args) => split(env, args, global).await,
        Region::Merge(args) => merge(env, args, global).await,
        Region::TransferLeader(args) => transfer_leader(env, args, global).await,
        Region::AddPeer(args) => add_peer(env, args, global).await,
        Region::RemovePeer(args) => remove_peer(env, args, global).await,
        Region::Check(args) => compare::run(env, args, global).await,
        Region::Export(args) => carry::export(env, args, global).await,
        Region::Import(args) => carry::import(env, args, global).await,
        Region::ForgetEvent(args) => forget_event(env, args, global).await,
    }
}

/// The way to the stores that lead regions.
pub(super) struct Leaders {
    env: Env,
    reach: reach::Reach,
    give_up: Instant,
    timeout: Duration,
}

impl Leaders {
    pub(super) fn new(env: &Env, cluster: &crate::args::client::Cluster) -> Result<Self> {
        let give_up = env.clock.now() + cluster.timeout;
        Ok(Self { env: env.clone(), reach: reach::reach(env, cluster)?, give_up, timeout: cluster.timeout })
    }

    /// The region that `wanted` picks.
    pub(super) async fn find(
        &self,
        wanted: impl Fn(&RegionDescriptor) -> bool,
    ) -> Result<Option<RegionRoute>> {
        let routes = self.reach.client.list_regions().await.map_err(|error| self.reach.failure(&error))?;
        Ok(routes.into_iter().find(|route| route.descriptor.as_ref().is_some_and(&wanted)))
    }

    /// The region with an id.
    pub(super) async fn region(&self, id: u64) -> Result<RegionRoute> {
        let found = self.find(|region| region.region_id == id).await?;
        found
            .ok_or_else(|| Failure::new(Code::RegionNotFound, format!("no region {id}")).next("nokv regions"))
    }

    /// Every region.
    pub(super) async fn ids(&self) -> Result<Vec<u64>> {
        let routes = self.reach.client.list_regions().await.map_err(|error| self.reach.failure(&error))?;
        Ok(routes.into_iter().filter_map(|route| Some(route.descriptor?.region_id)).collect())
    }

    /// The store that leads the region of `route`, and its address, once both are known.
    pub(super) async fn leader(&self, route: &RegionRoute) -> Result<Option<(u64, String)>> {
        let Some(store) = route.leader.map(|peer| peer.store_id).filter(|store| *store != 0) else {
            return Ok(None);
        };
        self.store(store).await
    }

    /// A store and its address, once that is known.
    pub(super) async fn store(&self, store: u64) -> Result<Option<(u64, String)>> {
        let stores = self.reach.client.list_stores().await.map_err(|error| self.reach.failure(&error))?;
        let known = stores.into_iter().find(|info| info.store_id == store && !info.address.is_empty());
        Ok(known.map(|info| (store, info.address)))
    }

    /// The same. While it is not known it waits a moment, and says `None`.
    pub(super) async fn leader_now(&self, what: &str, route: &RegionRoute) -> Result<Option<(u64, String)>> {
        let leader = self.leader(route).await?;
        if leader.is_none() {
            self.again(what, &Status::unavailable("the region has no known leader")).await?;
        }
        Ok(leader)
    }

    /// How long the command may still take.
    pub(super) fn left(&self) -> Duration {
        self.give_up.since(self.env.clock.now())
    }

    /// Whether the command is worth another try after `cause`; the failure when time is up or it never will be.
    pub(super) async fn again(&self, what: &str, cause: &Status) -> Result {
        if let Some(failure) = NoAnswer::from(cause).about_trust(what) {
            return Err(failure);
        }
        let passing = [Grpc::FailedPrecondition, Grpc::Unavailable, Grpc::Aborted, Grpc::NotFound];
        if !passing.contains(&cause.code()) {
            let code =
                if cause.code() == Grpc::DeadlineExceeded { Code::OutcomeUnknown } else { Code::Refused };
            return Err(Failure::new(code, format!("{what}: {}", cause.message())).next("nokv regions"));
        }
        if self.env.clock.now() >= self.give_up {
            let after = crate::args::values::show_duration(self.timeout);
            let would_lose = cause.message().contains("would lose quorum");
            let code = if would_lose { Code::WouldLoseQuorum } else { Code::Unavailable };
            return Err(Failure::new(code, format!("{what}: not within {after}"))
                .why(cause.message())
                .next("nokv status"));
        }
        self.env.clock.sleep(PAUSE).await;
        Ok(())
    }
}

async fn split(env: &Env, args: &RegionSplit, global: &Global) -> Result<u8> {
    let key = kv::key(&args.key, args.hex)?;
    let leaders = Leaders::new(env, &args.cluster)?;
    let what = format!("split at {}", quote(&key));
    loop {
        let found = leaders.find(|region| region.contains(&key)).await?;
        let Some((route, region)) = found.and_then(|route| Some((route.clone(), route.descriptor?))) else {
            leaders.again(&what, &Status::unavailable("no region with that key is known yet")).await?;
            continue;
        };
        if region.start_key == key {
            eprintln!("note: nothing to do, a region begins there");
            return show(&[(region, None)], global);
        }
        let Some((_, address)) = leaders.leader_now(&what, &route).await? else { continue };
        let request = SplitRegionRequest { region_id: region.region_id, split_key: key.clone() };
        match RaftAdminClient::new(env.net.connect(&address)).split_region(request).await {
            Ok(halves) => {
                let halves = halves.into_inner();
                let both = [halves.left, halves.right].into_iter().flatten();
                return show(&both.map(|region| (region, None)).collect::<Vec<_>>(), global);
            }
            Err(status) => leaders.again(&what, &status).await?,
        }
    }
}

async fn merge(env: &Env, args: &RegionMerge, global: &Global) -> Result<u8> {
    let leaders = Leaders::new(env, &args.cluster)?;
    let (source, target) = (args.source, args.target);
    let what = format!("merge region {source} into region {target}");
    let request = MergeRegionsRequest { source_region_id: source, target_region_id: target };
    // The region that a try left behind: asked in vain, or in doubt, the next look tells whether it is gone.
    let mut known = leaders.region(source).await?.descriptor.unwrap_or_default();
    leaders.region(target).await?;
    loop {
        let Some(route) = leaders.find(|region| region.region_id == source).await? else {
            let heir = leaders.find(|region| region.contains(&known.start_key)).await?;
            return show(
                &heir
                    .and_then(|route| route.descriptor)
                    .map(|region| (region, None))
                    .into_iter()
                    .collect::<Vec<_>>(),
                global,
            );
        };
        known = route.descriptor.clone().unwrap_or(known);
        let Some((_, address)) = leaders.leader(&route).await? else {
            let text = format!("region {source} has no known leader");
            leaders.again(&what, &Status::unavailable(text)).await?;
            continue;
        };
        // The store that leads the source hands it over first where the target is led elsewhere.
        match RaftAdminClient::new(env.net.connect(&address)).merge_regions(request).await {
            Ok(reply) => {
                let merged = reply.into_inner().region;
                return show(&merged.map(|region| (region, None)).into_iter().collect::<Vec<_>>(), global);
            }
            Err(status) => leaders.again(&what, &status).await?,
        }
    }
}

async fn transfer_leader(env: &Env, args: &RegionOnStore, global: &Global) -> Result<u8> {
    let leaders = Leaders::new(env, &args.cluster)?;
    let what = format!("move the leader of region {} to store {}", args.region, args.store);
    loop {
        let route = leaders.region(args.region).await?;
        let region = route.descriptor.clone().unwrap_or_default();
        let Some(peer) = region.peer_on_store(args.store) else {
            let text = format!("region {} has no peer on store {}", args.region, args.store);
            return Err(Failure::new(Code::Refused, text).next("nokv regions"));
        };
        let Some((leader, address)) = leaders.leader_now(&what, &route).await? else { continue };
        if leader == args.store {
            return show(&[(region, Some(leader))], global);
        }
        let request = TransferLeaderRequest { region_id: args.region, peer_id: peer.peer_id };
        let asked = RaftAdminClient::new(env.net.connect(&address)).transfer_leader(request).await;
        let seen = asked.err().unwrap_or_else(|| Status::unavailable("the leader has not moved yet"));
        leaders.again(&what, &seen).await?;
    }
}

async fn add_peer(env: &Env, args: &RegionAddPeer, global: &Global) -> Result<u8> {
    let RegionOnStore { region: region_id, store: store_id, cluster } = &args.on;
    let (region_id, store_id) = (*region_id, *store_id);
    let leaders = Leaders::new(env, cluster)?;
    let what = format!("add a peer of region {region_id} on store {store_id}");
    let stores = leaders.reach.client.list_stores().await.map_err(|error| leaders.reach.failure(&error))?;
    if !stores.iter().any(|info| info.store_id == store_id) {
        let text = format!("no store {store_id} has joined the cluster");
        return Err(Failure::new(Code::Refused, text).next("nokv serve --store-id ID ..."));
    }
    loop {
        let route = leaders.region(region_id).await?;
        let region = route.descriptor.clone().unwrap_or_default();
        let Some(replaced_peer_id) = replaced(&region, args)? else {
            eprintln!("note: nothing to do, region {region_id} is on store {store_id} already");
            let leader = leaders.leader(&route).await?.map(|(store, _)| store);
            return show(&[(region, leader)], global);
        };
        let peer_id = args.peer.unwrap_or_default();
        let request = AddPeerRequest { region_id, store_id, peer_id, replaced_peer_id };
        let Some((leader, address)) = leaders.leader_now(&what, &route).await? else { continue };
        let mut admin = RaftAdminClient::new(env.net.connect(&address));
        // Asked again it does nothing; so the answer also says how things are.
        let region = match admin.add_peer(request).await {
            Ok(reply) => reply.into_inner().region.unwrap_or_default(),
            Err(status) => {
                leaders.again(&what, &status).await?;
                continue;
            }
        };
        let status = RegionRuntimeStatusRequest { region_id };
        let seen = match admin.region_runtime_status(status).await {
            Ok(reply) => {
                let learners = reply.into_inner().learner_peer_ids;
                let peer = region.peer_on_store(store_id).map(|peer| peer.peer_id);
                let votes = peer.is_some_and(|peer| !learners.contains(&peer));
                if votes && region.peer(replaced_peer_id).is_none() {
                    return show(&[(region, Some(leader))], global);
                }
                if votes && region.leaving_peer_id != replaced_peer_id {
                    let place = match region.leaving_peer_id {
                        0 => "nobody's place".to_owned(),
                        other => format!("the place of peer {other}"),
                    };
                    let text = format!(
                        "region {region_id} has a peer on store {store_id} by other hands, which takes {place}"
                    );
                    return Err(Failure::new(Code::Refused, text).next("nokv transitions"));
                }
                Status::unavailable(if votes {
                    "the old peer has lost its vote; it goes by itself"
                } else {
                    "the new peer is still catching up; it goes on by itself"
                })
            }
            Err(status) => status,
        };
        leaders.again(&what, &seen).await?;
    }
}

/// The peer whose place the new one takes, 0 if nobody's; `None`: that has happened already.
fn replaced(region: &RegionDescriptor, args: &RegionAddPeer) -> Result<Option<u64>> {
    let Some(old_store) = args.in_place_of else { return Ok(Some(0)) };
    if old_store == args.on.store {
        let text = format!("a peer cannot take its own place on store {old_store}");
        return Err(Failure::new(Code::Usage, text).next("nokv regions"));
    }
    match (region.peer_on_store(old_store), region.peer_on_store(args.on.store)) {
        (Some(peer), _) => Ok(Some(peer.peer_id)),
        (None, Some(_)) => Ok(None),
        (None, None) => {
            let text = format!("region {} has no peer on store {old_store}", region.region_id);
            Err(Failure::new(Code::Refused, text).next("nokv regions"))
        }
    }
}

async fn remove_peer(env: &Env, args: &RegionOnStore, global: &Global) -> Result<u8> {
    let leaders = Leaders::new(env, &args.cluster)?;
    let what = format!("remove the peer of region {} on store {}", args.region, args.store);
    loop {
        let route = leaders.region(args.region).await?;
        let region = route.descriptor.clone().unwrap_or_default();
        let Some(peer) = region.peer_on_store(args.store) else {
            eprintln!("note: nothing to do, store {} has no peer of region {}", args.store, args.region);
            let leader = leaders.leader(&route).await?.map(|(store, _)| store);
            return show(&[(region, leader)], global);
        };
        let Some((leader, address)) = leaders.leader_now(&what, &route).await? else { continue };
        // Somebody else may be taking peers away, too: what is asked is for the region as it was seen.
        let conf_version = region.epoch_pair().1;
        let request = RemovePeerRequest { region_id: args.region, peer_id: peer.peer_id, conf_version };
        match RaftAdminClient::new(env.net.connect(&address)).remove_peer(request).await {
            Ok(reply) => {
                return show(&[(reply.into_inner().region.unwrap_or_default(), Some(leader))], global);
            }
            Err(status) => leaders.again(&what, &status).await?,
        }
    }
}

async fn forget_event(env: &Env, args: &RegionForgetEvent, global: &Global) -> Result<u8> {
    let mut admin = RaftAdminClient::new(env.net.connect(&args.addr));
    let request = ForgetRootEventRequest { event_number: args.event };
    let asked = env.clock.timeout(args.timeout, admin.forget_root_event(request)).await;
    let forgotten = match asked {
        Ok(Ok(reply)) => reply.into_inner().transition_id,
        Ok(Err(status)) if matches!(status.code(), Grpc::FailedPrecondition | Grpc::NotFound) => {
            let next = format!("nokv execution --addr {}", args.addr);
            return Err(Failure::new(Code::Refused, status.message().to_owned()).next(next));
        }
        Ok(Err(status)) => {
            let distrusted = NoAnswer::from(&status).about_trust(&args.addr);
            return Err(distrusted.unwrap_or_else(|| unreachable_store(&args.addr, status.message())));
        }
        Err(_) => return Err(unreachable_store(&args.addr, "no answer in time")),
    };
    let mut out = Out::new();
    match global.format() {
        Format::Plain => out.line(&format!("event {} is never told: {forgotten}", args.event))?,
        _ => out.json(&json!({ "event": args.event, "transition_id": forgotten }))?,
    }
    out.flush()?;
    Ok(0)
}

fn unreachable_store(addr: &str, why: &str) -> Failure {
    Failure::new(Code::Unavailable, format!("{addr}: {why}")).next("nokv status")
}

/// Prints regions, each with its leader where that is known.
pub(super) fn show(rows: &[regions::Row], global: &Global) -> Result<u8> {
    let mut out = Out::new();
    match global.format() {
        Format::Plain => rows.iter().try_for_each(|(region, leader)| {
            let leader = leader.map(|store| format!(" leader=store-{store}")).unwrap_or_default();
            out.line(&format!("{}{leader}", regions::line(region)))
        })?,
        _ => {
            let regions: Vec<_> =
                rows.iter().map(|(region, leader)| regions::to_json(region, *leader)).collect();
            out.json(&json!({ "regions": regions }))?;
        }
    }
    out.flush()?;
    Ok(0)
}
