//! What comes in: messages of other nodes, requests of handles, and time.

use crate::config::{GroupConfig, GroupId};
use crate::core::Core;
use crate::error::{AdminError, ProposeError, ReadError};
use crate::group::{Group, Waiter};
use crate::hibernate::News;
use crate::inbox::{AdminReply, Delivery, Inbox, ProposeReply, ReadReply, Request};
use crate::machine::{ConfChange, Machine, PeerChange, Reception};
use crate::recover;
use crate::round::machine_snapshot;
use crate::wire::Incoming;
use nokv_env::Fact;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Message, MessageType,
};
use std::collections::BTreeMap;

/// Deliveries, their bytes and requests that one turn takes up, so that ticks stay punctual.
const DELIVERIES_MAX: usize = 512;
const DELIVERY_BYTES_MAX: u64 = 16 << 20;
const REQUESTS_MAX: usize = 4096;

/// Whether there would be much to write. The entry with which a leader begins its term is not: without it nobody could read
/// from a group all of whose nodes are without room.
fn brings_something(message: &Message) -> bool {
    match message.get_msg_type() {
        MessageType::MsgAppend => message.entries.iter().any(|entry| !entry.data.is_empty()),
        MessageType::MsgSnapshot => true,
        _ => false,
    }
}

impl<M: Machine> Core<M> {
    /// Takes up what waits. True when more waits.
    pub(crate) fn take_in(&mut self, inbox: &mut Inbox<M>) -> bool {
        let (mut deliveries, mut bytes, mut requests) = (0, 0, 0);
        while deliveries < DELIVERIES_MAX
            && bytes < DELIVERY_BYTES_MAX
            && let Some(delivery) = inbox.delivery()
        {
            deliveries += 1;
            bytes += delivery.bytes();
            self.deliver(delivery);
        }
        while requests < REQUESTS_MAX
            && let Some(request) = inbox.request()
        {
            requests += 1;
            self.request(request);
        }
        deliveries == DELIVERIES_MAX || bytes >= DELIVERY_BYTES_MAX || requests == REQUESTS_MAX
    }

