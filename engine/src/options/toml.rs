//! Options as text: as much of TOML as a flat list of settings needs.
//!
//! ```toml
//! # A memtable of this many bytes is flushed.
//! memtable_bytes = "64MiB"      # or 67108864, or 67_108_864
//! compression = "lz4"
//! ```
//! One `name = value` a line. What is accepted is TOML and means what TOML says; what TOML has beyond that (sections,
//! arrays, dates, fractions, other bases, escapes in strings) is refused where it stands. Who the caller is
//! (`lock_owner`, `is_owner`) is not a file's to say.

use super::{Compression, Options};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Units of sizes, largest first.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// How alike a name and a known one must be for the known one to be suggested.
const SIMILAR: f64 = 0.75;

/// A field of [`Options`] that a text may set.
struct Field {
    name: &'static str,
    /// What the struct says of it, in short.
    about: &'static str,
    get: fn(&Options) -> Value,
    /// The error says what is expected instead.
    set: fn(&mut Options, Value) -> Result<(), String>,
}

impl Field {
    /// Whether it counts bytes, which may be written with a unit.
    fn is_size(&self) -> bool {
        self.name.split('_').any(|word| word == "bytes")
    }
}

macro_rules! fields {
    ($($name:ident: $about:literal,)*) => {
        [$(Field {
            name: stringify!($name),
            about: $about,
            get: |options| Setting::get(&options.$name),
            set: |options, value| Setting::set(value).map(|value| options.$name = value),
        },)*]
    };
}

const FIELDS: &[Field] = &fields! {
    memtable_bytes: "A memtable of this many bytes is flushed. Larger: fewer tables, more memory, longer replay.",
    wal_segment_bytes: "A log segment of this many bytes is sealed. Smaller: space comes back sooner, more files.",
    block_bytes: "Uncompressed bytes of a table block. Smaller: cheaper point reads, larger index.",
    table_bytes: "Bytes at which compaction starts the next output table.",
    level0_tables_compact: "Tables at level 0 that start a compaction. Larger: less rewriting, slower reads.",
    level0_tables_slowdown: "Tables at level 0 from which writers are asked for less.",
    level0_tables_stop: "Tables at level 0 from which writes wait.",
    level_bytes_base: "Target size of level 1; each deeper level is level_multiplier times as large.",
    level_multiplier: "Size ratio of neighbouring levels.",
    block_cache_bytes: "Memory for table blocks.",
    bloom_bits_per_key: "Filter bits a key; 10 give about one false positive in a hundred. 0: no filter.",
    compression: "Compression of new blocks: \"none\" or \"lz4\".",
    manifest_bytes: "The manifest is rewritten when it grew by this many bytes.",
};

/// What stands behind an equals sign.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u64),
    Text(String),
    Truth(bool),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::Truth(_) => "true or false",
        }
    }
}

/// A type that a field may have.
trait Setting: Sized {
    fn get(&self) -> Value;
    fn set(value: Value) -> Result<Self, String>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            fn get(&self) -> Value {
                Value::Number(*self as u64)
            }

            fn set(value: Value) -> Result<Self, String> {
                match value {
                    Value::Number(number) => {
                        <$number>::try_from(number).map_err(|_| format!("{number} is too large"))
                    }
                    other => Err(format!("a number is expected, not {}", other.kind())),
                }
            }
        }
    )*};
}

numbers!(u32, u64, usize);

impl Setting for Compression {
    fn get(&self) -> Value {
        let name = match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
        };
        Value::Text(name.to_owned())
    }

    fn set(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(name) if name == "none" => Ok(Compression::None),
            Value::Text(name) if name == "lz4" => Ok(Compression::Lz4),
            Value::Text(name) => Err(format!("\"none\" or \"lz4\" is expected, not {name:?}")),
            other => Err(format!("\"none\" or \"lz4\" is expected, not {}", other.kind())),
        }
    }
}

