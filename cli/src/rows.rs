//! Rows as `-o table` and `-o csv` show them, for every command that lists some.
//!
//! A command says its columns and gives its rows as cells; how they look is decided here. A table needs the widths of all
//! of them before it can print one, so it holds them; CSV is written as it comes.

use crate::args::Layout;
use crate::errors::Result;
use crate::output::{Out, quote};
use std::fmt::Display;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// A word or a number.
    Word(String),
    /// A key or a value, which may be any bytes.
    Bytes(Vec<u8>),
    /// A boundary of a range: a key, or empty for none.
    Bound(Vec<u8>),
}

impl Cell {
    /// A word or a number.
    pub fn of(value: impl Display) -> Self {
        Cell::Word(value.to_string())
    }

    /// A word or a number, or nothing.
    pub fn maybe(value: Option<impl Display>) -> Self {
        Cell::Word(value.map(|value| value.to_string()).unwrap_or_default())
    }

    /// In a table no cell may break its line, so what is unprintable is escaped.
    fn in_table(self) -> String {
        match self {
            Cell::Word(text) => text,
            Cell::Bytes(bytes) => bytes.escape_ascii().to_string(),
            Cell::Bound(bytes) => quote(&bytes),
        }
    }

    /// In CSV bytes stay what they are; quotes hold all of them.
    fn in_csv(self) -> Vec<u8> {
        match self {
            Cell::Word(text) => text.into_bytes(),
            Cell::Bytes(bytes) | Cell::Bound(bytes) => bytes,
        }
    }
}

/// Rows on their way to standard output.
pub struct Rows<'a> {
    layout: Layout,
    header: &'a [&'a str],
    out: Out,
    /// Of a table.
    held: Vec<Vec<String>>,
}

impl<'a> Rows<'a> {
    /// Rows with these columns.
    pub fn begin(layout: Layout, header: &'a [&'a str]) -> Result<Self> {
        let mut out = Out::new();
        if layout == Layout::Csv {
            out.write(&record(header.iter().map(|title| title.as_bytes().to_vec())))?;
        }
        Ok(Self { layout, header, out, held: Vec::new() })
    }

    /// One more; it has a cell for every column.
    pub fn row(&mut self, cells: Vec<Cell>) -> Result {
        debug_assert_eq!(cells.len(), self.header.len(), "a row as wide as its header");
        match self.layout {
            Layout::Csv => self.out.write(&record(cells.into_iter().map(Cell::in_csv))),
            Layout::Table => {
                self.held.push(cells.into_iter().map(Cell::in_table).collect());
                Ok(())
            }
        }
    }

    /// That was all.
    pub fn end(mut self) -> Result {
        if self.layout == Layout::Table {
            self.out.write(aligned(self.header, &self.held).as_bytes())?;
        }
        self.out.flush()
    }
}

/// Prints rows that are all there.
pub fn print(layout: Layout, header: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) -> Result {
    let mut printed = Rows::begin(layout, header)?;
    rows.into_iter().try_for_each(|row| printed.row(row))?;
    printed.end()
}

/// Columns that line up, from the left edge on; titles in capitals.
fn aligned(header: &[&str], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = header.iter().map(|title| title.to_uppercase()).collect();
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let table = crate::output::table(&titles, rows);
    table.lines().flat_map(|line| [line.strip_prefix("  ").unwrap_or(line), "\n"]).collect()
}

/// One record of RFC 4180, line end included. An empty cell in quotes is one too, so that a lone one is not an empty line.
fn record(cells: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut line = Vec::new();
    for (n, cell) in cells.enumerate() {
        if n > 0 {
            line.push(b',');
        }
        let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"');
        if !cell.is_empty() && cell.iter().all(is_plain) {
            line.extend_from_slice(&cell);
            continue;
        }
        quoted(&cell, &mut line);
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// Bytes in quotes, as RFC 4180 has them.
pub fn quoted(bytes: &[u8], into: &mut Vec<u8>) {
    into.push(b'"');
    for &byte in bytes {
        if byte == b'"' {
            into.push(b'"');
        }
        into.push(byte);
    }
    into.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::client::ImportFormat;
    use crate::cmd::read_import;

    #[test]
    fn csv_is_read_back_as_it_was() {
        let all: Vec<u8> = (0..=255).collect();
        let rows = [
            (b"plain".to_vec(), b"1".to_vec()),
            (b"a,b".to_vec(), b"say \"hi\"".to_vec()),
            (b"two\r\nlines".to_vec(), Vec::new()),
            (all.clone(), " blank \u{1f980}".as_bytes().to_vec()),
        ];
        let mut file = Vec::new();
        for (key, value) in &rows {
            file.extend(record([key.clone(), value.clone()].into_iter()));
        }
        assert_eq!(read_import(file, ImportFormat::Csv), rows);
    }

    #[test]
    fn csv_quotes_only_what_needs_it() {
        let cells =
            [Cell::of(7), Cell::Bytes(b"k 1".to_vec()), Cell::maybe(None::<u64>), Cell::Bound(b"m".to_vec())];
        assert_eq!(record(cells.into_iter().map(Cell::in_csv)), b"7,\"k 1\",\"\",m\r\n");
    }

    #[test]
    fn no_cell_of_a_table_breaks_its_line() {
        let cells = [Cell::Bytes(b"a\n\xff".to_vec()), Cell::Bound(Vec::new()), Cell::of("x")];
        let rows = vec![cells.into_iter().map(Cell::in_table).collect()];
        assert_eq!(aligned(&["key", "end", "n"], &rows), "KEY      END  N\na\\n\\xff  \"\"   x\n");
    }
}
