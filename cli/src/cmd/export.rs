//! `nokv export`: a range as of one timestamp, in the formats that `nokv import` reads.
//!
//! Memory holds one page of the scan and a buffer. The file is written beside its name and renamed when it is whole; an
//! interrupted export leaves nothing and begins anew.

use crate::args::client::ImportFormat;
use crate::args::daily::{Export, Keys};
use crate::args::{Format, Global};
use crate::cmd::draft::Draft;
use crate::cmd::held::{Patience, hold, shown};
use crate::cmd::import::progress_bar;
use crate::cmd::kv::key_range;
use crate::cmd::reach::reach;
use crate::errors::{Code, Failure, Result};
use crate::output::{Out, put_bytes, quote};
use crate::rows::quoted;
use nokv_env::Env;
use nokv_proto::key::KeyRange;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Keys asked for at once.
pub const PAGE: u32 = 2000;
/// Bytes handed over at once.
const BUFFER: usize = 256 << 10;

/// The range that the flags say.
pub fn range(keys: &Keys) -> Result<KeyRange> {
    key_range(keys.prefix.as_deref(), keys.start.as_deref(), keys.end.as_deref(), keys.hex)
}

/// Where the records go.
enum Sink<'a> {
    Draft(Draft<'a>),
    Out(Out),
}

impl Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result {
        match self {
            Sink::Draft(draft) => draft.append(bytes),
            Sink::Out(out) => out.write(bytes),
        }
    }
}

/// Exports a range.
pub async fn run(env: &Env, args: &Export, global: &Global) -> Result<u8> {
    let range = range(&args.keys)?;
    let to_stdout = args.to == Path::new("-");
    let name = args.to.display().to_string();
    if !to_stdout && !args.force {
        let exists = env.disk.exists(&args.to);
        if exists.map_err(|error| Failure::io(format!("look for {name}"), &error))? {
            return Err(Failure::new(Code::FileExists, format!("{name} exists already"))
                .next("name another file with --to, or replace it with --force"));
        }
    }
    let reach = reach(env, &args.cluster)?;
    let held = hold(&reach, args.at).await?;
    let bar = progress_bar(None, 0);
    let patience = Patience { env, reach: &reach, bar: &bar, retry_for: args.retry_for };
    let mut sink = if to_stdout { Sink::Out(Out::new()) } else { Sink::Draft(Draft::beside(env, &args.to)) };
    let (mut buffer, mut records, mut bytes) = (Vec::with_capacity(2 * BUFFER), 0u64, 0u64);
    let mut scanner = held.snapshot.scanner(range).page_size(PAGE);
    while let Some(page) = patience.page(&mut scanner).await? {
        for (key, value) in &page.pairs {
            encode(args.format, key, value, &mut buffer)?;
            records += 1;
            if buffer.len() >= BUFFER {
                sink.write(&buffer)?;
                bytes += buffer.len() as u64;
                buffer.clear();
            }
        }
        bar.set_position(bytes + buffer.len() as u64);
        bar.set_message(format!("{records} records"));
    }
    sink.write(&buffer)?;
    bytes += buffer.len() as u64;
    match sink {
        Sink::Draft(draft) => drop(draft.publish(&args.to)?),
        Sink::Out(mut out) => out.flush()?,
    }
    bar.finish_and_clear();
    let timestamp = held.snapshot.version().0;
    held.release(env).await;
    let text = format!("exported {records} records, {bytes} bytes, as of {timestamp} ({})", shown(timestamp));
    if to_stdout {
        eprintln!("{text}");
        return Ok(0);
    }
    let mut out = Out::new();
    match global.format() {
        Format::Plain => out.line(&format!("{text} to {name}"))?,
        _ => out.line(
            &json!({"file": name, "records": records, "bytes": bytes, "timestamp": timestamp}).to_string(),
        )?,
    }
    out.flush()?;
    Ok(0)
}

/// Adds a record, such that `import` reads these bytes and no others.
fn encode(format: ImportFormat, key: &[u8], value: &[u8], into: &mut Vec<u8>) -> Result {
    match format {
        ImportFormat::Jsonl => {
            let mut object = Map::new();
            put_bytes(&mut object, "key", key);
            put_bytes(&mut object, "value", value);
            into.extend_from_slice(Value::Object(object).to_string().as_bytes());
        }
        ImportFormat::Csv => {
            // Always in quotes: what looks like a byte order mark, or like nothing at all, is content.
            quoted(key, into);
            into.push(b',');
            quoted(value, into);
        }
        ImportFormat::Tsv => {
            let problem = match (key.contains(&b'\t'), key.contains(&b'\n'), value.contains(&b'\n')) {
                (true, ..) => Some("the key holds a TAB"),
                (_, true, _) => Some("the key holds a line feed"),
                (.., true) => Some("the value holds a line feed"),
                _ => None,
            };
            if let Some(problem) = problem {
                return Err(Failure::usage(format!(
                    "tsv cannot hold the record at {}: {problem}",
                    quote(key)
                ))
                .next("--format jsonl and --format csv hold any bytes"));
            }
            into.extend_from_slice(key);
            into.push(b'\t');
            into.extend_from_slice(value);
        }
    }
    into.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::import::read_all;

    /// Every byte, what quotes, separators, marks and encodings could spoil, and nothing.
    fn records() -> Vec<(Vec<u8>, Vec<u8>)> {
        let all: Vec<u8> = (0..=255).collect();
        let texts: [&[u8]; 9] = [
            b"plain",
            b"\"",
            b"\"\"",
            b"a,b",
            b"\r\n",
            b"\xef\xbb\xbfmark",
            b" blank ",
            b"\\x",
            "\u{1f980}".as_bytes(),
        ];
        let mut records: Vec<_> = texts
            .iter()
            .map(|text| (text.to_vec(), texts[3].iter().rev().copied().chain(text.to_vec()).collect()))
            .collect();
        records.push((all.clone(), all.clone()));
        records.push((b"empty".to_vec(), Vec::new()));
        records.push((vec![0], vec![0xff, 0xfe]));
        records
    }

    #[test]
    fn what_is_exported_is_imported() {
        for format in [ImportFormat::Jsonl, ImportFormat::Csv] {
            let mut file = Vec::new();
            for (key, value) in &records() {
                encode(format, key, value, &mut file).unwrap();
            }
            assert_eq!(read_all(file, format), records(), "{format:?}");
        }
    }

    #[test]
    fn tsv_holds_what_has_no_tabs_and_line_feeds() {
        let mut file = Vec::new();
        encode(ImportFormat::Tsv, b"\xff\r", b"a\tb\"\r", &mut file).unwrap();
        encode(ImportFormat::Tsv, b"k", b"", &mut file).unwrap();
        let want = vec![(b"\xff\r".to_vec(), b"a\tb\"\r".to_vec()), (b"k".to_vec(), Vec::new())];
        assert_eq!(read_all(file, ImportFormat::Tsv), want);
        for (key, value, what) in [
            (&b"a\tb"[..], &b"v"[..], "TAB"),
            (b"a\nb", b"v", "the key holds a line feed"),
            (b"a", b"\n", "the value"),
        ] {
            let failure = encode(ImportFormat::Tsv, key, value, &mut Vec::new()).unwrap_err();
            assert!(failure.code() == Code::Usage && failure.message().contains(what), "{failure:?}");
        }
    }
}
