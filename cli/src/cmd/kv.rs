//! `nokv get`, `put`, `del`, `scan`.
#![allow(clippy::disallowed_methods, reason = "reads the value from the file that the user names")]

use crate::args::client::{Del, Get, Put, Scan};
use crate::args::values::{hex, show_hex};
use crate::args::{Format, Global};
use crate::cmd::reach::{Reach, reach};
use crate::cmd::standalone;
use crate::errors::{Code, Failure, Result};
use crate::output::{Out, put_bytes, quote};
use crate::rows::{Cell, Rows};
use bytes::Bytes;
use nokv_client::Page;
use nokv_env::Env;
use nokv_proto::id::Timestamp;
use nokv_proto::key::KeyRange;
use nokv_proto::limits::{KEY_BYTES_MAX, SCAN_LIMIT_MAX, VALUE_BYTES_MAX};
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Prints a value.
pub async fn get(env: &Env, args: &Get, global: &Global) -> Result<u8> {
    if let Some(dir) = &args.workdir {
        return standalone::get(env, dir, args, global);
    }
    let key = key(&args.key, args.hex)?;
    let reach = reach(env, &args.cluster)?;
    let found = reach.client.get(key.clone()).await.map_err(|error| reach.failure(&error))?;
    show_value(&key, found, args.hex, global)
}

/// Prints a value that was found, or says that there is none.
pub fn show_value(key: &[u8], found: Option<Bytes>, as_hex: bool, global: &Global) -> Result<u8> {
    let Some(value) = found else {
        let mut facts = Map::new();
        put_bytes(&mut facts, "key", key);
        let failure = Failure::new(Code::KeyNotFound, format!("no value at {}", quote(key)));
        return Err(facts.into_iter().fold(failure, |failure, (name, fact)| failure.detail(&name, fact)));
    };
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            out.write(&shown(&value, as_hex))?;
            out.write(b"\n")?;
        }
        _ => out.line(&row(key, Some(&value), as_hex).to_string())?,
    }
    out.flush()?;
    Ok(0)
}

/// Prints pairs as `scan` does, a line each.
pub fn show_pairs(pairs: &[(Bytes, Bytes)], format: Format) -> Result {
    let mut out = Out::new();
    for (key, value) in pairs {
        if format == Format::Plain {
            out.write(&[&key[..], b"\t", &value[..], b"\n"].concat())?;
        } else {
            out.line(&row(key, Some(value), false).to_string())?;
        }
    }
    out.flush()
}

/// Writes a value.
pub async fn put(env: &Env, args: &Put, global: &Global) -> Result<u8> {
    if let Some(dir) = &args.workdir {
        return standalone::put(env, dir, args, global).await;
    }
    let key = key(&args.key, args.hex)?;
    let value = value(args)?;
    let reach = reach(env, &args.cluster)?;
    let ts = reach.client.put(key, value).await.map_err(|error| reach.failure(&error))?;
    committed(ts, global)
}

/// Deletes a key.
pub async fn del(env: &Env, args: &Del, global: &Global) -> Result<u8> {
    if let Some(dir) = &args.workdir {
        return standalone::del(env, dir, args, global).await;
    }
    let key = key(&args.key, args.hex)?;
    let reach = reach(env, &args.cluster)?;
    let ts = reach.client.delete(key).await.map_err(|error| reach.failure(&error))?;
    committed(ts, global)
}

/// Says when a write was committed.
pub fn committed(ts: Timestamp, global: &Global) -> Result<u8> {
    let mut out = Out::new();
    match global.format() {
        Format::Plain => out.line(&format!("ok commit_ts={}", ts.0))?,
        _ => out.line(&json!({"commit_ts": ts.0}).to_string())?,
    }
    out.flush()?;
    Ok(0)
}

