//! All regions of this store as one state machine under the raft driver.
//!
//! Every entry becomes one engine batch: its effect, and the (index, term) up to which the region is applied. The
//! engine does not log these batches, the raft log has them already; after a crash a region goes on from the
//! position that its durable tables hold. How far that is, [`Machine::durable_index`] tells: the raft log keeps the
//! rest.

use crate::apply::{self, Outcome};
use crate::bells::Bells;
use crate::catalog::{self, Entry, Members, Position};
use crate::check::Checks;
use crate::command::{self, Command, LogEntry};
use crate::gc;
use crate::membership;
use crate::merge;
use crate::mvcc::Writes;
use crate::pending::{self, PendingEvents};
use crate::region::{Region, Regions, epoch_matches, is_tombstone, refuse};
use crate::snapshot::{self, Export, Progress, Snapshots, Ticket};
use crate::split::{self, Halves};
use crate::store::group_config;
use bytes::Bytes;
use nokv_engine::{Db, WriteBatch};
use nokv_env::{BoxFuture, ClockExt, Env, Fact};
use nokv_proto::error::v1::RegionError;
use nokv_proto::key::KeyRange;
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionReplicaState};
use nokv_proto::raft::v1::request::Cmd;
use nokv_proto::raft::v1::{CheckCommand, MergeCommand, QuarantineCommand, SplitCommand};
use nokv_replica::{
    Applied, BIRTH, ConfChange, ConfChangeInfo, Fatal, Fetching, GroupConfig, GroupId, Joint, Machine,
    MachineSnapshot, Needed, Reception, Role,
};
use prost::Message;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

mod checks;
mod merges;

/// Time between two attempts on a full disk.
const FULL_PAUSE: Duration = Duration::from_millis(200);
/// Applied positions are remembered this far apart; durability is known that precisely.
const MARK_EVERY: u64 = 64;

/// What the services hand in.
#[derive(Debug)]
pub(crate) enum Proposal {
    /// A command on data.
    Data {
        /// The epoch that the request was admitted under.
        epoch: RegionEpoch,
        cmd: Cmd,
    },
    /// A split, made for the region as it was.
    Split(SplitCommand),
    /// A step of a merge, the same.
    Merge(Box<MergeCommand>),
    /// All replicas are to add up what they hold.
    Check(CheckCommand),
    /// One of them was found to differ.
    Quarantine(QuarantineCommand),
}

/// What they get back.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The command was applied, or refused by the region as it was then.
    Outcome(Outcome),
    /// A change of membership was applied.
    Configured,
    /// The region was split.
    Split(Box<Halves>),
    /// A step of a merge was taken: the region as it is now.
    Merge(Box<RegionDescriptor>),
    /// Replicas add up what they held at this index.
    Checked(u64),
    /// A peer is in quarantine, or was none of the region's.
    Quarantined,
    /// The peer left its region; the others carry the command out.
    Gone,
}

/// What only the driver's loop knows of a region.
struct Hosted {
    region: Arc<Region>,
    members: Members,
    marks: Marks,
    /// Term and index of the newest entry that this peer proposed to freeze the region.
    freezing: (u64, u64),
}

impl Hosted {
    fn new(region: Arc<Region>, members: Members, durable: u64) -> Self {
        Self { region, members, marks: Marks::new(durable), freezing: (0, 0) }
    }
}

/// The state machine of all regions.
pub(crate) struct StoreMachine {
    env: Env,
    db: Db,
    store_id: u64,
    regions: Regions,
    hosted: BTreeMap<u64, Hosted>,
    bells: Arc<Bells>,
    pending: PendingEvents,
    /// Children of a split that the driver has yet to host.
    born: Vec<GroupConfig>,
    snapshots: Arc<Snapshots>,
    checks: Arc<Checks>,
    /// Groups of regions that were taken over, which the driver hosts still.
    absorbed: Vec<GroupId>,
}

