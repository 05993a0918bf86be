//! `nokv debug bundle`: what helps to find out what is wrong, in one archive.
//!
//! Everybody is asked at the same time and with a short patience. Who does not answer is listed in `MANIFEST.json`: a
//! bundle is most wanted when something is down.

mod http;
mod redact;

use crate::args::daily::{Bundle, Debug};
use crate::args::{Format, Global};
use crate::cmd::draft::Draft;
use crate::cmd::status::{self, Whom};
use crate::cmd::{execution, operators, reach, regions, transitions};
use crate::config;
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::{BoxFuture, join, join_all};
use nokv_client::{Client, ClientConfig};
use nokv_env::clock::rfc3339;
use nokv_env::{ClockExt, Env, OpenMode};
use redact::Redactor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// The end of a log file that is taken.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Patience with one answer, unless all of it has to be faster.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// Carries out a verb of `nokv debug`.
pub async fn run(env: &Env, command: &Debug, global: &Global) -> Result<u8> {
    match command {
        Debug::Bundle(args) => bundle(env, args, global).await,
    }
}

/// What goes into the archive, or why it does not.
struct Piece {
    name: String,
    /// For people: whom it was asked of.
    from: String,
    content: std::result::Result<Content, String>,
}

enum Content {
    Json(Value),
    Text(Vec<u8>),
}

async fn bundle(env: &Env, args: &Bundle, global: &Global) -> Result<u8> {
    let name = args.to.display().to_string();
    let compress = is_compressed(&args.to)?;
    if env.disk.exists(&args.to).map_err(|error| Failure::io(format!("look for {name}"), &error))? {
        return Err(Failure::new(Code::FileExists, format!("{name} exists already"))
            .next("name another file with --to"));
    }
    let file = args.config.as_deref().map(config::load).transpose()?;
    let cluster = crate::args::client::Cluster {
        coordinator_addr: args.coordinator_addr.clone(),
        config: args.config.clone(),
        scope: args.scope,
        timeout: args.timeout,
        trace_id: None,
        security: args.security.clone(),
    };
    let whom = Whom {
        coordinators: reach::coordinators(&cluster, file.as_ref())?,
        roots: status::roots(&args.root_peer, file.as_ref(), args.scope),
    };
    let mut pieces = vec![versions(env)];
    pieces.extend(args.config.iter().map(|path| configuration(env, path)));
    pieces.extend(logs(env, args));
    let patience = (args.timeout / 4).min(PATIENCE_MAX);
    pieces.extend(ask(env, &whom, &args.metrics_addr, patience).await);
    let mut redactor = args.redact.then(Redactor::default);
    let (archive, manifest) = archive(env, pieces, &mut redactor, compress)
        .map_err(|error| Failure::io(format!("make {name}"), &error))?;
    let mut draft = Draft::beside(env, &args.to);
    draft.append(&archive)?;
    let bytes = draft.publish(&args.to)?;
    summary(&name, bytes, &manifest, global)
}

fn is_compressed(to: &Path) -> Result<bool> {
    let extension =
        |path: &Path| path.extension().map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = to.file_stem().map(Path::new).unwrap_or(to);
    match (extension(stem).as_str(), extension(to).as_str()) {
        (_, "tgz") | ("tar", "gz") => Ok(true),
        (_, "tar") => Ok(false),
        _ => {
            let name = to.display();
            Err(Failure::usage(format!("--to {name}: want a name that ends with .tar, .tar.gz or .tgz")))
        }
    }
}

fn versions(env: &Env) -> Piece {
    let variables: Vec<String> = std::env::vars_os()
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("NOKV_"))
        .collect();
    let nanos = i64::try_from(env.clock.unix_millis()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    let command: Vec<String> = std::env::args().collect();
    let content = json!({
        "nokv": env!("CARGO_PKG_VERSION"), "os": std::env::consts::OS, "arch": std::env::consts::ARCH,
        "at": rfc3339(nanos), "cmdline": command, "variables": variables,
    });
    piece("versions.json", "this nokv", Ok(Content::Json(content)))
}

fn piece(name: &str, from: &str, content: std::result::Result<Content, String>) -> Piece {
    Piece { name: name.to_owned(), from: from.to_owned(), content }
}