/// Prints a range, page by page, from one snapshot.
pub async fn scan(env: &Env, args: &Scan, global: &Global) -> Result<u8> {
    if let Some(dir) = &args.workdir {
        return standalone::scan(env, dir, args, global);
    }
    let range = range(args)?;
    let reach = reach(env, &args.cluster)?;
    let mut left = if args.limit == 0 { u64::MAX } else { args.limit };
    let scanner = reach.client.scanner(range).await.map_err(|error| reach.failure(&error))?;
    let page_size = left.saturating_add(1).min(u64::from(SCAN_LIMIT_MAX)).min(2000) as u32;
    let mut scanner = scanner.page_size(page_size);
    if args.keys_only {
        scanner = scanner.keys_only();
    }
    let mut printer = Printer::new(args, global)?;
    printer.begin(scanner.version())?;
    let mut more = false;
    loop {
        let page = next(&reach, &mut scanner).await?;
        let Some(page) = page else { break };
        let take = left.min(page.pairs.len() as u64);
        for (key, value) in &page.pairs[..take as usize] {
            printer.row(key, value)?;
        }
        left -= take;
        more = take < page.pairs.len() as u64;
        if more {
            break;
        }
    }
    printer.end(more)?;
    if more && args.limit != 0 && global.format() == Format::Plain {
        eprintln!("note: more rows follow; --limit 0 prints all");
    }
    Ok(0)
}

async fn next(reach: &Reach, scanner: &mut nokv_client::Scanner) -> Result<Option<Page>> {
    scanner.next_page().await.map_err(|error| reach.failure(&error))
}

/// Prints rows in a format.
pub struct Printer {
    out: Out,
    laid_out: Option<Rows<'static>>,
    format: Format,
    hex: bool,
    keys_only: bool,
    rows: u64,
}

impl Printer {
    /// Rows as the flags want them; the header of some is printed at once.
    pub fn new(args: &Scan, global: &Global) -> Result<Self> {
        let columns: &[&str] = if args.keys_only { &["key"] } else { &["key", "value"] };
        let laid_out = global.layout().map(|layout| Rows::begin(layout, columns)).transpose()?;
        let (format, out) = (global.format(), Out::new());
        Ok(Self { out, laid_out, format, hex: args.hex, keys_only: args.keys_only, rows: 0 })
    }

    /// What comes before the rows.
    pub fn begin(&mut self, version: Timestamp) -> Result {
        match self.format {
            Format::Json => self.out.write(format!("{{\"version\": {}, \"rows\": [", version.0).as_bytes()),
            _ => Ok(()),
        }
    }

    /// A row.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> Result {
        let value = (!self.keys_only).then_some(value);
        if let Some(rows) = &mut self.laid_out {
            let cells = [Some(key), value].into_iter().flatten();
            return rows.row(cells.map(|bytes| Cell::Bytes(shown(bytes, self.hex))).collect());
        }
        match self.format {
            Format::Plain => {
                self.out.write(&shown(key, self.hex))?;
                if let Some(value) = value {
                    self.out.write(b"\t")?;
                    self.out.write(&shown(value, self.hex))?;
                }
                self.out.write(b"\n")?;
            }
            Format::Json => {
                self.out.write(if self.rows == 0 { b"\n  " } else { b",\n  " })?;
                self.out.write(row(key, value, self.hex).to_string().as_bytes())?;
            }
            Format::Jsonl => self.out.line(&row(key, value, self.hex).to_string())?,
        }
        self.rows += 1;
        Ok(())
    }

    /// What comes behind the rows.
    pub fn end(mut self, more: bool) -> Result {
        if let Some(rows) = self.laid_out {
            return rows.end();
        }
        if self.format == Format::Json {
            let newline = if self.rows == 0 { "" } else { "\n" };
            self.out.line(&format!("{newline}], \"more\": {more}}}"))?;
        }
        self.out.flush()
    }
}

fn row(key: &[u8], value: Option<&[u8]>, as_hex: bool) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, bytes: &[u8]| {
        if as_hex {
            drop(object.insert(name.to_owned(), json!(show_hex(bytes))));
        } else {
            put_bytes(&mut object, name, bytes);
        }
    };
    put("key", key);
    if let Some(value) = value {
        put("value", value);
    }
    Value::Object(object)
}

