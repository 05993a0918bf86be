//! `nokv manifest`: which tables a directory's manifest says are live, and from where its log matters.

use crate::args::inspect::Manifest;
use crate::args::{Format, Global};
use crate::cmd::workdir::Workdir;
use crate::errors::{Code, Failure, Result};
use crate::output::{Out, base64, quote};
use nokv_engine::inspect::{self, ManifestInfo, SegmentInfo, TableInfo};
use nokv_env::Env;
use serde::Serialize;
use std::collections::BTreeMap;

/// The JSON form. The first four members are the reference's, the others are ours.
#[derive(Serialize)]
struct Document {
    log_pointer: LogPointer,
    /// The newest segment of every bucket of the value log.
    value_log_heads: Vec<Place>,
    levels: Vec<Level>,
    /// All live segments of the value log.
    value_logs: Vec<Place>,
    manifest: File,
    flushed_sequence: u64,
    next_file: u64,
    tables: Vec<Table>,
}

/// The log matters from here on. Segments matter as a whole, so the offset is always 0.
#[derive(Serialize)]
struct LogPointer {
    offset: u64,
    segment: u64,
}

#[derive(Serialize)]
struct File {
    name: String,
    edits: u64,
}

#[derive(Serialize)]
struct Level {
    level: usize,
    file_count: usize,
    file_ids: Vec<u64>,
    total_bytes: u64,
    /// Bytes of the value log that its tables point at.
    value_bytes: u64,
}

/// A live segment of the value log, and where it ends.
#[derive(Serialize)]
struct Place {
    bucket: u8,
    fid: u64,
    offset: u64,
    valid: bool,
}

#[derive(Serialize)]
struct Table {
    id: u64,
    level: usize,
    bytes: u64,
    entries: u64,
    tombstones: u64,
    /// Only of tables that have such entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<Expiry>,
    value_bytes: u64,
    smallest: Key,
    largest: Key,
}

/// Entries that have an end.
#[derive(Serialize)]
struct Expiry {
    entries: u64,
    first_unix_ms: u64,
    last_unix_ms: u64,
    half_unix_ms: Option<u64>,
}

/// A key, and the family that it is in.
#[derive(Serialize)]
struct Key {
    family: u8,
    key: String,
}

/// Prints the manifest in force.
pub async fn run(env: &Env, args: &Manifest, global: &Global) -> Result<u8> {
    let workdir = Workdir::find(env, &args.workdir)?;
    let info = workdir.read(env, || Ok(inspect::manifest(&*env.disk, &workdir.dir)?)).await?;
    let info = info.ok_or_else(|| {
        Failure::new(Code::NotAWorkdir, format!("manifest not found in {}", workdir.dir.display()))
    })?;
    let mut out = Out::new();
    match global.format() {
        Format::Plain => lines(&info).iter().try_for_each(|line| out.line(line))?,
        Format::Json => out.json_of(&document(&info))?,
        Format::Jsonl => {
            let tables = info.tables.iter().map(table);
            let text = |table: Table| serde_json::to_string(&table).unwrap_or_default();
            tables.map(text).try_for_each(|line| out.line(&line))?;
        }
    }
    out.flush()?;
    Ok(0)
}

fn name(info: &ManifestInfo) -> String {
    info.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Levels that have tables, newest first.
fn levels(info: &ManifestInfo) -> Vec<Level> {
    let mut levels: BTreeMap<usize, Vec<&TableInfo>> = BTreeMap::new();
    for table in &info.tables {
        levels.entry(table.level).or_default().push(table);
    }
    let level = |(level, tables): (usize, Vec<&TableInfo>)| Level {
        level,
        file_count: tables.len(),
        file_ids: tables.iter().map(|table| table.number).collect(),
        total_bytes: tables.iter().map(|table| table.bytes).sum(),
        value_bytes: tables.iter().map(|table| table.value_bytes).sum(),
    };
    levels.into_iter().map(level).collect()
}

fn table(table: &TableInfo) -> Table {
    let key = |(family, key): &(nokv_engine::Cf, bytes::Bytes)| Key { family: family.0, key: base64(key) };
    Table {
        id: table.number,
        level: table.level,
        bytes: table.bytes,
        entries: table.entries,
        tombstones: table.tombstones,
        expiry: table.expiry.map(|of| Expiry {
            entries: of.entries,
            first_unix_ms: of.first_unix_ms,
            last_unix_ms: of.last_unix_ms,
            half_unix_ms: of.half_unix_ms,
        }),
        value_bytes: table.value_bytes,
        smallest: key(&table.smallest),
        largest: key(&table.largest),
    }
}

fn place(segment: &SegmentInfo) -> Place {
    Place { bucket: segment.bucket, fid: segment.number, offset: segment.bytes, valid: true }
}

fn heads(info: &ManifestInfo) -> Vec<Place> {
    let same = |a: &SegmentInfo, b: &SegmentInfo| a.bucket == b.bucket;
    info.segments.chunk_by(same).filter_map(|bucket| bucket.last().map(place)).collect()
}

fn document(info: &ManifestInfo) -> Document {
    Document {
        log_pointer: LogPointer { offset: 0, segment: info.log_start },
        value_log_heads: heads(info),
        levels: levels(info),
        value_logs: info.segments.iter().map(place).collect(),
        manifest: File { name: name(info), edits: info.edits },
        flushed_sequence: info.flushed_sequence,
        next_file: info.next_file,
        tables: info.tables.iter().map(table).collect(),
    }
}

fn lines(info: &ManifestInfo) -> Vec<String> {
    let mut lines = vec![
        format!("Manifest File        : {} edits={}", name(info), info.edits),
        format!("Manifest Log Pointer : segment={} offset=0", info.log_start),
        format!("Flushed Sequence     : {}", info.flushed_sequence),
        format!("Next File            : {}", info.next_file),
    ];
    let place = |place: &Place| format!("fid={} offset={} valid={}", place.fid, place.offset, place.valid);
    let head = |head: &Place| format!("ValueLog Head[{}]     : {}", head.bucket, place(head));
    lines.extend(heads(info).iter().map(head));
    lines.push(if info.tables.is_empty() { "Levels: (none)".to_owned() } else { "Levels:".to_owned() });
    for level in levels(info) {
        let ids: Vec<String> = level.file_ids.iter().map(u64::to_string).collect();
        lines.push(format!(
            "  - L{} files={} total={} bytes value={} bytes ids=[{}]",
            level.level,
            level.file_count,
            level.total_bytes,
            level.value_bytes,
            ids.join(" ")
        ));
    }
    if !info.tables.is_empty() {
        lines.push("Tables:".to_owned());
    }
    for table in &info.tables {
        let expiry = table.expiry.map(|of| {
            let (first, last) = (of.first_unix_ms, of.last_unix_ms);
            format!(" expiring={} ends={first}..{last}", of.entries)
        });
        lines.push(format!(
            "  - id={} L{} bytes={} entries={} tombstones={} from={}:{} to={}:{}{}",
            table.number,
            table.level,
            table.bytes,
            table.entries,
            table.tombstones,
            table.smallest.0.0,
            quote(&table.smallest.1),
            table.largest.0.0,
            quote(&table.largest.1),
            expiry.unwrap_or_default()
        ));
    }
    let none = info.segments.is_empty();
    lines.push(if none { "ValueLog segments: (none)".to_owned() } else { "ValueLog segments:".to_owned() });
    let segment = |segment: &SegmentInfo| {
        format!("  - bucket={} {} live={}", segment.bucket, place(&self::place(segment)), segment.live_bytes)
    };
    lines.extend(info.segments.iter().map(segment));
    lines
}
