//! `nokv backup restore`.
//!
//! Pairs are written in transactions of many, several under way at once; they finish in any order. Progress is the number
//! of pairs before which all are written. Writing a pair again is harmless, so what was under way when a run ended is
//! simply repeated by the next.

use super::catalogue::{Backup, Pairs, find, show_range};
use super::verify::check;
use crate::args::daily::BackupRestore;
use crate::args::{Format, Global};
use crate::cmd::export::PAGE;
use crate::cmd::flight::{Flight, STOP_GRACE, UnderWay, fly};
use crate::cmd::held::{Patience, hold};
use crate::cmd::import::progress_bar;
use crate::cmd::reach::{Reach, reach};
use crate::errors::{Code, Failure, Result};
use crate::output::{Out, base64, from_base64, quote};
use crate::signals::Signals;
use bytes::Bytes;
use nokv_env::disk::{read_all, write_atomically};
use nokv_env::{Env, Instant};
use nokv_proto::key::KeyRange;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often progress is written down.
const SAVE_INTERVAL: Duration = Duration::from_millis(500);
/// A transaction is closed when its pairs weigh this much.
const BATCH_BYTES: usize = 1 << 20;
const VERSION: u32 = 1;

type Pair = (Bytes, Bytes);

/// Restores a backup, or goes on with that.
pub fn run(args: &BackupRestore, global: &Global) -> Result<u8> {
    crate::logging::start("error")?;
    let tls = crate::cmd::security::Dial::cluster(&args.cluster).tls()?;
    let runtime = crate::cmd::runtime()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let env = crate::cmd::real_env(tls)?;
        restore(&env, args, global, &mut signals).await
    });
    runtime.shutdown_background();
    ended
}

/// The content of the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u32,
    backup_id: String,
    /// Where they are written; 0 in the files of versions that did not ask.
    #[serde(default)]
    cluster: u64,
    /// All pairs before this one are written.
    pairs: u64,
    /// The last of them.
    last_key_base64: String,
}

struct StateFile<'a> {
    env: &'a Env,
    path: PathBuf,
    backup: &'a Backup,
    /// The id of the cluster that is being filled, once it has been asked.
    cluster: OnceCell<u64>,
}

impl StateFile<'_> {
    fn load(&self) -> Result<Option<State>> {
        let bytes = match read_all(&*self.env.disk, &self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(format!("read {}", self.path.display()), &error)),
        };
        let state: State = serde_json::from_slice(&bytes)
            .map_err(|error| self.mismatch(&format!("it is no state file of a restore ({error})")))?;
        if state.version != VERSION {
            return Err(
                self.mismatch(&format!("it has version {}, this nokv knows {VERSION}", state.version))
            );
        }
        if state.backup_id != self.backup.id {
            return Err(self
                .mismatch(&format!("it belongs to backup {}, this is {}", state.backup_id, self.backup.id)));
        }
        Ok(Some(state))
    }

    fn save(&self, pairs: u64, last: &[u8]) -> Result {
        let backup_id = self.backup.id.clone();
        let state = State {
            version: VERSION,
            backup_id,
            cluster: self.cluster.get().copied().unwrap_or_default(),
            pairs,
            last_key_base64: base64(last),
        };
        let text = serde_json::to_string_pretty(&state).unwrap_or_default() + "\n";
        write_atomically(&*self.env.disk, &self.path, text.as_bytes())
            .map_err(|error| Failure::io(format!("write the state file {}", self.path.display()), &error))
    }

    fn remove(&self) -> Result {
        match self.env.disk.remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Failure::io("remove the state file", &error))
            }
            _ => Ok(()),
        }
    }

    fn mismatch(&self, why: &str) -> Failure {
        let path = self.path.display();
        Failure::new(Code::BackupMismatch, format!("cannot go on with {path}"))
            .why(why)
            .next(format!("to restore into an empty range from the beginning: rm {path}"))
            .detail("path", path.to_string())
    }
}