impl StoreMachine {
    /// The regions of `entries` that run here.
    pub(crate) fn new(
        env: &Env,
        db: &Db,
        store_id: u64,
        regions: &Regions,
        entries: &[Entry],
        bells: &Arc<Bells>,
        pending: &PendingEvents,
    ) -> Self {
        let mut hosted = BTreeMap::new();
        for entry in entries {
            let Some(region) = regions.get(entry.region.region_id) else { continue };
            if region.state().is_hosted() {
                region.tell(env);
                let known = Hosted::new(region, entry.members.clone(), entry.applied.index);
                hosted.insert(entry.region.region_id, known);
            }
        }
        Self {
            env: env.clone(),
            db: db.clone(),
            store_id,
            regions: regions.clone(),
            hosted,
            bells: bells.clone(),
            pending: pending.clone(),
            born: Vec::new(),
            snapshots: Arc::new(Snapshots::new(env)),
            checks: Arc::default(),
            absorbed: Vec::new(),
        }
    }

    /// What is added up, and what came of it.
    pub(crate) fn checks(&self) -> &Arc<Checks> {
        &self.checks
    }

    /// The snapshots that it makes and waits for.
    pub(crate) fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    #[cfg(test)]
    pub(crate) fn regions(&self) -> &Regions {
        &self.regions
    }

    fn hosted(&mut self, group: GroupId) -> Result<&mut Hosted, Fatal> {
        self.hosted.get_mut(&group.0).ok_or_else(|| fatal(group, "not hosted here"))
    }

    /// Whether this store's peer of the region has left it. Its group may go on for a moment, without effect.
    fn is_gone(&self, group: GroupId) -> bool {
        self.hosted.get(&group.0).is_some_and(|hosted| is_tombstone(&hosted.region.descriptor()))
    }

    /// Whether the peer that `region` gives this store, or a later one of the same region, has come and left already.
    fn has_left(&self, region: &RegionDescriptor) -> bool {
        let known = self.regions.get(region.region_id).map(|known| known.descriptor());
        known.is_some_and(|known| is_tombstone(&known) && known.epoch_pair().1 >= region.epoch_pair().1)
    }

    /// Records that this store's peer has left the region, which is `now` without it. See [`crate::graves`].
    fn bury(&mut self, group: GroupId, now: &RegionDescriptor, mut batch: WriteBatch) -> Result<(), Fatal> {
        let store_id = self.store_id;
        let region = self.hosted(group)?.region.clone();
        let mut tombstone = now.clone();
        tombstone.set_state(RegionReplicaState::Tombstone);
        catalog::put_tombstone(&mut batch, &tombstone);
        region.set_descriptor(tombstone, store_id);
        self.db.apply(batch).map_err(|error| fatal(group, error))?;
        self.env.probe("store.peer.removed");
        self.bells.graves.notify_one();
        Ok(())
    }

    /// Applies `batch` together with the position it brings the region to.
    fn commit(&mut self, group: GroupId, at: Position, mut batch: WriteBatch) -> Result<(), Fatal> {
        if self.is_gone(group) {
            return Ok(());
        }
        let grown = batch.bytes();
        catalog::put_applied(&mut batch, group.0, at);
        let sequence = self.db.apply(batch).map_err(|error| fatal(group, error))?;
        let hosted = self.hosted(group)?;
        hosted.region.grow(grown);
        hosted.region.set_applied(at);
        hosted.marks.applied(sequence, at.index);
        Ok(())
    }

    /// Another region here that has a key of `region`, or soon will, and was not taken over by it.
    fn in_the_way(&self, region: &RegionDescriptor) -> Option<u64> {
        let others = self.hosted.iter().map(|(id, other)| (*id, other.region.descriptor()));
        let here = others
            .filter(|(_, other)| !merge::is_absorbed(other, region))
            .map(|(id, other)| (id, other.range()));
        let range = region.range();
        let clash = |(id, other): &(u64, KeyRange)| *id != region.region_id && other.overlaps(&range);
        here.chain(self.snapshots.arriving()).find(clash).map(|(id, _)| id)
    }

