//! The way in: proposals, reads and administration of the groups of a running driver.

use crate::config::{GroupConfig, GroupId};
use crate::error::{AdminError, ProposeError, ReadError, StepError};
use crate::inbox::{AdminReply, Desk, Import, Marks, ProposeReply, Refused, Request};
use crate::machine::{ConfChange, Machine, MachineSnapshot};
use crate::shared::{Counters, GroupStatus, LogStatus, Shared};
use crate::transport::RaftService;
use nokv_env::Instant;
use nokv_env::net::MESSAGE_BYTES_MAX;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::RaftBatch;
use nokv_proto::raft::v1::raft_transport_server::RaftTransportServer;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A running driver. Clones share it; dropping them all does not stop it, [`Handle::stop`] does.
pub struct Handle<M: Machine> {
    desk: Desk<M>,
    service: RaftService,
    shared: Arc<Shared>,
}

impl<M: Machine> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self { desk: self.desk.clone(), service: self.service.clone(), shared: self.shared.clone() }
    }
}

impl<M: Machine> Handle<M> {
    pub(crate) fn new(desk: Desk<M>, service: RaftService, shared: Arc<Shared>) -> Self {
        Self { desk, service, shared }
    }

    /// Proposes and waits until it was applied here.
    ///
    /// Dropping the future does not take the proposal back.
    pub async fn propose(&self, group: GroupId, proposal: M::Proposal) -> Result<M::Reply, ProposeError> {
        let (reply, answer) = oneshot::channel();
        let reply = ProposeReply::new(reply, None);
        self.proposed(Request::Propose { group, proposal, reply }, answer).await
    }

    /// The same, and `marks` tell how far it is.
    pub async fn propose_marked(
        &self,
        group: GroupId,
        proposal: M::Proposal,
        marks: Arc<Marks>,
    ) -> Result<M::Reply, ProposeError> {
        let (reply, answer) = oneshot::channel();
        let reply = ProposeReply::new(reply, Some(marks));
        self.proposed(Request::Propose { group, proposal, reply }, answer).await
    }

    /// Proposes a change of membership and waits until it was applied here. A change of several peers is then in its
    /// transition, which ends by itself.
    pub async fn propose_conf_change(
        &self,
        group: GroupId,
        change: ConfChange,
    ) -> Result<M::Reply, ProposeError> {
        let (reply, answer) = oneshot::channel();
        let reply = ProposeReply::new(reply, None);
        self.proposed(Request::ConfChange { group, change, reply }, answer).await
    }

    async fn proposed(
        &self,
        request: Request<M>,
        answer: oneshot::Receiver<Result<M::Reply, ProposeError>>,
    ) -> Result<M::Reply, ProposeError> {
        match self.desk.ask(request) {
            Ok(()) => {
                Counters::add(&self.shared.counters.proposals, 1);
                answer.await.unwrap_or(Err(ProposeError::Unknown))
            }
            Err(Refused::Full) => Err(ProposeError::Busy),
            // Not taken at all, so certainly without effect here; but the caller only needs to know that it ended.
            Err(Refused::Closed) => Err(ProposeError::Unknown),
        }
    }

    /// Makes sure that this peer leads, and waits until everything acknowledged before the call, and everything up to
    /// `at_least`, is applied here. Returns the index that was waited for: a read of the machine now is linearizable.
    pub async fn read_index(&self, group: GroupId, at_least: u64) -> Result<u64, ReadError> {
        let (reply, answer) = oneshot::channel();
        match self.desk.ask(Request::Read { group, at_least, reply }) {
            Ok(()) => answer.await.unwrap_or(Err(ReadError::Stopped)),
            Err(Refused::Full) => Err(ReadError::Busy),
            Err(Refused::Closed) => Err(ReadError::Stopped),
        }
    }

    /// Takes raft messages from another node. Messages may be dropped when the driver is behind.
    pub async fn step(&self, batch: RaftBatch) -> Result<(), StepError> {
        self.service.take(batch).await
    }

