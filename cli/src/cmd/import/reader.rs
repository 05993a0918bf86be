//! Records from a file, in batches that know where they end.

use crate::args::client::ImportFormat;
use crate::errors::{Code, Failure, Result};
use crate::output::from_base64;
use bytes::Bytes;
use nokv_proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read};

/// A batch closes early when its records weigh this much.
const BATCH_BYTES: usize = 1 << 20;
/// Longest line: key, value, and room for escapes.
const LINE_BYTES_MAX: u64 = 6 * (KEY_BYTES_MAX + VALUE_BYTES_MAX) as u64;

/// Consecutive records of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Keys and values in the order of the file.
    pub pairs: Vec<(Bytes, Bytes)>,
    /// The file up to here, bytes.
    pub end: u64,
    /// The file up to here, lines.
    pub end_line: u64,
}

/// Reads batches.
pub struct Reader {
    source: Source,
    name: String,
    batch: usize,
    /// A bad line that ends the next batch.
    broken: Option<Failure>,
}

enum Source {
    Lines { input: BufReader<Box<dyn Read>>, json: bool, offset: u64, line: u64 },
    Csv { input: Box<csv::Reader<Box<dyn Read>>>, base: u64, base_line: u64 },
}

struct Record {
    key: Bytes,
    value: Bytes,
    end: u64,
    end_line: u64,
}

impl Reader {
    /// Reads `input`, which begins at byte `offset` and after `line` lines of the file called `name`.
    pub fn new(
        input: Box<dyn Read>,
        format: ImportFormat,
        batch: usize,
        name: &str,
        offset: u64,
        line: u64,
    ) -> Self {
        let source = match format {
            ImportFormat::Csv => {
                let input = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(input);
                Source::Csv { input: Box::new(input), base: offset, base_line: line }
            }
            ImportFormat::Tsv | ImportFormat::Jsonl => Source::Lines {
                input: BufReader::with_capacity(1 << 18, input),
                json: format == ImportFormat::Jsonl,
                offset,
                line,
            },
        };
        Self { source, name: name.to_owned(), batch, broken: None }
    }

    /// The next batch; `None` at the end. What precedes a bad line is handed out before its error.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        if let Some(failure) = self.broken.take() {
            return Err(failure);
        }
        let (mut batch, mut bytes) = (Batch::default(), 0);
        while batch.pairs.len() < self.batch && bytes < BATCH_BYTES {
            match self.record() {
                Ok(Some(record)) => {
                    bytes += record.key.len() + record.value.len();
                    (batch.end, batch.end_line) = (record.end, record.end_line);
                    batch.pairs.push((record.key, record.value));
                }
                Ok(None) => break,
                Err(failure) if batch.pairs.is_empty() => return Err(failure),
                Err(failure) => {
                    self.broken = Some(failure);
                    break;
                }
            }
        }
        Ok((!batch.pairs.is_empty()).then_some(batch))
    }

    fn record(&mut self) -> Result<Option<Record>> {
        match &mut self.source {
            Source::Lines { input, json, offset, line } => {
                let Some(text) = read_line(input, &self.name, *line + 1)? else { return Ok(None) };
                let read = text.len() as u64;
                let body = text.strip_suffix(b"\n").unwrap_or(&text);
                let parsed = if *json { json_record(body) } else { tsv_record(body) };
                let (key, value) =
                    parsed.and_then(check_sizes).map_err(|what| bad_line(&self.name, *line + 1, &what))?;
                *offset += read;
                *line += 1;
                Ok(Some(Record { key, value, end: *offset, end_line: *line }))
            }
            Source::Csv { input, base, base_line } => {
                let mut row = csv::ByteRecord::new();
                let line = *base_line + input.position().line();
                let found =
                    input.read_byte_record(&mut row).map_err(|error| csv_failure(&self.name, line, error))?;
                if !found {
                    return Ok(None);
                }
                let (key, value) = csv_record(&row)
                    .and_then(check_sizes)
                    .map_err(|what| bad_line(&self.name, line, &what))?;
                let end = input.position();
                Ok(Some(Record {
                    key,
                    value,
                    end: *base + end.byte(),
                    end_line: *base_line + end.line().saturating_sub(1),
                }))
            }
        }
    }
}

fn read_line(input: &mut impl BufRead, name: &str, line: u64) -> Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let read = input.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut text);
    read.map_err(|error| Failure::io(format!("read {name}"), &error))?;
    if text.len() as u64 > LINE_BYTES_MAX {
        return Err(bad_line(name, line, "longer than any record can be"));
    }
    Ok((!text.is_empty()).then_some(text))
}

fn tsv_record(line: &[u8]) -> std::result::Result<(Bytes, Bytes), String> {
    let tab = line.iter().position(|&byte| byte == b'\t').ok_or("no TAB between key and value")?;
    Ok((Bytes::copy_from_slice(&line[..tab]), Bytes::copy_from_slice(&line[tab + 1..])))
}

