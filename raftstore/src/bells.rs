//! Wakes the background loops when the raft driver has news for them.

use tokio::sync::Notify;

/// One bell a loop.
pub(crate) struct Bells {
    /// The heartbeat loops, one a coordinator.
    beats: Vec<Notify>,
    /// The loop that fetches timestamps for new leaders.
    pub(crate) timestamps: Notify,
    /// The loop that tells the meta-root of our regions.
    pub(crate) publish: Notify,
    /// The loop that gives learners their vote.
    pub(crate) members: Notify,
    /// The loop that removes old versions.
    pub(crate) gc: Notify,
    /// The loop that clears away what is left of peers that are gone.
    pub(crate) graves: Notify,
    /// The loop that sees merges through.
    pub(crate) merges: Notify,
}

impl Bells {
    pub(crate) fn new(coordinators: usize) -> Self {
        let beats = (0..coordinators).map(|_| Notify::new()).collect();
        Self {
            beats,
            timestamps: Notify::new(),
            publish: Notify::new(),
            members: Notify::new(),
            gc: Notify::new(),
            graves: Notify::new(),
            merges: Notify::new(),
        }
    }

    pub(crate) fn beat(&self, coordinator: usize) -> &Notify {
        &self.beats[coordinator]
    }

    /// There is something to tell the coordinators.
    pub(crate) fn report(&self) {
        self.beats.iter().for_each(Notify::notify_one);
    }

    /// Leadership of a region has moved.
    pub(crate) fn role_changed(&self, is_leader: bool) {
        self.beats.iter().for_each(Notify::notify_one);
        if is_leader {
            self.timestamps.notify_one();
            self.publish.notify_one();
            self.members.notify_one();
            self.gc.notify_one();
            self.merges.notify_one();
        }
    }
}
