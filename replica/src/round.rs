//! One round: everything that groups want stored, sent and applied, in the order that raft's promises need.
//!
//! 1. `collect`: take the Ready of every group in which something happened. Leaders' messages leave at once: what they
//!    say does not depend on their own disk, once their term is on it. Entries and hard states go into the raft log.
//! 2. one sync, when any group needs it.
//! 3. snapshots: the machine's state is replaced durably, then the log starts again behind it, durably.
//! 4. `persisted`: votes and acknowledgements leave now.
//! 5. `apply`: committed entries, in log order; who waits is answered.
//!
//! A read or a mere advance of the commit index needs no sync: their records wait for the next one.

use crate::config::GroupId;
use crate::core::{Core, Halt};
use crate::group::joint_of;
use crate::machine::{Machine, MachineSnapshot};
use crate::record::{Hard, Place};
use crate::shared::Counters;
use nokv_env::{Fact, Peer};
use raft::eraftpb::{Entry, HardState, Message, Snapshot};
use raft::{Ready, StateRole};

/// Snapshots that may be on their way at once, in all groups: each costs the disk reads, and the engine what it holds for it.
const SNAPSHOTS_MAX: usize = 4;

/// One group's part in a round.
struct Step {
    group: GroupId,
    ready: Ready,
    /// Messages that wait for the sync.
    held: Vec<Message>,
    /// (term, candidate) of a vote that becomes durable.
    vote: Option<(u64, u64)>,
    committed: Vec<Entry>,
}

impl<M: Machine> Core<M> {
    /// Does a round for all groups in which something happened.
    pub(crate) async fn round(&mut self) -> Result<(), Halt> {
        let touched = std::mem::take(&mut self.dirty);
        Counters::add(&self.shared.counters.rounds, 1);
        let mut steps = Vec::with_capacity(touched.len());
        for id in &touched {
            steps.extend(self.collect(*id));
        }
        Counters::add(&self.shared.counters.readies, steps.len() as u64);
        if steps.iter().any(|step| step.ready.must_sync()) || !self.after_sync.is_empty() {
            self.make_durable().await?;
            for step in steps.iter().filter(|step| step.ready.must_sync()) {
                self.tell_synced(step.group);
            }
        }
        for reply in self.after_sync.drain(..) {
            let _ = reply.send(Ok(()));
        }
        self.install_snapshots(&mut steps).await?;
        for step in &mut steps {
            self.persisted(step);
        }
        for step in steps {
            let id = step.group;
            self.apply(id, step.committed)?;
            self.host_born(id).await?;
        }
        for id in touched {
            self.make_snapshot(id)?;
            self.again |= self.wanting.contains(id);
            self.publish(id, false);
        }
        Ok(())
    }

    /// What a group wants stored goes into the raft log, and what may leave before that is durable leaves.
    fn collect(&mut self, id: GroupId) -> Option<Step> {
        let group = self.groups.get_mut(&id)?;
        if !group.raw.has_ready() {
            return None;
        }
        let mut ready = group.raw.ready();
        for state in ready.take_read_states() {
            if let Ok(round) = state.request_ctx.try_into().map(u64::from_be_bytes) {
                group.reads.confirmed(round, state.index);
            }
        }
        let before = group.log().hard;
        let hard = ready.hs().map_or(before, hard_of);
        let voted = hard.vote != 0 && (hard.term, hard.vote) != (before.term, before.vote);
        let vote = voted.then_some((hard.term, hard.vote));
        if ready.snapshot().is_empty() {
            if hard != before || !ready.entries().is_empty() {
                let entries = ready.take_entries();
                Counters::add(&self.shared.counters.entries, entries.len() as u64);
                self.tell_entries(id, &entries);
                let group = self.groups.get_mut(&id)?;
                if self.log.append(id, group.log_mut(), hard, entries) {
                    self.env.probe("replica.conflict.truncated");
                }
            }
        } else {
            // The machine replaces its state before the log can follow. After a crash in between, this tells that the
            // machine is ahead for a good reason.
            let place = place_of(ready.snapshot());
            // The commit index stays until then: it speaks of the snapshot's log, and the entries that are still here
            // may be others.
            let until_installed = Hard { commit: before.commit, ..hard };
            self.log.append(id, group.log_mut(), until_installed, Vec::new());
            self.log.installing(id, group.log_mut(), place);
            self.tell_install(id, place, false);
        }
        let mut held = ready.take_messages();
        // The only voter leads before its term is durable. After a crash it would lead the same term again, with
        // another log than its learners may have seen.
        if (hard.term, hard.vote) == (before.term, before.vote) {
            self.post(id, std::mem::take(&mut held));
        }
        Some(Step { group: id, ready, held, vote, committed: Vec::new() })
    }