impl Options {
    /// Reads options from TOML: one `name = value` a line, named as the fields are; what is not there keeps its
    /// default. Sizes are numbers of bytes, or strings with a unit (`"64MiB"`; B, KiB, MiB, GiB, TiB).
    ///
    /// ```
    /// use nokv_engine::{Compression, Options};
    ///
    /// let options = Options::from_toml("memtable_bytes = \"16MiB\"\ncompression = \"none\" # it is random\n")?;
    /// assert_eq!((options.memtable_bytes, options.compression), (16 << 20, Compression::None));
    /// let error = Options::from_toml("memtable_byte = 1").unwrap_err();
    /// let what = "line 1, column 1: unknown option 'memtable_byte'; did you mean 'memtable_bytes'?";
    /// assert_eq!(error.to_string(), what);
    /// # Ok::<(), nokv_engine::Error>(())
    /// ```
    ///
    /// Fails with [`Error::InvalidText`] where the text is wrong, and with [`Error::InvalidOption`] where values do not
    /// go together.
    pub fn from_toml(text: &str) -> Result<Self> {
        let mut options = Self::default();
        let mut seen = BTreeSet::new();
        for (index, line) in text.lines().enumerate() {
            let wrong = |Wrong { at, what }| Error::InvalidText {
                line: index + 1,
                column: line[..at].chars().count() + 1,
                what,
            };
            let Some((name, value)) = Line { text: line, at: 0 }.assignment().map_err(wrong)? else {
                continue;
            };
            let field = known(name.found).map_err(|what| wrong(Wrong { at: name.at, what }))?;
            if !seen.insert(field.name) {
                return Err(wrong(Wrong { at: name.at, what: format!("'{}' is set twice", field.name) }));
            }
            let Place { found, at } = value;
            let set = in_bytes(field, found).and_then(|value| (field.set)(&mut options, value));
            set.map_err(|what| wrong(Wrong { at, what: format!("{}: {what}", field.name) }))?;
        }
        options.validate()?;
        Ok(options)
    }

    /// All options as TOML, each under a comment that says what it is. [`Options::from_toml`] reads it back.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for field in FIELDS {
            let value = match (field.get)(self) {
                Value::Number(bytes) if field.is_size() => show_size(bytes),
                Value::Number(number) => number.to_string(),
                Value::Text(text) => format!("\"{text}\""),
                Value::Truth(truth) => truth.to_string(),
            };
            let blank = if out.is_empty() { "" } else { "\n" };
            // Writing to a string does not fail.
            let _ = writeln!(out, "{blank}# {}\n{} = {value}", field.about, field.name);
        }
        out
    }
}

/// The field of that name; the error suggests the one that was meant.
fn known(name: &str) -> Result<&'static Field, String> {
    if let Some(field) = FIELDS.iter().find(|field| field.name == name) {
        return Ok(field);
    }
    if ["lock_owner", "is_owner"].contains(&name) {
        return Err(format!("'{name}' says who the caller is; that is not for a file to say"));
    }
    let rated = FIELDS.iter().map(|field| (strsim::jaro_winkler(name, field.name), field.name));
    let near = rated.filter(|(likeness, _)| *likeness > SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0));
    let near = near.map(|(_, near)| format!("; did you mean '{near}'?")).unwrap_or_default();
    Err(format!("unknown option '{name}'{near}"))
}

