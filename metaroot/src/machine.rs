//! The state machine under raft: commands in, facts out, checkpoints beside.
//!
//! Everything lives in memory; a checkpoint now and then makes a prefix of the log unnecessary. What is applied
//! is shared with the readers in one place ([`Shared`]) and never held across an await.

use crate::image::Image;
use crate::lease::LeaseWatch;
use crate::state::{Outcome, Reply, RootState};
use crate::workdir::Workdir;
use bytes::Bytes;
use nokv_env::{Authority, BoxFuture, Env, Fact, Instant, Region};
use nokv_proto::meta::v1::root_command::Command;
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{
    RegionDescriptor, RootCommand, RootCoordinatorLeaseCommandKind, RootCursor, RootDutyFrontier, RootImage,
};
use nokv_replica::{Applied, ConfChangeInfo, Fatal, GroupId, MachineSnapshot, Role};
use prost::Message;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The one raft group of the meta-root.
pub(crate) const GROUP: GroupId = GroupId(1);

/// Ids of clusters have so many bits fewer than a word: programs that count in floating point keep them whole.
const CLUSTER_ID_UNUSED: u32 = 16;

/// What has been applied, for the service to read.
pub(crate) struct Shared {
    core: Mutex<Core>,
    /// Woken after every event.
    pub(crate) changed: Notify,
}

/// The machine's memory.
pub(crate) struct Core {
    pub(crate) image: Image,
    watch: LeaseWatch,
    /// Generation of the newest grant that was reported.
    reported: u64,
    /// The authority that was told to whoever watches.
    told: Authority,
    /// The cluster epoch whose regions were told.
    told_epoch: u64,
}

/// Which coordinator's numbers count in `state`.
fn authority(state: &RootState) -> Authority {
    let (ids, timestamps) = state.fences();
    let protocol = state.protocol();
    let (lease, seal) = (protocol.lease.unwrap_or_default(), protocol.seal.unwrap_or_default());
    let closure = protocol.closure.filter(|closure| closure.seal_generation == seal.cert_generation);
    Authority {
        generation: lease.cert_generation,
        live: state.live_lease().is_some(),
        ids,
        timestamps,
        inherited: by_duty(&lease.handoff_frontiers),
        sealed: seal.cert_generation,
        consumed: by_duty(&seal.consumed_frontiers),
        closed_by: closure.map_or(0, |closure| closure.successor_generation),
    }
}

/// The frontiers of ids, timestamps and routes.
fn by_duty(frontiers: &[RootDutyFrontier]) -> [u64; 3] {
    [1, 2, 4].map(|duty| {
        frontiers.iter().find(|frontier| frontier.duty_mask == duty).map_or(0, |found| found.frontier)
    })
}

impl Shared {
    /// A node that begins with `image`.
    pub(crate) fn new(image: Image, now: Instant) -> Self {
        let watch = LeaseWatch::restart(image.state.lease(), now);
        Self {
            core: Mutex::new(Core { image, watch, reported: 0, told: Authority::default(), told_epoch: 0 }),
            changed: Notify::new(),
        }
    }

    /// The machine's memory. Short sections only.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Decides on the leader whether a command goes into the log, and with what.
    ///
    /// Only a request for a lease that somebody else holds is answered here: whether that lease has run out is
    /// a question of time, and time does not exist in the log.
    fn prepare(&self, mut command: RootCommand, now: Instant) -> Result<RootCommand, Reply> {
        let Some(Command::Lease(lease)) = &mut command.command else { return Ok(command) };
        (lease.takeover_of_generation, lease.observed_renewals) = (0, 0);
        let Some(wish) = &lease.command else { return Ok(command) };
        let Some(current) = self.image.state.live_lease() else { return Ok(command) };
        if wish.kind() != RootCoordinatorLeaseCommandKind::Issue || current.holder_id == wish.holder_id {
            return Ok(command);
        }
        if !self.watch.has_run_out(current, now) {
            return Err(Reply::Lease { protocol: Box::new(self.image.state.protocol()), granted: false });
        }
        (lease.takeover_of_generation, lease.observed_renewals) = (current.cert_generation, current.renewals);
        Ok(command)
    }

