//! JSON that remembers where it stood.
//!
//! `serde_json` stops at the first surprise and forgets positions. A configuration file deserves all its problems
//! in one run, each with line and column, so this reader keeps a position beside every value. Strict, but for
//! comments from `//` to the end of a line: no trailing commas, no duplicate members, nothing after the document.

use std::fmt;

/// Line and column, both from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Pos {
    /// Line.
    pub line: u32,
    /// Column.
    pub col: u32,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.col)
    }
}

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where.
    pub pos: Pos,
    /// What.
    pub value: Json,
}

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number, as written.
    Number(String),
    /// A string, unescaped.
    String(String),
    /// A list.
    Array(Vec<Node>),
    /// Members in the order of the file.
    Object(Vec<Member>),
}

/// One member of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Where the name begins.
    pub pos: Pos,
    /// Its name.
    pub name: String,
    /// Its value.
    pub node: Node,
}

impl Json {
    /// What kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "a list",
            Json::Object(_) => "an object",
        }
    }
}

/// Why the text is no JSON.
pub type SyntaxError = (Pos, String);

/// Deepest nesting that is accepted.
const DEPTH_MAX: u32 = 64;

/// Parses a whole document.
pub fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut parser = Parser { rest: text, pos: Pos { line: 1, col: 1 }, depth: 0 };
    parser.space();
    let node = parser.value()?;
    parser.space();
    match parser.peek() {
        None => Ok(node),
        Some(c) => parser.fail(format!("unexpected '{c}' after the end of the document")),
    }
}

struct Parser<'a> {
    rest: &'a str,
    pos: Pos,
    depth: u32,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.pos = Pos { line: self.pos.line + 1, col: 1 };
        } else {
            self.pos.col += 1;
        }
        Some(c)
    }

    fn fail<T>(&self, what: impl Into<String>) -> Result<T, SyntaxError> {
        Err((self.pos, what.into()))
    }

    fn unexpected<T>(&self, want: &str) -> Result<T, SyntaxError> {
        match self.peek() {
            Some('/' | '#') => self.fail(format!("want {want}; comments begin with //")),
            Some(c) => self.fail(format!("want {want}, found '{c}'")),
            None => self.fail(format!("want {want}, but the file ends")),
        }
    }

    /// Passes over white space, and over comments from `//` to the end of their line.
    fn space(&mut self) {
        loop {
            if self.rest.starts_with("//") {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.bump();
                }
            } else if matches!(self.peek(), Some(' ' | '\t' | '\r' | '\n')) {
                self.bump();
            } else {
                return;
            }
        }
    }

    /// Takes `c` if it is next, after white space.
    fn take(&mut self, c: char) -> bool {
        self.space();
        let found = self.peek() == Some(c);
        if found {
            self.bump();
        }
        found
    }

    fn value(&mut self) -> Result<Node, SyntaxError> {
        let pos = self.pos;
        let value = match self.peek() {
            Some('{') => self.nested(Self::object)?,
            Some('[') => self.nested(Self::array)?,
            Some('"') => Json::String(self.string()?),
            Some('-' | '0'..='9') => self.number()?,
            Some('a'..='z') => self.word()?,
            _ => return self.unexpected("a value"),
        };
        Ok(Node { pos, value })
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Result<Json, SyntaxError>) -> Result<Json, SyntaxError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.fail("nested too deeply");
        }
        self.bump();
        let value = inner(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Json, SyntaxError> {
        let mut members: Vec<Member> = Vec::new();
        if self.take('}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some('"') {
                return self.unexpected("a member name in quotes");
            }
            let pos = self.pos;
            let name = self.string()?;
            if members.iter().any(|member| member.name == name) {
                return Err((pos, format!("member '{name}' is given twice")));
            }
            if !self.take(':') {
                return self.unexpected("':'");
            }
            self.space();
            let node = self.value()?;
            members.push(Member { pos, name, node });
            if self.take('}') {
                return Ok(Json::Object(members));
            }
            if !self.take(',') {
                return self.unexpected("',' or '}'");
            }
        }
    }

    fn array(&mut self) -> Result<Json, SyntaxError> {
        let mut items = Vec::new();
        if self.take(']') {
            return Ok(Json::Array(items));
        }
        loop {
            self.space();
            items.push(self.value()?);
            if self.take(']') {
                return Ok(Json::Array(items));
            }
            if !self.take(',') {
                return self.unexpected("',' or ']'");
            }
        }
    }

    /// A string; the library unescapes it, we only find its end.
    fn string(&mut self) -> Result<String, SyntaxError> {
        let (start, whole) = (self.pos, self.rest);
        self.bump();
        loop {
            match self.bump() {
                None => return Err((start, "this string has no end".into())),
                Some('\\') => {
                    self.bump();
                }
                Some('"') => break,
                Some(_) => {}
            }
        }
        let literal = &whole[..whole.len() - self.rest.len()];
        serde_json::from_str(literal).map_err(|_| (start, format!("malformed string {literal}")))
    }

    fn number(&mut self) -> Result<Json, SyntaxError> {
        let (start, whole) = (self.pos, self.rest);
        while matches!(self.peek(), Some('-' | '+' | '.' | 'e' | 'E' | '0'..='9')) {
            self.bump();
        }
        let literal = &whole[..whole.len() - self.rest.len()];
        match serde_json::from_str::<serde_json::Number>(literal) {
            Ok(_) => Ok(Json::Number(literal.to_owned())),
            Err(_) => Err((start, format!("malformed number {literal}"))),
        }
    }

    fn word(&mut self) -> Result<Json, SyntaxError> {
        for (word, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))]
        {
            if self.rest.starts_with(word) {
                for _ in word.chars() {
                    self.bump();
                }
                return Ok(value);
            }
        }
        self.unexpected("a value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_kept() {
        let node = parse("{\n  \"a\": [1, \"ü\\n\"],\n  \"b\": null\n}").unwrap();
        let Json::Object(members) = node.value else { panic!() };
        assert_eq!((members[0].name.as_str(), members[0].pos), ("a", Pos { line: 2, col: 3 }));
        let Json::Array(items) = &members[0].node.value else { panic!() };
        assert_eq!(items[1], Node { pos: Pos { line: 2, col: 12 }, value: Json::String("ü\n".into()) });
        assert_eq!(members[1].node.pos, Pos { line: 3, col: 8 });
    }

    #[test]
    fn comments_are_white_space() {
        let node = parse("// a\n[1, // b\n\"//\"] // c").unwrap();
        let Json::Array(items) = &node.value else { panic!() };
        assert_eq!(items[1], Node { pos: Pos { line: 3, col: 1 }, value: Json::String("//".into()) });
    }

    #[test]
    fn broken_text_is_refused_with_its_place() {
        for (text, at, what) in [
            ("", "1:1", "the file ends"),
            ("{\"a\": 1,}", "1:9", "member name"),
            ("{\"a\": 1 \"b\": 2}", "1:9", "',' or '}'"),
            ("{\"a\": 1, \"a\": 2}", "1:10", "given twice"),
            ("{} x", "1:4", "after the end"),
            ("# hi\n{}", "1:1", "comments begin with //"),
            ("[01]", "1:2", "malformed number"),
            ("[\"abc", "1:2", "no end"),
            ("[nul]", "1:2", "found 'n'"),
            ("[\"\\q\"]", "1:2", "malformed string"),
            (&"[".repeat(100), "1:65", "too deeply"),
        ] {
            let (pos, message) = parse(text).unwrap_err();
            assert!(message.contains(what), "{text}: {message}");
            assert_eq!(pos.to_string(), at, "{text}");
        }
    }
}
