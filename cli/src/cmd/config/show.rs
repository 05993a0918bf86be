//! `nokv config show`: the settings that a server would start with, and where each comes from.

use crate::args::security::ServerSecurity;
use crate::args::tools::{ConfigShow, Role};
use crate::args::values::show_duration;
use crate::args::{Cli, Format};
use crate::cmd::{coordinator, meta_root, serve};
use crate::config;
use crate::errors::{Failure, Result};
use crate::output::{Out, table};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A setting: value and origin. No value: it is off.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    name: String,
    value: Option<String>,
    origin: String,
}

/// What the server makes of flags that were not given: by flag, the value, and whether the file says it.
type Derived = BTreeMap<&'static str, (String, From)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    File,
    Default,
}

/// Prints settings.
pub fn run(args: &ConfigShow, format: Format) -> Result<u8> {
    let words: Vec<_> = std::env::args_os().collect();
    let settings = settings(&args.role, &words)?;
    let mut out = Out::new();
    let shown = |setting: &Setting| setting.value.clone().unwrap_or_else(|| "-".to_owned());
    match format {
        Format::Plain if args.origin => {
            let rows: Vec<Vec<String>> = settings
                .iter()
                .map(|setting| vec![setting.name.clone(), shown(setting), setting.origin.clone()])
                .collect();
            out.write(table(&["setting", "value", "from"], &rows).as_bytes())?;
        }
        Format::Plain => {
            let rows: Vec<Vec<String>> =
                settings.iter().map(|setting| vec![setting.name.clone(), shown(setting)]).collect();
            out.write(table(&["setting", "value"], &rows).as_bytes())?;
        }
        _ => {
            let member = |setting: &Setting| {
                let value = if args.origin {
                    json!({"value": setting.value, "from": setting.origin})
                } else {
                    json!(setting.value)
                };
                (setting.name.clone(), value)
            };
            let document = Value::Object(settings.iter().map(member).collect::<Map<_, _>>());
            if format == Format::Json {
                out.json(&document)?;
            } else {
                out.line(&document.to_string())?;
            }
        }
    }
    out.flush()?;
    Ok(0)
}

/// The settings of `role`; `words` are the command line, which knows what was given and what was not.
fn settings(role: &Role, words: &[std::ffi::OsString]) -> Result<Vec<Setting>> {
    let (name, file, derived) = match role {
        Role::Serve(args) => ("serve", args.file.config.as_deref(), of_store(args)?),
        Role::Coordinator(args) => ("coordinator", args.file.config.as_deref(), of_coordinator(args)?),
        Role::MetaRoot(args) => ("meta-root", args.file.config.as_deref(), of_meta_root(args)?),
    };
    let mut tree = Cli::command();
    let matches =
        tree.clone().try_get_matches_from(words).map_err(|error| Failure::usage(error.to_string()))?;
    tree.build();
    let path = ["config", "show", name];
    let mut found: (&Command, &ArgMatches) = (&tree, &matches);
    for word in path {
        match (found.0.find_subcommand(word), found.1.subcommand_matches(word)) {
            (Some(command), Some(matches)) => found = (command, matches),
            _ => return Err(Failure::usage(format!("this is no command line of nokv {}", path.join(" ")))),
        }
    }
    let (command, matches) = found;
    let args = command.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "help");
    Ok(args.map(|arg| setting(arg, matches, file, &derived)).collect())
}