    fn apply(&mut self, at: RootCursor, command: &RootCommand, now: Instant) -> Outcome {
        let outcome = self.image.state.apply(at.index, at.term, command);
        self.image.tail.push(&outcome.events);
        self.image.applied = at;
        self.watch.observe(self.image.state.lease(), now);
        outcome
    }

    /// The regions, if they changed since the last call.
    fn new_regions(&mut self) -> Option<Vec<Region>> {
        let state = &self.image.state;
        let epoch = state.cluster_epoch();
        let changed = std::mem::replace(&mut self.told_epoch, epoch) != epoch;
        changed.then(|| state.regions().map(told_region).collect())
    }

    /// The authority, if it changed since the last call.
    fn new_authority(&mut self) -> Option<Authority> {
        let now = authority(&self.image.state);
        (std::mem::replace(&mut self.told, now) != now).then_some(now)
    }

    /// A lease generation that was granted since the last call.
    fn new_grant(&mut self) -> Option<(String, u64)> {
        let lease = self.image.state.lease().filter(|lease| lease.cert_generation != self.reported)?;
        let grant = (lease.holder_id.clone(), lease.cert_generation);
        self.reported = grant.1;
        Some(grant)
    }
}

/// The machine as the raft driver sees it.
pub(crate) struct Machine {
    env: Env,
    node_id: u64,
    voters: Vec<u64>,
    workdir: Workdir,
    shared: Arc<Shared>,
    /// Applied index in the newest checkpoint.
    durable: u64,
    checkpoint_entries: u64,
    tail_events: usize,
}

impl Machine {
    pub(crate) fn new(env: &Env, config: &crate::Config, workdir: Workdir, shared: Arc<Shared>) -> Self {
        let durable = shared.lock().image.applied.index;
        for id in [0, shared.lock().image.state.cluster_id()] {
            // Nobody has said anything else to a network that was made for this process.
            let _ = env.net.identify(id);
        }
        Self {
            env: env.clone(),
            node_id: config.node_id,
            voters: config.peers.keys().copied().collect(),
            workdir,
            shared,
            durable,
            checkpoint_entries: config.checkpoint_entries,
            tail_events: config.tail_events,
        }
    }

    /// From the first event on this node speaks for its cluster only.
    fn identify(&self) -> Result<(), Fatal> {
        match self.shared.lock().image.state.cluster_id() {
            0 => Ok(()),
            id => self.env.net.identify(id).map_err(Fatal),
        }
    }

