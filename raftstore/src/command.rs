//! What a region's raft log holds.
//!
//! ```text
//! CE | nokv.raft.v1.RaftCmdRequest      header: region id and epoch at proposal; exactly one request
//! AD | nokv.raft.v1.AdminCommand        a split, a step of a merge, a check of replicas or its result
//! ```
//!
//! An empty entry is a new leader's and means nothing.

use bytes::{BufMut, Bytes, BytesMut};
use nokv_proto::meta::v1::RegionEpoch;
use nokv_proto::raft::v1::request::Cmd;
use nokv_proto::raft::v1::{
    AdminCommand, AdminCommandType, CheckCommand, CmdHeader, CmdType, MergeCommand, MergeStep,
    QuarantineCommand, RaftCmdRequest, Request, SplitCommand,
};
use prost::Message;

const DATA: u8 = 0xce;
const ADMIN: u8 = 0xad;

/// One entry of a region's log, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LogEntry {
    /// A command on data.
    Data(Command),
    /// A split.
    Split(SplitCommand),
    /// A step of a merge.
    Merge(Box<MergeCommand>),
    /// Replicas are compared.
    Check(CheckCommand),
    /// One of them was found to differ.
    Quarantine(QuarantineCommand),
}

impl LogEntry {
    /// Reads an entry; the values in it share its memory. The error says what is wrong with it.
    pub(crate) fn decode(data: &Bytes) -> Result<Self, &'static str> {
        if data.first() != Some(&ADMIN) {
            return Command::decode(data).map(LogEntry::Data);
        }
        let admin = AdminCommand::decode(data.slice(1..)).map_err(|_| "admin entry that cannot be read")?;
        let kind = admin.r#type();
        let AdminCommand { split, merge, check, quarantine, .. } = admin;
        match (kind, split, merge, check, quarantine) {
            (AdminCommandType::Split, Some(split), None, None, None) => Ok(LogEntry::Split(split)),
            (AdminCommandType::Merge, None, Some(merge), None, None)
                if merge.step() != MergeStep::Unspecified =>
            {
                Ok(LogEntry::Merge(Box::new(merge)))
            }
            (AdminCommandType::Check, None, None, Some(check), None) => Ok(LogEntry::Check(check)),
            (AdminCommandType::Quarantine, None, None, None, Some(quarantine)) => {
                Ok(LogEntry::Quarantine(quarantine))
            }
            _ => Err("admin entry of an unknown kind"),
        }
    }
}

/// Whether an entry may be anything but a command on data.
pub(crate) fn is_admin(data: &Bytes) -> bool {
    data.first() == Some(&ADMIN)
}

/// The bytes of a split's entry.
pub(crate) fn encode_split(split: SplitCommand) -> Bytes {
    encode_admin(AdminCommandType::Split, |admin| admin.split = Some(split))
}

/// The bytes of an entry of a merge.
pub(crate) fn encode_merge(merge: MergeCommand) -> Bytes {
    encode_admin(AdminCommandType::Merge, |admin| admin.merge = Some(merge))
}

/// The bytes of the entry at which replicas are compared.
pub(crate) fn encode_check(check: CheckCommand) -> Bytes {
    encode_admin(AdminCommandType::Check, |admin| admin.check = Some(check))
}

/// The bytes of the entry that puts a peer into quarantine.
pub(crate) fn encode_quarantine(quarantine: QuarantineCommand) -> Bytes {
    encode_admin(AdminCommandType::Quarantine, |admin| admin.quarantine = Some(quarantine))
}

fn encode_admin(kind: AdminCommandType, fill: impl FnOnce(&mut AdminCommand)) -> Bytes {
    let mut admin = AdminCommand { r#type: kind.into(), ..AdminCommand::default() };
    fill(&mut admin);
    let mut out = BytesMut::with_capacity(1 + admin.encoded_len());
    out.put_u8(ADMIN);
    admin.encode_raw(&mut out);
    out.freeze()
}

/// One command as the log has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Command {
    pub(crate) region_id: u64,
    /// The epoch that the command was admitted under.
    pub(crate) epoch: RegionEpoch,
    pub(crate) cmd: Cmd,
}

impl Command {
    /// The bytes of the entry.
    pub(crate) fn encode(self) -> Bytes {
        let cmd_type = match &self.cmd {
            Cmd::Get(_) => CmdType::Get,
            Cmd::Scan(_) => CmdType::Scan,
            Cmd::Prewrite(_) => CmdType::Prewrite,
            Cmd::Commit(_) => CmdType::Commit,
            Cmd::BatchRollback(_) => CmdType::BatchRollback,
            Cmd::ResolveLock(_) => CmdType::ResolveLock,
            Cmd::CheckTxnStatus(_) => CmdType::CheckTxnStatus,
            Cmd::Gc(_) => CmdType::Gc,
            Cmd::TxnHeartBeat(_) => CmdType::TxnHeartBeat,
            Cmd::CheckSecondaryLocks(_) => CmdType::CheckSecondaryLocks,
        };
        let header =
            CmdHeader { region_id: self.region_id, region_epoch: Some(self.epoch), ..CmdHeader::default() };
        let request = RaftCmdRequest {
            header: Some(header),
            requests: vec![Request { cmd_type: cmd_type.into(), cmd: Some(self.cmd) }],
        };
        let mut out = BytesMut::with_capacity(1 + request.encoded_len());
        out.put_u8(DATA);
        request.encode_raw(&mut out);
        out.freeze()
    }

