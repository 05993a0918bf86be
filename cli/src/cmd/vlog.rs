//! `nokv vlog`: the value log of a directory. There is none: values stay in the tables.

use crate::args::inspect::Vlog;
use crate::args::{Format, Global};
use crate::cmd::workdir::Workdir;
use crate::errors::Result;
use crate::output::Out;
use nokv_env::Env;
use serde_json::json;

const NONE: &str = "this database has no value log; values are in its tables";

/// Says so, once it is sure that there is a database.
pub fn run(env: &Env, args: &Vlog, global: &Global) -> Result<u8> {
    Workdir::find(env, &args.workdir)?;
    let mut out = Out::new();
    match global.format() {
        Format::Plain => out.line(NONE)?,
        Format::Json => {
            eprintln!("note: {NONE}");
            out.json(&json!({ "buckets": [] }))?;
        }
        Format::Jsonl => eprintln!("note: {NONE}"),
    }
    out.flush()?;
    Ok(0)
}