    fn after_apply(&mut self, applied: u64) -> Result<(), Fatal> {
        self.identify()?;
        if let Some((holder, generation)) = self.shared.lock().new_grant() {
            self.env.probe("metaroot.lease.granted");
            self.env.fact(Fact::Lease { node: self.node_id, holder, generation });
        }
        self.tell_changes(applied);
        let due = applied.saturating_sub(self.durable) >= self.checkpoint_entries;
        if due || self.env.chance("metaroot.checkpoint.early", 0.01) {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// What this entry changed, for whoever watches.
    fn tell_changes(&self, index: u64) {
        if !self.env.watching() {
            return;
        }
        let (authority, regions) = {
            let mut core = self.shared.lock();
            (core.new_authority(), core.new_regions())
        };
        let node = self.node_id;
        if let Some(now) = authority {
            self.env.fact(Fact::Authority { node, index, now });
        }
        if let Some(regions) = regions {
            self.env.fact(Fact::Regions { node, index, regions });
        }
    }

    fn checkpoint(&mut self) -> Result<(), Fatal> {
        let image = self.shared.lock().image.to_message();
        self.workdir.write_checkpoint(&image).map_err(Fatal::new)?;
        self.durable = image.applied.unwrap_or_default().index;
        self.env.probe("metaroot.checkpoint");
        Ok(())
    }

    fn replace(&mut self, snapshot: &MachineSnapshot) -> Result<(), Fatal> {
        let message = RootImage::decode(snapshot.data.clone())
            .map_err(|error| Fatal(format!("the snapshot of the meta-root is damaged: {error}")))?;
        let mut image = Image::from_message(message, self.tail_events);
        image.applied = RootCursor { term: snapshot.term, index: snapshot.index };
        self.workdir.write_checkpoint(&image.to_message()).map_err(Fatal::new)?;
        self.durable = image.applied.index;
        let mut core = self.shared.lock();
        core.image = image;
        core.watch = LeaseWatch::restart(core.image.state.lease(), self.env.clock.now());
        drop(core);
        self.identify()?;
        self.shared.changed.notify_waiters();
        self.env.probe("metaroot.snapshot.installed");
        Ok(())
    }
}

fn told_region(region: &RegionDescriptor) -> Region {
    let epoch = region.epoch.unwrap_or_default();
    Region {
        id: region.region_id,
        version: epoch.version,
        conf_version: epoch.conf_version,
        start: region.start_key.to_vec(),
        end: region.end_key.to_vec(),
    }
}

impl nokv_replica::Machine for Machine {
    type Proposal = RootCommand;
    type Reply = Reply;

    fn propose(
        &mut self,
        _group: GroupId,
        _term: u64,
        _index: u64,
        command: RootCommand,
    ) -> Result<Bytes, Reply> {
        let now = self.env.clock.now();
        // A holder that is refused stops serving and asks again.
        if matches!(command.command, Some(Command::Lease(_)))
            && self.env.chance("metaroot.lease.refuse", 0.02)
        {
            let protocol = Box::new(self.shared.lock().image.state.protocol());
            return Err(Reply::Lease { protocol, granted: false });
        }
        let mut command = self.shared.lock().prepare(command, now)?;
        if self.shared.lock().image.state.cluster_id() == 0 {
            command.cluster_id = self.env.rng.pure("cluster-id", 0) >> CLUSTER_ID_UNUSED | 1;
        }
        Ok(command.encode_to_vec().into())
    }

    fn apply(&mut self, _group: GroupId, entry: Applied<'_>) -> Result<Reply, Fatal> {
        let command = RootCommand::decode(entry.data.clone()).map_err(|error| {
            Fatal(format!("meta-root log entry {} is not a root command: {error}", entry.index))
        })?;
        let at = RootCursor { term: entry.term, index: entry.index };
        let outcome = self.shared.lock().apply(at, &command, self.env.clock.now());
        if !outcome.events.is_empty() {
            self.shared.changed.notify_waiters();
        }
        for event in outcome.events.iter().filter_map(|committed| committed.event.as_ref()) {
            match &event.payload {
                Some(Payload::CoordinatorSeal(seal)) if seal.by_root => {
                    self.env.probe("metaroot.generation.ended");
                }
                Some(Payload::CoordinatorSeal(_)) => self.env.probe("metaroot.generation.sealed"),
                _ => {}
            }
        }
        self.after_apply(entry.index)?;
        Ok(outcome.reply)
    }

    fn apply_empty(&mut self, _group: GroupId, index: u64, term: u64) -> Result<(), Fatal> {
        self.shared.lock().image.applied = RootCursor { term, index };
        self.after_apply(index)
    }

    fn apply_conf_change(
        &mut self,
        _group: GroupId,
        index: u64,
        _term: u64,
        _change: ConfChangeInfo,
    ) -> Result<Reply, Fatal> {
        Err(Fatal(format!("meta-root log entry {index} changes the membership, which is fixed at birth")))
    }

    fn snapshot(&mut self, _group: GroupId) -> Result<MachineSnapshot, Fatal> {
        let image = self.shared.lock().image.clone();
        Ok(MachineSnapshot {
            index: image.applied.index,
            term: image.applied.term,
            voters: self.voters.clone(),
            data: image.to_message().encode_to_vec().into(),
            ..Default::default()
        })
    }

    fn install(&mut self, _group: GroupId, snapshot: MachineSnapshot) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move { self.replace(&snapshot) })
    }

