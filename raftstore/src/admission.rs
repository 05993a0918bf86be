//! The door: what is checked before a request may touch a region, in which order, and what the last visitor was told.
//!
//! Order: request complete → store → region known → not being merged → epoch → key range → hosted → leader, and sound. Problems of the request
//! itself are gRPC errors; problems of routing are region errors inside an OK answer, which clients act upon.

use crate::follow::Terms;
use crate::merge::is_frozen;
use crate::region::{Region, Regions, State, epoch_matches, is_tombstone, lock, refuse};
use bytes::Bytes;
use nokv_proto::admin::v1::{
    ExecutionAdmissionClass as Class, ExecutionAdmissionReason as Reason, ExecutionAdmissionStatus,
};
use nokv_proto::error::v1::RegionError;
use nokv_proto::kv::v1::{Context, ScanRequest};
use nokv_proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::request::Cmd;
use std::sync::{Arc, Mutex};
use tonic::Status;

/// Why a request goes no further.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The caller must look for the region elsewhere or anew.
    Region(Box<RegionError>),
    /// The call fails.
    Status(Status),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Box<RegionError>> for Refused {
    fn from(error: Box<RegionError>) -> Self {
        Self::Region(error)
    }
}

/// What a request wants to touch.
pub(crate) enum Touch<'a> {
    Keys(Vec<&'a Bytes>),
    Scan(&'a ScanRequest),
}

impl<'a> Touch<'a> {
    /// The keys that stand for the request when load is measured: of a scan the one where it begins.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a Bytes> {
        let (keys, scan) = match self {
            Touch::Keys(keys) => (&keys[..], None),
            Touch::Scan(scan) => (&[][..], Some(&scan.start_key)),
        };
        keys.iter().copied().chain(scan)
    }
}

/// A request that may go on.
#[derive(Clone)]
pub(crate) struct Admitted {
    pub(crate) region: Arc<Region>,
    /// The region at admission.
    pub(crate) descriptor: Arc<RegionDescriptor>,
}

/// The door's keeper.
pub(crate) struct Door {
    pub(crate) store_id: u64,
    pub(crate) regions: Regions,
    last: Mutex<ExecutionAdmissionStatus>,
}

impl Door {
    pub(crate) fn new(store_id: u64, regions: Regions) -> Self {
        Self { store_id, regions, last: Mutex::default() }
    }

    /// What the last visitor was told.
    pub(crate) fn last(&self) -> ExecutionAdmissionStatus {
        lock(&self.last).clone()
    }

    /// Checks a request and records the result. `unix_ms` is the wall clock, for the record.
    pub(crate) fn admit(
        &self,
        class: Class,
        context: Option<&Context>,
        touch: &Touch<'_>,
        unix_ms: u64,
    ) -> Result<Admitted, Refused> {
        let anywhere = class == Class::Read && Terms::of(context).anywhere;
        let result = self.check(context, touch, anywhere);
        let (reason, detail) = match &result {
            Ok(_) => (Reason::Accepted, String::new()),
            Err((reason, Refused::Status(status))) => (*reason, status.message().to_owned()),
            Err((reason, Refused::Region(_))) => (*reason, String::new()),
        };
        self.record(class, reason, context, detail, unix_ms);
        result.map_err(|(_, refused)| refused)
    }

    /// Records how a request ended that was refused or given up after its admission.
    pub(crate) fn record(
        &self,
        class: Class,
        reason: Reason,
        context: Option<&Context>,
        detail: String,
        unix_ms: u64,
    ) {
        let mut last = lock(&self.last);
        *last = ExecutionAdmissionStatus {
            observed: true,
            class: class.into(),
            reason: reason.into(),
            accepted: reason == Reason::Accepted,
            region_id: context.map_or(0, |context| context.region_id),
            peer_id: context.and_then(|context| context.peer).map_or(0, |peer| peer.peer_id),
            request_id: last.request_id + 1,
            detail,
            at_unix_nano: i64::try_from(unix_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX),
        };
    }