/// The value, with the unit of a size worked in.
fn in_bytes(field: &Field, value: Value) -> Result<Value, String> {
    match &value {
        Value::Text(text) if field.is_size() => parse_size(text).map(Value::Number).ok_or_else(|| {
            format!("{text:?} is no size; write a number of bytes, or one with a unit, as \"64MiB\"")
        }),
        _ => Ok(value),
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = unit.trim_start();
    let factor = if unit.is_empty() { 1 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// In the largest unit that says it exactly.
fn show_size(bytes: u64) -> String {
    match UNITS.iter().find(|(_, factor)| bytes > 0 && bytes % factor == 0) {
        Some((name, factor)) if *factor > 1 => format!("\"{}{name}\"", bytes / factor),
        _ => bytes.to_string(),
    }
}

/// Something wrong at a byte of a line.
struct Wrong {
    at: usize,
    what: String,
}

/// Something found at a byte of a line.
struct Place<T> {
    found: T,
    at: usize,
}

/// What is still to be read of a line.
struct Line<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Line<'a> {
    /// `name = value`; none on a line without anything but a comment.
    fn assignment(mut self) -> Result<Option<(Place<&'a str>, Place<Value>)>, Wrong> {
        self.skip_blanks();
        if self.is_over() {
            return Ok(None);
        }
        if self.rest().starts_with('[') {
            return Err(self.wrong("options have no sections"));
        }
        let at = self.at;
        let is_bare = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        let name = Place { found: self.take_while(is_bare), at };
        if name.found.is_empty() {
            return Err(self.wrong("the name of an option is expected"));
        }
        self.skip_blanks();
        if !self.skip("=") {
            return Err(self.wrong("'=' is expected"));
        }
        self.skip_blanks();
        let value = Place { at: self.at, found: self.value()? };
        self.skip_blanks();
        if self.is_over() {
            Ok(Some((name, value)))
        } else {
            Err(self.wrong("the end of the line is expected"))
        }
    }

    fn value(&mut self) -> Result<Value, Wrong> {
        for quote in ['"', '\''] {
            if self.rest().starts_with(quote) {
                return self.string(quote).map(Value::Text);
            }
        }
        let at = self.at;
        match self.take_while(|c| !" \t#".contains(c)) {
            "true" => Ok(Value::Truth(true)),
            "false" => Ok(Value::Truth(false)),
            word => number(word).map(Value::Number).ok_or_else(|| Wrong {
                at,
                what: "a whole number, a string in quotes, true or false is expected".to_owned(),
            }),
        }
    }

    fn string(&mut self, quote: char) -> Result<String, Wrong> {
        let at = self.at;
        self.at += 1;
        let text = self.take_while(|c| c != quote && c != '\\' && !c.is_control());
        if self.rest().starts_with(quote) {
            self.at += 1;
            return Ok(text.to_owned());
        }
        if self.rest().is_empty() {
            return Err(Wrong { at, what: "the string has no end on this line".to_owned() });
        }
        Err(self.wrong("options need no such character in a string"))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn is_over(&self) -> bool {
        self.rest().is_empty() || self.rest().starts_with('#')
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn skip_blanks(&mut self) {
        self.take_while(|c| " \t".contains(c));
    }

    fn skip(&mut self, what: &str) -> bool {
        let is_there = self.rest().starts_with(what);
        self.at += if is_there { what.len() } else { 0 };
        is_there
    }

    fn wrong(&self, what: &str) -> Wrong {
        Wrong { at: self.at, what: what.to_owned() }
    }
}

/// A whole number as TOML writes it: no leading zero, single underscores between digits.
fn number(word: &str) -> Option<u64> {
    let digits = word.strip_prefix('+').unwrap_or(word);
    let groups_are_whole =
        digits.split('_').all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    let leads_with_zero = digits.len() > 1 && digits.starts_with('0');
    (groups_are_whole && !leads_with_zero).then(|| digits.replace('_', "").parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back() {
        let odd = Options {
            memtable_bytes: 1025,
            block_cache_bytes: 0,
            compression: Compression::None,
            level_multiplier: 7,
            ..Options::tiny()
        };
        for options in [Options::default(), Options::tiny(), odd] {
            assert_eq!(Options::from_toml(&options.to_toml()).unwrap(), options, "{}", options.to_toml());
        }
        let text = Options::default().to_toml();
        let first = "# A memtable of this many bytes is flushed. Larger: fewer tables, more memory, longer replay.\n\
                     memtable_bytes = \"64MiB\"\n\n# ";
        assert!(text.starts_with(first), "{text}");
        assert!(
            text.contains("\nlevel0_tables_stop = 36\n") && text.contains("\ncompression = \"lz4\"\n"),
            "{text}"
        );
    }

    /// The struct is the source: each of its fields is here, and what is said of it begins as it does there.
    #[test]
    fn every_field_can_be_set_and_says_what_it_is() {
        let source = include_str!("../options.rs");
        let body =
            source.split("pub struct Options {").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap();
        let (mut about, mut fields) = (None, Vec::new());
        for line in body.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("/// ") {
                about = about.or(Some(text));
            } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
                fields.push((name, about.take().unwrap()));
            }
        }
        fields.retain(|(name, _)| !["lock_owner", "is_owner"].contains(name));
        let names =
            |list: &[(&str, &str)]| list.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
        let ours: Vec<_> = FIELDS.iter().map(|field| (field.name, field.about)).collect();
        assert_eq!(names(&ours), names(&fields));
        let plain = |text: &str| {
            let first: String = text.replace("[`Options::", "").replace("`]", "");
            first.split(['.', ':']).next().unwrap().to_owned()
        };
        for ((name, about), (_, source)) in ours.iter().zip(&fields) {
            let reworded = ["level0_tables_slowdown", "level0_tables_stop"].contains(name);
            assert!(reworded || plain(about) == plain(source), "{name}: {about} / {source}");
        }
    }

    #[test]
    fn values_may_be_written_in_several_ways() {
        let text = "\u{20}\ttable_bytes\t= 33_554_432 # as the default\r\n\n# nothing\nblock_bytes='8 KiB'\n\
                    manifest_bytes = \"4194304\"\nblock_cache_bytes = \"0B\"\nlevel_multiplier = +10#\n\
                    compression = 'none'";
        let options = Options::from_toml(text).unwrap();
        let expected = Options { block_cache_bytes: 0, compression: Compression::None, ..Options::default() };
        assert_eq!(options, expected);
        assert_eq!(Options::from_toml("").unwrap(), Options::default());
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let places = [
            (
                "\n  memtable_bites = 1",
                "line 2, column 3: unknown option 'memtable_bites'; did you mean 'memtable_bytes'?",
            ),
            ("qqq = 1", "line 1, column 1: unknown option 'qqq'"),
            (
                "is_owner = true",
                "line 1, column 1: 'is_owner' says who the caller is; that is not for a file to say",
            ),
            ("[engine]", "line 1, column 1: options have no sections"),
            ("é = 1", "line 1, column 1: the name of an option is expected"),
            ("block_bytes 7", "line 1, column 13: '=' is expected"),
            ("block_bytes = 4096 é", "line 1, column 20: the end of the line is expected"),
            ("block_bytes = 'é' x", "line 1, column 19: the end of the line is expected"),
            (
                "block_bytes = \"8KB\"",
                "line 1, column 15: block_bytes: \"8KB\" is no size; write a number of bytes, or one with a unit, as \"64MiB\"",
            ),
            (
                "block_bytes = \"9999999TiB9\"",
                "line 1, column 15: block_bytes: \"9999999TiB9\" is no size; write a number of bytes, or one with a unit, as \"64MiB\"",
            ),
            (
                "block_bytes = \"99999999TiB\"",
                "line 1, column 15: block_bytes: \"99999999TiB\" is no size; write a number of bytes, or one with a unit, as \"64MiB\"",
            ),
            ("block_bytes = true", "line 1, column 15: block_bytes: a number is expected, not true or false"),
            (
                "level_multiplier = \"8KiB\"",
                "line 1, column 20: level_multiplier: a number is expected, not a string",
            ),
            (
                "bloom_bits_per_key = 4294967296",
                "line 1, column 22: bloom_bits_per_key: 4294967296 is too large",
            ),
            (
                "compression = 'zstd'",
                "line 1, column 15: compression: \"none\" or \"lz4\" is expected, not \"zstd\"",
            ),
            ("compression = 'lz4", "line 1, column 15: the string has no end on this line"),
            ("compression = \"l\\u007a4\"", "line 1, column 17: options need no such character in a string"),
            ("table_bytes = 1\ntable_bytes = 2", "line 2, column 1: 'table_bytes' is set twice"),
        ];
        for (text, expected) in places {
            assert_eq!(Options::from_toml(text).unwrap_err().to_string(), expected, "{text}");
        }
        for value in ["1.5", "0x10", "007", "1__0", "_1", "1_", "-1", "", "[1]", "99999999999999999999"] {
            let error = Options::from_toml(&format!("table_bytes = {value}")).unwrap_err().to_string();
            let expected = "line 1, column 15: a whole number, a string in quotes, true or false is expected";
            assert_eq!(error, expected, "{value}");
        }
        assert!(matches!(Options::from_toml("level_multiplier = 1"), Err(Error::InvalidOption(_))));
    }
}
