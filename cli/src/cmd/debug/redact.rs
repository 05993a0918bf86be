//! Keys, values, host names and ids, replaced by tokens.
//!
//! The same thing has the same token throughout an archive: the second host that is met is `host-2`, the third region
//! `#3`. What cannot be told from a key is replaced as if it were one: too much rather than too little.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Replaces, and remembers by what.
#[derive(Debug, Default)]
pub struct Redactor {
    /// By kind, then by what is replaced: the number of its token.
    tokens: BTreeMap<&'static str, BTreeMap<String, usize>>,
}

/// Members whose strings are keys or values of users.
const KEY_MEMBERS: [&str; 14] = [
    "key",
    "value",
    "start_key",
    "end_key",
    "split_key",
    "resume_key",
    "primary",
    "first_key",
    "last_key",
    "start",
    "end",
    "key_base64",
    "value_base64",
    "holder",
];
/// Words before a number, and the kind of id they speak of.
const WORDS: [(&str, &str); 9] = [
    ("meta-root", "node"),
    ("meta_root", "node"),
    ("region", "region"),
    ("store", "store"),
    ("peer", "peer"),
    ("node", "node"),
    ("leader", "peer"),
    ("group", "region"),
    ("voter", "peer"),
];

impl Redactor {
    fn number(&mut self, kind: &'static str, what: &str) -> usize {
        let known = self.tokens.entry(kind).or_default();
        let next = known.len() + 1;
        *known.entry(what.to_owned()).or_insert(next)
    }

    fn key(&mut self, key: &str) -> String {
        // An empty one is no bound, or no value.
        if key.is_empty() { String::new() } else { format!("key-{}", self.number("key", key)) }
    }

    fn id(&mut self, kind: &'static str, id: &str) -> String {
        // Zero stands for none.
        if id == "0" { "0".to_owned() } else { format!("#{}", self.number(kind, id)) }
    }

    fn host(&mut self, host: &str) -> String {
        format!("host-{}", self.number("host", host))
    }

    /// Replaces in a document.
    pub fn json(&mut self, value: &mut Value) {
        self.member("", value);
    }

