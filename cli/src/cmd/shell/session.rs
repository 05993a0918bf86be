//! Carries out the lines of one shell, one after the other.

use super::line::{HELP, Line, parse};
use crate::args::client::{Cluster, Status};
use crate::args::daily::Shell;
use crate::args::{Format, Global};
use crate::cmd::kv;
use crate::cmd::reach::{Reach, reach};
use crate::cmd::status;
use crate::errors::{Code, Failure, Result};
use crate::output::{Out, quote};
use bytes::Bytes;
use nokv_client::{ClientError, Hold, Txn};
use nokv_env::Env;
use nokv_proto::id::Timestamp;
use nokv_proto::key::KeyRange;
use std::time::Duration;

/// A person may think for long between two lines of a transaction: its snapshot is held.
const HOLD: Duration = Duration::from_secs(60);

/// What comes after a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next line.
    Go,
    /// The end.
    Exit,
}

/// A shell's connection and its open transaction.
pub struct Session<'a> {
    env: &'a Env,
    global: &'a Global,
    cluster: &'a Cluster,
    reach: Reach,
    txn: Option<(Txn, Option<Hold>)>,
}

impl<'a> Session<'a> {
    /// Connects when first needed.
    pub fn new(env: &'a Env, args: &'a Shell, global: &'a Global) -> Result<Self> {
        let reach = reach(env, &args.cluster)?;
        Ok(Self { env, global, cluster: &args.cluster, reach, txn: None })
    }

    /// Whether errors are JSON.
    pub fn as_json(&self) -> bool {
        self.global.format() != Format::Plain
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.txn.is_some()
    }

    fn failed(&self, error: &ClientError) -> Failure {
        self.reach.failure(error)
    }

    /// Carries out one line.
    pub async fn carry_out(&mut self, line: &[u8]) -> Result<Next> {
        match parse(line).map_err(|why| Failure::usage(why).next("help lists the commands"))? {
            Line::Nothing => {}
            Line::Exit => return Ok(Next::Exit),
            Line::Help => print(HELP)?,
            Line::Get(key) => self.get(key).await?,
            Line::Put(key, value) => self.write(key, Some(value)).await?,
            Line::Delete(key) => self.write(key, None).await?,
            Line::Insert(key, value) => {
                let Some((txn, _)) = &mut self.txn else {
                    return Err(Failure::usage("insert needs a transaction").next("begin"));
                };
                txn.insert(key, value).map_err(|error| self.reach.failure(&error))?;
            }
            Line::Scan(start, end, rows) => {
                if !end.is_empty() && end < start {
                    return Err(Failure::usage(format!("{} lies before {}", quote(&end), quote(&start))));
                }
                self.scan(KeyRange { start, end }, rows).await?;
            }
            Line::Prefix(key, rows) => self.scan(KeyRange::prefix(&key), rows).await?,
            Line::Begin => self.begin().await?,
            Line::Commit => {
                let (txn, _hold) = self.open_transaction()?;
                let ts = txn.commit().await.map_err(|error| self.failed(&error))?;
                self.committed(ts)?;
            }
            Line::Rollback => drop(self.open_transaction()?),
            Line::Status => self.status().await?,
        }
        Ok(Next::Go)
    }

    async fn begin(&mut self) -> Result {
        if self.txn.is_some() {
            return Err(Failure::usage("a transaction is open already").next("commit or rollback"));
        }
        let txn = self.reach.client.begin().await.map_err(|error| self.failed(&error))?;
        // Without a hold it lives as long as old versions do.
        let hold = txn.hold(HOLD).await.ok();
        self.txn = Some((txn, hold));
        Ok(())
    }

    fn open_transaction(&mut self) -> Result<(Txn, Option<Hold>)> {
        self.txn.take().ok_or_else(|| Failure::usage("no transaction is open").next("begin"))
    }

    async fn get(&mut self, key: Bytes) -> Result {
        check(&key)?;
        let found = match &self.txn {
            Some((txn, _)) => txn.get(key.clone()).await,
            None => self.reach.client.get(key.clone()).await,
        };
        let found = found.map_err(|error| self.failed(&error))?;
        kv::show_value(&key, found, false, self.global).map(drop)
    }

    async fn write(&mut self, key: Bytes, value: Option<Bytes>) -> Result {
        check(&key)?;
        if let Some((txn, _)) = &mut self.txn {
            let written = match value {
                Some(value) => txn.put(key, value),
                None => txn.delete(key),
            };
            return written.map_err(|error| self.failed(&error));
        }
        let client = &self.reach.client;
        let committed = match value {
            Some(value) => client.put(key, value).await,
            None => client.delete(key).await,
        };
        let ts = committed.map_err(|error| self.failed(&error))?;
        self.committed(ts)
    }

    fn committed(&self, ts: Timestamp) -> Result {
        kv::committed(ts, self.global).map(drop)
    }

    async fn scan(&mut self, range: KeyRange, rows: usize) -> Result {
        let pairs = match &self.txn {
            Some((txn, _)) => txn.scan(range, rows).await,
            None => self.reach.client.scan(range, rows).await,
        };
        let pairs = pairs.map_err(|error| self.failed(&error))?;
        kv::show_pairs(&pairs, self.global.format())
    }

    async fn status(&self) -> Result {
        let args = Status { watch: None, hot: None, root_peer: Vec::new(), cluster: self.cluster.clone() };
        status::run(self.env, &args, self.global).await.map(drop)
    }
}

fn check(key: &Bytes) -> Result {
    if key.is_empty() { Err(Failure::new(Code::KeyEmpty, "the key is empty")) } else { Ok(()) }
}

fn print(text: &str) -> Result {
    let mut out = Out::new();
    out.write(text.as_bytes())?;
    out.flush()
}