fn configuration(env: &Env, path: &Path) -> Piece {
    let content =
        nokv_env::disk::read_all(&*env.disk, path).map_err(|error| error.to_string()).map(|bytes| {
            let text = String::from_utf8_lossy(&bytes);
            let plain: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            // With comments behind values it stays text.
            serde_json::from_str(&plain.join("\n"))
                .map_or_else(|_| Content::Text(bytes.clone()), Content::Json)
        });
    piece("config.json", &path.display().to_string(), content)
}

fn logs(env: &Env, args: &Bundle) -> Vec<Piece> {
    let log = |(number, path): (usize, &std::path::PathBuf)| {
        let content = tail(env, path).map(Content::Text).map_err(|error| error.to_string());
        piece(&format!("logs/{}.log", number + 1), &path.display().to_string(), content)
    };
    args.log.iter().enumerate().map(log).collect()
}

/// The end of a file, from the beginning of a line on.
fn tail(env: &Env, path: &Path) -> std::io::Result<Vec<u8>> {
    let file = env.disk.open(path, OpenMode::Read)?;
    let length = file.len()?;
    let start = length.saturating_sub(LOG_BYTES_MAX);
    let mut bytes = vec![0; (length - start) as usize];
    // It may be written to, or begun anew, while we read.
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], start + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    if start > 0 {
        let first = bytes.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        bytes.drain(..first);
    }
    Ok(bytes)
}

/// Asks everybody.
async fn ask(env: &Env, whom: &Whom, metrics: &[String], patience: Duration) -> Vec<Piece> {
    let mut config = ClientConfig::new(whom.coordinators.clone());
    (config.deadline, config.coordinator_timeout) = (patience, patience / 3);
    let client = Client::new(env.clone(), config);
    let coordinators = whom.coordinators.join(",");
    let (from, client) = (&coordinators, &client);
    let lists: Vec<BoxFuture<'_, Piece>> = vec![
        Box::pin(async move {
            let rows = client.list_regions().await.map_err(|error| error.to_string());
            let row = |route: &nokv_proto::coordinator::v1::RegionRoute| {
                let leader = route.leader.map(|peer| peer.store_id).filter(|store| *store != 0);
                Some(regions::to_json(route.descriptor.as_ref()?, leader))
            };
            let json = rows.map(|rows| {
                Content::Json(json!({"regions": rows.iter().filter_map(row).collect::<Vec<_>>()}))
            });
            piece("regions.json", from, json)
        }),
        Box::pin(async move {
            let listed = client.list_operators(0).await.map_err(|error| error.to_string());
            let json = listed.map(|listed| {
                let operators: Vec<Value> = listed.operators.iter().map(operators::to_json).collect();
                Content::Json(json!({"operators": operators, "waiting": listed.waiting}))
            });
            piece("operators.json", from, json)
        }),
        Box::pin(async move {
            let listed = client.list_transitions().await.map_err(|error| error.to_string());
            let json = listed.map(|listed| {
                let transitions: Vec<Value> = listed.iter().map(transitions::to_json).collect();
                Content::Json(json!({ "transitions": transitions }))
            });
            piece("transitions.json", from, json)
        }),
    ];
    let pages = metrics.iter().enumerate().flat_map(|(number, addr)| {
        let vars = page(env, addr, "/debug/vars", format!("vars/{}.json", number + 1), patience);
        let metrics = page(env, addr, "/metrics", format!("metrics/{}.txt", number + 1), patience);
        [vars, metrics]
    });
    let state = env.clock.timeout(patience, status::gather(env, whom));
    let (state, (lists, pages)) = join(state, join(join_all(lists), join_all(pages))).await;
    let mut pieces = Vec::new();
    let stores = match state {
        Ok(Ok((state, stores))) => {
            pieces.push(piece("status.json", from, Ok(Content::Json(state))));
            stores
        }
        Ok(Err(failure)) => {
            pieces.push(piece("status.json", from, Err(failure.message().to_owned())));
            BTreeMap::new()
        }
        Err(_) => {
            pieces.push(piece("status.json", from, Err("no answer in time".to_owned())));
            BTreeMap::new()
        }
    };
    pieces.extend(lists);
    pieces.extend(pages);
    let executions = stores.iter().map(|(store, addr)| async move {
        let content = execution::gather(env, addr, patience).await;
        let content = content.map(Content::Json).map_err(|why| why.to_string());
        piece(&format!("execution/store-{store}.json"), addr, content)
    });
    pieces.extend(join_all(executions).await);
    pieces
}