    /// `anywhere`: this store need not lead the region.
    fn check(
        &self,
        context: Option<&Context>,
        touch: &Touch<'_>,
        anywhere: bool,
    ) -> Result<Admitted, (Reason, Refused)> {
        let invalid = |text: &str| (Reason::Invalid, Refused::Status(Status::invalid_argument(text)));
        let context = context.ok_or_else(|| invalid("the request has no context"))?;
        if context.region_id == 0 {
            return Err(invalid("the context has region id 0"));
        }
        let asked_store = context.peer.map_or(0, |peer| peer.store_id);
        if asked_store != 0 && asked_store != self.store_id {
            let refused = refuse::store(asked_store, self.store_id);
            return Err((Reason::StoreNotMatch, refused.into()));
        }
        let not_hosted = || (Reason::NotHosted, refuse::not_found(context.region_id).into());
        let region = self.regions.get(context.region_id).ok_or_else(not_hosted)?;
        let state = region.state();
        if is_tombstone(&state.descriptor) {
            // Perhaps a neighbour took it over.
            let Some(heir) = self.regions.covering(&state.descriptor.start_key) else {
                return Err(not_hosted());
            };
            return Err((Reason::EpochMismatch, refuse::epoch(&heir.descriptor()).into()));
        }
        if is_frozen(&state.descriptor) {
            return Err((Reason::EpochMismatch, refuse::stale().into()));
        }
        if !epoch_matches(&state.descriptor, context.region_epoch.as_ref()) {
            let known = self.regions.with_neighbour(&state.descriptor);
            return Err((Reason::EpochMismatch, refuse::epoch_now(&known).into()));
        }
        if let Some(outside) = outside(&state.descriptor, touch) {
            return Err((Reason::KeyNotInRegion, refuse::key(&state.descriptor, outside).into()));
        }
        if !state.is_hosted() {
            return Err(not_hosted());
        }
        if state.is_quarantined() || (!state.role.is_leader && !anywhere) {
            return Err((Reason::NotLeader, refuse::not_leader(&state).into()));
        }
        if state.role.is_leader {
            region.load().note(touch.keys().filter(|key| state.descriptor.contains(key)));
        }
        let State { descriptor, .. } = state;
        Ok(Admitted { region, descriptor })
    }
}

/// A key that is not in the region.
fn outside<'a>(region: &RegionDescriptor, touch: &Touch<'a>) -> Option<&'a Bytes> {
    match touch {
        Touch::Keys(keys) => keys.iter().find(|key| !region.contains(key)).copied(),
        Touch::Scan(scan) => (!scan_begins_inside(region, scan)).then_some(&scan.start_key),
    }
}

/// Whether the first key that a scan looks at can lie in the region. Where it ends does not matter: it ends with the
/// region at the latest.
fn scan_begins_inside(region: &RegionDescriptor, scan: &ScanRequest) -> bool {
    let (start, end) = (&scan.start_key, &region.end_key);
    if !scan.reverse {
        return region.contains(start);
    }
    if start.is_empty() {
        return end.is_empty();
    }
    let not_above = end.is_empty() || start < end || (start == end && !scan.include_start);
    let not_below = *start > region.start_key || (*start == region.start_key && scan.include_start);
    not_above && not_below
}

/// Refuses keys and values that no store accepts.
pub(crate) fn check_limits(cmd: &Cmd) -> Result<(), Status> {
    let invalid = |text: String| Err(Status::invalid_argument(text));
    let keys = match cmd {
        // A scan may begin at the lowest key.
        Cmd::Scan(scan) if scan.start_key.is_empty() => Vec::new(),
        other => crate::command::keys(other),
    };
    for key in keys {
        check_key(key)?;
    }
    if let Cmd::Prewrite(prewrite) = cmd {
        if prewrite.mutations.is_empty() {
            return invalid("a prewrite needs at least one mutation".into());
        }
        if prewrite.start_version == 0 {
            return invalid("start_version is 0".into());
        }
        check_key(&prewrite.primary_lock)?;
        for mutation in &prewrite.mutations {
            if mutation.value.len() > VALUE_BYTES_MAX {
                let bytes = mutation.value.len();
                return invalid(format!(
                    "value of {bytes} bytes is longer than the limit of {VALUE_BYTES_MAX}"
                ));
            }
        }
    }
    Ok(())
}