async fn restore(env: &Env, args: &BackupRestore, global: &Global, signals: &mut Signals) -> Result<u8> {
    let began = env.clock.now();
    let dir = std::path::absolute(&args.dir)
        .map_err(|error| Failure::io(format!("find {}", args.dir.display()), &error))?;
    let backup = find(&*env.disk, &dir)?;
    let reach = reach(env, &args.cluster)?;
    let state = StateFile { env, path: state_path(args, &dir)?, backup: &backup, cluster: OnceCell::new() };
    let bar = progress_bar(Some(backup.content_bytes()), 0);
    let patience = Patience { env, reach: &reach, bar: &bar, retry_for: args.retry_for };
    let restoring = Restoring { env, args, dir: &dir, backup: &backup, patience: &patience, state: &state };
    let before = signals.race(restoring.prepare()).await.unwrap_or_else(|reason| Err(reason.failure()))?;
    let ended = restoring.write(before, signals).await;
    bar.finish_and_clear();
    ended?;
    if !args.no_check {
        signals.race(restoring.compare(&reach)).await.unwrap_or_else(|reason| {
            Err(reason.failure().next("everything is restored; run the same command again to compare it"))
        })?;
    }
    state.remove()?;
    reach.client.close(STOP_GRACE).await;
    summary(&backup, args, before, env.clock.now().since(began), global)
}

fn state_path(args: &BackupRestore, dir: &Path) -> Result<PathBuf> {
    let path = args.state.clone().unwrap_or_else(|| {
        let mut name = dir.as_os_str().to_owned();
        name.push(".nokv-restore");
        name.into()
    });
    std::path::absolute(&path).map_err(|error| Failure::io(format!("find {}", path.display()), &error))
}

struct Restoring<'a> {
    env: &'a Env,
    args: &'a BackupRestore,
    dir: &'a Path,
    backup: &'a Backup,
    patience: &'a Patience<'a>,
    state: &'a StateFile<'a>,
}

