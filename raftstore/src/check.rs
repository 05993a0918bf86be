//! Whether the replicas of a region hold the same.
//!
//! ```text
//! leader    entry i: "check"                                   in the log, so every replica has the same before it
//! replicas  keep an engine snapshot as of i, add up its rows   outside of the raft loop, at half speed
//! leader    asks all for what they added up as of i            the same on more than half of the peers is right
//!           entry: "peer p is in quarantine"                   for whoever answered otherwise
//! ```
//!
//! Checksums of blocks, logs and messages find what disks and networks do to bytes. This finds what they cannot: bytes
//! that were wrong when they were written. A peer in quarantine serves no reads, hands leadership over when it gets it, and
//! brings nobody up to date; the scheduler replaces it. The note is part of the region, so it lasts until the peer is gone.
//!
//! Without a majority nobody is blamed, and people are told. A replica that came past i by a snapshot has nothing to say.

use crate::catalog::Gc;
use crate::machine::{Proposal, Reply};
use crate::region::{Region, lock};
use crate::snapshot::rows::Sum;
use crate::snapshot::sum_slowly;
use crate::store::Shared;
use futures_util::future::join_all;
use nokv_engine::Snapshot;
use nokv_env::{Channel, ClockExt, Fact, Instant, Peer};
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{
    CheckRegionResponse, CheckedReplica, ReplicaChecksumRequest, ReplicaChecksumResponse, ReplicaVerdict,
};
use nokv_proto::meta::v1::{RegionDescriptor, RegionPeer};
use nokv_proto::raft::v1::{CheckCommand, QuarantineCommand};
use nokv_replica::Resolver;
use prost::Message;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tonic::Status;

/// Results that are remembered, of all regions.
const KEPT: usize = 64;
/// Regions that wait to be added up; of more nothing will be known.
const WAITING_MAX: usize = 16;
/// Between two questions to a replica that is still adding up.
const PAUSE: Duration = Duration::from_millis(100);
/// How long replicas may take, in times of what a request may take.
const PATIENCE: u32 = 100;

/// What is to be added up.
pub(crate) struct Job {
    /// This store's peer.
    pub(crate) peer: Peer,
    pub(crate) region: Arc<RegionDescriptor>,
    pub(crate) gc: Gc,
    pub(crate) index: u64,
    pub(crate) content: Snapshot,
}

/// What is to be added up on this store, and what came of it.
#[derive(Default)]
pub(crate) struct Checks {
    jobs: Mutex<VecDeque<Job>>,
    /// Region and index of what is being added up.
    under_way: Mutex<Option<(u64, u64)>>,
    /// Region and index, and the sum; oldest first.
    results: Mutex<VecDeque<(u64, u64, Sum)>>,
    bell: Notify,
}