fn csv_record(row: &csv::ByteRecord) -> std::result::Result<(Bytes, Bytes), String> {
    match (row.len(), row.get(0), row.get(1)) {
        (2, Some(key), Some(value)) => Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))),
        (count, ..) => Err(format!("want 2 fields (key,value), found {count}")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRecord {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

fn json_record(line: &[u8]) -> std::result::Result<(Bytes, Bytes), String> {
    let record: JsonRecord = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let field = |text: Option<String>, encoded: Option<String>, name: &str| match (text, encoded) {
        (Some(text), None) => Ok(Bytes::from(text)),
        (None, Some(encoded)) => {
            from_base64(&encoded).map(Bytes::from).map_err(|e| format!("{name}_base64: {e}"))
        }
        _ => Err(format!("want either \"{name}\" or \"{name}_base64\"")),
    };
    Ok((field(record.key, record.key_base64, "key")?, field(record.value, record.value_base64, "value")?))
}

fn check_sizes((key, value): (Bytes, Bytes)) -> std::result::Result<(Bytes, Bytes), String> {
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    for (what, bytes, bytes_max) in
        [("key", key.len(), KEY_BYTES_MAX), ("value", value.len(), VALUE_BYTES_MAX)]
    {
        if bytes > bytes_max {
            return Err(format!("the {what} has {bytes} bytes, at most {bytes_max} are possible"));
        }
    }
    Ok((key, value))
}

fn bad_line(name: &str, line: u64, what: &str) -> Failure {
    Failure::new(Code::BadLine, format!("{name}:{line}: {what}"))
        .why("every record before this line is imported, none after it")
        .next("correct the line and run the same command again; it goes on from there")
        .detail("line", line)
}

fn csv_failure(name: &str, line: u64, error: csv::Error) -> Failure {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => Failure::io(format!("read {name}"), &error),
        other => bad_line(name, line, &format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(text: &'static str, format: ImportFormat, batch: usize) -> Reader {
        Reader::new(Box::new(text.as_bytes()), format, batch, "f", 0, 0)
    }

    fn pairs(batch: &Batch) -> Vec<(&str, &str)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        batch.pairs.iter().map(|(key, value)| (text(key), text(value))).collect()
    }

    #[test]
    fn formats_say_the_same() {
        let files = [
            ("a\t1\nb\tx\ty\n", ImportFormat::Tsv),
            ("a,1\n\"b\",\"x\ty\"\n", ImportFormat::Csv),
            (
                "{\"key\":\"a\",\"value\":\"1\"}\n{\"key_base64\":\"Yg==\",\"value\":\"x\\ty\"}",
                ImportFormat::Jsonl,
            ),
        ];
        for (text, format) in files {
            let mut reader = reader(text, format, 10);
            let batch = reader.next_batch().unwrap().unwrap();
            assert_eq!(pairs(&batch), [("a", "1"), ("b", "x\ty")], "{format:?}");
            assert_eq!((batch.end, batch.end_line), (text.len() as u64, 2), "{format:?}");
            assert!(reader.next_batch().unwrap().is_none());
        }
    }

    #[test]
    fn a_reader_goes_on_where_another_stopped() {
        for (text, format) in
            [("a\t1\nb\t2\nc\t3\n", ImportFormat::Tsv), ("a,1\nb,\"2\n2\"\nc,3\n", ImportFormat::Csv)]
        {
            let mut first = reader(text, format, 2);
            let batch = first.next_batch().unwrap().unwrap();
            let rest = &text.as_bytes()[batch.end as usize..];
            let mut second = Reader::new(Box::new(rest), format, 2, "f", batch.end, batch.end_line);
            assert_eq!(pairs(&second.next_batch().unwrap().unwrap()), [("c", "3")]);
            assert!(second.next_batch().unwrap().is_none());
        }
    }

    #[test]
    fn what_precedes_a_bad_line_is_not_lost() {
        for (text, format, what) in [
            ("a\t1\nbroken\nc\t3\n", ImportFormat::Tsv, "f:2: no TAB"),
            ("a\t1\n\tempty\n", ImportFormat::Tsv, "f:2: the key is empty"),
            ("a,1\nb\n", ImportFormat::Csv, "f:2: want 2 fields"),
            (
                "{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\"}\n",
                ImportFormat::Jsonl,
                "f:2: want either \"value\"",
            ),
            ("{\"key\":\"a\",\"value\":\"1\"}\n{]\n", ImportFormat::Jsonl, "f:2: "),
        ] {
            let mut reader = reader(text, format, 10);
            assert_eq!(pairs(&reader.next_batch().unwrap().unwrap()), [("a", "1")], "{text}");
            let failure = reader.next_batch().unwrap_err();
            assert!(failure.code() == Code::BadLine && failure.message().contains(what), "{failure:?}");
        }
    }
}
