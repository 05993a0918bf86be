//! The first snapshot of a peer, brought by hand instead of sent by a leader.
//!
//! Safe where a leader's would be. What is installed is the group's state at a committed entry, and the peer has no log, so
//! nothing goes that it acknowledged; whatever it voted is kept. What only the machine can know is asked of it as for a
//! snapshot of a leader: whether the peer, or a later one, has come and left ([`Machine::create_group`]), and whether
//! somebody else has the keys ([`Machine::receive`]). That the peer never voted in an earlier life of its node, of which
//! nothing is left, the caller must know.

use crate::config::{GroupConfig, GroupId};
use crate::core::Core;
use crate::error::AdminError;
use crate::group::{Group, conf_state};
use crate::group_log::GroupLog;
use crate::inbox::{AdminReply, Import};
use crate::machine::{Machine, MachineSnapshot, Reception};
use raft::StateRole;
use raft::eraftpb::Snapshot;

impl<M: Machine> Core<M> {
    pub(crate) fn import(&mut self, import: Import, reply: AdminReply) {
        let (id, is_here) = (GroupId(import.region.region_id), import.is_here);
        match self.take_import(id, import) {
            Err(why) => drop(reply.send(Err(AdminError::Refused(why)))),
            Ok(()) if is_here => self.after_sync.push(reply),
            Ok(()) => {
                if reply.send(Ok(())).is_err() {
                    self.machine.dismiss(id);
                }
            }
        }
    }

    fn take_import(&mut self, id: GroupId, import: Import) -> Result<(), String> {
        let Import { region, peer, snapshot, is_here } = import;
        let to_host = match self.groups.get(&id) {
            Some(group) if group.peer != peer || group.log().last_index() > 0 || group.installs() => {
                return Err("a peer of it is here; its leader sends it what it lacks".to_owned());
            }
            Some(_) => None,
            None => {
                let promised = |log: &GroupLog| log.peer > peer || log.last_index() > 0;
                if self.orphans.get(&id).is_some_and(promised) {
                    return Err(
                        "a peer that was here before has left its log, and what it promised".to_owned()
                    );
                }
                let config = self.machine.create_group(&region, peer).filter(|config| config.group == id);
                Some(
                    config
                        .ok_or("its peer has left this store already, or another region has its keys here")?,
                )
            }
        };
        match (self.machine.receive(id, &snapshot), is_here) {
            (Reception::Wait, false) => return Ok(()),
            (Reception::Install, true) => {}
            (Reception::Refuse, _) => {
                return Err(
                    "its leader has begun to send one, or another region has its keys here".to_owned()
                );
            }
            (Reception::Wait | Reception::Install, _) => {
                self.machine.dismiss(id);
                return Err("it was replaced meanwhile".to_owned());
            }
        }
        let restored = self.restore(id, to_host, &snapshot);
        if restored.is_err() {
            self.machine.dismiss(id);
        }
        restored
    }

    fn restore(
        &mut self,
        id: GroupId,
        to_host: Option<GroupConfig>,
        snapshot: &MachineSnapshot,
    ) -> Result<(), String> {
        if let Some(config) = to_host {
            self.host(config).map_err(|error| error.to_string())?;
        }
        self.wake(id);
        let restored = self.groups.get_mut(&id).is_some_and(|group| take(group, raft_snapshot(snapshot)));
        if !restored {
            return Err("raft does not take the snapshot".to_owned());
        }
        self.touched(id);
        Ok(())
    }
}

/// A vote that the peer gave stays, unless the snapshot is of a later term. False: raft does not want it.
fn take<M: Machine>(group: &mut Group<M>, snapshot: Snapshot) -> bool {
    let term = snapshot.get_metadata().term;
    let raft = &mut group.raw.raft;
    if term > raft.term {
        raft.become_follower(term, raft::INVALID_ID);
    }
    raft.state == StateRole::Follower && raft.restore(snapshot) && group.installs()
}

fn raft_snapshot(made: &MachineSnapshot) -> Snapshot {
    let mut snapshot = Snapshot { data: made.data.clone(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (made.index, made.term);
    metadata.set_conf_state(conf_state(&made.voters, &made.learners, &made.joint));
    snapshot
}
