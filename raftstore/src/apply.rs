//! What a command in the log does. A function of the log and nothing else: no clock, no setting, no chance.

use crate::catalog::Gc;
use crate::command::{self, Command};
use crate::gc;
use crate::merge::is_frozen;
use crate::mvcc::{self, Writes};
use crate::region::{epoch_matches, refuse};
use nokv_proto::error::v1::RegionError;
use nokv_proto::kv::v1::{
    BatchRollbackRequest, BatchRollbackResponse, CheckSecondaryLocksRequest, CheckSecondaryLocksResponse,
    CheckTxnStatusRequest, CheckTxnStatusResponse, PrewriteRequest, PrewriteResponse,
};
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::request::Cmd;
use nokv_proto::raft::v1::response;

/// What comes of a command: an answer, or a region error when the region has changed since it was proposed.
pub(crate) type Outcome = Result<Box<response::Cmd>, Box<RegionError>>;

/// Evaluates `command` against the state before it. The region may have changed between proposal and apply, so epoch
/// and range are checked here again; a refused command has no effect.
pub(crate) fn evaluate(
    reader: &impl mvcc::Reader,
    region: &RegionDescriptor,
    gc: Gc,
    command: &Command,
    writes: &mut Writes,
) -> mvcc::Result<Outcome> {
    if let Err(refused) = admit(region, command) {
        return Ok(Err(refused));
    }
    Ok(Ok(Box::new(match &command.cmd {
        Cmd::Get(get) => response::Cmd::Get(mvcc::get(reader, get, 0)?),
        Cmd::Scan(scan) => response::Cmd::Scan(mvcc::scan(reader, scan, &region.range(), 0)?),
        Cmd::Prewrite(request) => response::Cmd::Prewrite(prewrite(reader, gc, request, writes)?),
        Cmd::Commit(commit) => response::Cmd::Commit(mvcc::commit(reader, commit, writes)?),
        Cmd::BatchRollback(rollback) => {
            response::Cmd::BatchRollback(batch_rollback(reader, gc, rollback, writes)?)
        }
        Cmd::ResolveLock(resolve) => response::Cmd::ResolveLock(mvcc::resolve_lock(reader, resolve, writes)?),
        Cmd::CheckTxnStatus(check) => {
            response::Cmd::CheckTxnStatus(check_txn_status(reader, gc, check, writes)?)
        }
        Cmd::CheckSecondaryLocks(check) => {
            response::Cmd::CheckSecondaryLocks(check_secondary_locks(reader, gc, check, writes)?)
        }
        Cmd::TxnHeartBeat(beat) => response::Cmd::TxnHeartBeat(mvcc::heartbeat(reader, beat, writes)?),
        Cmd::Gc(request) => response::Cmd::Gc(gc::collect(reader, gc, request, writes)?),
    })))
}

/// A transaction from below the fence may ask again what it asked before, and do nothing new.
fn prewrite(
    reader: &impl mvcc::Reader,
    gc: Gc,
    request: &PrewriteRequest,
    writes: &mut Writes,
) -> mvcc::Result<PrewriteResponse> {
    let mut mine = Writes::new();
    let mut response = mvcc::prewrite(reader, request, &mut mine)?;
    if request.start_version < gc.fence && !mine.changes.is_empty() {
        mine = Writes::new();
        mine.probe("mvcc.gc.prewrite_refused");
        let error = mvcc::too_old(request.start_version, gc.fence);
        response = PrewriteResponse { errors: vec![error], ..Default::default() };
    }
    writes.append(mine);
    Ok(response)
}

/// Below the safe point, a key without a trace of the transaction gets no record of a rollback: there may have been a commit,
/// and nothing can be prewritten there any more.
fn batch_rollback(
    reader: &impl mvcc::Reader,
    gc: Gc,
    request: &BatchRollbackRequest,
    writes: &mut Writes,
) -> mvcc::Result<BatchRollbackResponse> {
    if request.start_version == 0 || request.start_version >= gc.safe_point {
        return mvcc::batch_rollback(reader, request, writes);
    }
    let mut known = BatchRollbackRequest { keys: Vec::new(), ..*request };
    for key in &request.keys {
        if !mvcc::is_forgotten(reader, key, request.start_version)? {
            known.keys.push(key.clone());
        }
    }
    mvcc::batch_rollback(reader, &known, writes)
}

/// Of a transaction from below the safe point that left no trace, nobody can say any more what became of it.
fn check_txn_status(
    reader: &impl mvcc::Reader,
    gc: Gc,
    request: &CheckTxnStatusRequest,
    writes: &mut Writes,
) -> mvcc::Result<CheckTxnStatusResponse> {
    if request.lock_ts < gc.safe_point && mvcc::is_forgotten(reader, &request.primary_key, request.lock_ts)? {
        writes.probe("mvcc.gc.fate_forgotten");
        let error = mvcc::too_old(request.lock_ts, gc.safe_point);
        return Ok(CheckTxnStatusResponse { error: Some(error), ..Default::default() });
    }
    mvcc::check_txn_status(reader, request, writes)
}

/// As with [`check_txn_status`]: the locks of a transaction from below the safe point were resolved before there was
/// one, so a key without a trace proves nothing.
fn check_secondary_locks(
    reader: &impl mvcc::Reader,
    gc: Gc,
    request: &CheckSecondaryLocksRequest,
    writes: &mut Writes,
) -> mvcc::Result<CheckSecondaryLocksResponse> {
    if request.start_version < gc.safe_point {
        let error = mvcc::too_old(request.start_version, gc.safe_point);
        return Ok(CheckSecondaryLocksResponse { error: Some(error), ..Default::default() });
    }
    mvcc::check_secondary_locks(reader, request, writes)
}

