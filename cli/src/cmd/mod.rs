//! One file a verb.

mod backup;
mod bench;
mod carry;
mod cert;
mod check;
mod compare;
mod config;
mod console;
mod coordinator;
mod debug;
mod demo;
mod draft;
mod execution;
mod export;
mod expvar;
mod flight;
mod held;
mod help;
mod import;
mod kv;
mod manifest;
mod manual;
mod meta_root;
mod migrate;
mod mvcc;
mod observe;
mod operators;
mod reach;
mod region;
mod regions;
mod security;
mod serve;
mod server;
mod shell;
mod sim;
mod stall;
mod standalone;
mod startup;
mod stats;
mod status;
mod stores;
mod transitions;
mod txn;
mod vars;
mod vlog;
mod workdir;

#[cfg(test)]
pub use import::read_all as read_import;

use crate::args::{Cli, Command, Global};
use crate::errors::{Failure, Result};
use crate::signals::Signals;
use crate::{check_format, logging, output};
use nokv_env::Env;
use nokv_realenv::RealEnv;
use nokv_realenv::tls::Tls;
use security::Dial;
use std::sync::Arc;

/// Carries out a parsed command line; the value is the exit code.
pub fn run(cli: Cli) -> Result<u8> {
    check_format(&cli.global, &cli.command)?;
    let global = &cli.global;
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Get(args) => {
            client(Dial::cluster(&args.cluster), async |env| kv::get(&env, &args, global).await)
        }
        Command::Put(args) => {
            client(Dial::cluster(&args.cluster), async |env| kv::put(&env, &args, global).await)
        }
        Command::Del(args) => {
            client(Dial::cluster(&args.cluster), async |env| kv::del(&env, &args, global).await)
        }
        Command::Scan(args) => {
            client(Dial::cluster(&args.cluster), async |env| kv::scan(&env, &args, global).await)
        }
        Command::Txn(args) => {
            client(Dial::cluster(&args.cluster), async |env| txn::run(&env, &args, global).await)
        }
        Command::Import(args) => import::run(&args, global),
        Command::Export(args) => {
            client(Dial::cluster(&args.cluster), async |env| export::run(&env, &args, global).await)
        }
        Command::Backup(command) => backup::run(&command, global),
        Command::Shell(args) => shell::run(&args, global),
        Command::Bench(args) => {
            client(Dial::cluster(&args.cluster), async |env| bench::run(&env, &args, global).await)
        }
        Command::Status(args) if args.watch.is_some() => status::watch(&args, global),
        Command::Status(args) => {
            client(Dial::cluster(&args.cluster), async |env| status::run(&env, &args, global).await)
        }
        Command::Stats(args) => client(Dial::nobody(), async |env| stats::run(&env, &args, global).await),
        Command::Manifest(args) => {
            client(Dial::nobody(), async |env| manifest::run(&env, &args, global).await)
        }
        Command::Vlog(args) => client(Dial::nobody(), async |env| vlog::run(&env, &args, global).await),
        Command::Check(args) => client(Dial::nobody(), async |env| check::run(&env, &args, global).await),
        Command::Regions(args) => {
            client(Dial::cluster(&args.cluster), async |env| regions::run(&env, &args, global).await)
        }
        Command::Region(command) => {
            client(Dial::region(&command), async |env| region::run(&env, &command, global).await)
        }
        Command::Mvcc(command) => {
            client(Dial::mvcc(&command), async |env| mvcc::run(&env, &command, global).await)
        }
        Command::Operators(args) => {
            client(Dial::cluster(&args.cluster), async |env| operators::run(&env, &args, global).await)
        }
        Command::Transitions(args) => {
            client(Dial::cluster(&args.cluster), async |env| transitions::run(&env, &args, global).await)
        }
        Command::Store(command) => {
            client(Dial::store(&command), async |env| operators::store(&env, &command, global).await)
        }
        Command::Execution(args) => {
            client(Dial::flags(&args.security), async |env| execution::run(&env, &args, global).await)
        }
        Command::Migrate(command) => migrate::run(&command, global),
        Command::Serve(args) => serve::run(&args),
        Command::Coordinator(args) => coordinator::run(&args),
        Command::MetaRoot(args) => meta_root::run(&args),
        Command::Cert(command) => cert::run(&command, global),
        Command::Config(command) => config::run(&command, global),
        Command::Debug(command) => {
            client(Dial::debug(&command), async |env| debug::run(&env, &command, global).await)
        }
        Command::Sim(command) => sim::run(&command, global),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::pages(&args),
        Command::Version => version(global),
        Command::Help(args) => help::run(&args),
    }
}

/// A runtime for one process.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().map_err(|error| Failure::io("start the runtime", &error))
}

/// Makes the real environment; inside a runtime. With `tls` every connection is secured.
fn real_env(tls: Option<Arc<Tls>>) -> Result<Env> {
    RealEnv::secured(tls).map_err(|error| Failure::io("set up the environment", &error))
}

/// Runs a client command: until it is done, or a signal comes.
fn client<W: AsyncFnOnce(Env) -> Result<u8>>(dial: Dial<'_>, work: W) -> Result<u8> {
    logging::start("warn")?;
    let tls = dial.tls()?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let work = work(real_env(tls)?);
        signals.race(work).await.unwrap_or_else(|reason| Err(reason.failure()))
    });
    runtime.shutdown_background();
    ended
}

fn version(global: &Global) -> Result<u8> {
    let mut out = output::Out::new();
    let version = env!("CARGO_PKG_VERSION");
    match global.format() {
        crate::args::Format::Plain => out.line(&format!("nokv {version}"))?,
        _ => out.line(&serde_json::json!({"name": "nokv", "version": version}).to_string())?,
    }
    out.flush()?;
    Ok(0)
}
