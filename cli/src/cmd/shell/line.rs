//! A line of the shell.

use crate::usage::near_miss;
use bytes::Bytes;

/// Pairs that are printed unless another number is given.
const ROWS: usize = 100;

/// Every first word.
pub const COMMANDS: [&str; 14] = [
    "begin", "commit", "del", "exit", "get", "help", "insert", "prefix", "put", "quit", "rollback", "scan",
    "status", "txn",
];

/// What `help` prints.
pub const HELP: &str = "\
  get KEY                  print a value
  put KEY VALUE            write a key
  insert KEY VALUE         write a key that has no value yet (in a transaction)
  del KEY                  delete a key
  scan [START [END [N]]]   print up to N pairs (100) of a range; \"\" is no bound
  prefix KEY [N]           the same of all keys that begin so
  begin, commit, rollback  a transaction: reads see one moment and own writes (also: txn begin ...)
  status                   the state of the cluster
  help, exit               Ctrl-C clears the line, Ctrl-D leaves

Words are separated by blanks; put what has blanks in it in \"double quotes\", where \\n \\t \\\\ \\\" and \\xHH
stand for bytes, or in 'single quotes', where nothing does. A line that begins with # is left out.
";

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Nothing,
    Get(Bytes),
    Put(Bytes, Bytes),
    Insert(Bytes, Bytes),
    Delete(Bytes),
    Scan(Bytes, Bytes, usize),
    Prefix(Bytes, usize),
    Begin,
    Commit,
    Rollback,
    Status,
    Help,
    Exit,
}

/// Reads a line.
pub fn parse(line: &[u8]) -> Result<Line, String> {
    let words = words(line)?;
    let Some((verb, rest)) = words.split_first() else { return Ok(Line::Nothing) };
    let verb = String::from_utf8_lossy(verb).into_owned();
    let number = |word: &Bytes| {
        let text = String::from_utf8_lossy(word).into_owned();
        let parsed = text.parse().ok().filter(|&number: &usize| number > 0);
        parsed.ok_or(format!("'{text}' is no number of pairs"))
    };
    let none =
        |line: Line| if rest.is_empty() { Ok(line) } else { Err(format!("{verb} takes nothing more")) };
    match (verb.as_str(), rest) {
        ("get", [key]) => Ok(Line::Get(key.clone())),
        ("get", _) => Err("want: get KEY".into()),
        ("put", [key, value]) => Ok(Line::Put(key.clone(), value.clone())),
        ("put", _) => Err("want: put KEY VALUE; put a value with blanks in quotes".into()),
        ("insert", [key, value]) => Ok(Line::Insert(key.clone(), value.clone())),
        ("insert", _) => Err("want: insert KEY VALUE".into()),
        ("del" | "delete", [key]) => Ok(Line::Delete(key.clone())),
        ("del" | "delete", _) => Err("want: del KEY".into()),
        ("scan", []) => Ok(Line::Scan(Bytes::new(), Bytes::new(), ROWS)),
        ("scan", [start]) => Ok(Line::Scan(start.clone(), Bytes::new(), ROWS)),
        ("scan", [start, end]) => Ok(Line::Scan(start.clone(), end.clone(), ROWS)),
        ("scan", [start, end, rows]) => Ok(Line::Scan(start.clone(), end.clone(), number(rows)?)),
        ("scan", _) => Err("want: scan [START [END [N]]]".into()),
        ("prefix", [key]) => Ok(Line::Prefix(key.clone(), ROWS)),
        ("prefix", [key, rows]) => Ok(Line::Prefix(key.clone(), number(rows)?)),
        ("prefix", _) => Err("want: prefix KEY [N]".into()),
        ("begin", _) => none(Line::Begin),
        ("commit", _) => none(Line::Commit),
        ("rollback", _) => none(Line::Rollback),
        ("txn", [what]) => match &what[..] {
            b"begin" => Ok(Line::Begin),
            b"commit" => Ok(Line::Commit),
            b"rollback" => Ok(Line::Rollback),
            _ => Err("want: txn begin|commit|rollback".into()),
        },
        ("txn", _) => Err("want: txn begin|commit|rollback".into()),
        ("status", _) => none(Line::Status),
        ("help" | "?", _) => Ok(Line::Help),
        ("exit" | "quit", _) => none(Line::Exit),
        (other, _) => {
            let near = near_miss(other, COMMANDS).unwrap_or_default();
            Err(format!("unknown command '{other}'{near}"))
        }
    }
}

