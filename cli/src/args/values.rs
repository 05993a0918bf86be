//! Values of flags: durations with a unit, addresses, `id=address` pairs.

use std::time::Duration;

/// Parses `300ms`, `10s`, `2m`, `1h30m`, `1.5s`. A bare number is refused: nobody can tell what it means.
pub fn duration(text: &str) -> Result<Duration, String> {
    const NANOS: [(&str, f64); 6] =
        [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: f64 =
            number.parse().map_err(|_| format!("want a number and a unit, like {}", example(text)))?;
        let Some((_, nanos)) = NANOS.iter().find(|(name, _)| *name == unit) else {
            let problem =
                if unit.is_empty() { "needs a unit".into() } else { format!("unknown unit '{unit}'") };
            return Err(format!("{problem}: write {} (units: ms, s, m, h)", example(text)));
        };
        total += number * nanos;
        rest = tail;
    }
    if text.is_empty() {
        return Err("is empty; write 300ms, 10s or 2m".into());
    }
    if total > 1e18 {
        return Err("is longer than thirty years".into());
    }
    Ok(Duration::from_nanos(total as u64))
}

/// What the user probably meant.
fn example(text: &str) -> String {
    let number: String = text.chars().take_while(|c| c.is_ascii_digit()).collect();
    if number.is_empty() { "10s".into() } else { format!("{number}s or {number}ms") }
}

/// A duration above zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be above zero".into()),
        duration => Ok(duration),
    }
}

/// A duration, or `off` for none.
pub fn duration_or_off(text: &str) -> Result<Duration, String> {
    if text == "off" { Ok(Duration::ZERO) } else { duration(text) }
}

/// What may be a trace id.
pub fn trace_id(text: &str) -> Result<String, String> {
    if nokv_proto::limits::is_trace_id(text) {
        Ok(text.to_owned())
    } else {
        Err("is not 1 to 64 letters, digits and - _ . : /".into())
    }
}

/// Writes a duration the way [`duration`] reads it.
pub fn show_duration(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 60_000 == 0 && ms > 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// Checks `host:port`; the host may be a name, an IPv4 address or `[IPv6]`.
pub fn address(text: &str) -> Result<String, String> {
    let wrong = |what: &str| Err(format!("'{text}' {what}; want host:port, like 127.0.0.1:2379"));
    let Some((host, port)) = text.rsplit_once(':') else { return wrong("has no port") };
    let host_ok = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        }
    };
    if host.is_empty() {
        return wrong("has no host");
    }
    if !host_ok {
        return wrong("has a malformed host");
    }
    match port.parse::<u16>() {
        Ok(0) => wrong("has port 0"),
        Ok(_) => Ok(text.to_owned()),
        Err(_) => wrong("has a malformed port"),
    }
}

/// A comma-separated list of addresses, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(pub Vec<String>);

/// Parses [`Addresses`].
pub fn addresses(text: &str) -> Result<Addresses, String> {
    let list: Vec<String> = text.split(',').map(|part| address(part.trim())).collect::<Result<_, _>>()?;
    for (i, addr) in list.iter().enumerate() {
        if list[..i].contains(addr) {
            return Err(format!("'{addr}' is given twice"));
        }
    }
    Ok(Addresses(list))
}

/// `id=host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdAddress {
    /// A node or store id, above zero.
    pub id: u64,
    /// Where it listens.
    pub addr: String,
}

/// Parses [`IdAddress`].
pub fn id_address(text: &str) -> Result<IdAddress, String> {
    let Some((id, addr)) = text.split_once('=') else {
        return Err(format!("'{text}' has no '='; want id=host:port, like 1=127.0.0.1:3380"));
    };
    let id = self::id(id.trim())
        .map_err(|why| format!("'{id}' is no id: {why}; want id=host:port, like 1=127.0.0.1:3380"))?;
    Ok(IdAddress { id, addr: address(addr.trim())? })
}

/// The name in a certificate.
pub fn common_name(text: &str) -> Result<String, String> {
    match text.chars().count() {
        _ if text.trim().is_empty() => Err("is empty".into()),
        1..=64 if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        1..=64 => Err("has control characters in it".into()),
        n => Err(format!("has {n} characters; a name in a certificate has at most 64")),
    }
}

/// The same where it becomes part of file names.
pub fn file_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    if text.starts_with(['.', '-']) || !text.chars().all(fits) {
        return Err("may have letters, digits and . - _ @ in it, and begins with a letter or digit".into());
    }
    common_name(text)
}