impl Restoring<'_> {
    fn pairs(&self) -> Pairs<'_> {
        Pairs::new(&*self.env.disk, self.dir, self.backup)
    }

    /// Checks the backup and the cluster, before anything is written; the result is the number of pairs that are there.
    async fn prepare(&self) -> Result<u64> {
        let begun = self.state.load()?;
        let bar = progress_bar(Some(self.backup.bytes()), 0);
        bar.set_message("checking");
        let checked = check(self.env, self.dir, self.backup, &bar).await;
        bar.finish_and_clear();
        checked?;
        let cluster = self.patience.with(async || self.patience.reach.client.cluster_id().await).await?;
        let cluster = *self.state.cluster.get_or_init(|| cluster);
        let Some(begun) = begun else { return self.check_empty().await };
        // One equal pair would not show it: this cluster may hold what the backup holds there, and newer values elsewhere.
        if begun.cluster != 0 && begun.cluster != cluster {
            return Err(self
                .state
                .mismatch(&format!("it is of cluster {:012x}, this is {cluster:012x}", begun.cluster)));
        }
        let before = self.check_begun(&begun).await?;
        eprintln!("going on behind {before} pairs that were restored before");
        Ok(before)
    }

    /// The first pair that the cluster has in `range`.
    async fn first(&self, range: KeyRange) -> Result<Option<Pair>> {
        let snapshot = self.patience.with(async || self.patience.reach.client.snapshot().await).await?;
        let mut scanner = snapshot.scanner(range).page_size(1);
        while let Some(page) = self.patience.page(&mut scanner).await? {
            if let Some(pair) = page.pairs.into_iter().next() {
                return Ok(Some(pair));
            }
        }
        Ok(None)
    }

    /// Refuses a range with keys, and stores without room; writes down that this cluster is being filled.
    async fn check_empty(&self) -> Result<u64> {
        if let Some((key, _)) = self.first(self.backup.range()).await? {
            let what = show_range(&self.backup.range());
            return Err(Failure::new(
                Code::TargetNotEmpty,
                format!("the cluster has a key at {}", quote(&key)),
            )
            .why(format!("the backup holds {what}; restored over others, they would be mixed"))
            .next("restore into a fresh cluster, or delete those keys first"));
        }
        self.check_space().await?;
        self.state.save(0, b"")?;
        Ok(0)
    }

    /// A rough guess: stores compress about as well as the backup does.
    async fn check_space(&self) -> Result {
        let reach = self.patience.reach;
        let stores = self.patience.with(async || reach.client.list_stores().await).await?;
        let up: Vec<u64> = stores.iter().filter(|store| store.up).map(|store| store.available).collect();
        let needed = self.backup.bytes().saturating_mul(up.len().min(3) as u64);
        let free: u64 = up.iter().sum();
        if free >= needed {
            return Ok(());
        }
        Err(Failure::new(
            Code::DiskFull,
            format!("the stores have {free} bytes free, the backup needs {needed}"),
        )
        .why(format!("three copies of {} bytes", self.backup.bytes()))
        .next("add stores or room; nokv status shows what is free")
        .detail("bytes_free", free)
        .detail("bytes_needed", needed))
    }

    /// Makes sure that the state file speaks of this cluster; the result is the number of pairs that are written.
    async fn check_begun(&self, state: &State) -> Result<u64> {
        let first = self.first(self.backup.range()).await?;
        let other = |key: &[u8]| {
            Failure::new(Code::TargetNotEmpty, format!("the cluster has another value at {}", quote(key)))
                .why(format!(
                    "{} says that this backup was being restored; not here",
                    self.state.path.display()
                ))
                .next(format!(
                    "give the same cluster, or begin anew in an empty range: rm {}",
                    self.state.path.display()
                ))
        };
        if state.pairs == 0 {
            let Some(first) = first else { return Ok(0) };
            return if self.is_near_the_beginning(&first)? { Ok(0) } else { Err(other(&first.0)) };
        }
        let last = self.pair_before(state.pairs)?;
        let (key, value) =
            last.ok_or_else(|| self.state.mismatch("it speaks of more pairs than there are"))?;
        if from_base64(&state.last_key_base64).as_deref() != Ok(&key[..]) {
            return Err(self.state.mismatch("its last key is not at that place of the backup"));
        }
        let found = self.patience.with(async || self.patience.reach.client.get(key.clone()).await).await?;
        if found.as_ref() == Some(&value) { Ok(state.pairs) } else { Err(other(&key)) }
    }

    fn is_near_the_beginning(&self, pair: &Pair) -> Result<bool> {
        let mut left = u64::from(self.args.batch) * u64::from(self.args.jobs);
        let mut pairs = self.pairs();
        while let Some(block) = pairs.next_block()?.filter(|_| left > 0) {
            if block.contains(pair) {
                return Ok(true);
            }
            left = left.saturating_sub(block.len() as u64);
        }
        Ok(false)
    }

    fn pair_before(&self, number: u64) -> Result<Option<Pair>> {
        let (mut pairs, mut before) = (self.pairs(), 0);
        while let Some(block) = pairs.next_block()? {
            let after = before + block.len() as u64;
            if number <= after {
                return Ok(block.get((number - before - 1) as usize).cloned());
            }
            before = after;
        }
        Ok(None)
    }

    /// Writes everything behind the first `before` pairs.
    async fn write(&self, before: u64, signals: &mut Signals) -> Result {
        let mut flight = Restore::new(self, before);
        let ended = flight.run(signals).await;
        flight.save()?;
        ended.map_err(|failure| {
            failure.detail("pairs_done", flight.done).detail("state", self.state.path.display().to_string())
        })
    }

    /// Reads the range back and compares it, pair by pair.
    async fn compare(&self, reach: &Reach) -> Result {
        let held = hold(reach, None).await?;
        let bar = progress_bar(Some(self.backup.content_bytes()), 0);
        bar.set_message("comparing");
        let patience = Patience { env: self.env, reach, bar: &bar, retry_for: self.args.retry_for };
        let mut scanner = held.snapshot.scanner(self.backup.range()).page_size(PAGE);
        let mut saved = self.pairs();
        let mut block: VecDeque<Pair> = VecDeque::new();
        while let Some(page) = patience.page(&mut scanner).await? {
            for (key, value) in page.pairs {
                if block.is_empty() {
                    block = saved.next_block()?.unwrap_or_default().into();
                }
                bar.inc((key.len() + value.len()) as u64);
                match block.pop_front() {
                    Some(pair) if pair == (key.clone(), value) => {}
                    Some((want, _)) if want < key => return Err(missing(&want)),
                    _ => return Err(foreign(&key)),
                }
            }
        }
        bar.finish_and_clear();
        held.release(self.env).await;
        if block.is_empty() {
            block = saved.next_block()?.unwrap_or_default().into();
        }
        block.front().map_or(Ok(()), |(want, _)| Err(missing(want)))
    }
}

fn foreign(key: &[u8]) -> Failure {
    Failure::new(Code::TargetNotEmpty, format!("{} is not as it was restored", quote(key)))
        .why("somebody else writes to the range")
        .next("keep others away until a restore is done")
}

fn missing(key: &[u8]) -> Failure {
    Failure::new(Code::Corrupt, format!("{} was restored and is not there", quote(key)))
        .why("somebody else deletes from the range, or the cluster has lost it")
        .next("nokv mvcc get KEY shows who wrote there")
}

