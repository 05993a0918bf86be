//! `raft_config.json`: one strict reader for every command.
//!
//! [`json`] keeps positions, [`decode`] turns members into a [`Cluster`] and reports unknown or malformed ones,
//! [`check`] looks for contradictions. All problems of a file are reported in one run. `regions` is only the seed
//! of a new cluster: after the first start the truth is in the meta-root and in each store's catalog.
#![allow(clippy::disallowed_methods, reason = "the configuration is read before there is an environment")]

mod check;
mod decode;
mod json;
mod model;

pub use model::{Cluster, MetaRoot, Region, Store, Tls};

use crate::errors::{Code, Failure, Result};
use decode::{Problem, Problems};
use std::path::Path;

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Cluster> {
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::io(format!("read the configuration {}", path.display()), &error)
            .detail("path", path.display().to_string())
            .next("give an existing file with --config; raft_config.example.json shows the format")
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        invalid(path, &[Problem { pos: json::Pos::default(), what: format!("not UTF-8 at byte {offset}") }])
    })?;
    parse(&text).map_err(|problems| invalid(path, &problems))
}

/// The same from text.
fn parse(text: &str) -> std::result::Result<Cluster, Vec<Problem>> {
    let mut problems = Problems::default();
    let cluster = match json::parse(text) {
        Ok(node) => decode::cluster(&node, &mut problems),
        Err((pos, what)) => return Err(vec![Problem { pos, what }]),
    };
    check::cluster(&cluster, &mut problems);
    problems.0.sort();
    problems.0.dedup();
    if problems.0.is_empty() { Ok(cluster) } else { Err(problems.0) }
}

/// Whether a file of this content would do.
#[cfg(test)]
pub fn is_good(text: &str) -> bool {
    parse(text).is_ok()
}

fn invalid(path: &Path, problems: &[Problem]) -> Failure {
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    let mut message = format!("{} has {count}", path.display());
    for problem in problems {
        message.push_str(&format!("\n  {}:{}: {}", path.display(), problem.pos, problem.what));
    }
    let listed: Vec<serde_json::Value> = problems
        .iter()
        .map(|p| serde_json::json!({"line": p.pos.line, "column": p.pos.col, "what": p.what}))
        .collect();
    Failure::new(Code::ConfigInvalid, message)
        .detail("path", path.display().to_string())
        .detail("problems", listed)
        .next(format!("correct the file, then: nokv config check --config {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Scope;

    const EXAMPLE: &str = include_str!("../../../raft_config.example.json");

    fn problems(text: &str) -> Vec<String> {
        parse(text).err().unwrap_or_default().iter().map(|p| format!("{}: {}", p.pos, p.what)).collect()
    }

    /// The example with one piece of text replaced.
    fn with(from: &str, to: &str) -> Vec<String> {
        assert!(EXAMPLE.contains(from), "{from}");
        problems(&EXAMPLE.replacen(from, to, 1))
    }

    #[track_caller]
    fn one(found: Vec<String>, want: &str) {
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(want), "{found:?}");
    }

    #[test]
    fn the_example_is_good() {
        let cluster = parse(EXAMPLE).unwrap();
        let store = cluster.store(2).unwrap();
        assert_eq!(
            cluster.store_workdir(store, Scope::Host).unwrap(),
            Path::new("./artifacts/cluster/store-2")
        );
        assert_eq!(store.listen_addr(Scope::Host).unwrap(), "127.0.0.1:20171");
        assert_eq!(store.addr(Scope::Docker).unwrap(), "store-2:20160");
        assert_eq!(cluster.coordinators(Scope::Host), ["127.0.0.1:2379"]);
        assert_eq!(cluster.meta_root(3).unwrap().transport_addr(Scope::Host).unwrap(), "127.0.0.1:3382");
        let regions = cluster.regions_of(1);
        assert_eq!(regions.len(), 2);
        assert!(regions.iter().all(|region| region.problem().is_none()));
    }

    #[test]
    fn each_mistake_is_named_with_its_place() {
        let found = with("\"stores\"", "\"storse\"");
        assert!(found[0].contains("did you mean 'stores'?"), "{found:?}");
    }

    #[test]
    fn contradictions_are_found() {
        one(with("\"end_key\": \"m\"", "\"end_key\": \"q\""), "region 2 overlaps region 1");
        one(with("\"end_key\": \"m\"", "\"end_key\": \"k\""), "no region holds the keys from \"k\" to \"m\"");
        one(with("\"leader_store_id\": 1", "\"leader_store_id\": 9"), "leader_store_id 9 is not a member");
        one(with("store-{id}", "store"), "must contain {id}");
        one(with("127.0.0.1:2379", "127.0.0.1"), "has no port");
        one(with("\"peer_id\": 102", "\"peer_id\": 101"), "peer id 101 is used twice");
        one(with("\"id\": 2", "\"id\": 1"), "region id 1 is used twice");
        one(with("\"node_id\": 3", "\"node_id\": 2"), "meta-root id 2 is used twice");
        one(with("\"max_retries\": 8", "\"max_retries\": \"8\""), "must be a number, not a string");
    }

    #[test]
    fn certificates_are_named_in_pairs() {
        let tls = |text: &str| {
            let all = format!("{{\n  \"tls\": {text},");
            parse(&EXAMPLE.replacen('{', &all, 1))
                .map(|cluster| cluster.tls.unwrap())
                .map_err(|found| found[0].what.clone())
        };
        let good = tls(r#"{"ca": "a", "cert": "c", "key": "k"}"#).unwrap();
        assert_eq!(good, Tls { ca: "a".into(), identity: Some(("c".into(), "k".into())) });
        assert_eq!(tls(r#"{"ca": "a"}"#).unwrap().identity, None);
        assert!(tls(r#"{"ca": "a", "cert": "c"}"#).unwrap_err().contains("'cert' without 'key'"));
        assert!(tls(r#"{"ca": "a", "key": "k"}"#).unwrap_err().contains("'key' without 'cert'"));
        assert!(tls(r#"{"cert": "c", "key": "k"}"#).unwrap_err().contains("'ca' is missing"));
        assert!(tls(r#"{"ca": "a", "crt": "c"}"#).unwrap_err().contains("did you mean 'cert'?"));
    }

    #[test]
    fn all_problems_come_at_once() {
        let found = problems(
            r#"{"coordinator": {"addr": "x"}, "stores": [{"store_id": 0, "addr": "a:1"}, 7],
                "regions": [{"id": 1, "start_key": "b", "end_key": "a", "epoch": {}, "peers": []}], "extra": 1}"#,
        );
        assert_eq!(found.len(), 6, "{found:#?}");
    }

    #[test]
    fn syntax_errors_have_a_place() {
        one(problems("{\n  \"stores\": [\n}"), "3:1: want a value, found '}'");
    }
}