/// A host name or an IP address; a name may begin with `*.`.
pub fn hosts(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        !label.is_empty() && label.len() <= 63 && label.chars().all(fits) && !label.starts_with('-')
    };
    let is_number = name.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    if name.contains(':') {
        return Err(format!("'{text}' is no host: leave the port out"));
    }
    if name.len() > 253 || is_number || !name.split('.').all(label) {
        return Err(format!("'{text}' is no host name and no IP address"));
    }
    Ok(text.to_owned())
}

/// An id above zero.
pub fn id(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("ids start at 1".into()),
        Ok(id) => Ok(id),
        Err(_) => Err("want a whole number above zero".into()),
    }
}

/// Bytes written as hexadecimal digits.
pub fn hex(text: &[u8]) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    if !text.len().is_multiple_of(2) {
        return Err("hexadecimal text needs an even number of digits".into());
    }
    text.chunks_exact(2)
        .map(|pair| match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => Ok(high << 4 | low),
            _ => Err(format!("'{}' are not hexadecimal digits", String::from_utf8_lossy(pair))),
        })
        .collect()
}

/// Writes bytes as hexadecimal digits.
pub fn show_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('?');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_may_be_off() {
        assert_eq!(duration_or_off("off"), Ok(Duration::ZERO));
        assert_eq!(duration_or_off("0"), Ok(Duration::ZERO));
        assert_eq!(duration_or_off("200ms"), Ok(Duration::from_millis(200)));
        assert!(duration_or_off("none").is_err() && duration_or_off("5").is_err());
    }

    #[test]
    fn a_trace_id_fits_into_a_line_of_a_log() {
        for good in ["7", "order-17", "a.b:c/d_e", &"x".repeat(64)] {
            assert_eq!(trace_id(good), Ok(good.to_owned()));
        }
        for bad in ["", "a b", "a\n", "\"", "é", &"x".repeat(65)] {
            assert!(trace_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in
            [("300ms", 300), ("10s", 10_000), ("2m", 120_000), ("1h30m", 5_400_000), ("1.5s", 1500), ("0", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("30").unwrap_err(), "needs a unit: write 30s or 30ms (units: ms, s, m, h)");
        for bad in ["", "s", "10x", "1..2s", "-5s", "99999999999h", "10 s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(positive_duration("0s").is_err());
        for ms in [1, 999, 1000, 1500, 60_000, 90_000, 3_600_000] {
            let shown = show_duration(Duration::from_millis(ms));
            assert_eq!(duration(&shown), Ok(Duration::from_millis(ms)), "{shown}");
        }
    }

    #[test]
    fn addresses_have_host_and_port() {
        for good in ["127.0.0.1:1", "store-1:20160", "[::1]:2379"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for bad in
            ["", "127.0.0.1", ":2379", "h:0", "h:65536", "h:x", "a b:1", "::1:2379", "[x]:1", "http://a:1"]
        {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert_eq!(addresses("a:1, b:2"), Ok(Addresses(vec!["a:1".into(), "b:2".into()])));
        assert!(addresses("a:1,a:1").is_err() && addresses("a:1,").is_err());
        assert_eq!(id_address("3=a:1"), Ok(IdAddress { id: 3, addr: "a:1".into() }));
        assert!(id_address("a:1").is_err() && id_address("0=a:1").is_err() && id_address("x=a:1").is_err());
    }

    #[test]
    fn certificates_are_for_hosts_and_names() {
        for good in ["127.0.0.1", "::1", "store-1", "store_1.example.net", "*.example.net", "a.b"] {
            assert_eq!(hosts(good).as_deref(), Ok(good));
        }
        for bad in
            ["", "a b", "a..b", "h:1", "1.2.3", "256.1.1.1", "-a", "*", "a.*", &"a".repeat(64), "http://a"]
        {
            assert!(hosts(bad).is_err(), "{bad}");
        }
        for bad in ["", "..", "../x", "a/b", "-a", "a b", &"a".repeat(65)] {
            assert!(file_name(bad).is_err(), "{bad}");
        }
        assert!(file_name("ann@example.net").is_ok() && common_name("Ann B. \u{e9}").is_ok());
        assert!(common_name(" ").is_err() && common_name("a\nb").is_err());
    }

    #[test]
    fn hex_is_read_back() {
        assert_eq!(hex(b"00ffA1"), Ok(vec![0, 255, 161]));
        assert_eq!(show_hex(&[0, 255, 161]), "00ffa1");
        assert!(hex(b"0").is_err() && hex(b"zz").is_err());
    }
}