fn admit(region: &RegionDescriptor, command: &Command) -> Result<(), Box<RegionError>> {
    if command.region_id != region.region_id {
        return Err(refuse::not_found(command.region_id));
    }
    if !epoch_matches(region, Some(&command.epoch)) {
        return Err(refuse::epoch(region));
    }
    if is_frozen(region) {
        return Err(refuse::stale());
    }
    match command::keys(&command.cmd).into_iter().find(|key| !key.is_empty() && !region.contains(key)) {
        Some(outside) => Err(refuse::key(region, outside)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::testing::{Map, prewrite_request, put};
    use nokv_proto::meta::v1::RegionEpoch;

    fn region() -> RegionDescriptor {
        RegionDescriptor {
            region_id: 7,
            start_key: "b".into(),
            end_key: "d".into(),
            epoch: Some(RegionEpoch { version: 2, conf_version: 1 }),
            ..Default::default()
        }
    }

    fn prewrite(key: &str, version: u64) -> Command {
        Command {
            region_id: 7,
            epoch: RegionEpoch { version, conf_version: 1 },
            cmd: Cmd::Prewrite(prewrite_request(key, &[put(key, "v")], 5).0),
        }
    }

    #[test]
    fn a_command_of_another_epoch_or_range_does_nothing() {
        let run = |command: Command| {
            let mut writes = Writes::new();
            let outcome = evaluate(&Map::default(), &region(), Gc::default(), &command, &mut writes).unwrap();
            (outcome, writes.changes.len())
        };
        let (refused, changes) = run(prewrite("c", 1));
        assert!(refused.unwrap_err().epoch_not_match.is_some() && changes == 0);
        let (refused, changes) = run(prewrite("d", 2));
        assert!(refused.unwrap_err().key_not_in_region.is_some() && changes == 0);
        let (done, changes) = run(prewrite("c", 2));
        assert!(done.is_ok() && changes == 1);
    }

    fn at(map: &mut Map, gc: Gc, cmd: Cmd) -> response::Cmd {
        let command = Command { region_id: 7, epoch: RegionEpoch { version: 2, conf_version: 1 }, cmd };
        let mut writes = Writes::new();
        let outcome = evaluate(map, &region(), gc, &command, &mut writes).unwrap();
        map.apply(writes);
        *outcome.unwrap()
    }

    #[test]
    fn below_the_fence_nothing_new_begins_and_what_was_done_is_confirmed() {
        let mut map = Map::default();
        let closed = Gc { fence: 6, safe_point: 0 };
        let prewrite = |key: &str| Cmd::Prewrite(prewrite_request(key, &[put(key, "v")], 5).0);
        let response::Cmd::Prewrite(done) = at(&mut map, Gc::default(), prewrite("c")) else { panic!() };
        assert_eq!(done.errors, []);
        let response::Cmd::Prewrite(again) = at(&mut map, closed, prewrite("c")) else { panic!() };
        assert_eq!(again.errors, []);
        let response::Cmd::Prewrite(new) = at(&mut map, closed, prewrite("b")) else { panic!() };
        assert_eq!(new.errors[0].below_safe_point.unwrap().safe_point, 6);
        assert_eq!(map.0.len(), 1);
        let at_the_fence = Cmd::Prewrite(prewrite_request("b", &[put("b", "v")], 6).0);
        let response::Cmd::Prewrite(new) = at(&mut map, closed, at_the_fence) else { panic!() };
        assert_eq!(new.errors, []);
    }

    #[test]
    fn a_transaction_that_left_no_trace_below_the_safe_point_is_not_declared_dead() {
        let mut map = Map::default();
        let gc = Gc { fence: 9, safe_point: 9 };
        let check = |lock_ts| {
            Cmd::CheckTxnStatus(CheckTxnStatusRequest {
                primary_key: "c".into(),
                lock_ts,
                rollback_if_not_exist: true,
                ..Default::default()
            })
        };
        let response::Cmd::CheckTxnStatus(old) = at(&mut map, gc, check(8)) else { panic!() };
        assert!(old.error.unwrap().below_safe_point.is_some() && map.0.is_empty());
        let response::Cmd::CheckTxnStatus(new) = at(&mut map, gc, check(9)) else { panic!() };
        assert!(new.error.is_none() && map.0.len() == 1);
    }

    #[test]
    fn a_safe_point_above_the_fence_removes_nothing() {
        use nokv_proto::kv::v1::GcRequest;
        let mut map = Map::default();
        for start in [1, 3] {
            let one_pc = prewrite_request("c", &[put("c", "v")], start).one_pc(start + 1).0;
            at(&mut map, Gc::default(), Cmd::Prewrite(one_pc));
        }
        let sweep = || Cmd::Gc(GcRequest { fence: 0, safe_point: 9, keys: vec!["c".into()] });
        let response::Cmd::Gc(refused) = at(&mut map, Gc { fence: 8, safe_point: 0 }, sweep()) else {
            panic!()
        };
        assert!(refused.refused && map.0.len() == 2);
        let response::Cmd::Gc(done) = at(&mut map, Gc { fence: 9, safe_point: 0 }, sweep()) else { panic!() };
        assert!(!done.refused && done.removed == 1 && map.0.len() == 1);
    }
}