fn shown(bytes: &[u8], as_hex: bool) -> Vec<u8> {
    if as_hex { show_hex(bytes).into_bytes() } else { bytes.to_vec() }
}

/// A key as given on the command line.
pub fn key(text: &OsStr, is_hex: bool) -> Result<Bytes> {
    let key = bytes_of("the key", text.as_bytes(), is_hex)?;
    if key.is_empty() {
        return Err(Failure::new(Code::KeyEmpty, "the key is empty").next("keys have 1 to 4096 bytes"));
    }
    check_size("the key", key.len(), KEY_BYTES_MAX)?;
    Ok(key)
}

fn check_size(what: &str, bytes: usize, bytes_max: usize) -> Result {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(Failure::new(Code::TooLarge, format!("{what} has {bytes} bytes, at most {bytes_max} are possible"))
        .detail("bytes", bytes)
        .detail("bytes_max", bytes_max)
        .next("split it; the limits are fixed"))
}

/// The value as given on the command line, or in the file that it names.
pub fn value(args: &Put) -> Result<Bytes> {
    let raw = match (&args.value, &args.value_file) {
        (Some(value), _) => value.as_bytes().to_vec(),
        (None, Some(path)) => read_value(path)?,
        (None, None) => return Err(Failure::usage("a value is missing")),
    };
    let value = bytes_of("the value", &raw, args.hex)?;
    check_size("the value", value.len(), VALUE_BYTES_MAX)?;
    Ok(value)
}

/// Reads no more of a file than could be a value, written as it is or as hexadecimal digits.
fn read_value(path: &Path) -> Result<Vec<u8>> {
    let limit = 2 * VALUE_BYTES_MAX as u64 + 2;
    let mut value = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut value)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut value))
    };
    read.map_err(|error| Failure::io(format!("read the value from {}", path.display()), &error))?;
    Ok(value)
}

fn bytes_of(what: &str, text: &[u8], is_hex: bool) -> Result<Bytes> {
    if is_hex {
        Ok(hex(text).map_err(|error| Failure::usage(format!("{what}: {error}")))?.into())
    } else {
        Ok(Bytes::copy_from_slice(text))
    }
}

/// The range as given on the command line.
pub fn range(args: &Scan) -> Result<KeyRange> {
    key_range(args.prefix.as_deref(), args.start.as_deref(), args.end.as_deref(), args.hex)
}

/// A range as given on the command line; everything when nothing is given.
pub fn key_range(
    prefix: Option<&OsStr>,
    start: Option<&OsStr>,
    end: Option<&OsStr>,
    is_hex: bool,
) -> Result<KeyRange> {
    let bound = |text: Option<&OsStr>, name: &str| match text {
        Some(text) => bytes_of(name, text.as_bytes(), is_hex),
        None => Ok(Bytes::new()),
    };
    if prefix.is_some() {
        return Ok(KeyRange::prefix(&bound(prefix, "--prefix")?));
    }
    let range = KeyRange { start: bound(start, "--start")?, end: bound(end, "--end")? };
    if !range.end.is_empty() && range.end < range.start {
        return Err(Failure::usage(format!(
            "--end {} lies before --start {}",
            quote(&range.end),
            quote(&range.start)
        )));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_before_anybody_is_asked() {
        let code = |text: &str, hex| key(OsStr::new(text), hex).map_err(|failure| failure.code());
        assert_eq!(code("", false), Err(Code::KeyEmpty));
        assert_eq!(code(&"k".repeat(4097), false), Err(Code::TooLarge));
        assert_eq!(code("zz", true), Err(Code::Usage));
        assert_eq!(code("00ff", true), Ok(Bytes::from_static(&[0, 255])));
        assert_eq!(key(OsStr::from_bytes(&[0xff]), false).unwrap(), Bytes::from_static(&[0xff]));
    }

    #[test]
    fn rows_are_json_objects() {
        assert_eq!(row(b"a", Some(b"b"), false).to_string(), r#"{"key":"a","value":"b"}"#);
        assert_eq!(row(b"a", None, true).to_string(), r#"{"key":"61"}"#);
    }
}