/// Transactions under way.
struct Restore<'a> {
    restoring: &'a Restoring<'a>,
    source: Pairs<'a>,
    waiting: VecDeque<Pair>,
    /// Pairs at the beginning that are written already.
    skip: u64,
    under_way: UnderWay<'a>,
    /// By number: pairs, their bytes, the last key, whether they are written.
    ends: BTreeMap<u64, (u64, u64, Bytes, bool)>,
    next_number: u64,
    done: u64,
    last: Bytes,
    saved_at: Instant,
    saved: u64,
}

impl<'a> Flight<'a> for Restore<'a> {
    fn under_way(&mut self) -> &mut UnderWay<'a> {
        &mut self.under_way
    }

    fn fill(&mut self) -> Result {
        while self.under_way.len() < self.restoring.args.jobs as usize {
            let Some(batch) = self.next_batch()? else { break };
            let number = self.next_number;
            self.next_number += 1;
            let bytes = batch.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
            let last = batch.last().map(|(key, _)| key.clone()).unwrap_or_default();
            self.ends.insert(number, (batch.len() as u64, bytes, last, false));
            let patience = self.restoring.patience;
            self.under_way.push(Box::pin(async move {
                let client = &patience.reach.client;
                (number, patience.with(async || client.put_many(batch.clone()).await).await.map(drop))
            }));
        }
        Ok(())
    }

    fn landed(&mut self, number: u64, ended: Result) -> Result {
        ended?;
        if let Some(end) = self.ends.get_mut(&number) {
            end.3 = true;
        }
        while let Some(first) = self.ends.first_entry() {
            if !first.get().3 {
                break;
            }
            let (pairs, bytes, last, _) = first.remove();
            self.done += pairs;
            self.last = last;
            self.restoring.patience.bar.inc(bytes);
        }
        self.restoring.patience.bar.set_message(format!("{} pairs", self.done));
        if self.restoring.env.clock.now().since(self.saved_at) >= SAVE_INTERVAL {
            self.save()
        } else {
            Ok(())
        }
    }
}

impl<'a> Restore<'a> {
    fn new(restoring: &'a Restoring<'a>, before: u64) -> Self {
        Self {
            restoring,
            source: restoring.pairs(),
            waiting: VecDeque::new(),
            skip: before,
            under_way: UnderWay::new(),
            ends: BTreeMap::new(),
            next_number: 0,
            done: before,
            last: Bytes::new(),
            saved_at: restoring.env.clock.now(),
            saved: before,
        }
    }

    /// Runs to the end of the backup, a failure or a signal.
    async fn run(&mut self, signals: &mut Signals) -> Result {
        let env = self.restoring.env;
        let Some(reason) = fly(self, env, signals).await? else { return Ok(()) };
        let stop = reason.failure();
        let message = format!("{}; {} pairs are restored", stop.message(), self.done);
        Err(Failure::new(stop.code(), message).next("run the same command again to go on"))
    }

    fn next_batch(&mut self) -> Result<Option<Vec<Pair>>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < self.restoring.args.batch as usize && bytes < BATCH_BYTES {
            let Some(pair) = self.waiting.pop_front() else {
                let Some(block) = self.source.next_block()? else { break };
                let skipped = self.skip.min(block.len() as u64);
                self.skip -= skipped;
                let weigh = |(key, value): &Pair| (key.len() + value.len()) as u64;
                self.restoring.patience.bar.inc(block.iter().take(skipped as usize).map(weigh).sum());
                self.waiting.extend(block.into_iter().skip(skipped as usize));
                continue;
            };
            bytes += pair.0.len() + pair.1.len();
            batch.push(pair);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    fn save(&mut self) -> Result {
        self.saved_at = self.restoring.env.clock.now();
        if self.done == self.saved {
            return Ok(());
        }
        self.saved = self.done;
        self.restoring.state.save(self.done, &self.last)
    }
}

fn summary(
    backup: &Backup,
    args: &BackupRestore,
    before: u64,
    took: Duration,
    global: &Global,
) -> Result<u8> {
    let pairs = backup.pairs();
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            let again = if before > 0 { format!(" ({before} of them before)") } else { String::new() };
            let compared = if args.no_check { "" } else { ", read back and equal" };
            out.line(&format!(
                "restored {pairs} pairs{again} in {:.1} s{compared}: as of {}, under new commit timestamps",
                took.as_secs_f64(),
                backup.taken_at
            ))?;
        }
        _ => out.line(
            &json!({
                "id": backup.id, "timestamp": backup.timestamp, "pairs": pairs, "pairs_before": before,
                "compared": !args.no_check, "seconds": took.as_secs_f64(),
            })
            .to_string(),
        )?,
    }
    out.flush()?;
    Ok(0)
}