    /// Carries out a split: see [`crate::split`].
    fn apply_split(&mut self, group: GroupId, at: Position, split: &SplitCommand) -> Result<Reply, Fatal> {
        let hosted = self.hosted(group)?;
        let parent = hosted.region.clone();
        let halves = match split::divide(&parent.descriptor(), &hosted.members, split) {
            Ok(halves) => halves,
            Err(refused) => {
                self.env.probe("store.split.refused");
                self.commit(group, at, WriteBatch::new())?;
                return Ok(Reply::Outcome(Err(refused)));
            }
        };
        let Halves { left, right, right_members } = &halves;
        let child = Entry {
            region: right.clone(),
            applied: Position { index: BIRTH.0, term: BIRTH.1 },
            members: right_members.clone(),
        };
        // The other replicas may have been ahead: its peer here came with a snapshot, and was removed again.
        let outlived = self.has_left(right);
        let mut batch = WriteBatch::new();
        catalog::put_region(&mut batch, left);
        let gc = parent.gc();
        if outlived {
            self.env.probe("store.split.outlived");
        } else {
            catalog::put_region(&mut batch, right);
            catalog::put_members(&mut batch, right.region_id, right_members);
            catalog::put_applied(&mut batch, right.region_id, child.applied);
            catalog::put_gc(&mut batch, right.region_id, gc);
        }
        self.pending.add(&mut batch, halves.event());
        parent.set_descriptor(left.clone(), self.store_id);
        parent.tell(&self.env);
        self.commit(group, at, batch)?;
        if !outlived && let Some(config) = group_config(&child, self.store_id) {
            let region = self.regions.get_or_insert(right, self.store_id);
            region.set_applied(child.applied);
            region.set_gc(gc);
            region.tell(&self.env);
            self.hosted.insert(right.region_id, Hosted::new(region, child.members, child.applied.index));
            self.born.push(config);
        }
        self.env.probe("store.split.applied");
        self.bells.publish.notify_one();
        // What was said of the old range says nothing of the new ones.
        self.bells.gc.notify_one();
        Ok(Reply::Split(Box::new(halves)))
    }

    /// Makes a snapshot's table part of the engine, and the region part of this store.
    async fn replace(&mut self, group: GroupId, snapshot: MachineSnapshot) -> Result<(), Fatal> {
        let at = Position { index: snapshot.index, term: snapshot.term };
        let taken = self.snapshots.take(group.0, at);
        if self.is_gone(group) {
            return Ok(());
        }
        let (ticket, members, mut staged) =
            taken.ok_or_else(|| fatal(group, "the snapshot to install was not fetched"))?;
        let region = self.regions.get_or_insert(&ticket.region, self.store_id);
        self.absorb_parts(&ticket.region);
        region.set_descriptor(ticket.region, self.store_id);
        region.set_gc(ticket.gc);
        region.tell(&self.env);
        // One table is there or it is not: a crash leaves the old region or the new one, never a mixture.
        region.grow(usize::try_from(staged.table.bytes()).unwrap_or(usize::MAX));
        while let Err(error) = self.db.adopt(&mut staged.table) {
            room(&self.env, group, error).await?;
        }
        self.env.tasks.yield_now().await;
        region.set_applied(at);
        self.hosted.insert(group.0, Hosted::new(region, members, at.index));
        self.bells.members.notify_one();
        self.bells.merges.notify_one();
        self.env.probe("store.snapshot.installed");
        self.tell_rows(group)
    }

    /// What a snapshot for a peer of the group on this store stands for.
    fn ticket(&self, group: GroupId, snapshot: &MachineSnapshot) -> Option<Ticket> {
        let at = Position { index: snapshot.index, term: snapshot.term };
        let is_ours = |ticket: &Ticket| {
            let region = &ticket.region;
            region.region_id == group.0 && ticket.at == at && region.peer_on_store(self.store_id).is_some()
        };
        Ticket::decode(&snapshot.data).filter(is_ours)
    }

    /// Tells whoever watches what the rows of a region add up to, as they are now.
    fn tell_rows(&self, group: GroupId) -> Result<(), Fatal> {
        let Some(hosted) = self.hosted.get(&group.0).filter(|_| self.env.watching()) else { return Ok(()) };
        let state = hosted.region.state();
        let sum = snapshot::sum(&self.db.snapshot(), &state.descriptor.range())
            .map_err(|error| fatal(group, error))?;
        if let Some(node) = state.peer {
            let peer = hosted.region.told_peer(node);
            self.env.fact(Fact::Rows { peer, index: state.applied.index, digest: sum.digest() });
        }
        Ok(())
    }