fn check_key(key: &Bytes) -> Result<(), Status> {
    if key.is_empty() {
        return Err(Status::invalid_argument("a key is empty"));
    }
    if key.len() > KEY_BYTES_MAX {
        let text = format!("key of {} bytes is longer than the limit of {KEY_BYTES_MAX}", key.len());
        return Err(Status::invalid_argument(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Entry, Members};
    use nokv_proto::meta::v1::{RegionEpoch, RegionPeer, RegionReplicaState};
    use nokv_replica::Role;

    fn door(leads: bool) -> Door {
        let region = RegionDescriptor {
            region_id: 7,
            start_key: "b".into(),
            end_key: "d".into(),
            epoch: Some(RegionEpoch { version: 2, conf_version: 1 }),
            peers: vec![RegionPeer { store_id: 1, peer_id: 101 }, RegionPeer { store_id: 2, peer_id: 201 }],
            state: RegionReplicaState::Running.into(),
            ..Default::default()
        };
        let mut elsewhere = region.clone();
        elsewhere.region_id = 8;
        elsewhere.peers.remove(0);
        let entry = |region| Entry { region, applied: Default::default(), members: Members::default() };
        let regions = Regions::new(&[entry(region), entry(elsewhere)], 1);
        let role = Role { leader: Some(if leads { 101 } else { 201 }), term: 3, is_leader: leads };
        regions.get(7).unwrap().set_role(role);
        Door::new(1, regions)
    }

    fn context() -> Context {
        Context {
            region_id: 7,
            region_epoch: Some(RegionEpoch { version: 2, conf_version: 1 }),
            ..Default::default()
        }
    }

    fn ask(door: &Door, change: impl FnOnce(&mut Context), key: &'static str) -> Reason {
        let (mut context, key) = (context(), Bytes::from_static(key.as_bytes()));
        change(&mut context);
        _ = door.admit(Class::Write, Some(&context), &Touch::Keys(vec![&key]), 5);
        door.last().reason()
    }

    #[test]
    fn the_first_problem_in_order_is_reported() {
        let door = door(true);
        assert_eq!(ask(&door, |_| {}, "c"), Reason::Accepted);
        assert_eq!(ask(&door, |c| c.region_id = 0, "c"), Reason::Invalid);
        let other_store = RegionPeer { store_id: 9, peer_id: 0 };
        assert_eq!(
            ask(&door, |c| (c.peer, c.region_id) = (Some(other_store), 9), "c"),
            Reason::StoreNotMatch
        );
        assert_eq!(ask(&door, |c| c.region_id = 9, "c"), Reason::NotHosted);
        assert_eq!(ask(&door, |c| c.region_epoch = None, "z"), Reason::EpochMismatch);
        assert_eq!(ask(&door, |c| c.region_id = 8, "d"), Reason::KeyNotInRegion);
        assert_eq!(ask(&door, |c| c.region_id = 8, "c"), Reason::NotHosted);
        assert_eq!(ask(&self::door(false), |_| {}, "c"), Reason::NotLeader);
        assert!(!door.last().accepted && door.last().observed);
    }

    #[test]
    fn a_refusal_tells_where_to_go() {
        let key = Bytes::from_static(b"c");
        let refused = door(false).admit(Class::Read, Some(&context()), &Touch::Keys(vec![&key]), 0);
        let Err(Refused::Region(error)) = refused else { panic!("admitted") };
        assert_eq!(error.not_leader.unwrap().leader.unwrap().store_id, 2);
        let mut old = context();
        old.region_epoch = Some(RegionEpoch { version: 1, conf_version: 1 });
        let refused = door(true).admit(Class::Read, Some(&old), &Touch::Keys(vec![&key]), 0);
        let Err(Refused::Region(error)) = refused else { panic!("admitted") };
        assert_eq!(error.epoch_not_match.unwrap().regions[0].region_id, 7);
    }

    #[test]
    fn a_region_that_is_being_merged_asks_for_patience_and_one_that_is_gone_names_its_heir() {
        let door = door(true);
        let region = door.regions.get(7).unwrap();
        let refused = |door: &Door| {
            let key = Bytes::from_static(b"c");
            let refused = door.admit(Class::Read, Some(&context()), &Touch::Keys(vec![&key]), 0);
            let Err(Refused::Region(error)) = refused else { panic!("admitted") };
            *error
        };
        let mut now = (*region.descriptor()).clone();
        now.set_state(RegionReplicaState::Merging);
        region.set_descriptor(now.clone(), 1);
        assert!(refused(&door).stale_command.is_some());
        now.set_state(RegionReplicaState::Tombstone);
        region.set_descriptor(now.clone(), 1);
        assert!(refused(&door).region_not_found.is_some(), "nobody here has its keys");
        let heir = RegionDescriptor { region_id: 9, start_key: "".into(), ..now };
        let heir = RegionDescriptor { state: RegionReplicaState::Running.into(), ..heir };
        door.regions.get_or_insert(&heir, 1);
        assert_eq!(refused(&door).epoch_not_match.unwrap().regions, [heir]);
    }

    #[test]
    fn scans_must_begin_in_the_region() {
        let region = door(true).regions.get(7).unwrap().descriptor();
        let begins = |start: &'static str, reverse, include_start| {
            scan_begins_inside(
                &region,
                &ScanRequest { start_key: start.into(), reverse, include_start, ..Default::default() },
            )
        };
        assert!(begins("b", false, true) && !begins("d", false, true) && !begins("", false, true));
        assert!(begins("d", true, false) && !begins("d", true, true) && begins("c", true, true));
        assert!(begins("b", true, true) && !begins("b", true, false) && !begins("", true, false));
    }

    #[test]
    fn limits_are_named() {
        let prewrite = |key: &[u8], value: usize| {
            let mut request =
                crate::mvcc::testing::prewrite_request("p", &[crate::mvcc::testing::put("k", "")], 5).0;
            request.mutations[0].key = Bytes::copy_from_slice(key);
            request.mutations[0].value = vec![0; value].into();
            check_limits(&Cmd::Prewrite(request))
        };
        assert!(prewrite(b"k", VALUE_BYTES_MAX).is_ok() && prewrite(&[1; KEY_BYTES_MAX], 0).is_ok());
        assert!(prewrite(b"", 0).unwrap_err().message().contains("empty"));
        assert!(prewrite(&[1; KEY_BYTES_MAX + 1], 0).unwrap_err().message().contains("4096"));
        assert!(prewrite(b"k", VALUE_BYTES_MAX + 1).unwrap_err().message().contains("4194304"));
    }
}
