//! `nokv vlog`: the value log of a directory, as its manifest names it: live segments by bucket.

use crate::args::inspect::Vlog;
use crate::args::{Format, Global};
use crate::cmd::workdir::Workdir;
use crate::errors::Result;
use crate::output::Out;
use nokv_engine::inspect::{self, ManifestInfo, SegmentInfo};
use nokv_env::Env;
use serde::Serialize;

const NONE: &str = "this database has no value log; all values are in its tables";

/// The JSON form of one bucket. The first four members are the reference's, the others are ours.
#[derive(Serialize)]
struct Bucket {
    bucket: u8,
    active_fid: u64,
    head: Head,
    segments: Vec<u64>,
    total_bytes: u64,
    live_bytes: u64,
    values: u64,
}

/// The end of the newest segment. Segments are written once, so nothing is ever added behind it.
#[derive(Serialize)]
struct Head {
    fid: u64,
    offset: u64,
}

#[derive(Serialize)]
struct Document {
    buckets: Vec<Bucket>,
}

/// Prints the buckets that have segments.
pub async fn run(env: &Env, args: &Vlog, global: &Global) -> Result<u8> {
    let workdir = Workdir::find(env, &args.workdir)?;
    let info = workdir.read(env, || Ok(inspect::manifest(&*env.disk, &workdir.dir)?)).await?;
    let buckets = info.as_ref().map(buckets).unwrap_or_default();
    let mut out = Out::new();
    if buckets.is_empty() && global.format() != Format::Plain {
        eprintln!("note: {NONE}");
    }
    match global.format() {
        Format::Plain if buckets.is_empty() => out.line(NONE)?,
        Format::Plain => buckets.iter().flat_map(lines).try_for_each(|line| out.line(&line))?,
        Format::Json => out.json_of(&Document { buckets })?,
        Format::Jsonl => {
            let text = |bucket: &Bucket| serde_json::to_string(bucket).unwrap_or_default();
            buckets.iter().map(text).try_for_each(|line| out.line(&line))?;
        }
    }
    out.flush()?;
    Ok(0)
}

fn buckets(info: &ManifestInfo) -> Vec<Bucket> {
    let same = |a: &SegmentInfo, b: &SegmentInfo| a.bucket == b.bucket;
    let bucket = |segments: &[SegmentInfo]| {
        let newest = segments.last()?;
        Some(Bucket {
            bucket: newest.bucket,
            active_fid: newest.number,
            head: Head { fid: newest.number, offset: newest.bytes },
            segments: segments.iter().map(|segment| segment.number).collect(),
            total_bytes: segments.iter().map(|segment| segment.bytes).sum(),
            live_bytes: segments.iter().map(|segment| segment.live_bytes).sum(),
            values: segments.iter().map(|segment| segment.values).sum(),
        })
    };
    info.segments.chunk_by(same).filter_map(bucket).collect()
}

fn lines(bucket: &Bucket) -> Vec<String> {
    let segments: Vec<String> = bucket.segments.iter().map(u64::to_string).collect();
    vec![
        format!("Bucket {}", bucket.bucket),
        format!("  Active FID : {}", bucket.active_fid),
        format!("  Head       : fid={} offset={}", bucket.head.fid, bucket.head.offset),
        format!("  Segments   : [{}]", segments.join(" ")),
        format!("  Bytes      : total={} live={}", bucket.total_bytes, bucket.live_bytes),
        format!("  Values     : {}", bucket.values),
    ]
}