    fn role_changed(&mut self, _group: GroupId, role: Role) {
        if role.is_leader {
            tracing::info!(node = self.node_id, term = role.term, "meta-root leader");
        }
    }

    fn durable_index(&mut self, _group: GroupId) -> u64 {
        self.durable
    }

    fn request_durable(&mut self, _group: GroupId) {
        let applied = self.shared.lock().image.applied.index;
        if applied <= self.durable {
            return;
        }
        if let Err(error) = self.checkpoint() {
            // The next checkpoint that is due will stop the node; until then the raft log only stays longer.
            tracing::warn!(%error, "meta-root checkpoint");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_proto::meta::v1::root_command::Lease;
    use nokv_proto::meta::v1::{RootCoordinatorLeaseCommand, root_command};

    const SECOND: u64 = 1_000_000_000;

    fn issue(holder: &str) -> RootCommand {
        let command = RootCoordinatorLeaseCommand {
            kind: RootCoordinatorLeaseCommandKind::Issue as i32,
            holder_id: holder.into(),
            ttl_millis: 1000,
            ..Default::default()
        };
        let lease = Lease { command: Some(command), ..Default::default() };
        RootCommand { command: Some(root_command::Command::Lease(lease)), cluster_id: 0 }
    }

    struct Leader {
        shared: Shared,
        index: u64,
    }

    impl Leader {
        fn new() -> Self {
            Leader { shared: Shared::new(Image::empty(10), Instant(0)), index: 0 }
        }

        /// Proposes at one time and applies at another; tells whether the lease was granted.
        fn asks(&mut self, command: RootCommand, proposed: u64, applied: u64) -> bool {
            let prepared = self.shared.lock().prepare(command, Instant(proposed));
            let reply = prepared.map_or_else(|reply| reply, |command| self.commit(&command, applied));
            matches!(reply, Reply::Lease { granted: true, .. })
        }

        fn commit(&mut self, command: &RootCommand, now: u64) -> Reply {
            self.index += 1;
            let at = RootCursor { term: 1, index: self.index };
            self.shared.lock().apply(at, command, Instant(now)).reply
        }
    }

    #[test]
    fn another_coordinator_waits_until_the_holder_was_silent_for_long_enough() {
        let mut leader = Leader::new();
        assert!(leader.asks(issue("a"), 0, 0));
        assert!(!leader.asks(issue("b"), SECOND, SECOND));
        assert!(leader.asks(issue("a"), SECOND, SECOND), "a renewal");
        assert!(!leader.asks(issue("b"), 2 * SECOND, 2 * SECOND));
        assert!(leader.asks(issue("b"), 2 * SECOND + SECOND / 10, 2 * SECOND + SECOND / 10));
    }

    #[test]
    fn a_renewal_that_got_into_the_log_first_defeats_the_takeover() {
        let mut leader = Leader::new();
        assert!(leader.asks(issue("a"), 0, 0));
        let takeover = leader.shared.lock().prepare(issue("b"), Instant(2 * SECOND)).expect("run out");
        let renewal = leader.shared.lock().prepare(issue("a"), Instant(2 * SECOND)).expect("holder");
        assert!(matches!(leader.commit(&renewal, 2 * SECOND), Reply::Lease { granted: true, .. }));
        assert!(matches!(leader.commit(&takeover, 2 * SECOND), Reply::Lease { granted: false, .. }));
    }

    #[test]
    fn a_caller_cannot_claim_a_takeover_by_itself() {
        let mut leader = Leader::new();
        assert!(leader.asks(issue("a"), 0, 0));
        let mut forged = issue("b");
        if let Some(Command::Lease(lease)) = &mut forged.command {
            lease.takeover_of_generation = 1;
        }
        assert!(!leader.asks(forged, 1, 1));
    }
}
