//! `nokv region export` and `import`: a region in a file, from one store to another.

use crate::args::client::{RegionExport, RegionImport};
use crate::args::{Format, Global};
use crate::cmd::draft::Draft;
use crate::cmd::import::progress_bar;
use crate::cmd::reach::NoAnswer;
use crate::cmd::{region, regions};
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::unfold;
use nokv_env::net::MESSAGE_BYTES_MAX;
use nokv_env::{Channel, ClockExt, Env, File, Instant, OpenMode};
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{ExportRegionSnapshotStreamRequest, ImportRegionSnapshotStreamRequest};
use nokv_raftstore::snapshot_file::{
    self as snapshot, Check, Damage, HEADER_PREFIX, Header, PART_PREFIX, Part,
};
use serde_json::json;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::{Code as Grpc, Status};

/// How often the patience with a store is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Writes a region to a file: beside it first, and under its name when all of it is there.
pub async fn export(env: &Env, args: &RegionExport, global: &Global) -> Result<u8> {
    let name = args.to.display();
    if env.disk.exists(&args.to).map_err(|error| Failure::io(format!("look for {name}"), &error))? {
        return Err(Failure::usage(format!("{name} exists already")).next("name another file with --to"));
    }
    let Written { header, rows, bytes } = write(env, args).await?;
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            let at = header.at;
            let what = format!("{rows} rows, {bytes} bytes, as of index {} term {}", at.index, at.term);
            out.line(&format!("{} file={name}: {what}", regions::line(&header.region)))?;
        }
        _ => out.json(&json!({
            "file": args.to.display().to_string(),
            "region": regions::to_json(&header.region, None),
            "store_id": header.store_id,
            "applied_index": header.at.index,
            "applied_term": header.at.term,
            "rows": rows,
            "bytes": bytes,
        }))?,
    }
    out.flush()?;
    Ok(0)
}

struct Written {
    header: Header,
    rows: u64,
    bytes: u64,
}

async fn write(env: &Env, args: &RegionExport) -> Result<Written> {
    let request = ExportRegionSnapshotStreamRequest { region_id: args.region };
    let (mut admin, addr) = (client(env, &args.addr), &args.addr);
    let silent = || unreachable(addr, "no answer in time");
    let asked = env.clock.timeout(args.timeout, admin.export_region_snapshot_stream(request)).await;
    let mut stream = asked.map_err(|_| silent())?.map_err(|status| answered(addr, &status))?.into_inner();
    let mut header = None;
    let mut check = Check::default();
    let mut is_whole = false;
    let mut draft = Draft::beside(env, &args.to);
    let bar = progress_bar(None, 0);
    loop {
        let next = env.clock.timeout(args.timeout, stream.message()).await.map_err(|_| silent())?;
        let Some(message) = next.map_err(|status| answered(addr, &status))? else { break };
        // Whatever is damaged on its way is found here, and not when it is needed.
        let part = if header.is_none() {
            header = Some(Header::decode(&message.snapshot_header).map_err(|damage| spoiled(addr, &damage))?);
            message.snapshot_header
        } else {
            let part = Part::decode(&message.chunk).map_err(|damage| spoiled(addr, &damage))?;
            is_whole = check.add(&part).map_err(|damage| spoiled(addr, &damage))?;
            message.chunk
        };
        draft.append(&part)?;
        bar.set_position(draft.bytes);
    }
    bar.finish_and_clear();
    let (Some(header), true) = (header, is_whole) else { return Err(spoiled(addr, &Damage::CutOff)) };
    Ok(Written { header, rows: check.rows(), bytes: draft.publish(&args.to)? })
}

/// Sends a file to a store that installs it.
pub async fn import(env: &Env, args: &RegionImport, global: &Global) -> Result<u8> {
    let name = args.file.display();
    let opened = env.disk.open(&args.file, OpenMode::Read);
    let file = opened.map_err(|error| Failure::io(format!("open {name}"), &error))?;
    let (header, bytes) = check(&*file).map_err(|bad| bad.failure(&args.file))?;
    let bar = progress_bar(Some(bytes), 0);
    let first = ImportRegionSnapshotStreamRequest {
        snapshot_header: header.encode(),
        region: Some(header.region.clone()),
        chunk: Bytes::new(),
    };
    let start = first.snapshot_header.len() as u64;
    let asked_last = Arc::new(AtomicU64::new(env.clock.now().0));
    let (clock, asked) = (env.clock.clone(), asked_last.clone());
    // It was whole a moment ago. Should it not be any more, the stream ends and the store finds something missing.
    let sent = unfold((Some(first), start), move |(first, at)| {
        let (file, bar) = (file.clone(), bar.clone());
        asked.store(clock.now().0, Ordering::Relaxed);
        async move {
            if let Some(first) = first {
                return Some((first, (None, at)));
            }
            let part = read_part(&*file, at).ok().filter(|_| at < bytes)?;
            let at = at + part.len() as u64;
            bar.set_position(at);
            if at == bytes {
                bar.finish_and_clear();
            }
            Some((ImportRegionSnapshotStreamRequest { chunk: part, ..Default::default() }, (None, at)))
        }
    });
    let mut admin = client(env, &args.addr);
    let mut call = pin!(admin.import_region_snapshot_stream(sent));
    loop {
        match select(call.as_mut(), env.clock.sleep(LOOK)).await {
            Either::Left((Ok(reply), _)) => {
                let region = reply.into_inner().region.unwrap_or_default();
                return region::show(&[(region, None)], global);
            }
            Either::Left((Err(status), _)) => return Err(not_imported(args, &status)),
            Either::Right(_) => {
                let asked = Instant(asked_last.load(Ordering::Relaxed));
                if env.clock.now().since(asked) > args.timeout {
                    let text = format!("{}: no answer in time; the region may be installed", args.addr);
                    let next = "run the command again: it is refused if the region is there";
                    return Err(Failure::new(Code::OutcomeUnknown, text).next(next));
                }
            }
        }
    }
}