async fn page(env: &Env, addr: &str, path: &str, name: String, patience: Duration) -> Piece {
    let got = match env.clock.timeout(patience, http::get(addr, path)).await {
        Ok(got) => got,
        Err(_) => Err("no answer in time".to_owned()),
    };
    let content = got.map(|body| serde_json::from_slice(&body).map_or(Content::Text(body), Content::Json));
    Piece { name, from: format!("http://{addr}{path}"), content }
}

/// The bytes of the archive, and its manifest.
fn archive(
    env: &Env,
    pieces: Vec<Piece>,
    redactor: &mut Option<Redactor>,
    compress: bool,
) -> std::io::Result<(Vec<u8>, Value)> {
    let (mut files, mut missing, mut contents) = (Vec::new(), Vec::new(), Vec::new());
    for Piece { mut name, mut from, content } in pieces {
        if let Some(redactor) = redactor.as_mut() {
            (name, from) = (redactor.text(&name), redactor.text(&from));
        }
        match content {
            Err(why) => {
                let why = redactor.as_mut().map_or_else(|| why.clone(), |redactor| redactor.text(&why));
                missing.push(json!({"name": name, "from": from, "why": why}));
            }
            Ok(content) => {
                let bytes = encode(content, redactor);
                files.push(json!({"name": name, "from": from, "bytes": bytes.len()}));
                contents.push((name, bytes));
            }
        }
    }
    let manifest = json!({
        "nokv": env!("CARGO_PKG_VERSION"), "redacted": redactor.is_some(), "files": files, "missing": missing,
    });
    contents.insert(0, ("MANIFEST.json".to_owned(), format!("{manifest:#}\n").into_bytes()));
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in &contents {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(env.clock.unix_millis() / 1000);
        header.set_entry_type(tar::EntryType::Regular);
        archive.append_data(&mut header, format!("nokv-debug/{name}"), &bytes[..])?;
    }
    let archive = archive.into_inner()?;
    if !compress {
        return Ok((archive, manifest));
    }
    let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
    compressed.write_all(&archive)?;
    Ok((compressed.finish()?, manifest))
}

fn encode(content: Content, redactor: &mut Option<Redactor>) -> Vec<u8> {
    match (content, redactor) {
        (Content::Json(mut value), redactor) => {
            if let Some(redactor) = redactor {
                redactor.json(&mut value);
            }
            format!("{value:#}\n").into_bytes()
        }
        (Content::Text(bytes), None) => bytes,
        (Content::Text(bytes), Some(redactor)) => redactor.log(&String::from_utf8_lossy(&bytes)).into_bytes(),
    }
}

fn summary(name: &str, bytes: u64, manifest: &Value, global: &Global) -> Result<u8> {
    let count = |member: &str| manifest[member].as_array().map_or(0, Vec::len);
    for missing in manifest["missing"].as_array().into_iter().flatten() {
        let text = |member: &str| missing[member].as_str().unwrap_or_default().to_owned();
        eprintln!("note: {} is missing: {}: {}", text("name"), text("from"), text("why"));
    }
    let mut out = Out::new();
    match global.format() {
        Format::Plain => out.line(&format!(
            "{name}: {bytes} bytes, {} files, {} missing",
            count("files"),
            count("missing")
        ))?,
        _ => out.line(&json!({"file": name, "bytes": bytes, "manifest": manifest}).to_string())?,
    }
    out.flush()?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_whether_it_is_compressed() {
        assert!(!is_compressed(Path::new("a.tar")).unwrap());
        assert!(
            is_compressed(Path::new("d/a.tar.gz")).unwrap() && is_compressed(Path::new("a.tgz")).unwrap()
        );
        assert!(is_compressed(Path::new("a.zip")).is_err() && is_compressed(Path::new("tar")).is_err());
    }
}