fn setting(arg: &Arg, matches: &ArgMatches, file: Option<&Path>, derived: &Derived) -> Setting {
    let id = arg.get_id().as_str();
    let name = arg.get_long().unwrap_or(id).to_owned();
    let raw = || {
        let values = matches.get_raw(id).into_iter().flatten();
        let values: Vec<String> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    let source = matches.value_source(id);
    let derived = derived.get(id);
    let by_flag = match source {
        Some(ValueSource::CommandLine) => Some(format!("flag --{name}")),
        Some(ValueSource::EnvVariable) => {
            let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Some(format!("variable {variable}"))
        }
        _ => None,
    };
    let origin = match (by_flag, derived) {
        (Some(given), _) => given,
        (None, Some((_, From::File))) => {
            format!("file {}", file.map(|path| path.display().to_string()).unwrap_or_default())
        }
        (None, _) => "default".to_owned(),
    };
    // What the server made of it counts, not how it was written.
    let value = derived.map(|(value, _)| value.clone()).or_else(raw);
    let switch = || matches.try_get_one::<bool>(id).ok().flatten().map(bool::to_string);
    Setting { name, value: switch().or(value), origin }
}

fn joined(addresses: &BTreeMap<u64, String>) -> String {
    let pairs: Vec<String> = addresses.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
    pairs.join(",")
}

fn from(is_in_file: bool) -> From {
    if is_in_file { From::File } else { From::Default }
}

fn loaded(path: Option<&Path>) -> Result<Option<config::Cluster>> {
    path.map(config::load).transpose()
}

/// Certificates that the file names and no flag does. Certificate and key come from the same place.
fn add_tls(given: &ServerSecurity, file: Option<&config::Cluster>, derived: &mut Derived) {
    let given = &given.certificates;
    let Some(section) = file.and_then(|file| file.tls.as_ref()) else { return };
    if given.tls_ca.is_none() {
        derived.insert("tls_ca", (section.ca.display().to_string(), From::File));
    }
    if let (None, None, Some((certificate, key))) = (&given.tls_cert, &given.tls_key, &section.identity) {
        derived.insert("tls_cert", (certificate.display().to_string(), From::File));
        derived.insert("tls_key", (key.display().to_string(), From::File));
    }
}

fn of_store(args: &crate::args::servers::Serve) -> Result<Derived> {
    let config = serve::settings(args)?;
    let file = loaded(args.file.config.as_deref())?;
    let own = file.as_ref().and_then(|file| file.store(args.store_id));
    let scope = args.file.scope;
    let mut derived = Derived::from([
        ("workdir", (config.workdir.display().to_string(), from(own.is_some()))),
        ("addr", (config.listen_addr, from(own.is_some_and(|store| store.listen_addr(scope).is_some())))),
        (
            "advertise_addr",
            (config.advertise_addr, from(own.is_some_and(|store| store.addr(scope).is_some()))),
        ),
        ("coordinator_addr", (config.coordinators.join(","), from(file.is_some()))),
        ("raft_tick_interval", (show_duration(config.tick), From::Default)),
    ]);
    if args.disk_reserve.is_none() {
        derived.insert("disk_reserve", ("by the size of the disk".to_owned(), From::Default));
    }
    add_tls(&args.security, file.as_ref(), &mut derived);
    if !config.store_addrs.is_empty() {
        derived.insert("store_addr", (joined(&config.store_addrs), from(file.is_some())));
    }
    Ok(derived)
}

fn of_coordinator(args: &crate::args::servers::Coordinator) -> Result<Derived> {
    let config = coordinator::settings(args)?;
    let file = loaded(args.file.config.as_deref())?;
    let names_one = file.as_ref().is_some_and(|file| file.coordinators(args.file.scope).len() == 1);
    let is_host = args.file.scope == crate::args::Scope::Host;
    let has_roots = file.as_ref().is_some_and(|file| !file.meta_roots.is_empty());
    let mut derived = Derived::from([
        ("addr", (config.listen_addr, from(names_one && is_host))),
        ("root_peer", (joined(&config.root_peers), from(has_roots))),
    ]);
    add_tls(&args.security, file.as_ref(), &mut derived);
    Ok(derived)
}

fn of_meta_root(args: &crate::args::servers::MetaRoot) -> Result<Derived> {
    let config = meta_root::settings(args)?;
    let file = loaded(args.file.config.as_deref())?;
    let own = file.as_ref().and_then(|file| file.meta_root(args.node_id));
    let has_roots = file.as_ref().is_some_and(|file| !file.meta_roots.is_empty());
    let scope = args.file.scope;
    let mut derived = Derived::from([
        ("workdir", (config.workdir.display().to_string(), from(own.is_some()))),
        ("addr", (config.listen_addr, from(own.is_some_and(|root| root.addr(scope).is_some())))),
        ("transport_addr", (config.transport_addr, from(has_roots))),
        ("peer", (joined(&config.peers), from(has_roots))),
    ]);
    add_tls(&args.security, file.as_ref(), &mut derived);
    Ok(derived)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::tools::Config;
    use clap::Parser;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../raft_config.example.json");

    fn shown(line: &str) -> BTreeMap<String, (Option<String>, String)> {
        let words: Vec<std::ffi::OsString> = line.split_whitespace().map(Into::into).collect();
        let crate::args::Command::Config(Config::Show(args)) = Cli::try_parse_from(&words).unwrap().command
        else {
            panic!("{line}");
        };
        let settings = settings(&args.role, &words).unwrap();
        settings.into_iter().map(|setting| (setting.name, (setting.value, setting.origin))).collect()
    }

    fn want(value: &str, origin: &str) -> (Option<String>, String) {
        (Some(value.to_owned()), origin.to_owned())
    }

    #[test]
    fn every_setting_says_where_it_comes_from() {
        let file = format!("file {FILE}");
        let found = shown(&format!(
            "nokv config show --origin serve --store-id 2 --config {FILE} --split-bytes 5 --addr h:1"
        ));
        assert_eq!(found["store-id"], want("2", "flag --store-id"));
        assert_eq!(found["workdir"], want("./artifacts/cluster/store-2", &file));
        assert_eq!(found["addr"], want("h:1", "flag --addr"));
        assert_eq!(found["advertise-addr"], want("127.0.0.1:20171", &file));
        assert_eq!(found["coordinator-addr"], want("127.0.0.1:2379", &file));
        assert_eq!(found["store-addr"], want("1=127.0.0.1:20170,3=127.0.0.1:20172", &file));
        assert_eq!(found["split-bytes"], want("5", "flag --split-bytes"));
        assert_eq!(found["raft-tick-interval"], want("100ms", "default"));
        assert_eq!(found["election-tick"], want("10", "default"));
        assert_eq!(found["raft-debug-log"], want("false", "default"));
        assert_eq!(found["metrics-addr"], (None, "default".to_owned()));
    }

    #[test]
    fn the_other_servers_have_settings_too() {
        let file = format!("file {FILE}");
        let found =
            shown(&format!("nokv config show coordinator --coordinator-id c --config {FILE} --no-balance"));
        assert_eq!(found["root-peer"], want("1=127.0.0.1:2380,2=127.0.0.1:2381,3=127.0.0.1:2382", &file));
        assert_eq!(found["addr"], want("127.0.0.1:2379", &file));
        assert_eq!(found["no-balance"], want("true", "flag --no-balance"));
        assert_eq!(found["gc-life"], want("10m", "default"));
        let found = shown(&format!("nokv config show meta-root --node-id 3 --config {FILE} --workdir w"));
        assert_eq!(found["workdir"], want("w", "flag --workdir"));
        assert_eq!(found["transport-addr"], want("127.0.0.1:3382", &file));
    }
}