    /// Strips the wish for a commit timestamp that was drawn beforehand unless it may be granted.
    fn decide_one_pc(&self, region: &Region, term: u64, index: u64, cmd: &mut Cmd) {
        let Cmd::Prewrite(prewrite) = cmd else { return };
        if prewrite.one_pc_commit_version != 0 {
            let unlucky = self.env.chance("store.one_pc.refuse", 0.05);
            if !unlucky && region.one_pc().take(term, index, prewrite.one_pc_commit_version) {
                self.env.probe("store.one_pc.taken");
            } else {
                self.env.probe("store.one_pc.refused");
                prewrite.one_pc_commit_version = 0;
            }
        }
        if prewrite.async_commit_version != 0 {
            let unlucky = self.env.chance("store.async_commit.refuse", 0.05);
            if !unlucky && region.one_pc().take(term, index, prewrite.async_commit_version) {
                self.env.probe("store.async_commit.taken");
            } else {
                self.env.probe("store.async_commit.refused");
                prewrite.async_commit_version = 0;
            }
        }
    }
}

/// After a while, when the disk was full: what it refused is to be tried again. Any other error is the end.
async fn room(env: &Env, group: GroupId, error: nokv_engine::Error) -> Result<(), Fatal> {
    if !error.is_disk_full() {
        return Err(fatal(group, error));
    }
    env.probe("store.machine.disk_full");
    env.clock.sleep(FULL_PAUSE).await;
    Ok(())
}

fn fatal(group: GroupId, what: impl std::fmt::Display) -> Fatal {
    Fatal::new(format!("region {}: {what}", group.0))
}

fn members(voters: Vec<u64>, learners: Vec<u64>, joint: Joint) -> Members {
    let Joint { voters_outgoing, learners_next, auto_leave } = joint;
    Members { voters, learners, voters_outgoing, learners_next, auto_leave }
}

/// What raft sends of a snapshot that is kept here.
fn offered(export: &Export) -> MachineSnapshot {
    let members = &export.members;
    MachineSnapshot {
        index: export.ticket.index,
        term: export.ticket.term,
        voters: members.voters.clone(),
        learners: members.learners.clone(),
        joint: joint(members),
        data: export.ticket.encode_to_vec().into(),
    }
}

fn joint(members: &Members) -> Joint {
    Joint {
        voters_outgoing: members.voters_outgoing.clone(),
        learners_next: members.learners_next.clone(),
        auto_leave: members.auto_leave,
    }
}

fn refused<T>(error: Box<RegionError>) -> Result<T, Reply> {
    Err(Reply::Outcome(Err(error)))
}

impl Machine for StoreMachine {
    type Proposal = Proposal;
    type Reply = Reply;

    fn propose(&mut self, group: GroupId, term: u64, index: u64, proposal: Proposal) -> Result<Bytes, Reply> {
        let Some(hosted) = self.hosted.get_mut(&group.0) else { return refused(refuse::not_found(group.0)) };
        let descriptor = hosted.region.descriptor();
        let (epoch, mut cmd) = match proposal {
            Proposal::Data { epoch, cmd } => (epoch, cmd),
            Proposal::Split(split) => {
                return match split::divide(&descriptor, &hosted.members, &split) {
                    Ok(_) => Ok(command::encode_split(split)),
                    Err(error) => refused(error),
                };
            }
            Proposal::Merge(merge) => return hosted.propose_merge(term, index, *merge),
            Proposal::Check(_) | Proposal::Quarantine(_) if hosted.is_freezing() => {
                return refused(refuse::stale());
            }
            Proposal::Check(check) => return Ok(command::encode_check(check)),
            Proposal::Quarantine(quarantine) => return Ok(command::encode_quarantine(quarantine)),
        };
        if merge::is_frozen(&descriptor) {
            return refused(refuse::stale());
        }
        if !epoch_matches(&descriptor, Some(&epoch)) {
            return refused(refuse::epoch(&descriptor));
        }
        let region = hosted.region.clone();
        self.decide_one_pc(&region, term, index, &mut cmd);
        Ok(Command { region_id: group.0, epoch, cmd }.encode())
    }

    /// Two callers may have found the same store without a peer; only here it is certain.
    fn admits(&self, group: GroupId, change: &ConfChange) -> Result<(), String> {
        let Some(hosted) = self.hosted.get(&group.0) else { return Err("not hosted here".to_owned()) };
        let region = hosted.region.descriptor();
        let (_, now) = region.epoch_pair();
        if change.made_for != 0 && change.made_for != now {
            return Err(format!("it was made for configuration version {}, this is {now}", change.made_for));
        }
        if hosted.is_freezing() {
            return Err("the region is being merged".to_owned());
        }
        membership::admits(&region, &hosted.members, hosted.region.state().peer, change)
    }

