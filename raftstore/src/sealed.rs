//! Small JSON files that people may read: one object on one line, its version first and its checksum last.
//!
//! ```text
//! {"version":1, ... ,"checksum":"crc32c:8d5c0a41"}
//! ```
//!
//! The checksum covers the text of the object without its `checksum` member. So a file that was cut off or changed by
//! hand is told from one that this program wrote, however it looks.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that is written, and the newest that is read.
pub(crate) const VERSION: u32 = 1;

const CHECKSUM: &str = ",\"checksum\":\"";
const END: &str = "\"}";

fn checksum(body: &str) -> String {
    format!("crc32c:{:08x}", crc32c::crc32c(body.as_bytes()))
}

/// The text of a file that holds `value`, an object with at least one member.
pub(crate) fn encode(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string(value)?;
    let members = text.strip_prefix('{').unwrap_or(&text);
    let body = format!("{{\"version\":{VERSION},{members}");
    let open = body.strip_suffix('}').unwrap_or(&body);
    Ok(format!("{open}{CHECKSUM}{}{END}\n", checksum(&body)))
}

/// Reads [`encode`]; the error says what is wrong with the file.
pub(crate) fn decode<T: DeserializeOwned>(data: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(data).map_err(|_| "the file is not text")?.trim_end();
    if text.is_empty() {
        return Err("the file is empty".into());
    }
    let mut object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Eof => format!("the file is cut off: {error}"),
            _ => format!("not a file of ours: {error}"),
        })?;
    let stored = object.remove("checksum").ok_or("the checksum is missing")?;
    let body = text.rfind(CHECKSUM).map(|at| format!("{}}}", &text[..at]));
    let actual = body.map(|body| checksum(&body)).unwrap_or_default();
    if stored.as_str() != Some(&actual) {
        return Err(format!("the checksum does not match the content ({stored}, computed \"{actual}\")"));
    }
    match object.remove("version").and_then(|version| version.as_u64()) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => {
            return Err(format!(
                "written by a version with format {version}; this one reads format {VERSION}"
            ));
        }
        None => return Err("the version is missing".into()),
    }
    serde_json::from_value(object.into()).map_err(|error| format!("not a file of ours: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note {
        text: String,
        number: u64,
    }

    fn note() -> Note {
        Note { text: "a,\"checksum\":\"b\"}".into(), number: 7 }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = encode(&note()).unwrap();
        assert!(text.starts_with("{\"version\":1,\"text\":") && text.ends_with("\"}\n"), "{text}");
        assert_eq!(decode::<Note>(text.as_bytes()), Ok(note()));
    }

    #[test]
    fn whatever_was_changed_is_noticed() {
        let good = encode(&note()).unwrap();
        for at in 0..good.len() - 1 {
            let mut bad = good.clone().into_bytes();
            bad[at] ^= 1;
            assert!(decode::<Note>(&bad).is_err(), "{at}");
            assert!(decode::<Note>(&good.as_bytes()[..at]).is_err(), "{at}");
        }
        let newer = r#"{"version":2,"number":7}"#;
        let newer = format!("{},\"checksum\":\"{}\"}}", &newer[..newer.len() - 1], checksum(newer));
        assert!(decode::<Note>(newer.as_bytes()).unwrap_err().contains("reads format 1"));
    }
}
