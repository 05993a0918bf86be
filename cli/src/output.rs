//! Standard output: quiet about readers that have gone, and the shapes that several commands print.

use crate::errors::{Code, Failure, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

/// Buffered standard output. When the reader has gone (`| head`), the command ends quietly.
pub struct Out(BufWriter<StdoutLock<'static>>);

/// The reader of standard output has gone; not a failure.
pub fn is_gone(failure: &Failure) -> bool {
    failure.code() == Code::Io && failure.message() == GONE
}

const GONE: &str = "nobody reads standard output any more";

impl Out {
    /// Takes standard output.
    pub fn new() -> Self {
        Out(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }

    /// Writes bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result {
        self.0.write_all(bytes).map_err(failed)
    }

    /// Writes a line of text.
    pub fn line(&mut self, text: &str) -> Result {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    /// Writes an indented JSON document.
    pub fn json(&mut self, value: &Value) -> Result {
        self.line(&format!("{value:#}"))
    }

    /// Writes an indented JSON document whose members stay in the order of the structure.
    pub fn json_of(&mut self, value: &impl serde::Serialize) -> Result {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::new(Code::Internal, format!("cannot write JSON: {error}")))?;
        self.line(&text)
    }

    /// Hands everything over.
    pub fn flush(&mut self) -> Result {
        self.0.flush().map_err(failed)
    }
}

fn failed(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::new(Code::Io, GONE),
        _ => Failure::io("write to standard output", &error),
    }
}

/// Prints one line at once, whoever reads it; for the progress of servers.
pub fn say(line: &str) {
    let mut out = io::stdout().lock();
    // A server does not stop because its terminal did.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Adds `name` as a string when the bytes are UTF-8, else `name_base64`.
pub fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => object.insert(format!("{name}_base64"), json!(base64(bytes))),
    };
}

/// Standard base64.
pub fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Reads [`base64()`].
pub fn from_base64(text: &str) -> std::result::Result<Vec<u8>, String> {
    BASE64_STANDARD.decode(text).map_err(|error| error.to_string())
}

/// A key for people: quoted, unprintable bytes escaped.
pub fn quote(key: &[u8]) -> String {
    format!("\"{}\"", key.escape_ascii())
}

/// Lays out rows so that columns line up.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|title| title.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        format!("  {}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".into(), "long one".into()], vec!["bbb".into(), "c".into()]];
        assert_eq!(table(&["x", "y"], &rows), "  x    y\n  a    long one\n  bbb  c\n");
    }

    #[test]
    fn binary_is_base64() {
        let mut object = Map::new();
        put_bytes(&mut object, "key", b"plain");
        put_bytes(&mut object, "value", &[0xff]);
        assert_eq!(Value::Object(object), json!({"key": "plain", "value_base64": "/w=="}));
        assert_eq!(from_base64("/w==").unwrap(), [0xff]);
        assert_eq!(quote(b"a\0\""), "\"a\\x00\\\"\"");
    }
}
