//! One committed entry: the machine applies it, and who proposed it here is answered.

use crate::config::GroupId;
use crate::core::{Core, Halt};
use crate::error::ProposeError;
use crate::group::{Group, Waiter, joint_of};
use crate::machine::{Applied, ConfChangeInfo, Machine, PeerChange};
use crate::record::Place;
use crate::shared::Counters;
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfChangeV2, Entry, EntryType};

/// What an entry gave its proposer.
enum Outcome<M: Machine> {
    Reply(M::Reply),
    /// Without effect: raft put it in place of a membership change, or a leader began its term.
    Empty,
    /// A membership change that the present membership does not allow.
    Refused(String),
}

impl<M: Machine> Core<M> {
    pub(crate) fn apply_entry(&mut self, id: GroupId, entry: Entry) -> Result<(), Halt> {
        let place = Place { index: entry.index, term: entry.term };
        let waiter = self.groups.get(&id).and_then(|group| group.waiters.get(&place.index));
        if let Some(marks) = waiter.and_then(|waiter| waiter.reply.marks()) {
            marks.commit(self.env.clock.now());
        }
        let outcome = match entry.entry_type {
            EntryType::EntryNormal if entry.data.is_empty() => self.apply_empty(id, place, None)?,
            EntryType::EntryNormal => {
                let applied = Applied { index: place.index, term: place.term, data: &entry.data };
                if let Some(needed) = self.machine.needs(id, applied) {
                    self.catch_up(id, needed)?;
                }
                let reply = self.machine.apply(id, applied).map_err(Halt::machine(id))?;
                self.shelve_absorbed();
                Outcome::Reply(reply)
            }
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => match decode(&entry) {
                Ok(change) => self.apply_change(id, place, &change)?,
                Err(error) => self.apply_empty(id, place, Some(error.to_string()))?,
            },
        };
        let Some(group) = self.groups.get_mut(&id) else { return Ok(()) };
        assert!(
            place.index == group.applied.index + 1,
            "{id}: applied {} after {}",
            place.index,
            group.applied.index
        );
        group.applied = place;
        Counters::add(&self.shared.counters.applied, 1);
        let waiter = group.waiters.remove(&place.index);
        self.tell_applied(id, &entry);
        if let Some(waiter) = waiter {
            if waiter.term != place.term {
                self.env.probe("replica.proposal.dropped");
            }
            answer(waiter, place.term, outcome);
        }
        Ok(())
    }

    /// Takes up the groups that entries of `parent` brought to life. Where the parent leads, the child stands for
    /// election at once: its other replicas may be born later, and then wait for a leader as after any start.
    pub(crate) async fn host_born(&mut self, parent: GroupId) -> Result<(), Halt> {
        if !self.machine.has_born() {
            return Ok(());
        }
        for config in self.machine.take_born().await.map_err(Halt::machine(parent))? {
            let child = config.group;
            if self.groups.contains_key(&child) {
                continue; // it got a snapshot of the time after its birth
            }
            self.env.probe("replica.group.born");
            self.host(config).map_err(|error| Halt::Born { parent, error: error.to_string() })?;
            let leads = self.groups.get(&parent).is_some_and(Group::is_leader);
            if leads && self.campaign(child).is_err() {
                self.env.probe("replica.campaign.refused");
            }
        }
        Ok(())
    }

    fn apply_empty(&mut self, id: GroupId, place: Place, why: Option<String>) -> Result<Outcome<M>, Halt> {
        self.machine.apply_empty(id, place.index, place.term).map_err(Halt::machine(id))?;
        Ok(why.map_or(Outcome::Empty, Outcome::Refused))
    }

    fn apply_change(&mut self, id: GroupId, place: Place, change: &ConfChangeV2) -> Result<Outcome<M>, Halt> {
        let Some(group) = self.groups.get_mut(&id) else { return Ok(Outcome::Empty) };
        // Fails the same way on every replica: all have the same membership here.
        if let Err(error) = group.raw.apply_conf_change(change) {
            return self.apply_empty(id, place, Some(error.to_string()));
        }
        let state = group.conf_state();
        let info = ConfChangeInfo {
            joint: joint_of(&state),
            voters: state.voters,
            learners: state.learners,
            changes: change
                .changes
                .iter()
                .map(|single| peer_change(single.change_type, single.node_id))
                .collect(),
            context: change.context.clone(),
        };
        tracing::info!(group = %id, ?info, "membership changed");
        self.env.probe("replica.membership.changed");
        let applied = self.machine.apply_conf_change(id, place.index, place.term, info);
        let reply = applied.map_err(Halt::machine(id))?;
        if let Some(nodes) = self.machine.peer_nodes(id)
            && let Some(group) = self.groups.get_mut(&id)
        {
            group.nodes = nodes;
        }
        self.tell_members(id);
        self.publish(id, true);
        Ok(Outcome::Reply(reply))
    }
}

/// Tells a proposer what became of the entry at its index, which has `term`.
fn answer<M: Machine>(waiter: Waiter<M>, term: u64, outcome: Outcome<M>) {
    let answer = match outcome {
        _ if waiter.term != term => Err(ProposeError::Dropped),
        Outcome::Reply(reply) => Ok(reply),
        Outcome::Refused(why) => Err(ProposeError::Refused(why)),
        Outcome::Empty if waiter.is_change => {
            Err(ProposeError::Refused("another membership change is under way".to_owned()))
        }
        Outcome::Empty => Err(ProposeError::Dropped),
    };
    let _ = waiter.reply.send(answer);
}

fn decode(entry: &Entry) -> Result<ConfChangeV2, protobuf::ProtobufError> {
    if entry.entry_type == EntryType::EntryConfChangeV2 {
        return ConfChangeV2::parse_from_carllerche_bytes(&entry.data);
    }
    let old = ConfChange::parse_from_carllerche_bytes(&entry.data)?;
    Ok(raft_v2(old))
}

/// The older form of a single change. Not proposed by this release.
fn raft_v2(old: ConfChange) -> ConfChangeV2 {
    let single = raft::eraftpb::ConfChangeSingle {
        change_type: old.change_type,
        node_id: old.node_id,
        ..Default::default()
    };
    ConfChangeV2 { changes: vec![single].into(), context: old.context, ..ConfChangeV2::default() }
}

fn peer_change(kind: ConfChangeType, peer: u64) -> PeerChange {
    match kind {
        ConfChangeType::AddNode => PeerChange::AddVoter(peer),
        ConfChangeType::AddLearnerNode => PeerChange::AddLearner(peer),
        ConfChangeType::RemoveNode => PeerChange::Remove(peer),
    }
}