    /// Lets a tick pass in all groups.
    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            if self.hibernates(id) {
                continue;
            }
            // Ticks come late on a busy machine.
            if self.env.chance("replica.tick.skip", 0.02) {
                continue;
            }
            let Some(group) = self.groups.get_mut(&id) else { continue };
            if group.tick(&self.env.rng, self.config.election_ticks) {
                self.touched(id);
            }
            self.campaign_early(id);
            self.ask_around(id);
            self.hibernate_if_idle(id);
        }
        self.beat();
    }

    /// Any follower may stand for election at any time; raft must be right, and need not be quiet.
    fn campaign_early(&mut self, id: GroupId) {
        let may =
            |group: &Group<M>| !group.is_leader() && group.raw.raft.promotable() && group.may_campaign();
        if self.groups.get(&id).is_some_and(may)
            && self.env.chance("replica.campaign.early", 0.001)
            && self.campaign(id).is_err()
        {
            self.env.probe("replica.campaign.refused");
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Messages { from_node, messages, .. } => {
                self.heard.insert(from_node, self.ticks);
                for incoming in messages {
                    self.message(from_node, incoming);
                }
            }
            Delivery::Unreachable { node } => {
                let now = self.env.clock.now();
                for group in self.groups.values_mut().filter(|group| group.is_leader()) {
                    let peers = group.nodes.iter().filter(|(_, there)| **there == node);
                    for peer in peers.map(|(peer, _)| *peer).collect::<Vec<_>>() {
                        group.raw.report_unreachable(peer);
                        group.doubt_snapshot(peer, now, now + self.config.stall_timeout);
                    }
                }
            }
            Delivery::SnapshotLost { group: id, peer } => {
                if let Some(group) =
                    self.groups.get_mut(&id).filter(|group| group.sending.contains_key(&peer))
                {
                    self.env.probe("replica.snapshot.lost");
                    group.snapshot_lost(peer);
                    self.touched(id);
                }
            }
        }
    }

    fn message(&mut self, from_node: u64, incoming: Incoming) {
        let id = incoming.group;
        if self.shared.is_closed_to_entries() && brings_something(&incoming.message) {
            self.env.probe("replica.message.no_room");
            if incoming.is_snapshot() {
                self.machine.turn_away(id, &machine_snapshot(incoming.message.get_snapshot()));
            }
            return;
        }
        if !self.groups.contains_key(&id) && !self.create(&incoming) {
            self.env.probe("replica.message.unhosted");
            return;
        }
        if self.is_outlived(&incoming) {
            self.env.probe("replica.group.outlived");
            self.let_go(id);
            self.machine.dismiss(id);
            if !self.create(&incoming) {
                return;
            }
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        if incoming.message.to != group.peer {
            self.env.probe("replica.message.wrong_peer");
            // A later peer of ours is spoken to: this one was removed, and did not hear of it.
            if let Some(region) = &incoming.region
                && let Err(fatal) = self.machine.retire(id, region)
            {
                tracing::warn!(group = %id, %fatal, "a removed peer could not be retired");
            }
            return;
        }
        let would_install = group.would_install(&incoming.message);
        if would_install {
            match self.machine.receive(id, &machine_snapshot(incoming.message.get_snapshot())) {
                Reception::Install => {}
                Reception::Wait => {
                    self.env.probe("replica.snapshot.waits");
                    self.waiting.insert(id, (from_node, incoming));
                    return;
                }
                Reception::Refuse => {
                    self.env.probe("replica.snapshot.refused");
                    return;
                }
            }
        }
        group.hear(&incoming.message);
        let news = News::of(&incoming);
        group.step(from_node, incoming.message);
        if would_install && !group.installs() {
            self.machine.dismiss(id);
        }
        self.went_by(id, &news);
        self.touched(id);
    }

    /// Whether the message is to a later peer of ours than the one that is hosted, and that one never got anything: it was
    /// removed before its first snapshot, so nobody but this message tells of that. Ids of peers grow.
    fn is_outlived(&self, incoming: &Incoming) -> bool {
        let to = incoming.message.to;
        let is_member = incoming.region.as_ref().is_some_and(|region| region.peer(to).is_some());
        let blank = |group: &Group<M>| group.log().last_index() == 0 && group.peer < to;
        is_member && self.groups.get(&incoming.group).is_some_and(blank)
    }

    /// Hosts the group of a message if the machine wants to.
    fn create(&mut self, incoming: &Incoming) -> bool {
        let Some(region) = &incoming.region else { return false };
        // A later peer was here before the last start, and what it promised still counts.
        if self.orphans.get(&incoming.group).is_some_and(|log| log.peer > incoming.message.to) {
            self.env.probe("replica.message.to_earlier_peer");
            return false;
        }
        let Some(config) = self.machine.create_group(region, incoming.message.to) else { return false };
        if config.group != incoming.group || config.peer != incoming.message.to {
            tracing::warn!(group = %incoming.group, "the machine made another group than was asked for");
            return false;
        }
        self.env.probe("replica.group.created");
        match self.host(config) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(group = %incoming.group, %error, "cannot host the group");
                false
            }
        }
    }

    /// Shows a snapshot that waited to the machine again, and to raft if the machine has it now.
    fn snapshot_fetched(&mut self, id: GroupId) {
        if let Some((from_node, incoming)) = self.waiting.remove(&id) {
            self.message(from_node, incoming);
        }
        if !self.waiting.contains_key(&id) && !self.groups.get(&id).is_some_and(Group::installs) {
            self.machine.dismiss(id);
        }
    }

    /// Takes up one more group. Its first record is durable with the next sync.
    pub(crate) fn host(&mut self, config: GroupConfig) -> Result<(), crate::error::Error> {
        let id = config.group;
        // A peer that came back under another id starts anew; one that cannot be hosted now keeps its promises.
        let known = self.orphans.get(&id).filter(|log| log.peer == config.peer).cloned();
        let (log, _) = recover::adopt_or_begin(&self.config.log_dir, &config, known)?;
        let mut group = Group::new(&self.config, config, log)?;
        if self.orphans.remove(&id).is_some_and(|log| log.peer != group.peer) {
            self.log.removed(id);
        }
        self.log.state(id, group.log());
        group.lead_if_alone();
        self.groups.insert(id, group);
        self.tell_started(id);
        self.touched(id);
        self.publish(id, true);
        Ok(())
    }

    fn request(&mut self, request: Request<M>) {
        match request {
            Request::Propose { group, proposal, reply } => self.queue(group, proposal, reply),
            Request::ConfChange { group, change, reply } => self.propose_change(group, &change, reply),
            Request::Read { group, at_least, reply } => self.read(group, at_least, reply),
            Request::TransferLeader { group, peer, reply } => {
                let outcome = self.transfer(group, peer);
                let _ = reply.send(outcome);
            }
            Request::Campaign { group, reply } => {
                let outcome = self.campaign(group);
                let _ = reply.send(outcome);
            }
            Request::UpdatePeers { group, peers, reply } => {
                let outcome = self.update_peers(group, peers);
                let _ = reply.send(outcome);
            }
            Request::AddGroup { config, reply } => self.add(config, reply),
            Request::RemoveGroup { group, reply } => self.remove(group, reply),
            Request::Import { import, reply } => self.import(import, reply),
            Request::Status { group, reply } => {
                self.publish(group, true);
                let _ = reply.send(self.shared.status(group));
            }
            Request::SnapshotFetched { group } => self.snapshot_fetched(group),
            Request::Retire { group, region, reply } => {
                let hosted = self.groups.contains_key(&group);
                let outcome = if hosted { self.machine.retire(group, &region) } else { Ok(()) };
                let outcome = outcome.map_err(|fatal| AdminError::Refused(fatal.to_string()));
                drop(reply.send(if hosted { outcome } else { Err(AdminError::NotHosted) }));
            }
        }
    }

    fn queue(&mut self, id: GroupId, proposal: M::Proposal, reply: ProposeReply<M>) {
        self.wake(id);
        match self.groups.get_mut(&id) {
            None => drop(reply.send(Err(ProposeError::NotHosted))),
            Some(_) if self.env.chance("replica.proposal.busy", 0.002) => {
                drop(reply.send(Err(ProposeError::Busy)));
            }
            Some(group) => {
                group.queued.push_back((proposal, reply));
                self.wanting.insert(id);
            }
        }
    }

    fn read(&mut self, id: GroupId, at_least: u64, reply: ReadReply) {
        self.wake(id);
        let answer = match self.groups.get_mut(&id) {
            None => ReadError::NotHosted,
            Some(group) if !group.is_leader() => ReadError::NotLeader { leader: group.leader() },
            Some(group) => {
                let read = group.reads.add(at_least, reply, self.env.clock.now());
                self.wanting.insert(id);
                self.tell(id, |peer| Fact::ReadAsked { peer, read });
                return;
            }
        };
        let _ = reply.send(Err(answer));
    }

    fn propose_change(&mut self, id: GroupId, change: &ConfChange, reply: ProposeReply<M>) {
        self.wake(id);
        let refused = match self.groups.get_mut(&id) {
            None => ProposeError::NotHosted,
            Some(group) if !group.is_leader() => ProposeError::NotLeader { leader: group.leader() },
            Some(_) if change.changes.is_empty() => ProposeError::Refused("it changes nothing".to_owned()),
            Some(group) if group.raw.raft.has_pending_conf() || group.raw.raft.lead_transferee.is_some() => {
                ProposeError::Busy
            }
            Some(group) => {
                let (term, index) = (group.raw.raft.term, group.raw.raft.raft_log.last_index() + 1);
                if let Err(why) = self.machine.admits(id, change) {
                    drop(reply.send(Err(ProposeError::Refused(why))));
                    return;
                }
                match group.raw.propose_conf_change(Vec::new(), conf_change(change)) {
                    Ok(()) => {
                        group.waiters.insert(index, Waiter { term, is_change: true, reply });
                        self.touched(id);
                        return;
                    }
                    Err(_) => ProposeError::Dropped,
                }
            }
        };
        let _ = reply.send(Err(refused));
    }

    fn transfer(&mut self, id: GroupId, peer: u64) -> Result<(), AdminError> {
        self.wake(id);
        let group = self.groups.get_mut(&id).ok_or(AdminError::NotHosted)?;
        if !group.is_leader() {
            return Err(AdminError::NotLeader { leader: group.leader() });
        }
        if !group.conf_state().voters.contains(&peer) {
            return Err(AdminError::Refused(format!("peer {peer} has no vote")));
        }
        group.raw.transfer_leader(peer);
        self.touched(id);
        Ok(())
    }

    pub(crate) fn campaign(&mut self, id: GroupId) -> Result<(), AdminError> {
        self.wake(id);
        let group = self.groups.get_mut(&id).ok_or(AdminError::NotHosted)?;
        if !group.raw.raft.promotable() {
            return Err(AdminError::Refused("this peer has no vote".to_owned()));
        }
        if !group.may_campaign() {
            return Err(AdminError::Busy);
        }
        group.raw.campaign().map_err(|error| AdminError::Refused(error.to_string()))?;
        self.touched(id);
        Ok(())
    }

    fn update_peers(&mut self, id: GroupId, peers: BTreeMap<u64, u64>) -> Result<(), AdminError> {
        self.groups.get_mut(&id).ok_or(AdminError::NotHosted)?.nodes = peers;
        Ok(())
    }

    fn add(&mut self, config: GroupConfig, reply: AdminReply) {
        if self.groups.contains_key(&config.group) {
            let _ = reply.send(Err(AdminError::Refused("the group is hosted already".to_owned())));
            return;
        }
        match self.host(config) {
            Ok(()) => self.after_sync.push(reply),
            Err(error) => drop(reply.send(Err(AdminError::Refused(error.to_string())))),
        }
    }

    fn remove(&mut self, id: GroupId, reply: AdminReply) {
        // A peer that left had something. One without anything is a later peer, which may have voted and waits for its
        // first snapshot.
        let known = self.groups.get(&id).map(Group::log).or_else(|| self.orphans.get(&id));
        if known.is_none_or(|log| log.last_index() == 0) || !self.machine.may_forget(id) {
            let _ = reply.send(Err(AdminError::NotHosted));
            return;
        }
        self.let_go(id);
        self.machine.forget(id);
        self.after_sync.push(reply);
    }

    /// Hosts the group no more, and forgets its log with the next sync.
    fn let_go(&mut self, id: GroupId) {
        self.tell(id, |peer| Fact::Removed { peer });
        if let Some(mut group) = self.groups.remove(&id) {
            group.abandon(&ReadError::NotHosted);
        }
        self.orphans.remove(&id);
        self.waiting.remove(&id);
        self.dirty.remove(id);
        self.wanting.remove(id);
        self.shared.remove_status(id);
        self.log.removed(id);
    }
}

fn conf_change(change: &ConfChange) -> ConfChangeV2 {
    let single = |change: &PeerChange| {
        let (kind, peer) = match *change {
            PeerChange::AddVoter(peer) => (ConfChangeType::AddNode, peer),
            PeerChange::AddLearner(peer) => (ConfChangeType::AddLearnerNode, peer),
            PeerChange::Remove(peer) => (ConfChangeType::RemoveNode, peer),
        };
        ConfChangeSingle { change_type: kind, node_id: peer, ..ConfChangeSingle::default() }
    };
    ConfChangeV2 {
        transition: ConfChangeTransition::Auto,
        changes: change.changes.iter().map(single).collect::<Vec<_>>().into(),
        context: change.context.clone(),
        ..ConfChangeV2::default()
    }
}
