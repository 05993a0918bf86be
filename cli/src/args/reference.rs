//! The flags of NoKV's CLI reference, each with what it does to the arguments; and `docs/reference.md`, which must have a
//! row for each of its statements and name tests that exist.

use super::Cli;
use clap::Parser;
use std::path::{Path, PathBuf};

/// The commands with what they cannot do without.
const COMMANDS: &[(&str, &[&str])] = &[
    ("stats", &["--workdir=d"]),
    ("execution", &["--addr=h:1"]),
    ("manifest", &["--workdir=d"]),
    ("vlog", &["--workdir=d"]),
    ("regions", &["--workdir=d"]),
    ("migrate plan", &["--workdir=d"]),
    ("migrate init", &["--workdir=d", "--store=1", "--region=1", "--peer=101"]),
    ("migrate status", &["--workdir=d"]),
    ("migrate expand", &["--addr=h:1", "--region=1", "--target=2:201"]),
    ("migrate remove-peer", &["--addr=h:1", "--region=1", "--peer=101"]),
    ("migrate transfer-leader", &["--addr=h:1", "--region=1", "--peer=101"]),
    ("serve", &["--store-id=1"]),
    ("coordinator", &["--coordinator-id=c", "--root-peer=1=h:1", "--root-peer=2=h:2", "--root-peer=3=h:3"]),
    (
        "meta-root",
        &[
            "--workdir=d",
            "--node-id=1",
            "--transport-addr=h:1",
            "--peer=1=h:1",
            "--peer=2=h:2",
            "--peer=3=h:3",
        ],
    ),
];