    fn apply(&mut self, group: GroupId, entry: Applied<'_>) -> Result<Reply, Fatal> {
        let at = Position { index: entry.index, term: entry.term };
        if self.is_gone(group) {
            return Ok(Reply::Gone);
        }
        let decoded = LogEntry::decode(entry.data);
        let command =
            match decoded.map_err(|what| fatal(group, format!("log entry {}: {what}", entry.index)))? {
                LogEntry::Data(command) => command,
                LogEntry::Split(split) => return self.apply_split(group, at, &split),
                LogEntry::Merge(merge) => return self.apply_merge(group, at, &merge),
                LogEntry::Check(_) => return self.apply_check(group, at),
                LogEntry::Quarantine(quarantine) => return self.apply_quarantine(group, at, quarantine),
            };
        let region = self.hosted(group)?.region.clone();
        let (descriptor, gc) = (region.descriptor(), region.gc());
        let mut writes = Writes::new();
        let outcome = apply::evaluate(&self.db.snapshot(), &descriptor, gc, &command, &mut writes)
            .map_err(|error| fatal(group, format!("log entry {}: {error}", entry.index)))?;
        for probe in &writes.probes {
            self.env.probe(probe);
        }
        if outcome.is_err() {
            self.env.probe("store.apply.refused");
        }
        if self.env.watching() {
            for (key, version) in writes.commits() {
                self.env.fact(Fact::Written { key: key.to_vec(), version });
            }
        }
        let mut batch = WriteBatch::new();
        if let (Cmd::Gc(request), Ok(_)) = (&command.cmd, &outcome) {
            let gc = gc::after(gc, request);
            catalog::put_gc(&mut batch, group.0, gc);
            region.set_gc(gc);
        }
        writes.into_batch(&mut batch);
        self.commit(group, at, batch)?;
        Ok(Reply::Outcome(outcome))
    }

    fn needs(&self, group: GroupId, entry: Applied<'_>) -> Option<Needed> {
        self.needs_of_merge(group, entry.data)
    }

    fn take_absorbed(&mut self) -> Vec<GroupId> {
        std::mem::take(&mut self.absorbed)
    }

    fn apply_empty(&mut self, group: GroupId, index: u64, term: u64) -> Result<(), Fatal> {
        self.commit(group, Position { index, term }, WriteBatch::new())
    }

    fn apply_conf_change(
        &mut self,
        group: GroupId,
        index: u64,
        term: u64,
        change: ConfChangeInfo,
    ) -> Result<Reply, Fatal> {
        if self.is_gone(group) {
            return Ok(Reply::Configured);
        }
        let (store_id, pending) = (self.store_id, self.pending.clone());
        let hosted = self.hosted(group)?;
        let old = hosted.region.descriptor();
        let members = members(change.voters, change.learners, change.joint);
        let new =
            membership::reconfigured(&old, &members, &change.context).map_err(|what| fatal(group, what))?;
        let mut batch = WriteBatch::new();
        if new.epoch != old.epoch {
            pending.add(&mut batch, pending::published(&new));
            self.bells.publish.notify_one();
        }
        self.bells.members.notify_one();
        if new.peer_on_store(store_id).is_none() {
            self.bury(group, &new, batch)?;
            return Ok(Reply::Configured);
        }
        let hosted = self.hosted(group)?;
        catalog::put_region(&mut batch, &new);
        catalog::put_members(&mut batch, group.0, &members);
        hosted.members = members;
        hosted.region.set_descriptor(new, store_id);
        let region = hosted.region.clone();
        region.tell(&self.env);
        self.commit(group, Position { index, term }, batch)?;
        Ok(Reply::Configured)
    }

    fn snapshot(&mut self, group: GroupId) -> Result<MachineSnapshot, Fatal> {
        let content = self.db.snapshot();
        // Nothing is applied while we are in here, so this is the state at exactly the applied position.
        let hosted = self.hosted(group)?;
        let (state, gc, members) = (hosted.region.state(), hosted.region.gc(), hosted.members.clone());
        let ticket = Ticket {
            id: self.snapshots.next_id(),
            store_id: self.store_id,
            region: (*state.descriptor).clone(),
            at: state.applied,
            gc,
        };
        let export = self.snapshots.offer(&ticket, members, content, self.env.clock.now());
        self.env.probe("store.snapshot.exported");
        self.tell_rows(group)?;
        Ok(offered(&export))
    }

