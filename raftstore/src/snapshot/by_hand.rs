//! Snapshots that an operator carries: read from one store, brought to another.
//!
//! An export is what a leader sends: rows as of one applied index, out of an engine snapshot, a chunk when it is asked for. Every
//! replica that serves can be read, so also what is left of a region that lost its majority.
//!
//! An import is what a store fetches: the same table, adopted by the same installation, see [`super`]. The rows come from the
//! caller instead of a leader, and raft is told by [`nokv_replica::Handle::import`]. Refused is whatever may not be safe:
//!
//! - A peer that votes. Its store may have been emptied and have forgotten what it promised; with an older log it could help
//!   to elect a leader that lacks acknowledged writes. A learner is in no majority.
//! - A state that the coordinators do not know as the region's present one: since then the learner may have got its vote.
//! - A region that has a log here, a peer that left this store, keys that others have here.
//!
//! A leader that sends a snapshot of its own meanwhile goes first.

use super::export::{Export, KEPT};
use super::fetch::{Failure, Site, Staging};
use super::file::{self, Damage, Header, Part};
use super::{Staged, Ticket};
use crate::catalog::{self, Members};
use crate::merge::{is_absorbed, is_frozen};
use crate::region::is_tombstone;
use crate::store::Shared;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt, unfold};
use nokv_env::ClockExt;
use nokv_proto::admin::v1::{ExportRegionSnapshotStreamResponse, ImportRegionSnapshotStreamRequest};
use nokv_proto::coordinator::v1::ListRegionsRequest;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::{SnapshotChunkResponse, SnapshotTotal};
use nokv_replica::{AdminError, Joint, MachineSnapshot};
use prost::Message;
use std::collections::VecDeque;
use std::sync::Arc;
use tonic::{Code, Status, Streaming};

/// A snapshot in one message holds so many bytes; larger ones are streamed.
pub(crate) const WHOLE_BYTES_MAX: usize = 16 << 20;

/// A snapshot that is read part by part. Dropped, it is not kept any more.
pub(crate) struct Reading {
    shared: Arc<Shared>,
    id: u64,
    pub(crate) header: Header,
    /// The next chunk; `None`: there is none.
    next: Option<u64>,
    chunks: u64,
    /// Parts that were read and not yet taken.
    ready: VecDeque<Part>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.shared.snapshots.drop_by_hand(self.id);
    }
}

impl Reading {
    /// Of the region as this store has applied it by now.
    pub(crate) fn begin(shared: &Arc<Shared>, region_id: u64) -> Result<Self, Status> {
        // Region, applied index and rows are of one moment: the engine keeps them together.
        let content = shared.db.snapshot();
        let found = catalog::read_entry(&content, region_id).map_err(internal)?;
        let (entry, gc) = found.ok_or_else(|| not_here(region_id))?;
        let region = &entry.region;
        let refused = |why: &str| Err(Status::failed_precondition(format!("region {region_id} {why}")));
        let Some(peer) = region.peer_on_store(shared.config.store_id).filter(|_| !is_tombstone(region))
        else {
            return refused("has left this store; export it from a store that hosts it (nokv regions)");
        };
        if region.is_quarantined(peer.peer_id) {
            return refused(
                "is in quarantine here: it holds something else than the other replicas; export it from one of those",
            );
        }
        if is_frozen(region) {
            return refused("is being merged; export the region that takes it over when that is done");
        }
        if entry.applied.index == 0 {
            return refused("has applied nothing here yet; try again in a moment");
        }
        let (id, now) = (shared.snapshots.next_id(), shared.env.clock.now());
        let ticket =
            Ticket { id, store_id: shared.config.store_id, region: region.clone(), at: entry.applied, gc };
        let export = Export::new(ticket.encode(), entry.members.clone(), content, now);
        let most = shared.config.snapshot_fetches_max;
        if !shared.snapshots.keep_by_hand(id, Arc::new(export), most) {
            let text = format!("{most} snapshots are being exported here; try again when one is done");
            return Err(Status::resource_exhausted(text));
        }
        let header = Header {
            store_id: shared.config.store_id,
            region: entry.region,
            at: entry.applied,
            gc,
            members: entry.members,
        };
        Ok(Self { shared: shared.clone(), id, header, next: Some(0), chunks: 0, ready: VecDeque::new() })
    }