    fn member(&mut self, name: &str, value: &mut Value) {
        match value {
            Value::Object(object) => {
                let mut replaced = Map::new();
                for (name, mut inner) in std::mem::take(object) {
                    let id_as_name = object_of(name.as_str());
                    self.member(&name, &mut inner);
                    let name = if id_as_name { self.id("id", &name) } else { name };
                    replaced.insert(name, inner);
                }
                *object = replaced;
            }
            Value::Array(items) if name == "cmdline" => {
                // A flag and its value are two items.
                let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                *value = Value::String(self.text(&words.join(" ")));
            }
            Value::Array(items) => {
                // A list of ids; a number of that name is a count.
                let name = match name {
                    "stores" => "store_id",
                    "peers" => "peer_id",
                    "regions" => "region_id",
                    name => name,
                };
                for item in items {
                    self.member(name, item);
                }
            }
            Value::String(text) if KEY_MEMBERS.contains(&name) => *text = self.key(text),
            Value::String(text) if is_coordinator(name) && !text.is_empty() => {
                *text = format!("coordinator-{}", self.number("coordinator", text));
            }
            Value::String(text) => *text = self.text(text),
            Value::Number(number) => {
                if let Some(kind) = kind_of(name) {
                    *value = Value::String(self.id(kind, &number.to_string()));
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Replaces in a log: a document a line, or text.
    pub fn log(&mut self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            match serde_json::from_str::<Value>(line) {
                Ok(mut value @ Value::Object(_)) => {
                    self.json(&mut value);
                    replaced.push_str(&format!("{value}\n"));
                }
                _ => replaced.push_str(&self.text(line)),
            }
        }
        replaced
    }

    /// Replaces in text: what is in double quotes, hosts, and numbers behind the words that name ids.
    pub fn text(&mut self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len());
        let mut rest = text;
        let mut before = ' ';
        while let Some(c) = rest.chars().next() {
            let found = if c == '"' {
                self.quoted(rest)
            } else if is_word(before) {
                None
            } else {
                self.coordinator(rest).or_else(|| self.address(rest)).or_else(|| self.id_in_text(rest))
            };
            match found {
                Some((token, length)) => {
                    replaced.push_str(&token);
                    before = rest[..length].chars().next_back().unwrap_or(' ');
                    rest = &rest[length..];
                }
                None => {
                    replaced.push(c);
                    before = c;
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        replaced
    }

    /// `"..."`, with escapes.
    fn quoted(&mut self, text: &str) -> Option<(String, usize)> {
        let mut is_escaped = false;
        for (at, c) in text.char_indices().skip(1) {
            match c {
                '"' if !is_escaped => {
                    return Some((format!("\"{}\"", self.key(&text[1..at])), at + 1));
                }
                '\n' => return None,
                _ => is_escaped = c == '\\' && !is_escaped,
            }
        }
        None
    }

    /// `host:port`, or an address of numbers alone.
    fn address(&mut self, text: &str) -> Option<(String, usize)> {
        if let Some(six) = text.strip_prefix('[') {
            let end = six.find(']')?;
            let is_address = six[..end].parse::<std::net::Ipv6Addr>().is_ok();
            return is_address.then(|| (self.host(&six[..end]), end + 2));
        }
        let length = text
            .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_'))
            .unwrap_or(text.len());
        let host = &text[..length];
        if host.trim_end_matches('.').parse::<std::net::Ipv4Addr>().is_ok() {
            let host = host.trim_end_matches('.');
            return Some((self.host(host), host.len()));
        }
        let port = text[length..].strip_prefix(':')?;
        let digits = port.find(|c: char| !c.is_ascii_digit()).unwrap_or(port.len());
        let is_port =
            (2..=5).contains(&digits) && !port[digits..].starts_with(|c: char| is_word(c) || c == ':');
        // The hour of a day is none.
        let is_time = host.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | 'T'));
        (is_port && !is_time && !host.is_empty()).then(|| (self.host(host), length))
    }

    /// `store 3`, `region_id=7`, `--store-id 2`, `r7`.
    fn id_in_text(&mut self, text: &str) -> Option<(String, usize)> {
        for (word, kind) in WORDS {
            let Some(rest) = text
                .get(..word.len())
                .filter(|start| start.eq_ignore_ascii_case(word))
                .map(|_| &text[word.len()..])
            else {
                continue;
            };
            let tail = ["_store_id", "-id", "_id", "s", ""].into_iter().find(|tail| {
                rest.starts_with(tail) && rest[tail.len()..].starts_with(|c: char| " =:#-[(".contains(c))
            })?;
            let separators = rest[tail.len()..].find(|c: char| !" =:#-[(".contains(c))?;
            let start = word.len() + tail.len() + separators;
            let digits = digits(&text[start..])?;
            let id = self.id(kind, &text[start..start + digits]);
            return Some((format!("{}{id}", &text[..start]), start + digits));
        }
        let kind = match text.as_bytes().first()? {
            b'r' => "region",
            b's' => "store",
            b'p' => "peer",
            b'n' => "node",
            _ => return None,
        };
        let digits = digits(&text[1..])?;
        Some((format!("{}{}", &text[..1], self.id(kind, &text[1..=digits])), digits + 1))
    }

    /// `coordinator-id NAME`.
    fn coordinator(&mut self, text: &str) -> Option<(String, usize)> {
        let start = ["coordinator-id ", "coordinator-id=", "coordinator_id="]
            .iter()
            .find_map(|start| text.starts_with(start).then_some(start.len()))?;
        let length = text[start..].find(char::is_whitespace).unwrap_or(text.len() - start);
        let number = self.number("coordinator", &text[start..start + length]);
        Some((format!("{}coordinator-{number}", &text[..start]), start + length))
    }
}

/// How many digits `text` begins with, if a number ends there.
fn digits(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let ends = !text[digits..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (digits > 0 && ends).then_some(digits)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A number as a member's name is an id of something.
fn object_of(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_coordinator(name: &str) -> bool {
    matches!(name, "coordinator_id" | "lease_holder" | "leading_coordinator" | "holder_id")
}

/// What kind of id a member's number is.
fn kind_of(name: &str) -> Option<&'static str> {
    let is_id = name.ends_with("id") || name.ends_with("ids");
    let kinds = [("store", "store"), ("region", "region"), ("peer", "peer"), ("node", "node")];
    let named = kinds.into_iter().find(|(word, _)| name.contains(word)).map(|(_, kind)| kind);
    match (is_id, named) {
        (true, Some(kind)) => Some(kind),
        (true, None) if name == "id" => Some("region"),
        (_, None) if name == "missing_raft_pointer" => Some("region"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_same_has_the_same_token_everywhere() {
        let mut redactor = Redactor::default();
        let mut value = json!({
            "store_id": 7, "addr": "db-1.example.com:20160", "start_key": "c2VjcmV0", "end_key": "", "regions": [3, 9],
            "free": 12, "lag": null, "stores": 2, "leader_store_id": 7, "peers": [{"store_id": 8, "peer_id": 0}],
        });
        redactor.json(&mut value);
        let want = json!({
            "store_id": "#1", "addr": "host-1:20160", "start_key": "key-1", "end_key": "", "regions": ["#1", "#2"],
            "free": 12, "lag": null, "stores": 2, "leader_store_id": "#1", "peers": [{"store_id": "#2", "peer_id": "0"}],
        });
        assert_eq!(value, want);
        assert_eq!(redactor.text("store 8 at db-1.example.com:20160"), "store #2 at host-1:20160");
        assert_eq!(redactor.text("r9 of s7, region_id=3"), "r#2 of s#1, region_id=#1");
    }

    #[test]
    fn text_loses_keys_hosts_and_ids_and_nothing_else() {
        let mut redactor = Redactor::default();
        for (text, want) in [
            ("key \"user/\\\"ann\\\"\" is locked", "key \"key-1\" is locked"),
            ("took 12 s at 10:02:11, 2026-04-22T08:00:02Z", "took 12 s at 10:02:11, 2026-04-22T08:00:02Z"),
            ("from 10.0.0.8 to 10.0.0.9:2379.", "from host-1 to host-2:2379."),
            ("[::1]:80", "host-3:80"),
            (
                "nokv serve --store-id 41 --addr localhost:20160",
                "nokv serve --store-id #1 --addr host-4:20160",
            ),
            ("store-41 and restore 5, nodes", "store-#1 and restore 5, nodes"),
            ("--coordinator-id blue --id-start 1", "--coordinator-id coordinator-1 --id-start 1"),
            ("an unclosed \" quote", "an unclosed \" quote"),
        ] {
            assert_eq!(redactor.text(text), want);
        }
    }

    #[test]
    fn logs_are_documents_or_text() {
        let mut redactor = Redactor::default();
        let log = redactor.log("{\"message\":\"r5 leads\",\"key\":\"a\"}\nplain s2\n");
        assert_eq!(log, "{\"key\":\"key-1\",\"message\":\"r#1 leads\"}\nplain s#1\n");
    }
}
