//! What a command in the log does. A function of the log and nothing else: no clock, no setting, no chance.

use crate::command::{self, Command};
use crate::mvcc::{self, Writes};
use crate::region::{epoch_matches, refuse};
use nokv_proto::error::v1::RegionError;
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
    command: &Command,
    writes: &mut Writes,
) -> mvcc::Result<Outcome> {
    if let Err(refused) = admit(region, command) {
        return Ok(Err(refused));
    }
    Ok(Ok(Box::new(match &command.cmd {
        Cmd::Get(get) => response::Cmd::Get(mvcc::get(reader, get, 0)?),
        Cmd::Scan(scan) => response::Cmd::Scan(mvcc::scan(reader, scan, &region.range(), 0)?),
        Cmd::Prewrite(prewrite) => response::Cmd::Prewrite(mvcc::prewrite(reader, prewrite, writes)?),
        Cmd::Commit(commit) => response::Cmd::Commit(mvcc::commit(reader, commit, writes)?),
        Cmd::BatchRollback(rollback) => {
            response::Cmd::BatchRollback(mvcc::batch_rollback(reader, rollback, writes)?)
        }
        Cmd::ResolveLock(resolve) => response::Cmd::ResolveLock(mvcc::resolve_lock(reader, resolve, writes)?),
        Cmd::CheckTxnStatus(check) => {
            response::Cmd::CheckTxnStatus(mvcc::check_txn_status(reader, check, writes)?)
        }
    })))
}

fn admit(region: &RegionDescriptor, command: &Command) -> Result<(), Box<RegionError>> {
    if command.region_id != region.region_id {
        return Err(refuse::not_found(command.region_id));
    }
    if !epoch_matches(region, Some(&command.epoch)) {
        return Err(refuse::epoch(region));
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
            let outcome = evaluate(&Map::default(), &region(), &command, &mut writes).unwrap();
            (outcome, writes.changes.len())
        };
        let (refused, changes) = run(prewrite("c", 1));
        assert!(refused.unwrap_err().epoch_not_match.is_some() && changes == 0);
        let (refused, changes) = run(prewrite("d", 2));
        assert!(refused.unwrap_err().key_not_in_region.is_some() && changes == 0);
        let (done, changes) = run(prewrite("c", 2));
        assert!(done.is_ok() && changes == 1);
    }
}