    /// A group as it was after the driver's last round; `None` when it is not hosted here.
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        self.shared.status(group)
    }

    /// A group as it is now, behind everything that the driver is about; `None` when it is not hosted here. For those who
    /// cannot wait for the lists in [`Handle::status`] to be brought up to date.
    pub async fn status_now(&self, group: GroupId) -> Result<Option<GroupStatus>, AdminError> {
        let (reply, answer) = oneshot::channel();
        match self.desk.ask(Request::Status { group, reply }) {
            Ok(()) => answer.await.map_err(|_| AdminError::Stopped),
            Err(Refused::Full) => Err(AdminError::Busy),
            Err(Refused::Closed) => Err(AdminError::Stopped),
        }
    }

    /// All groups as they were after the driver's last round.
    pub fn statuses(&self) -> BTreeMap<GroupId, GroupStatus> {
        self.shared.statuses()
    }

    /// The raft log, as it was about a second ago.
    pub fn log_status(&self) -> LogStatus {
        self.shared.log()
    }

    /// What the driver counted since its start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// When the driver last began a turn, on its node's clock. It does at least once a tick, unless it hangs: in a
    /// write to the disk that does not end, most likely.
    pub fn turned(&self) -> Option<Instant> {
        self.shared.turned()
    }

    /// While closed, entries and snapshots of leaders elsewhere are dropped, as if they were lost on the way: nothing of
    /// theirs is written but the empty entry that begins a term, and they send it again later. For a node without room on its disk.
    pub fn close_to_entries(&self, closed: bool) {
        self.shared.close_to_entries(closed);
    }

    /// Whether the driver waits for room on the disk of its log: nothing can be made durable, so it does nothing at all.
    pub fn is_disk_full(&self) -> bool {
        self.shared.is_disk_full()
    }

    /// Starts to hand leadership over to `peer`; the status shows when it happened. Gives up after an election timeout.
    pub async fn transfer_leader(&self, group: GroupId, peer: u64) -> Result<(), AdminError> {
        self.admin(|reply| Request::TransferLeader { group, peer, reply }).await
    }

    /// Starts an election now.
    pub async fn campaign(&self, group: GroupId) -> Result<(), AdminError> {
        self.admin(|reply| Request::Campaign { group, reply }).await
    }

    /// Replaces what is known about the nodes of a group's peers.
    pub async fn update_peers(&self, group: GroupId, peers: BTreeMap<u64, u64>) -> Result<(), AdminError> {
        self.admin(|reply| Request::UpdatePeers { group, peers, reply }).await
    }

    /// Hosts one more group. Durable when it returns.
    pub async fn add_group(&self, config: GroupConfig) -> Result<(), AdminError> {
        self.admin(|reply| Request::AddGroup { config, reply }).await
    }

    /// Stops hosting a group and forgets its log and votes. For peers that left their group for good; a peer that waits for
    /// its first snapshot is a later one, and stays.
    pub async fn remove_group(&self, group: GroupId) -> Result<(), AdminError> {
        self.admin(|reply| Request::RemoveGroup { group, reply }).await
    }

    /// Hands the machine proof that this node's peer left the group, see [`Machine::retire`]. The group goes on until
    /// [`Handle::remove_group`].
    pub async fn retire(&self, group: GroupId, region: RegionDescriptor) -> Result<(), AdminError> {
        self.admin(|reply| Request::Retire { group, region, reply }).await
    }

    /// The machine has fetched a snapshot that it let wait, or will never have it: it is shown to it once more. False: the
    /// driver is too busy, try again.
    pub fn snapshot_fetched(&self, group: GroupId) -> bool {
        !matches!(self.desk.ask(Request::SnapshotFetched { group }), Err(Refused::Full))
    }

    /// Has the machine expect the content of a snapshot that does not come from a leader, see [`Handle::import`]. If the
    /// caller gives up, the machine is told to dismiss it.
    pub async fn expect_import(
        &self,
        region: RegionDescriptor,
        peer: u64,
        snapshot: MachineSnapshot,
    ) -> Result<(), AdminError> {
        let import = Import { region, peer, snapshot, is_here: false };
        self.admin(|reply| Request::Import { import, reply }).await
    }

    /// Gives this node's `peer` of a region its first snapshot, whose content the machine has by now. `snapshot` must be the
    /// group's state at a committed entry. Only for a peer that has no log yet; what it promised stays. It is installed when
    /// [`Handle::status_now`] answers the next time.
    pub async fn import(
        &self,
        region: RegionDescriptor,
        peer: u64,
        snapshot: MachineSnapshot,
    ) -> Result<(), AdminError> {
        let import = Import { region, peer, snapshot, is_here: true };
        self.admin(|reply| Request::Import { import, reply }).await
    }

    async fn admin(&self, request: impl FnOnce(AdminReply) -> Request<M>) -> Result<(), AdminError> {
        let (reply, answer) = oneshot::channel();
        match self.desk.ask(request(reply)) {
            Ok(()) => answer.await.unwrap_or(Err(AdminError::Stopped)),
            Err(Refused::Full) => Err(AdminError::Busy),
            Err(Refused::Closed) => Err(AdminError::Stopped),
        }
    }

    /// Stops the driver and its transport, cleanly, and waits for it. Who still waits for an answer is told that the
    /// outcome is unknown.
    pub async fn stop(&self) {
        self.shared.stop.stop();
        self.shared.ended.stopped().await;
    }

    /// Completes with the reason when the driver had to stop: a failed disk, a machine that cannot go on, or a broken
    /// promise of raft. Never after a clean [`Handle::stop`].
    pub async fn failed(&self) -> String {
        self.shared.failed().await
    }

    /// Why the driver had to stop, if it had to.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// The service that takes raft messages of other nodes, to add to this node's routes.
    pub fn raft_service(&self) -> RaftTransportServer<RaftService> {
        RaftTransportServer::new(self.service.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}