    fn kept_snapshot(&mut self, group: GroupId, at_least: u64) -> Option<MachineSnapshot> {
        let hosted = self.hosted.get(&group.0)?;
        let (region, now) = (hosted.region.descriptor(), self.env.clock.now());
        self.snapshots.kept(&region, &hosted.members, at_least, now).map(|export| offered(&export))
    }

    /// What a peer in quarantine holds must not spread.
    fn may_send_snapshots(&self, group: GroupId) -> bool {
        self.hosted.get(&group.0).is_none_or(|hosted| !hosted.region.state().is_quarantined())
    }

    fn sent_snapshot(&mut self, group: GroupId, peer: u64, data: &Bytes) {
        if let Some(ticket) = Ticket::decode(data) {
            self.snapshots.sent(group.0, peer, ticket.id);
        }
    }

    fn fetching(&mut self, group: GroupId, peer: u64) -> Fetching {
        self.snapshots.fetching(group.0, peer)
    }

    fn release_snapshots(&mut self, group: GroupId) {
        self.snapshots.withdraw(group.0);
    }

    fn install(&mut self, group: GroupId, snapshot: MachineSnapshot) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(self.replace(group, snapshot))
    }

    fn role_changed(&mut self, group: GroupId, role: Role) {
        let Some(hosted) = self.hosted.get(&group.0) else { return };
        if role.is_leader {
            hosted.region.one_pc().lead(role.term);
        } else {
            self.snapshots.leave(group.0);
        }
        hosted.region.set_role(role);
        self.bells.role_changed(role.is_leader);
    }

    fn durable_index(&mut self, group: GroupId) -> u64 {
        let flushed = self.db.flushed_sequence();
        self.hosted.get_mut(&group.0).map_or(0, |hosted| hosted.marks.durable(flushed))
    }

    fn request_durable(&mut self, _group: GroupId) {
        self.db.request_flush();
    }

    /// Hosts a peer that a split gave this store while the parent's replica here was too far behind to carry it out.
    fn create_group(&mut self, region: &RegionDescriptor, to_peer: u64) -> Option<GroupConfig> {
        let ours = region.peer_on_store(self.store_id)?.peer_id == to_peer && region.problem().is_none();
        // While another region here has these keys, it has yet to carry out the split.
        if !ours
            || self.has_left(region)
            || self.hosted.contains_key(&region.region_id)
            || self.in_the_way(region).is_some()
        {
            self.env.probe("store.peer.not_created");
            return None;
        }
        Some(GroupConfig {
            group: GroupId(region.region_id),
            peer: to_peer,
            peers: region.peers.iter().map(|peer| (peer.peer_id, peer.store_id)).collect(),
            ..GroupConfig::default()
        })
    }

    fn describe(&self, group: GroupId) -> Option<RegionDescriptor> {
        self.hosted.get(&group.0).map(|hosted| (*hosted.region.descriptor()).clone())
    }

    fn may_forget(&self, group: GroupId) -> bool {
        !self.hosted.contains_key(&group.0) || self.is_gone(group)
    }

    fn has_born(&self) -> bool {
        !self.born.is_empty()
    }

    fn take_born(&mut self) -> BoxFuture<'_, Result<Vec<GroupConfig>, Fatal>> {
        Box::pin(async move {
            let born = std::mem::take(&mut self.born);
            if let Some(first) = born.first() {
                let group = first.group;
                while let Err(error) = self.db.flush().await {
                    room(&self.env, group, error).await?;
                }
            }
            Ok(born)
        })
    }

    /// A snapshot from before a split must not overwrite what came after it: the other half may be here already.
    fn receive(&mut self, group: GroupId, snapshot: &MachineSnapshot) -> Reception {
        let Some(ticket) = self.ticket(group, snapshot) else { return Reception::Refuse };
        if self.is_gone(group) || self.in_the_way(&ticket.region).is_some() {
            return Reception::Refuse;
        }
        let replaced = snapshot::Replaced::by(&self.regions, &ticket.region);
        match self.snapshots.progress(&ticket, &replaced.positions) {
            Progress::Ready => Reception::Install,
            Progress::OnItsWay => Reception::Wait,
            Progress::Busy => Reception::Refuse,
            Progress::Unknown => {
                let MachineSnapshot { voters, learners, joint, .. } = snapshot.clone();
                // A leader's snapshot goes first.
                if ticket.is_by_hand() {
                    let expected = self.snapshots.expect_by_hand(ticket, members(voters, learners, joint));
                    return if expected { Reception::Wait } else { Reception::Refuse };
                }
                if self.snapshots.expect(ticket, members(voters, learners, joint)) {
                    self.env.probe("store.snapshot.restarted");
                }
                Reception::Wait
            }
        }
    }

    fn turn_away(&mut self, group: GroupId, snapshot: &MachineSnapshot) {
        // What an operator brings by hand is told to the operator.
        if let Some(ticket) = self.ticket(group, snapshot).filter(|ticket| !ticket.is_by_hand()) {
            self.snapshots.turn_away(ticket);
        }
    }

    fn retire(&mut self, group: GroupId, region: &RegionDescriptor) -> Result<(), Fatal> {
        if region.region_id != group.0 {
            return self.retire_leftovers(region);
        }
        let Some(hosted) = self.hosted.get(&group.0) else { return Ok(()) };
        let known = hosted.region.descriptor();
        let is_later = region.region_id == group.0 && region.epoch_pair().1 > known.epoch_pair().1;
        let own = hosted.region.state().peer;
        if self.is_gone(group) || !is_later || own.is_some_and(|peer| region.peer(peer).is_some()) {
            return Ok(());
        }
        self.env.probe("store.peer.retired");
        let mut left = (*known).clone();
        // The range is the one that was known here, so its version is too. A later peer of this store came with the
        // configuration that we were told of; this one was gone before.
        let came_back = u64::from(region.peer_on_store(self.store_id).is_some());
        let conf_version = region.epoch_pair().1 - came_back;
        left.epoch = Some(RegionEpoch { version: known.epoch_pair().0, conf_version });
        if left.peers.iter().any(|peer| peer.store_id != self.store_id) {
            left.peers.retain(|peer| peer.store_id != self.store_id);
        }
        self.bury(group, &left, WriteBatch::new())
    }

    fn forget(&mut self, group: GroupId) {
        if let Some(hosted) = self.hosted.remove(&group.0) {
            hosted.region.set_role(Role::default());
        }
        self.snapshots.dismiss(group.0);
        self.snapshots.leave(group.0);
    }

    fn dismiss(&mut self, group: GroupId) {
        self.snapshots.dismiss(group.0);
    }

    fn peer_nodes(&self, group: GroupId) -> Option<BTreeMap<u64, u64>> {
        let descriptor = self.hosted.get(&group.0)?.region.descriptor();
        Some(descriptor.peers.iter().map(|peer| (peer.peer_id, peer.store_id)).collect())
    }
}

