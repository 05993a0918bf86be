//! `nokv backup verify` and `nokv backup show`.

use super::catalogue::{Backup, failure, find, show_range};
use crate::args::daily::BackupAt;
use crate::args::{Format, Global};
use crate::cmd::import::progress_bar;
use crate::errors::{Code, Failure, Result};
use crate::output::{Out, base64, table};
use indicatif::ProgressBar;
use nokv_env::Env;
use serde_json::json;
use std::path::Path;

/// Reads every byte, and names every file that is not as it was written.
pub async fn verify(env: &Env, args: &BackupAt, global: &Global) -> Result<u8> {
    let backup = find(&*env.disk, &args.dir)?;
    let bar = progress_bar(Some(backup.bytes()), 0);
    let checked = check(env, &args.dir, &backup, &bar).await;
    bar.finish_and_clear();
    checked?;
    let (files, pairs, bytes) = (backup.files.len(), backup.pairs(), backup.bytes());
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            let dir = args.dir.display();
            let range = show_range(&backup.range());
            out.line(&format!("{dir}: ok, {pairs} pairs in {files} files, {bytes} bytes, {range} as of {}", backup.taken_at))?;
        }
        _ => out.line(
            &json!({"ok": true, "pairs": pairs, "files": files, "bytes": bytes, "timestamp": backup.timestamp})
                .to_string(),
        )?,
    }
    out.flush()?;
    Ok(0)
}

/// Checks all files; damage in several is reported together.
pub async fn check(env: &Env, dir: &Path, backup: &Backup, bar: &ProgressBar) -> Result {
    let mut bad = Vec::new();
    for (index, facts) in backup.files.iter().enumerate() {
        match check_file(env, dir, backup, index).await {
            Err(failure) if failure.code() != Code::Corrupt => return Err(failure),
            Err(failure) => bad.push(failure),
            Ok(()) => {}
        }
        bar.inc(facts.bytes);
    }
    let count = bad.len();
    let Some(first) = bad.first().cloned() else { return Ok(()) };
    if count == 1 {
        return Err(first);
    }
    let lines: Vec<&str> = bad.iter().map(Failure::message).collect();
    Err(Failure::new(
        Code::Corrupt,
        format!("{count} files of the backup are damaged\n  {}", lines.join("\n  ")),
    )
    .next("use another copy of the backup; this one is left as it is")
    .detail("files", lines))
}

async fn check_file(env: &Env, dir: &Path, backup: &Backup, index: usize) -> Result {
    let path = dir.join(&backup.files[index].name);
    let mut reader = backup.open(&*env.disk, dir, index)?;
    while reader.next_block().map_err(|bad| failure(&path, bad))?.is_some() {
        // Lets a Ctrl-C through.
        env.tasks.yield_now().await;
    }
    Ok(())
}

/// Says what the catalogue says.
pub fn show(env: &Env, args: &BackupAt, global: &Global) -> Result<u8> {
    let backup = find(&*env.disk, &args.dir)?;
    let mut out = Out::new();
    let range = backup.range();
    match global.format() {
        Format::Plain => {
            out.line(&format!("backup     {}", backup.id))?;
            out.line(&format!("as of      {} ({})", backup.timestamp, backup.taken_at))?;
            out.line(&format!("made by    nokv {}", backup.nokv))?;
            out.line(&format!("holds      {}", show_range(&range)))?;
            out.line(&format!(
                "           {} pairs, {} bytes of keys and values, {} bytes on disk",
                backup.pairs(),
                backup.content_bytes(),
                backup.bytes()
            ))?;
            let rows: Vec<Vec<String>> = backup
                .files
                .iter()
                .map(|file| {
                    let numbers =
                        [file.pairs, file.content_bytes, file.bytes].map(|number| number.to_string());
                    let mut row = vec![file.name.clone()];
                    row.extend(numbers);
                    row.push(show_range(&file.range()));
                    row
                })
                .collect();
            out.write(table(&["file", "pairs", "content", "bytes", "keys"], &rows).as_bytes())?;
        }
        _ => {
            let mut facts = json!({
                "id": backup.id, "timestamp": backup.timestamp, "taken_at": backup.taken_at, "nokv": backup.nokv,
                "start_key": base64(&range.start), "end_key": base64(&range.end), "pairs": backup.pairs(),
                "content_bytes": backup.content_bytes(), "bytes": backup.bytes(),
            });
            let files: Vec<_> = backup
                .files
                .iter()
                .map(|file| {
                    let range = file.range();
                    json!({
                        "name": file.name, "pairs": file.pairs, "content_bytes": file.content_bytes, "bytes": file.bytes,
                        "start_key": base64(&range.start), "end_key": base64(&range.end),
                    })
                })
                .collect();
            facts["files"] = json!(files);
            if global.format() == Format::Json {
                out.json(&facts)?;
            } else {
                out.line(&facts.to_string())?;
            }
        }
    }
    out.flush()?;
    Ok(0)
}