/// What is wrong with a file, and where.
enum Bad {
    Damage(u64, Damage),
    Io(std::io::Error),
}

impl Bad {
    fn failure(&self, path: &Path) -> Failure {
        let name = path.display();
        match self {
            Bad::Damage(_, Damage::Foreign(what)) => Failure::usage(format!("{name}: {what}"))
                .next("nokv region export --region ID --addr HOST:PORT --to FILE writes one"),
            Bad::Damage(offset, damage) => {
                Failure::new(Code::Corrupt, format!("{name}: damaged at offset {offset}: {damage}"))
                    .detail("offset", *offset)
                    .next("nothing was sent; copy the file again, or export the region again")
            }
            Bad::Io(error) => Failure::io(format!("read {name}"), error),
        }
    }
}

/// Reads all of a file and makes sure that it is a whole snapshot. Its header and length.
fn check(file: &dyn File) -> std::result::Result<(Header, u64), Bad> {
    let length = file.len().map_err(Bad::Io)?;
    let at = |offset: u64| move |damage| Bad::Damage(offset, damage);
    let first = read_header(file)?;
    let header = Header::decode(&first).map_err(at(0))?;
    let (mut offset, mut check) = (first.len() as u64, Check::default());
    loop {
        let part = read_part(file, offset)?;
        let is_whole = Part::decode(&part).and_then(|part| check.add(&part)).map_err(at(offset))?;
        offset += part.len() as u64;
        if is_whole && offset < length {
            let behind = Damage::Damaged("there is more behind the end of the snapshot");
            return Err(Bad::Damage(offset, behind));
        }
        if is_whole {
            return Ok((header, length));
        }
    }
}

fn read_header(file: &dyn File) -> std::result::Result<Bytes, Bad> {
    let prefix = read::<HEADER_PREFIX>(file, 0)?;
    let length = snapshot::header_bytes(&prefix).map_err(|damage| Bad::Damage(0, damage))?;
    read_exact(file, length, 0)
}

fn read_part(file: &dyn File, offset: u64) -> std::result::Result<Bytes, Bad> {
    let prefix = read::<PART_PREFIX>(file, offset)?;
    let length = snapshot::part_bytes(prefix).map_err(|damage| Bad::Damage(offset, damage))?;
    read_exact(file, length, offset)
}

fn read<const N: usize>(file: &dyn File, offset: u64) -> std::result::Result<[u8; N], Bad> {
    let bytes = read_exact(file, N, offset)?;
    bytes.first_chunk().copied().ok_or(Bad::Damage(offset, Damage::CutOff))
}

fn read_exact(file: &dyn File, length: usize, offset: u64) -> std::result::Result<Bytes, Bad> {
    // A damaged length must not cost memory.
    if offset + length as u64 > file.len().map_err(Bad::Io)? {
        return Err(Bad::Damage(offset, Damage::CutOff));
    }
    file.read_exact_at(length, offset).map(Bytes::from).map_err(Bad::Io)
}

fn client(env: &Env, addr: &str) -> RaftAdminClient<Channel> {
    RaftAdminClient::new(env.net.connect(addr))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The store said something that is no snapshot.
fn spoiled(addr: &str, damage: &Damage) -> Failure {
    Failure::new(Code::Unavailable, format!("{addr}: {damage}")).next("run the command again")
}

fn unreachable(addr: &str, why: &str) -> Failure {
    Failure::new(Code::Unavailable, format!("{addr}: {why}")).next("nokv status")
}

/// What both commands make of a store's answer.
fn answered(addr: &str, status: &Status) -> Failure {
    let why = status.message();
    if let Some(failure) = NoAnswer::from(status).about_trust(addr) {
        return failure;
    }
    match status.code() {
        Grpc::Unimplemented => Failure::new(Code::WrongService, format!("{addr} is not a store"))
            .next("stores usually listen on :20160; their addresses: nokv status"),
        Grpc::NotFound => Failure::new(Code::RegionNotFound, why).next("nokv regions"),
        Grpc::FailedPrecondition | Grpc::Aborted => Failure::new(Code::Refused, why).next("nokv regions"),
        Grpc::ResourceExhausted => Failure::new(Code::Unavailable, why).next("run the command again later"),
        Grpc::Internal if why.contains("damaged at offset") => {
            Failure::new(Code::Corrupt, format!("{addr}: {why}"))
                .why("the store cannot read its own files")
                .next("export the region from another store")
        }
        Grpc::Internal => Failure::new(Code::Internal, format!("{addr}: {why}")),
        _ => unreachable(addr, why),
    }
}

fn not_imported(args: &RegionImport, status: &Status) -> Failure {
    match status.code() {
        Grpc::InvalidArgument => {
            Failure::new(Code::Corrupt, format!("{}: {}", args.file.display(), status.message()))
                .next("nothing was installed; export the region again")
        }
        _ => answered(&args.addr, status),
    }
}
