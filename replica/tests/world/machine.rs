//! A state machine that remembers every value it applied.
//!
//! `state` is what is applied, in memory; `Durable` is what survives a crash: the machine writes it when asked to, and
//! after every few entries, as a real one flushes its memtable.

use bytes::Bytes;
use nokv_env::{BoxFuture, ClockExt, Env};
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_replica::{
    Applied, ConfChangeInfo, Fatal, GroupConfig, GroupId, Joint, Machine, MachineSnapshot, Needed, Reception,
    Role,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One group's state.
#[derive(Debug, Clone, Default)]
pub struct GroupState {
    pub peer: u64,
    pub index: u64,
    pub term: u64,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub joint: Joint,
    pub values: Vec<String>,
}

/// All groups of a node.
#[derive(Debug, Clone, Default)]
pub struct Durable {
    pub groups: BTreeMap<GroupId, GroupState>,
    /// Snapshots are shown twice before they are installed.
    pub fetches: bool,
}

impl Durable {
    pub fn found(&mut self, group: GroupId, member: u64, members: &[u64]) {
        let voters = members.iter().map(|node| node + 100).collect();
        self.groups.insert(group, GroupState { peer: member + 100, voters, ..GroupState::default() });
    }
}

pub struct LogMachine {
    node: u64,
    env: Env,
    pub state: Arc<Mutex<Durable>>,
    durable: Arc<Mutex<Durable>>,
    roles: BTreeMap<GroupId, Role>,
    absorbed: Vec<GroupId>,
    /// Indexes of snapshots that were shown.
    shown: BTreeSet<u64>,
}

/// Entries between two flushes.
const FLUSH: u64 = 7;

impl LogMachine {
    pub fn recover(node: u64, env: &Env, durable: Arc<Mutex<Durable>>) -> (LogMachine, Vec<GroupConfig>) {
        let recovered = durable.lock().unwrap().clone();
        let groups = recovered.groups.iter().map(|(group, state)| GroupConfig {
            group: *group,
            peer: state.peer,
            applied_index: state.index,
            applied_term: state.term,
            voters: state.voters.clone(),
            learners: state.learners.clone(),
            joint: state.joint.clone(),
            peers: peers(state),
            born: false,
        });
        let groups = groups.collect();
        let state = Arc::new(Mutex::new(recovered));
        let (roles, absorbed, shown) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        (LogMachine { node, env: env.clone(), state, durable, roles, absorbed, shown }, groups)
    }

    fn advance(&mut self, group: GroupId, index: u64, term: u64, change: impl FnOnce(&mut GroupState)) {
        let mut all = self.state.lock().unwrap();
        let state = all.groups.get_mut(&group).expect("hosted");
        assert_eq!(state.index + 1, index, "n{}: entries skipped or repeated", self.node);
        assert!(state.term <= term, "terms go back");
        (state.index, state.term) = (index, term);
        change(state);
        if index.is_multiple_of(FLUSH) {
            let state = state.clone();
            let mut durable = self.durable.lock().unwrap();
            durable.groups.retain(|known, _| all.groups.contains_key(known));
            durable.groups.insert(group, state);
        }
    }
}

/// "absorb GROUP INDEX TERM": the group takes over what another one held at (index, term).
fn to_absorb(value: &str) -> Option<Needed> {
    let mut words = value.strip_prefix("absorb ")?.split(' ').map(|word| word.parse().expect("a number"));
    let mut next = || words.next().expect("three numbers");
    Some(Needed { group: GroupId(next()), index: next(), term: next() })
}

fn peers(state: &GroupState) -> BTreeMap<u64, u64> {
    let all = state.voters.iter().chain(&state.learners).chain(&state.joint.voters_outgoing);
    all.map(|peer| (*peer, peer - 100)).collect()
}

impl Machine for LogMachine {
    type Proposal = String;
    /// Index and number of values so far.
    type Reply = (u64, usize);

    fn propose(
        &mut self,
        group: GroupId,
        term: u64,
        _index: u64,
        proposal: String,
    ) -> Result<Bytes, (u64, usize)> {
        let role = self.roles[&group];
        assert!(role.is_leader && role.term == term, "asked to propose before it was told to lead");
        if proposal == "no" { Err((0, 0)) } else { Ok(Bytes::from(proposal)) }
    }

    fn apply(&mut self, group: GroupId, entry: Applied<'_>) -> Result<(u64, usize), Fatal> {
        let value = String::from_utf8(entry.data.to_vec()).map_err(Fatal::new)?;
        if value == "fatal" {
            return Err(Fatal::new("a fatal entry"));
        }
        if let Some(needed) = to_absorb(&value) {
            let taken = self.state.lock().unwrap().groups.remove(&needed.group);
            let taken = taken.ok_or_else(|| Fatal::new("nothing to absorb"))?;
            // A leader that was elected meanwhile may have begun its term behind it.
            assert!(taken.index >= needed.index, "not where it should be");
            self.absorbed.push(needed.group);
            self.advance(group, entry.index, entry.term, |state| state.values.extend(taken.values));
            return Ok((entry.index, 0));
        }
        let mut count = 0;
        self.advance(group, entry.index, entry.term, |state| {
            state.values.push(value);
            count = state.values.len();
        });
        Ok((entry.index, count))
    }

    fn needs(&self, group: GroupId, entry: Applied<'_>) -> Option<Needed> {
        let value = std::str::from_utf8(entry.data).ok()?;
        to_absorb(value).filter(|needed| needed.group != group)
    }

    fn take_absorbed(&mut self) -> Vec<GroupId> {
        std::mem::take(&mut self.absorbed)
    }

    fn apply_empty(&mut self, group: GroupId, index: u64, term: u64) -> Result<(), Fatal> {
        self.advance(group, index, term, |_| {});
        Ok(())
    }

    fn apply_conf_change(
        &mut self,
        group: GroupId,
        index: u64,
        term: u64,
        change: ConfChangeInfo,
    ) -> Result<(u64, usize), Fatal> {
        self.advance(group, index, term, |state| {
            (state.voters, state.learners, state.joint) = (change.voters, change.learners, change.joint);
        });
        Ok((index, 0))
    }

    fn snapshot(&mut self, group: GroupId) -> Result<MachineSnapshot, Fatal> {
        let all = self.state.lock().unwrap();
        let state = &all.groups[&group];
        Ok(MachineSnapshot {
            index: state.index,
            term: state.term,
            voters: state.voters.clone(),
            learners: state.learners.clone(),
            joint: state.joint.clone(),
            data: Bytes::from(state.values.join(",")),
        })
    }

    fn receive(&mut self, _group: GroupId, snapshot: &MachineSnapshot) -> Reception {
        let is_new = self.shown.insert(snapshot.index);
        if is_new && self.durable.lock().unwrap().fetches { Reception::Wait } else { Reception::Install }
    }

    fn install(&mut self, group: GroupId, snapshot: MachineSnapshot) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            self.env.clock.sleep(Duration::from_millis(2)).await;
            let text = String::from_utf8(snapshot.data.to_vec()).map_err(Fatal::new)?;
            let mut all = self.state.lock().unwrap();
            let state = all.groups.get_mut(&group).expect("hosted");
            *state = GroupState {
                peer: state.peer,
                index: snapshot.index,
                term: snapshot.term,
                voters: snapshot.voters,
                learners: snapshot.learners,
                joint: snapshot.joint,
                values: text.split(',').filter(|value| !value.is_empty()).map(str::to_owned).collect(),
            };
            self.durable.lock().unwrap().groups.insert(group, state.clone());
            Ok(())
        })
    }

    fn role_changed(&mut self, group: GroupId, role: Role) {
        self.roles.insert(group, role);
    }

    fn durable_index(&mut self, group: GroupId) -> u64 {
        self.durable.lock().unwrap().groups.get(&group).map_or(0, |state| state.index)
    }

    fn request_durable(&mut self, group: GroupId) {
        let state = self.state.lock().unwrap().groups[&group].clone();
        self.durable.lock().unwrap().groups.insert(group, state);
    }

    fn create_group(&mut self, region: &RegionDescriptor, to_peer: u64) -> Option<GroupConfig> {
        let group = GroupId(region.region_id);
        let state = GroupState { peer: to_peer, ..GroupState::default() };
        self.state.lock().unwrap().groups.insert(group, state.clone());
        self.durable.lock().unwrap().groups.insert(group, state);
        Some(GroupConfig { group, peer: to_peer, ..GroupConfig::default() })
    }

    fn describe(&self, group: GroupId) -> Option<RegionDescriptor> {
        Some(RegionDescriptor { region_id: group.0, ..RegionDescriptor::default() })
    }

    fn peer_nodes(&self, group: GroupId) -> Option<BTreeMap<u64, u64>> {
        self.state.lock().unwrap().groups.get(&group).map(peers)
    }
}