impl Checks {
    /// Takes a region on.
    pub(crate) fn begin(&self, job: Job) {
        let mut jobs = lock(&self.jobs);
        if jobs.len() < WAITING_MAX {
            jobs.push_back(job);
            self.bell.notify_one();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        let next = jobs.pop_front();
        *lock(&self.under_way) = next.as_ref().map(|job| (job.region.region_id, job.index));
        next
    }

    /// `None`: it could not be read.
    fn done(&self, region: u64, index: u64, sum: Option<Sum>) {
        let mut results = lock(&self.results);
        results.extend(sum.map(|sum| (region, index, sum)));
        if results.len() > KEPT {
            results.pop_front();
        }
        *lock(&self.under_way) = None;
    }

    fn is_coming(&self, region: u64, index: u64) -> bool {
        let jobs = lock(&self.jobs);
        let waits = jobs.iter().any(|job| (job.region.region_id, job.index) == (region, index));
        waits || *lock(&self.under_way) == Some((region, index))
    }

    fn result(&self, region: u64, index: u64) -> Option<Sum> {
        let results = lock(&self.results);
        results.iter().find(|(id, at, _)| (*id, *at) == (region, index)).map(|(_, _, sum)| *sum)
    }
}

/// Adds up what there is, one region at a time, for ever.
pub(crate) async fn add_up(shared: &Shared) {
    loop {
        let Some(job) = shared.checks.next() else {
            shared.checks.bell.notified().await;
            continue;
        };
        let Job { peer, region, gc, index, content } = job;
        match sum_slowly(&shared.env, &content, &region.range()).await {
            Ok(rows) => {
                shared.env.fact(Fact::Rows { peer, index, digest: rows.digest() });
                let mut state = region.encode_to_vec();
                state.extend_from_slice(&gc.encode());
                shared.checks.done(region.region_id, index, Some(rows.and(&state, 0)));
            }
            // The engine tells of the damage itself.
            Err(error) => {
                tracing::error!(region = region.region_id, %error, "a check could not read");
                shared.checks.done(region.region_id, index, None);
            }
        }
    }
}

/// Checks the regions that are led here, one after the other, each once in a while; for ever.
pub(crate) async fn patrol(shared: &Shared) {
    let interval = shared.config.check_interval;
    if interval.is_zero() {
        return;
    }
    let mut last = 0;
    loop {
        let led: Vec<Arc<Region>> =
            shared.door.regions.all().into_iter().filter(|region| region.state().role.is_leader).collect();
        let next = led.iter().find(|region| region.id > last).or(led.first());
        shared.env.clock.sleep(interval / u32::try_from(led.len().max(1)).unwrap_or(u32::MAX)).await;
        let Some(next) = next else { continue };
        last = next.id;
        if let Err(error) = shared.check_region(last).await {
            tracing::debug!(region = last, %error, "not checked this time");
        }
    }
}

impl Shared {
    /// Compares the replicas of a region that is led here, and puts those into quarantine that differ from most.
    pub(crate) async fn check_region(&self, region_id: u64) -> Result<CheckRegionResponse, Status> {
        let missing = || Status::not_found(format!("region {region_id} is not here"));
        let region = self.door.regions.get(region_id).ok_or_else(missing)?;
        let state = region.state();
        if !state.role.is_leader {
            return Err(Status::failed_precondition(format!("region {region_id} is not led here")));
        }
        let check = CheckCommand { check_id: self.env.clock.now().0 };
        let Reply::Checked(index) = self.propose_for(&region, Proposal::Check(check)).await? else {
            return Err(Status::unavailable(format!(
                "region {region_id} is changing; it may be checked later"
            )));
        };
        let until = self.env.clock.now() + self.config.command_timeout * PATIENCE;
        let peers = state.descriptor.peers.clone();
        let sums = join_all(peers.iter().map(|peer| self.sum_of(region_id, *peer, index, until))).await;
        let found: Vec<(RegionPeer, Option<Sum>)> = peers.into_iter().zip(sums).collect();
        let right = majority(&found);
        self.judge(&region, index, &found, right).await;
        // Those who agree do not differ, also where too few answered to blame anybody.
        let shown = right.or_else(|| unanimous(&found));
        let replicas = found.iter().map(|(peer, sum)| row(*peer, *sum, shown)).collect();
        Ok(CheckRegionResponse { index, replicas, region: Some((*region.descriptor()).clone()) })
    }

    /// What follows from what replicas hold.
    async fn judge(
        &self,
        region: &Arc<Region>,
        index: u64,
        found: &[(RegionPeer, Option<Sum>)],
        right: Option<Sum>,
    ) {
        let known = found.iter().filter_map(|(peer, sum)| sum.map(|sum| (peer, sum)));
        let others: Vec<_> = known.filter(|(_, sum)| Some(*sum) != right).collect();
        match right {
            Some(_) if others.is_empty() && found.iter().all(|(_, sum)| sum.is_some()) => {
                self.env.probe("store.check.equal");
            }
            Some(_) => {}
            None if others.iter().any(|(_, sum)| *sum != others[0].1) => {
                self.env.probe("store.check.undecided");
                let id = region.id;
                tracing::error!(region = id, index, ?found, "replicas differ, and none is like most others");
                return;
            }
            None => self.env.probe("store.check.incomplete"),
        }
        for (peer, _) in others.into_iter().filter(|_| right.is_some()) {
            self.env.probe("store.check.differs");
            let quarantine = QuarantineCommand { peer_id: peer.peer_id, index };
            if let Err(error) = self.propose_for(region, Proposal::Quarantine(quarantine)).await {
                // The next check finds it again.
                tracing::error!(region = region.id, ?peer, %error, "a replica that differs goes on for now");
            }
        }
    }

    async fn propose_for(&self, region: &Region, proposal: Proposal) -> Result<Reply, Status> {
        let proposed = self.raft.propose(region.group(), proposal);
        match self.env.clock.timeout(self.config.command_timeout, proposed).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(Status::failed_precondition(format!("region {}: {error}", region.id))),
            Err(_) => Err(Status::deadline_exceeded("not done in time; it may still happen")),
        }
    }

    /// What a replica added up. `None`: it has nothing to say, or not in time.
    async fn sum_of(&self, region_id: u64, peer: RegionPeer, index: u64, until: Instant) -> Option<Sum> {
        let mut silence = 0;
        loop {
            let request = ReplicaChecksumRequest { region_id, index };
            let answer = if peer.store_id == self.config.store_id {
                Some(self.replica_checksum(&request))
            } else {
                self.ask_for_sum(peer.store_id, request).await
            };
            match answer {
                Some(reply) if reply.known => return Some(Sum { rows: reply.rows, crc: reply.crc32c }),
                Some(reply) if reply.never => return None,
                Some(_) => silence = 0,
                // A store that is down has nothing to say soon.
                None => silence += 1,
            }
            let is_gone = self.door.regions.get(region_id).is_none_or(|region| !region.state().is_hosted());
            if silence > 3 || is_gone || self.env.clock.now() > until {
                return None;
            }
            self.env.clock.sleep(PAUSE).await;
        }
    }