/// Which log positions are durable, learned from the engine's flushed sequence.
#[derive(Debug, Default)]
struct Marks {
    /// Everything up to this index is durable.
    durable: u64,
    /// Engine sequence and log index of some applied entries, ascending, none of them known to be durable.
    some: VecDeque<(u64, u64)>,
    /// Engine sequence and log index of the newest applied entry.
    last: (u64, u64),
}

impl Marks {
    /// What was recovered, or installed and flushed, is durable.
    fn new(durable: u64) -> Self {
        Self { durable, some: VecDeque::new(), last: (0, durable) }
    }

    fn applied(&mut self, sequence: u64, index: u64) {
        let newest = self.some.back().map_or(self.durable, |mark| mark.1);
        if index >= newest + MARK_EVERY {
            self.some.push_back((sequence, index));
        }
        self.last = (sequence, index);
    }

    fn durable(&mut self, flushed: u64) -> u64 {
        while let Some(&(sequence, index)) = self.some.front().filter(|mark| mark.0 <= flushed) {
            debug_assert!(sequence <= flushed);
            self.durable = index;
            self.some.pop_front();
        }
        if self.last.0 <= flushed {
            self.durable = self.last.1;
        }
        self.durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_follows_the_flushed_sequence() {
        let mut marks = Marks::new(10);
        assert_eq!(marks.durable(0), 10);
        for step in 1..=200 {
            marks.applied(1000 + step, 10 + step);
        }
        assert_eq!(marks.durable(1000), 10);
        let at_100 = marks.durable(1100);
        assert!(at_100 <= 110 && at_100 + MARK_EVERY > 110, "{at_100}");
        assert_eq!(marks.durable(1199), 202);
        assert_eq!(marks.durable(1200), 210);
        assert!(marks.some.is_empty());
    }
}