    /// One sync for everything collected. The simulation sleeps the disk's latency here.
    async fn make_durable(&mut self) -> Result<(), Halt> {
        let mut began = self.env.clock.now();
        let synced = loop {
            match self.log.sync() {
                Ok(synced) => break synced,
                Err(error) => self.room(error).await?,
            }
            began = self.env.clock.now();
        };
        self.has_room();
        if synced {
            let took = self.env.clock.now().since(began);
            self.shared.counters.sync_times.record(took);
            Counters::add(&self.shared.counters.syncs, 1);
            Counters::add(
                &self.shared.counters.sync_nanos,
                u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
            );
            self.env.tasks.yield_now().await;
        }
        Ok(())
    }

    async fn install_snapshots(&mut self, steps: &mut [Step]) -> Result<(), Halt> {
        let mut installed = false;
        for step in steps.iter_mut().filter(|step| !step.ready.snapshot().is_empty()) {
            self.install(step.group, &mut step.ready).await?;
            installed = true;
        }
        if installed {
            self.make_durable().await?;
            for step in steps.iter().filter(|step| !step.ready.snapshot().is_empty()) {
                self.tell_synced(step.group);
            }
        }
        Ok(())
    }

    async fn install(&mut self, id: GroupId, ready: &mut Ready) -> Result<(), Halt> {
        if !self.groups.contains_key(&id) {
            return Ok(()); // another group has taken it over in this round
        }
        let place = place_of(ready.snapshot());
        self.env.probe("replica.snapshot.install");
        self.machine.install(id, machine_snapshot(ready.snapshot())).await.map_err(Halt::machine(id))?;
        self.shelve_absorbed();
        self.env.tasks.yield_now().await;
        let nodes = self.machine.peer_nodes(id);
        let Some(group) = self.groups.get_mut(&id) else { return Ok(()) };
        // A peer's first snapshot: until now the machine could not know whom it follows.
        let role = group.role;
        self.machine.role_changed(id, role);
        group.nodes = nodes.unwrap_or_else(|| std::mem::take(&mut group.nodes));
        self.log.installed(id, group.log_mut(), place);
        group.applied = place;
        group.skip_waiters(place.index);
        let hard = ready.hs().map_or(group.log().hard, hard_of);
        self.tell_install(id, place, true);
        self.tell_entries(id, ready.entries());
        if let Some(group) = self.groups.get_mut(&id) {
            self.log.append(id, group.log_mut(), hard, ready.take_entries());
        }
        self.tell_members(id);
        Counters::add(&self.shared.counters.snapshots_installed, 1);
        self.publish(id, true);
        Ok(())
    }

    /// A group's step is durable: what depends on that leaves, and raft learns of it.
    fn persisted(&mut self, step: &mut Step) {
        let id = step.group;
        if let Some((term, candidate)) = step.vote {
            self.tell(id, |peer| Fact::Vote { peer, term, candidate });
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut ready = std::mem::take(&mut step.ready);
        let mut messages = std::mem::take(&mut step.held);
        messages.extend(ready.take_persisted_messages());
        step.committed = ready.take_committed_entries();
        let mut light = group.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            group.log_mut().hard.commit = commit;
        }
        step.committed.extend(light.take_committed_entries());
        messages.extend(light.take_messages());
        self.tell_commit(id);
        self.post(id, messages);
    }