    /// The next part behind the header, `None` behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>, Status> {
        if let Some(part) = self.ready.pop_front() {
            return Ok(Some(part));
        }
        let Some(number) = self.next else { return Ok(None) };
        let shared = &self.shared;
        let export = shared.snapshots.kept_by_hand(self.id).ok_or_else(|| {
            let text = format!("nobody read the snapshot for {KEPT:?}, so it was dropped; export it again");
            Status::aborted(text)
        })?;
        let chunk = export.chunk(number, shared.config.snapshot_chunk_bytes).map_err(internal)?;
        let chunk = chunk.ok_or_else(|| Status::internal("a chunk of the snapshot was skipped"))?;
        export.taken(0, shared.env.clock.now());
        // The time that the disk took passes here.
        shared.env.tasks.yield_now().await;
        if !chunk.rows.is_empty() {
            self.chunks += 1;
            self.ready.push_back(Part::Chunk(chunk.rows));
        }
        self.next = chunk.total.is_none().then_some(number + 1);
        self.ready.extend(chunk.total.map(|total| Part::End(SnapshotTotal { chunks: self.chunks, ..total })));
        Ok(self.ready.pop_front())
    }

    /// All of it, if that is not too much for one message.
    pub(crate) async fn whole(mut self) -> Result<Bytes, Status> {
        let mut whole = BytesMut::from(self.header.encode());
        while let Some(part) = self.next().await? {
            whole.extend_from_slice(&part.encode());
            if whole.len() > WHOLE_BYTES_MAX {
                let id = self.header.region.region_id;
                return Err(Status::resource_exhausted(format!(
                    "the snapshot of region {id} has more than {WHOLE_BYTES_MAX} bytes; use ExportRegionSnapshotStream \
                     (nokv region export)"
                )));
            }
        }
        Ok(whole.freeze())
    }

    /// Part by part, each when it is asked for.
    pub(crate) fn stream(self) -> BoxStream<'static, Result<ExportRegionSnapshotStreamResponse, Status>> {
        let header = ExportRegionSnapshotStreamResponse {
            snapshot_header: self.header.encode(),
            region: Some(self.header.region.clone()),
            chunk: Bytes::new(),
        };
        let rest = unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(Some(part)) => {
                    let message =
                        ExportRegionSnapshotStreamResponse { chunk: part.encode(), ..Default::default() };
                    Some((Ok(message), Some(reading)))
                }
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        futures_util::stream::iter([Ok(header)]).chain(rest).boxed()
    }
}

/// Where an import comes from: its parts in order.
pub(crate) enum Source {
    /// Of one message.
    Whole(Bytes),
    /// One by one.
    Stream(Streaming<ImportRegionSnapshotStreamRequest>),
}

impl Source {
    async fn header(&mut self) -> Result<Header, Status> {
        match self {
            Source::Whole(file) => {
                file::take_part(file, true).and_then(|part| Header::decode(&part)).map_err(damaged)
            }
            Source::Stream(stream) => {
                let first = stream.message().await?.unwrap_or_default();
                if first.snapshot_header.is_empty() || !first.chunk.is_empty() {
                    let text = "the first message must have the snapshot's header, and no chunk";
                    return Err(Status::invalid_argument(text));
                }
                let header = Header::decode(&first.snapshot_header).map_err(damaged)?;
                if first.region.as_ref() != Some(&header.region) {
                    return Err(Status::invalid_argument(
                        "the region of the message is not the one of the snapshot",
                    ));
                }
                Ok(header)
            }
        }
    }

    /// The next part, `None` when nothing comes any more.
    async fn next(&mut self) -> Result<Option<Part>, Status> {
        let part = match self {
            Source::Whole(file) if file.is_empty() => return Ok(None),
            Source::Whole(file) => file::take_part(file, false).map_err(damaged)?,
            Source::Stream(stream) => {
                let Some(message) = stream.message().await? else { return Ok(None) };
                if !message.snapshot_header.is_empty() || message.region.is_some() {
                    return Err(Status::invalid_argument("only the first message may have a header"));
                }
                message.chunk
            }
        };
        Part::decode(&part).map(Some).map_err(damaged)
    }
}

/// A snapshot that this store expects. Dropped before it was installed, it is not expected any more.
struct Expected<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.shared.snapshots.fetched(&self.ticket, None);
    }
}