    async fn ask_for_sum(
        &self,
        store: u64,
        request: ReplicaChecksumRequest,
    ) -> Option<ReplicaChecksumResponse> {
        let address = self.addresses.address(store)?;
        let mut client: RaftAdminClient<Channel> = RaftAdminClient::new(self.env.net.connect(&address));
        let asked = client.replica_checksum(request);
        Some(self.env.clock.timeout(self.config.command_timeout, asked).await.ok()?.ok()?.into_inner())
    }

    /// What this store's replica held as of an entry, or that this is not known yet, or never will be.
    pub(crate) fn replica_checksum(&self, request: &ReplicaChecksumRequest) -> ReplicaChecksumResponse {
        let (region_id, index) = (request.region_id, request.index);
        // Whoever has applied the entry has taken the region on before. So the position is read first.
        let state = self.door.regions.get(region_id).map(|region| region.state());
        let is_past = state.is_some_and(|state| state.is_hosted() && state.applied.index >= index);
        let is_coming = self.checks.is_coming(region_id, index);
        let sum = self.checks.result(region_id, index);
        let Sum { rows, crc } = sum.unwrap_or_default();
        let never = is_past && !is_coming && sum.is_none();
        ReplicaChecksumResponse { known: sum.is_some(), rows, crc32c: crc, never }
    }
}

/// What more than half of the peers hold, if there is such a thing.
fn majority(found: &[(RegionPeer, Option<Sum>)]) -> Option<Sum> {
    let mut votes: BTreeMap<(u64, u32), usize> = BTreeMap::new();
    for sum in found.iter().filter_map(|(_, sum)| *sum) {
        *votes.entry((sum.rows, sum.crc)).or_default() += 1;
    }
    let most = votes.into_iter().find(|(_, count)| count * 2 > found.len());
    most.map(|((rows, crc), _)| Sum { rows, crc })
}

/// What all who answered hold, if that is the same.
fn unanimous(found: &[(RegionPeer, Option<Sum>)]) -> Option<Sum> {
    let mut known = found.iter().filter_map(|(_, sum)| *sum);
    let first = known.next()?;
    known.all(|sum| sum == first).then_some(first)
}

fn row(peer: RegionPeer, sum: Option<Sum>, right: Option<Sum>) -> CheckedReplica {
    let verdict = match sum {
        None => ReplicaVerdict::Unknown,
        Some(_) if sum == right => ReplicaVerdict::Equal,
        Some(_) => ReplicaVerdict::Differs,
    };
    let Sum { rows, crc } = sum.unwrap_or_default();
    CheckedReplica {
        peer_id: peer.peer_id,
        store_id: peer.store_id,
        verdict: verdict.into(),
        rows,
        crc32c: crc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_of_all_peers_are_right() {
        let sum = |crc| Some(Sum { rows: 1, crc });
        let peers =
            |sums: &[Option<Sum>]| sums.iter().map(|sum| (RegionPeer::default(), *sum)).collect::<Vec<_>>();
        assert_eq!(majority(&peers(&[sum(7), sum(7), sum(8)])), sum(7));
        assert_eq!(majority(&peers(&[sum(7), None, sum(7)])), sum(7));
        assert_eq!(majority(&peers(&[sum(7), None, sum(8)])), None, "either may be wrong");
        assert_eq!(majority(&peers(&[sum(7), None, None])), None, "one knows nothing of the others");
        assert_eq!(majority(&peers(&[sum(7), sum(7), sum(8), sum(8)])), None);
    }

    #[test]
    fn who_agrees_with_all_that_answered_does_not_differ() {
        use ReplicaVerdict::{Differs, Equal, Unknown};
        let sum = |crc| Some(Sum { rows: 1, crc });
        let verdicts = |sums: &[Option<Sum>]| {
            let found: Vec<_> = sums.iter().map(|sum| (RegionPeer::default(), *sum)).collect();
            let shown = majority(&found).or_else(|| unanimous(&found));
            found.iter().map(|(peer, sum)| row(*peer, *sum, shown).verdict()).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(&[sum(7), sum(7), None, None]), [Equal, Equal, Unknown, Unknown]);
        assert_eq!(verdicts(&[sum(7), None, None]), [Equal, Unknown, Unknown]);
        assert_eq!(verdicts(&[sum(7), sum(8), None]), [Differs, Differs, Unknown]);
        assert_eq!(verdicts(&[sum(7), sum(7), sum(8)]), [Equal, Equal, Differs]);
    }
}