    /// Reads an entry; the values in it share its memory. The error says what is wrong with it.
    pub(crate) fn decode(data: &Bytes) -> Result<Self, &'static str> {
        if data.first() != Some(&DATA) {
            return Err("entry of an unknown kind");
        }
        let request = RaftCmdRequest::decode(data.slice(1..)).map_err(|_| "entry that cannot be read")?;
        let header = request.header.ok_or("command without header")?;
        let epoch = header.region_epoch.ok_or("command without epoch")?;
        let mut requests = request.requests.into_iter();
        match (requests.next().and_then(|request| request.cmd), requests.next()) {
            (Some(cmd), None) => Ok(Self { region_id: header.region_id, epoch, cmd }),
            _ => Err("command that does not hold exactly one request"),
        }
    }
}

/// Every key that a write touches.
pub(crate) fn keys(cmd: &Cmd) -> Vec<&Bytes> {
    match cmd {
        Cmd::Get(get) => vec![&get.key],
        Cmd::Scan(scan) => vec![&scan.start_key],
        Cmd::Prewrite(prewrite) => prewrite.mutations.iter().map(|mutation| &mutation.key).collect(),
        Cmd::Commit(commit) => commit.keys.iter().collect(),
        Cmd::BatchRollback(rollback) => rollback.keys.iter().collect(),
        Cmd::ResolveLock(resolve) => resolve.keys.iter().filter(|key| !key.is_empty()).collect(),
        Cmd::CheckTxnStatus(check) => vec![&check.primary_key],
        Cmd::Gc(gc) => gc.keys.iter().collect(),
        Cmd::TxnHeartBeat(beat) => vec![&beat.primary_lock],
        Cmd::CheckSecondaryLocks(check) => check.keys.iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_proto::kv::v1::CommitRequest;

    fn command() -> Command {
        let request = CommitRequest { keys: vec!["k".into()], start_version: 5, commit_version: 6 };
        Command {
            region_id: 7,
            epoch: RegionEpoch { version: 1, conf_version: 2 },
            cmd: Cmd::Commit(request),
        }
    }

    #[test]
    fn entries_are_golden() {
        let expected = [
            0xce, 0x0a, 8, 0x08, 7, 0x12, 4, 0x08, 1, 0x10, 2, 0x12, 11, 0x08, 4, 0x2a, 7, 0x0a, 1, b'k',
            0x10, 5, 0x18, 6,
        ];
        assert_eq!(&command().encode()[..], expected);
        assert_eq!(Command::decode(&command().encode()), Ok(command()));
    }

    #[test]
    fn splits_are_golden() {
        let split = SplitCommand { parent_region_id: 7, split_key: "m".into(), child: None };
        let expected = [0xad, 0x08, 1, 0x12, 5, 0x08, 7, 0x12, 1, b'm'];
        assert_eq!(&encode_split(split.clone())[..], expected);
        assert_eq!(LogEntry::decode(&encode_split(split.clone())), Ok(LogEntry::Split(split)));
        assert_eq!(LogEntry::decode(&command().encode()), Ok(LogEntry::Data(command())));
    }

    #[test]
    fn merges_are_golden() {
        let merge = MergeCommand {
            target_region_id: 7,
            source_region_id: 9,
            step: MergeStep::Unite.into(),
            frozen_index: 300,
            frozen_term: 4,
            ..MergeCommand::default()
        };
        let expected = [0xad, 0x08, 2, 0x1a, 14, 0x08, 7, 0x10, 9, 0xa0, 6, 3, 0xc0, 6, 0xac, 2, 0xc8, 6, 4];
        assert_eq!(&encode_merge(merge.clone())[..], expected);
        assert_eq!(LogEntry::decode(&encode_merge(merge.clone())), Ok(LogEntry::Merge(Box::new(merge))));
    }

    #[test]
    fn checks_and_what_they_find_are_golden() {
        let check = CheckCommand { check_id: 300 };
        assert_eq!(encode_check(check)[..], [0xad, 0x08, 100, 0xa2, 6, 3, 0x08, 0xac, 2]);
        assert_eq!(LogEntry::decode(&encode_check(check)), Ok(LogEntry::Check(check)));
        let quarantine = QuarantineCommand { peer_id: 7, index: 9 };
        assert_eq!(encode_quarantine(quarantine)[..], [0xad, 0x08, 101, 0xaa, 6, 4, 0x08, 7, 0x10, 9]);
        assert_eq!(LogEntry::decode(&encode_quarantine(quarantine)), Ok(LogEntry::Quarantine(quarantine)));
    }

    #[test]
    fn unknown_entries_are_refused() {
        let stepless = encode_merge(MergeCommand::default());
        for bad in [&b""[..], &stepless, b"\xad", b"\xad\x08\x02", b"\xce", b"\xce\xff", b"x"] {
            assert!(LogEntry::decode(&Bytes::copy_from_slice(bad)).is_err());
        }
    }
}