impl Shared {
    /// Gives this store's peer of a region its first snapshot. The region as it is here afterwards.
    pub(crate) async fn import_snapshot(&self, mut source: Source) -> Result<RegionDescriptor, Status> {
        let header = self.in_time(source.header()).await?;
        let peer = self.admit_import(&header)?;
        self.confirm_import(&header).await?;
        let Header { region, at, gc, members, .. } = header;
        let id = region.region_id;
        let ticket = Ticket { id: self.snapshots.next_id(), store_id: 0, region: region.clone(), at, gc };
        let snapshot = raft_snapshot(&ticket, &members);
        // First, so that it is dropped behind the answer of whoever lets the store expect it.
        let expected = Expected { shared: self, ticket };
        let asked = self.raft.expect_import(region.clone(), peer, snapshot.clone()).await;
        asked.map_err(|error| refused(id, &error))?;
        let staged = self.stage(&expected.ticket, members, &mut source).await?;
        if !self.snapshots.fetched(&expected.ticket, Some(staged)) {
            return Err(failed(id, &Failure::Unwanted));
        }
        self.raft.import(region, peer, snapshot).await.map_err(|error| refused(id, &error))?;
        self.raft
            .status_now(nokv_replica::GroupId(id))
            .await
            .map_err(|error| Status::unavailable(format!("region {id}: {error}; it may be installed")))?;
        let state = self.door.regions.get(id).ok_or_else(|| not_here(id))?.state();
        if state.applied < at {
            return Err(Status::aborted(format!("region {id}: the snapshot was not installed; look again")));
        }
        tracing::info!(region = id, peer, index = at.index, "a snapshot was imported");
        Ok((*state.descriptor).clone())
    }

    /// The peer that a snapshot is for, if it may be installed as far as this store knows. The raft driver has the last word.
    fn admit_import(&self, header: &Header) -> Result<u64, Status> {
        let (region, store) = (&header.region, self.config.store_id);
        let id = region.region_id;
        let refused = |why: String| Err(Status::failed_precondition(format!("region {id}: {why}")));
        let Some(peer) = region.peer_on_store(store).map(|peer| peer.peer_id) else {
            return refused(format!(
                "the snapshot names no peer on store {store}; add one (nokv region add-peer), then export again"
            ));
        };
        if is_tombstone(region) || is_frozen(region) {
            return refused("the snapshot was made while the region was merged or gone; export again".into());
        }
        let Members { voters, voters_outgoing, learners, .. } = &header.members;
        if !learners.contains(&peer) || voters.contains(&peer) || voters_outgoing.contains(&peer) {
            return refused(format!(
                "peer {peer} votes; one that may have voted must not begin anew. Remove it and add another (nokv region \
                 remove-peer, add-peer), which its leader fills"
            ));
        }
        if let Some(known) = self.door.regions.get(id).map(|known| known.state()) {
            if known.is_hosted() {
                return refused("it runs here already; its leader sends what it lacks".into());
            }
            if is_tombstone(&known.descriptor) && known.descriptor.epoch_pair().1 >= region.epoch_pair().1 {
                return refused(format!(
                    "peer {peer}, or a later one, has left this store; add another (nokv region add-peer), then export again"
                ));
            }
        }
        let overlaps = |other: &RegionDescriptor| {
            other.region_id != id && other.range().overlaps(&region.range()) && !is_absorbed(other, region)
        };
        let others = self.door.regions.all().into_iter().map(|other| other.state());
        if let Some(other) = others.into_iter().find(|other| other.is_hosted() && overlaps(&other.descriptor))
        {
            let other = other.descriptor.region_id;
            return refused(format!(
                "region {other} has some of its keys here; wait until it has split or left"
            ));
        }
        if self.snapshots.on_their_way() >= self.config.snapshot_fetches_max {
            return Err(Status::resource_exhausted(
                "too many snapshots are on their way here; try again later",
            ));
        }
        Ok(peer)
    }

    /// Refuses a snapshot of another state of the region than the present one. Without coordinators there is nobody to ask.
    async fn confirm_import(&self, header: &Header) -> Result<(), Status> {
        if self.coordinators.len() == 0 {
            return Ok(());
        }
        let asked = self
            .coordinators
            .first(|mut client| async move { client.list_regions(ListRegionsRequest::default()).await });
        let id = header.region.region_id;
        let known = asked.await.map_err(|error| {
            let why = error.message();
            Status::unavailable(format!(
                "region {id}: no coordinator says whether the snapshot is of its present state: {why}"
            ))
        })?;
        let mut known = known.regions.into_iter().filter_map(|route| route.descriptor);
        is_present(&header.region, known.find(|known| known.region_id == id).as_ref())
    }