/// Splits at blanks, outside of quotes.
fn words(line: &[u8]) -> Result<Vec<Bytes>, String> {
    let line = line.trim_ascii();
    if line.starts_with(b"#") {
        return Ok(Vec::new());
    }
    let (mut words, mut word, mut at) = (Vec::new(), None::<Vec<u8>>, 0);
    while at < line.len() {
        let byte = line[at];
        at += 1;
        match byte {
            b' ' | b'\t' | b'\r' => words.extend(word.take().map(Bytes::from)),
            b'\'' => {
                let length = line[at..].iter().position(|&byte| byte == b'\'').ok_or("a ' is not closed")?;
                word.get_or_insert_default().extend(&line[at..at + length]);
                at += length + 1;
            }
            b'"' => at = quoted(line, at, word.get_or_insert_default())?,
            byte => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word.map(Bytes::from));
    Ok(words)
}

/// Reads on behind a double quote; the result is the place behind the closing one.
fn quoted(line: &[u8], mut at: usize, word: &mut Vec<u8>) -> Result<usize, String> {
    let unclosed = || "a \" is not closed".to_owned();
    loop {
        let byte = *line.get(at).ok_or_else(unclosed)?;
        at += 1;
        if byte == b'"' {
            return Ok(at);
        }
        if byte != b'\\' {
            word.push(byte);
            continue;
        }
        let escaped = *line.get(at).ok_or_else(unclosed)?;
        at += 1;
        word.push(match escaped {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'0' => 0,
            b'\\' | b'"' | b'\'' => escaped,
            b'x' => {
                let digits = line.get(at..at + 2).ok_or_else(unclosed)?;
                at += 2;
                crate::args::values::hex(digits)?[0]
            }
            other => return Err(format!("\\{} stands for nothing", char::from(other).escape_default())),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_hold_any_byte() {
        let words = |line: &str| words(line.as_bytes()).unwrap();
        assert_eq!(words("put  a\tb"), ["put", "a", "b"]);
        assert_eq!(words(r#"put "a b" 'c "d"' """#), ["put", "a b", "c \"d\"", ""]);
        assert_eq!(words(r#"a"\x00\xff\n\""'x'"#), [&b"a\0\xff\n\"x"[..]]);
        assert!(words("# put a b").is_empty() && words(" ").is_empty());
    }

    #[test]
    fn lines_are_commands() {
        let parsed = |line: &str| parse(line.as_bytes());
        assert_eq!(parsed("scan a"), Ok(Line::Scan("a".into(), "".into(), ROWS)));
        assert_eq!(parsed("prefix a 5"), Ok(Line::Prefix("a".into(), 5)));
        assert_eq!(parsed("txn begin"), Ok(Line::Begin));
        assert_eq!(parsed("begin"), Ok(Line::Begin));
        for (line, message) in [
            ("gett a", "unknown command 'gett'; did you mean 'get'?"),
            ("put a", "want: put KEY VALUE"),
            ("put a b c", "in quotes"),
            ("scan a b 0", "'0' is no number of pairs"),
            ("get \"a", "a \" is not closed"),
            ("get 'a", "a ' is not closed"),
            ("get \"\\q\"", "\\q stands for nothing"),
            ("get \"\\xz1\"", "hexadecimal"),
            ("commit now", "takes nothing more"),
        ] {
            let found = parsed(line).unwrap_err();
            assert!(found.contains(message), "{line}: {found}");
        }
        assert!(COMMANDS.iter().all(|word| !parsed(word).is_err_and(|why| why.contains("unknown"))));
    }
}
