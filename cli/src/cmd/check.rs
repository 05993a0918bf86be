//! `nokv check`: reads everything in a directory and lists what is not what was written there.

use crate::args::inspect::Check;
use crate::args::{Format, Global};
use crate::cmd::workdir::Workdir;
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use nokv_engine::inspect::{Checked, Finding, Note};
use nokv_env::{ClockExt, Env};
use nokv_raftstore::stats;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Beside a running process what looks like damage may be a file that has just been replaced.
const LOOKS: usize = 4;
const PAUSE: Duration = Duration::from_millis(200);

/// Checks a directory.
pub async fn run(env: &Env, args: &Check, global: &Global) -> Result<u8> {
    let dir = args.workdir.as_ref().or(args.dir.as_ref()).ok_or_else(|| Failure::usage("no directory"))?;
    let workdir = Workdir::find_any(env, dir)?;
    let look = || stats::check_workdir(&env.disk, &workdir.dir, args.deep);
    let mut checked = workdir.read(env, look).await?;
    for _ in 1..LOOKS {
        if checked.findings.is_empty() || !workdir.is_live() {
            break;
        }
        env.clock.sleep(PAUSE).await;
        checked = workdir.read(env, look).await?;
    }
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            lines(&workdir.dir, args.deep, &checked).iter().try_for_each(|line| out.line(line))?;
        }
        Format::Json => out.json(&document(&workdir.dir, args.deep, &checked))?,
        Format::Jsonl => {
            let findings = checked.findings.iter().map(finding_json);
            findings
                .chain(checked.notes.iter().map(note_json))
                .try_for_each(|row| out.line(&row.to_string()))?;
        }
    }
    out.flush()?;
    drop(out);
    match &checked.findings[..] {
        [] => Ok(0),
        [first, ..] => {
            let count = checked.findings.len();
            let places = if count == 1 { "1 place".to_owned() } else { format!("{count} places") };
            let message = format!("{} is damaged in {places}", workdir.dir.display());
            Err(Failure::new(Code::Corrupt, message)
                .why(sentence(first))
                .next("every place is listed on standard output; restore the files from a copy, or move the directory \
                       away and start the store empty: the other replicas have the data")
                .detail("path", workdir.dir.display().to_string())
                .detail("findings", count))
        }
    }
}

fn sentence(finding: &Finding) -> String {
    let sums = finding
        .checksums
        .map(|sums| format!(" (expected crc {:08x}, actual crc {:08x})", sums.stored, sums.computed));
    format!(
        "{} at offset {}: {}{}",
        finding.file.display(),
        finding.offset,
        finding.what,
        sums.unwrap_or_default()
    )
}

fn lines(dir: &Path, deep: bool, checked: &Checked) -> Vec<String> {
    let depth = if deep { ", deep" } else { "" };
    let mut lines = vec![format!("Check of {}{depth}", dir.display())];
    lines.push(format!(
        "Read     {} files, {} bytes: {} tables with {} blocks, {} records of logs and manifest",
        checked.files, checked.bytes, checked.tables, checked.blocks, checked.records
    ));
    if deep {
        lines.push(format!("Decoded  {} entries of tables", checked.entries));
    }
    lines.extend(checked.notes.iter().map(|note| format!("note     {}: {}", note.file.display(), note.what)));
    lines.extend(checked.findings.iter().map(|finding| format!("DAMAGED  {}", sentence(finding))));
    if checked.findings.is_empty() {
        lines.push("ok       no damage".to_owned());
    }
    lines
}

fn finding_json(finding: &Finding) -> Value {
    let mut row = json!({
        "file": finding.file.display().to_string(),
        "offset": finding.offset,
        "what": finding.what,
    });
    if let Some(sums) = finding.checksums {
        row["expected_crc"] = json!(format!("{:08x}", sums.stored));
        row["actual_crc"] = json!(format!("{:08x}", sums.computed));
    }
    row
}

fn note_json(note: &Note) -> Value {
    json!({"file": note.file.display().to_string(), "note": note.what})
}

fn document(dir: &Path, deep: bool, checked: &Checked) -> Value {
    json!({
        "workdir": dir.display().to_string(),
        "deep": deep,
        "sound": checked.findings.is_empty(),
        "files": checked.files,
        "bytes": checked.bytes,
        "tables": checked.tables,
        "blocks": checked.blocks,
        "entries": checked.entries,
        "records": checked.records,
        "findings": checked.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "notes": checked.notes.iter().map(note_json).collect::<Vec<_>>(),
    })
}