    /// The table of a snapshot, once all of it came and adds up.
    async fn stage(&self, ticket: &Ticket, members: Members, source: &mut Source) -> Result<Staged, Status> {
        let id = ticket.region.region_id;
        let failed = |failure: Failure| failed(id, &failure);
        let site =
            Site { env: &self.env, db: &self.db, regions: &self.door.regions, workdir: &self.config.workdir };
        let mut staging = Staging::begin(site, ticket, members).map_err(failed)?;
        loop {
            let part = self.in_time(source.next()).await?.ok_or_else(|| damaged(Damage::CutOff))?;
            if !self.snapshots.is_wanted(ticket) {
                return Err(failed(Failure::Unwanted));
            }
            let chunk = match part {
                Part::Chunk(rows) => SnapshotChunkResponse { rows, ..Default::default() },
                // Counted as a chunk, without rows.
                Part::End(total) => {
                    let chunks = total.chunks.saturating_add(1);
                    SnapshotChunkResponse {
                        total: Some(SnapshotTotal { chunks, ..total }),
                        ..Default::default()
                    }
                }
            };
            if staging.add(&chunk).await.map_err(failed)? {
                break;
            }
        }
        if self.in_time(source.next()).await?.is_some() {
            return Err(Status::invalid_argument("there is more behind the end of the snapshot"));
        }
        staging.finish().await.map_err(failed)
    }

    /// Nobody may keep a store expecting something for ever.
    async fn in_time<T>(&self, next: impl Future<Output = Result<T, Status>> + Send) -> Result<T, Status>
    where
        T: Send,
    {
        let late = || {
            Status::deadline_exceeded(format!("nothing came of the snapshot for {KEPT:?}; import it again"))
        };
        self.env.clock.timeout(KEPT, next).await.unwrap_or_else(|_| Err(late()))
    }
}

/// Refuses a snapshot of another state of its region than the cluster knows.
fn is_present(then: &RegionDescriptor, now: Option<&RegionDescriptor>) -> Result<(), Status> {
    let id = then.region_id;
    let Some(now) = now else {
        return Err(Status::failed_precondition(format!("region {id}: the cluster has no such region")));
    };
    let (now, then) = (now.epoch_pair(), then.epoch_pair());
    if now == then {
        return Ok(());
    }
    let remedy = if now < then { "try again in a moment" } else { "export again" };
    Err(Status::failed_precondition(format!(
        "region {id}: the snapshot is of version {}.{}, the cluster knows {}.{}; {remedy}",
        then.0, then.1, now.0, now.1,
    )))
}

/// As raft gets it.
fn raft_snapshot(ticket: &Ticket, members: &Members) -> MachineSnapshot {
    MachineSnapshot {
        index: ticket.at.index,
        term: ticket.at.term,
        voters: members.voters.clone(),
        learners: members.learners.clone(),
        joint: Joint {
            voters_outgoing: members.voters_outgoing.clone(),
            learners_next: members.learners_next.clone(),
            auto_leave: members.auto_leave,
        },
        data: ticket.encode().encode_to_vec().into(),
    }
}

fn not_here(region_id: u64) -> Status {
    Status::not_found(format!("region {region_id} is not here; where it is: nokv regions"))
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn damaged(damage: Damage) -> Status {
    Status::invalid_argument(damage.to_string())
}

fn refused(region_id: u64, error: &AdminError) -> Status {
    let code = match error {
        AdminError::Busy | AdminError::Stopped => Code::Unavailable,
        _ => Code::FailedPrecondition,
    };
    let why = match error {
        AdminError::Refused(why) => why.clone(),
        other => other.to_string(),
    };
    Status::new(code, format!("region {region_id}: {why}"))
}

fn failed(region_id: u64, failure: &Failure) -> Status {
    let text = format!("region {region_id}: {failure}");
    match failure {
        Failure::Damaged(_) => Status::invalid_argument(text),
        Failure::Unwanted => Status::aborted(format!(
            "region {region_id}: its leader sends a snapshot of its own, which goes first"
        )),
        Failure::Engine(_) | Failure::Io(_) => Status::internal(text),
        Failure::Overtaken | Failure::Gone(_) | Failure::Silent(_) => Status::aborted(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_present_state_of_a_region_is_taken() {
        let now = crate::testing::region(&[1, 2]);
        assert!(is_present(&now, Some(&now)).is_ok());
        let mut later = now.clone();
        later.epoch.as_mut().unwrap().conf_version += 1;
        let refused = |then, now| is_present(then, now).unwrap_err().message().to_owned();
        assert!(refused(&now, Some(&later)).ends_with("of version 1.1, the cluster knows 1.2; export again"));
        assert!(refused(&later, Some(&now)).ends_with("try again in a moment"));
        assert!(refused(&now, None).ends_with("no such region"));
    }
}