/// Command, flag, how it is given, and what the arguments are then (as they are shown for debugging).
const FLAGS: &[(&str, &str, &str, &str)] = &[
    ("stats", "--workdir", "--workdir x", r#"workdir: Some("x")"#),
    ("stats", "--expvar", "--expvar http://h:1", r#"expvar: Some("http://h:1")"#),
    ("stats", "--no-region-metrics", "--no-region-metrics", "no_region_metrics: true"),
    ("stats", "--json", "--json", "json: true"),
    ("execution", "--addr", "--addr h:9", r#"addr: "h:9""#),
    ("execution", "--region", "--region 7", "region: 7"),
    ("execution", "--transition", "--transition t7", r#"transition: "t7""#),
    ("execution", "--timeout", "--timeout 7s", "timeout: 7s"),
    ("execution", "--json", "--json", "json: true"),
    ("manifest", "--workdir", "--workdir x", r#"workdir: "x""#),
    ("manifest", "--json", "--json", "json: true"),
    ("vlog", "--workdir", "--workdir x", r#"workdir: "x""#),
    ("vlog", "--json", "--json", "json: true"),
    ("regions", "--workdir", "--workdir x", r#"workdir: Some("x")"#),
    ("regions", "--json", "--json", "json: true"),
    ("migrate plan", "--workdir", "--workdir x", r#"workdir: "x""#),
    ("migrate init", "--workdir", "--workdir x", r#"workdir: "x""#),
    ("migrate init", "--store", "--store 7", "store: 7"),
    ("migrate init", "--region", "--region 7", "region: 7"),
    ("migrate init", "--peer", "--peer 7", "peer: 7"),
    ("migrate status", "--workdir", "--workdir x", r#"workdir: "x""#),
    ("migrate expand", "--addr", "--addr h:9", r#"addr: "h:9""#),
    ("migrate expand", "--region", "--region 7", "region: 7"),
    ("migrate expand", "--target", "--target 2:201@h:2 --target 3:301", r#"target: ["2:201@h:2", "3:301"]"#),
    ("migrate expand", "--wait", "--wait 0", "wait: 0ns"),
    ("migrate expand", "--poll-interval", "--poll-interval 7s", "poll_interval: 7s"),
    ("migrate remove-peer", "--addr", "--addr h:9", r#"addr: "h:9""#),
    ("migrate remove-peer", "--target-addr", "--target-addr h:9", r#"target_addr: Some("h:9")"#),
    ("migrate remove-peer", "--region", "--region 7", "region: 7"),
    ("migrate remove-peer", "--peer", "--peer 7", "peer: 7"),
    ("migrate remove-peer", "--wait", "--wait 7s", "wait: 7s"),
    ("migrate remove-peer", "--poll-interval", "--poll-interval 7s", "poll_interval: 7s"),
    ("migrate transfer-leader", "--addr", "--addr h:9", r#"addr: "h:9""#),
    ("migrate transfer-leader", "--target-addr", "--target-addr h:9", r#"target_addr: Some("h:9")"#),
    ("migrate transfer-leader", "--region", "--region 7", "region: 7"),
    ("migrate transfer-leader", "--peer", "--peer 7", "peer: 7"),
    ("migrate transfer-leader", "--wait", "--wait 7s", "wait: 7s"),
    ("migrate transfer-leader", "--poll-interval", "--poll-interval 7s", "poll_interval: 7s"),
    ("serve", "--store-id", "--store-id 7", "store_id: 7"),
    ("serve", "--workdir", "--workdir x", r#"workdir: Some("x")"#),
    ("serve", "--addr", "--addr h:9", r#"addr: Some("h:9")"#),
    (
        "serve",
        "--coordinator-addr",
        "--coordinator-addr h:1,h:2",
        r#"coordinator_addr: Some(Addresses(["h:1", "h:2"]))"#,
    ),
    ("serve", "--config", "--config f.json", r#"config: Some("f.json")"#),
    ("serve", "--scope", "--scope docker", "scope: Docker"),
    ("serve", "--metrics-addr", "--metrics-addr h:9", r#"metrics_addr: Some("h:9")"#),
    (
        "serve",
        "--store-addr",
        "--store-addr 2=h:2 --store-addr 3=h:3",
        r#"store_addr: [IdAddress { id: 2, addr: "h:2" }, IdAddress { id: 3, addr: "h:3" }]"#,
    ),
    ("serve", "--election-tick", "--election-tick 7", "election_tick: 7"),
    ("serve", "--heartbeat-tick", "--heartbeat-tick 7", "heartbeat_tick: 7"),
    ("serve", "--raft-max-msg-bytes", "--raft-max-msg-bytes 7", "raft_max_msg_bytes: 7"),
    ("serve", "--raft-max-inflight", "--raft-max-inflight 7", "raft_max_inflight: 7"),
    ("serve", "--raft-tick-interval", "--raft-tick-interval 7s", "raft_tick_interval: 7s"),
    ("serve", "--raft-debug-log", "--raft-debug-log", "raft_debug_log: true"),
    ("coordinator", "--coordinator-id", "--coordinator-id x", r#"coordinator_id: "x""#),
    ("coordinator", "--root-peer", "--root-peer 9=h:9", r#"IdAddress { id: 9, addr: "h:9" }"#),
    ("coordinator", "--addr", "--addr h:9", r#"addr: Some("h:9")"#),
    ("coordinator", "--lease-ttl", "--lease-ttl 7s", "lease_ttl: 7s"),
    ("coordinator", "--lease-renew-before", "--lease-renew-before 7s", "lease_renew_before: 7s"),
    ("coordinator", "--root-refresh", "--root-refresh 7s", "root_refresh: 7s"),
    ("coordinator", "--id-start", "--id-start 7", "id_start: 7"),
    ("coordinator", "--ts-start", "--ts-start 7", "ts_start: 7"),
    ("coordinator", "--config", "--config f.json", r#"config: Some("f.json")"#),
    ("coordinator", "--scope", "--scope docker", "scope: Docker"),
    ("coordinator", "--metrics-addr", "--metrics-addr h:9", r#"metrics_addr: Some("h:9")"#),
    ("meta-root", "--workdir", "--workdir x", r#"workdir: Some("x")"#),
    ("meta-root", "--node-id", "--node-id 2", "node_id: 2"),
    ("meta-root", "--transport-addr", "--transport-addr h:9", r#"transport_addr: Some("h:9")"#),
    ("meta-root", "--peer", "--peer 9=h:9", r#"IdAddress { id: 9, addr: "h:9" }"#),
    ("meta-root", "--addr", "--addr h:9", r#"addr: Some("h:9")"#),
    ("meta-root", "--tick-interval", "--tick-interval 7s", "tick_interval: 7s"),
    ("meta-root", "--metrics-addr", "--metrics-addr h:9", r#"metrics_addr: Some("h:9")"#),
];

/// What the reference says of flags that are not given.
const DEFAULTS: &[(&str, &str)] = &[
    ("stats", "json: false"),
    ("coordinator", "lease_ttl: 10s"),
    ("coordinator", "lease_renew_before: 3s"),
    ("coordinator", "root_refresh: 200ms"),
    ("coordinator", "metrics_addr: None"),
    ("serve", "metrics_addr: None"),
    ("meta-root", "tick_interval: 100ms"),
    ("meta-root", "metrics_addr: None"),
];

/// The arguments that `command` has with `given` instead of its own `flag`.
fn arguments(command: &str, flag: &str, given: &str) -> String {
    let (_, needed) = COMMANDS.iter().find(|(name, _)| *name == command).unwrap();
    let is_other = |one: &&&str| one.split('=').next() != Some(flag);
    let words = ["nokv"].into_iter().chain(command.split(' '));
    let words = words.chain(needed.iter().filter(is_other).copied()).chain(given.split_whitespace());
    let words: Vec<&str> = words.collect();
    let parsed = Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    format!("{parsed:?}")
}

#[test]
fn every_flag_is_taken_as_the_reference_says() {
    for (command, flag, given, want) in FLAGS {
        let without = arguments(command, "", "");
        let found = arguments(command, flag, given);
        assert!(found.contains(want), "nokv {command} {given}: no `{want}` in {found}");
        assert!(!without.contains(want), "nokv {command}: `{want}` does not come from {flag}");
    }
}

#[test]
fn what_is_not_given_is_what_the_reference_says() {
    for (command, want) in DEFAULTS {
        let found = arguments(command, "", "");
        assert!(found.contains(want), "nokv {command}: no `{want}` in {found}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// (statement, shown by) of all rows.
fn rows(document: &str) -> Vec<(&str, &str)> {
    let rows =
        document.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    rows.filter(|(statement, _)| *statement != "statement").collect()
}

#[test]
fn the_document_has_a_row_for_every_command_and_flag() {
    let document = text("docs/reference.md");
    let rows = rows(&document);
    let commands = COMMANDS.iter().map(|(command, _)| format!("`{command}`"));
    let flags = FLAGS.iter().map(|(command, flag, ..)| format!("`{command} {flag}`"));
    for wanted in commands.chain(flags) {
        let count = rows.iter().filter(|(statement, _)| statement.starts_with(&wanted)).count();
        assert_eq!(count, 1, "rows that begin with {wanted}");
    }
}

/// `FILE::NAME` is a test of that name in that file, a script is a script, and a row of a flag names a script that uses it.
#[test]
fn what_the_document_names_exists() {
    let document = text("docs/reference.md");
    for (statement, shown_by) in rows(&document) {
        let named: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "nothing shows: {statement}");
        for name in named {
            if let Some((file, test)) = name.split_once("::") {
                let is_there = text(file).contains(&format!("fn {test}()"));
                assert!(is_there, "{statement}: there is no {test} in {file}");
            } else {
                let script = text(name);
                let flag = statement
                    .split('`')
                    .nth(1)
                    .and_then(|words| words.split_once(" --"))
                    .map(|(_, flag)| flag);
                let uses = flag.is_none_or(|flag| script.contains(&format!("--{flag}")));
                let is_script = Path::new(name).extension().is_some_and(|extension| extension == "sh");
                assert!(is_script && uses, "{statement}: {name} does not show it");
            }
        }
    }
}
