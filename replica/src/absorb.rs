//! Groups that another group of this node takes over, as an entry of that one says.
//!
//! The entry is made when every node is known to have the other group's log up to some index. So whoever applies it can
//! first apply that log, without waiting for its leader's word that it is committed. Afterwards nobody speaks for
//! the group any more; its log stays on disk, without a group, until the machine has made durable that it is gone.

use crate::config::GroupId;
use crate::core::{Core, Halt};
use crate::error::{Fatal, ReadError};
use crate::machine::{Machine, Needed};
use raft::eraftpb::Entry;

impl<M: Machine> Core<M> {
    /// Applies another group's log up to where an entry of `by` needs it. That it is committed is known from the entry.
    pub(crate) fn catch_up(&mut self, by: GroupId, needed: Needed) -> Result<(), Halt> {
        let Needed { group: id, index, term } = needed;
        let lacks = |what: &str| {
            let text = format!("an entry needs {id} up to {index} of term {term}, and {what}");
            Halt::Machine { group: by, fatal: Fatal::new(text) }
        };
        let Some(group) = self.groups.get_mut(&id) else { return Err(lacks("it is not hosted here")) };
        let applied = group.applied.index;
        if applied >= index {
            return Ok(());
        }
        if group.log().term(index) != Some(term) {
            return Err(lacks("that is not in its log"));
        }
        self.env.probe("replica.group.caught_up");
        group.raw.raft.raft_log.commit_to(index);
        let until = |entry: &&Entry| entry.index <= index;
        let entries: Vec<Entry> = group.log().iter_from(applied + 1).take_while(until).cloned().collect();
        self.tell_commit(id);
        for entry in entries {
            self.apply_entry(id, entry)?;
        }
        Ok(())
    }

    /// Stops to host what was taken over. Only [`crate::Handle::remove_group`] forgets the logs.
    pub(crate) fn shelve_absorbed(&mut self) {
        for id in self.machine.take_absorbed() {
            self.env.probe("replica.group.absorbed");
            if let Some(mut group) = self.groups.remove(&id) {
                group.abandon(&ReadError::NotHosted);
                self.orphans.insert(id, group.log().clone());
            }
            self.dirty.remove(id);
            self.wanting.remove(id);
            self.shared.remove_status(id);
        }
    }
}