    /// Applies committed entries and tells raft.
    fn apply(&mut self, id: GroupId, committed: Vec<Entry>) -> Result<(), Halt> {
        for entry in committed {
            if !self.groups.contains_key(&id) {
                return Ok(()); // another group has taken it over in this round
            }
            self.apply_entry(id, entry)?;
        }
        let Some(group) = self.groups.get_mut(&id) else { return Ok(()) };
        group.raw.advance_apply_to(group.applied.index);
        self.serve_reads(id);
        let Some(group) = self.groups.get_mut(&id) else { return Ok(()) };
        if group.is_leader() && !group.raw.raft.promotable() {
            // raft-rs would let a leader go on that was removed or lost its vote.
            self.env.probe("replica.leader.removed");
            let term = group.raw.raft.term;
            group.raw.raft.become_follower(term, raft::INVALID_ID);
        }
        let has_more = group.raw.has_ready();
        self.touched(id);
        if !has_more {
            self.dirty.remove(id);
        }
        Ok(())
    }

    /// Answers the reads that waited for what is applied now.
    fn serve_reads(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let (applied, term) = (group.applied.index, group.raw.raft.term);
        let peer = Peer { domain: self.config.domain, group: id.0, node: group.peer };
        let env = &self.env;
        group.reads.applied(applied, |read| env.fact(Fact::ReadServed { peer, read, applied, term }));
    }

    /// Makes the snapshot that raft asked for while it stepped, and lets raft send it.
    fn make_snapshot(&mut self, id: GroupId) -> Result<(), Halt> {
        let Some(group) = self.groups.get(&id) else { return Ok(()) };
        let wanted = group.raw.store().take_wanted();
        let is_leader = group.raw.raft.state == StateRole::Leader;
        if wanted.is_empty() || !is_leader || !self.machine.may_send_snapshots(id) {
            return Ok(());
        }
        let on_their_way: usize = self.groups.values().map(|group| group.sending.len()).sum();
        if on_their_way >= SNAPSHOTS_MAX {
            return Ok(()); // raft asks again after a heartbeat
        }
        let made = match self.machine.kept_snapshot(id, group.log().base().index) {
            Some(kept) => {
                self.env.probe("replica.snapshot.again");
                kept
            }
            None => self.new_snapshot(id, group.applied)?,
        };
        for peer in &wanted {
            self.machine.sent_snapshot(id, *peer, &made.data);
        }
        let Some(group) = self.groups.get_mut(&id) else { return Ok(()) };
        let mut snapshot = Snapshot { data: made.data, ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (made.index, made.term);
        metadata.set_conf_state(group.conf_state());
        group.raw.store().offer_snapshot(Some(snapshot));
        for peer in wanted {
            if group.raw.raft.prs().get(peer).is_some() {
                group.raw.raft.send_append(peer);
            }
        }
        group.raw.store().offer_snapshot(None);
        self.dirty.insert(id);
        Ok(())
    }

    fn new_snapshot(&mut self, id: GroupId, applied: Place) -> Result<MachineSnapshot, Halt> {
        let made = self.machine.snapshot(id).map_err(Halt::machine(id))?;
        assert!(
            (made.index, made.term) == (applied.index, applied.term),
            "{id}: snapshot at {}/{} though {}/{} is applied",
            made.index,
            made.term,
            applied.index,
            applied.term
        );
        Ok(made)
    }
}

/// What a machine is told of a snapshot.
pub(crate) fn machine_snapshot(snapshot: &Snapshot) -> MachineSnapshot {
    let metadata = snapshot.get_metadata();
    let state = metadata.get_conf_state();
    MachineSnapshot {
        index: metadata.index,
        term: metadata.term,
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        joint: joint_of(state),
        data: snapshot.data.clone(),
    }
}

pub(crate) fn hard_of(state: &HardState) -> Hard {
    Hard { term: state.term, vote: state.vote, commit: state.commit }
}

fn place_of(snapshot: &Snapshot) -> Place {
    let metadata = snapshot.get_metadata();
    Place { index: metadata.index, term: metadata.term }
}
