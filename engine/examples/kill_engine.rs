//! Kills a process that writes, again and again, and looks at what it leaves on real files.
//!
//! A child process opens the database and lets three writers go through it, each with a family and a row of numbered
//! batches of its own, synced and not, large values among them. It prints every acknowledgement. The parent kills it with
//! SIGKILL at a moment drawn from the seed, be it while it opens, and opens the database itself. SIGKILL takes the process
//! and leaves the machine, so *every* acknowledged batch must be there, synced or not, at most one more of each writer, and
//! the rows must be exactly what so many batches make. Then the next child goes on from there.
//!
//! usage: `kill_engine DIR [CYCLES [SEED]]`; `scripts/test/kill_engine.sh` calls it.

use bytes::Bytes;
use nokv_engine::{Cf, Db, Options, Snapshot, WriteBatch, WriteOptions, inspect};
use nokv_env::{ClockExt, Env, RngSource};
use nokv_realenv::RealEnv;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn Error>>;
type Rows = BTreeMap<Bytes, Bytes>;

const WRITERS: u8 = 3;
const KEYS: u64 = 48;
/// What the child is called with in front of the directory.
const CHILD: &str = "--write-until-killed";
/// The parent waits for so many acknowledgements at most before it kills.
const ACKNOWLEDGED_MAX: u64 = 300;
/// And then for so many microseconds at most.
const PAUSE_MICROS_MAX: u64 = 6_000;

#[tokio::main]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let env = RealEnv::new()?;
    match &args[..] {
        [child, dir] if child == CHILD => write_until_killed(&env, Path::new(dir)).await,
        [dir, rest @ ..] if rest.len() <= 2 => {
            let cycles = rest.first().map_or(Ok(300), |text| text.parse())?;
            let seed = rest.get(1).map_or(Ok(env.rng.pure("seed", 0) % 1_000_000), |text| text.parse())?;
            torment(&env, Path::new(dir), cycles, seed).await
        }
        _ => Err("usage: kill_engine DIR [CYCLES [SEED]]".into()),
    }
}

/// Flushes, compactions and collections of the value log happen all the time.
fn options() -> Options {
    Options { value_segment_bytes: 8 << 10, ..Options::tiny() }
}

/// The `n`-th batch of a writer, n from 1 on.
fn batch(writer: u8, n: u64) -> WriteBatch {
    let cf = Cf(writer);
    let mut batch = WriteBatch::new();
    batch.put(cf, "counter", n.to_string());
    for (key, value) in changes(writer, n) {
        match value {
            Some(value) => batch.put(cf, key, value),
            None => batch.delete(cf, key),
        }
    }
    batch
}

/// What it does besides counting.
fn changes(writer: u8, n: u64) -> [(Bytes, Option<Bytes>); 3] {
    let key = |n: u64| Bytes::from(format!("key{:02}", n % KEYS));
    let large = format!("{writer} wrote {n} ").repeat(1 + n as usize % 60).into();
    let small = format!("small {n}").into();
    [(key(n * 7), Some(large)), (key(n * 5 + 3), None), (key(n * 3 + 1), Some(small))]
}

fn is_synced(n: u64) -> bool {
    n.is_multiple_of(4)
}

/// The child.
async fn write_until_killed(env: &Env, dir: &Path) -> Outcome<()> {
    let db = Db::open(env, dir, options()).await?;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let begun = counter(&db.snapshot(), writer)?;
        writers.push(write(&db, writer, begun));
    }
    futures_util::future::try_join_all(writers).await?;
    Ok(())
}

async fn write(db: &Db, writer: u8, begun: u64) -> Outcome<()> {
    for n in begun + 1.. {
        db.write(batch(writer, n), WriteOptions { sync: is_synced(n) }).await?;
        println!("{writer} {n}");
        if n.is_multiple_of(101) {
            db.flush().await?;
        }
    }
    Ok(())
}

/// What a writer's batches add up to, one by one.
#[derive(Default)]
struct Model {
    n: u64,
    rows: Rows,
}

impl Model {
    fn advance(&mut self, writer: u8, to: u64) {
        for n in self.n + 1..=to {
            self.rows.insert("counter".into(), n.to_string().into());
            for (key, value) in changes(writer, n) {
                match value {
                    Some(value) => drop(self.rows.insert(key, value)),
                    None => drop(self.rows.remove(&key)),
                }
            }
            self.n = n;
        }
    }
}

/// Counted over all cycles.
#[derive(Debug, Default)]
struct Totals {
    acknowledged: u64,
    /// Of those.
    synced: u64,
    /// Batches that were there although nobody was told.
    unheard: u64,
    /// Children that were killed before they acknowledged anything.
    silent: u64,
    /// Segments of the value log that were live at the end of a cycle.
    segments: u64,
}

/// The parent.
async fn torment(env: &Env, dir: &Path, cycles: u64, seed: u64) -> Outcome<()> {
    println!("seed {seed}");
    let rng = RngSource::new(seed, 0);
    let mut models: Vec<Model> = (0..WRITERS).map(|_| Model::default()).collect();
    let mut totals = Totals::default();
    for cycle in 0..cycles {
        let acknowledged = kill_one(env, dir, &rng, cycle, &mut totals).await?;
        let findings = inspect::check(&*env.disk, dir, true).map(|checked| checked.findings);
        if cycle > 0 || findings.is_ok() {
            let findings = findings?;
            assert!(findings.is_empty(), "cycle {cycle}: a kill is taken for damage: {findings:?}");
        }
        let db = Db::open(env, dir, options()).await?;
        for ((writer, model), acknowledged) in (0..).zip(&mut models).zip(acknowledged) {
            judge(&db.snapshot(), writer, model, acknowledged, &mut totals)
                .map_err(|error| format!("cycle {cycle}, writer {writer}: {error}"))?;
        }
        db.close().await?;
        drop(db);
        totals.segments += inspect::manifest(&*env.disk, dir)?.map_or(0, |info| info.segments.len() as u64);
    }
    assert!(totals.segments > 0 && totals.synced > 0 && totals.silent < cycles, "{totals:?}");
    println!("ok {cycles} kills: {totals:?}");
    Ok(())
}

/// Starts a child and kills it; the last batch of each writer that it acknowledged, 0 for none.
async fn kill_one(
    env: &Env,
    dir: &Path,
    rng: &RngSource,
    cycle: u64,
    totals: &mut Totals,
) -> Outcome<[u64; WRITERS as usize]> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([CHILD.as_ref(), dir.as_os_str()])
        .stdout(Stdio::piped())
        .spawn()?;
    // One in four dies before it has said much, while it opens for instance.
    let enough = match rng.pure("acknowledgements", cycle) {
        draw if draw.is_multiple_of(4) => 0,
        draw => draw / 4 % ACKNOWLEDGED_MAX,
    };
    let pause = Duration::from_micros(rng.pure("pause", cycle) % PAUSE_MICROS_MAX);
    let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let (mut last, mut count, mut line) = ([0; WRITERS as usize], 0, String::new());
    let mut is_killed = false;
    loop {
        if count == enough && !is_killed {
            env.clock.sleep(pause).await;
            if let Some(status) = child.try_wait()? {
                return Err(format!("the child ended by itself: {status}").into());
            }
            child.kill()?;
            is_killed = true;
        }
        line.clear();
        output.read_line(&mut line)?;
        // What the kill cut short was not heard.
        let Some((writer, n)) = line.strip_suffix('\n').and_then(|line| line.split_once(' ')) else { break };
        let n: u64 = n.parse()?;
        last[writer.parse::<usize>()?] = n;
        count += 1;
        totals.acknowledged += 1;
        totals.synced += u64::from(is_synced(n));
    }
    child.wait()?;
    if !is_killed {
        return Err("the child ended by itself".into());
    }
    totals.silent += u64::from(count == 0);
    Ok(last)
}

fn counter(snapshot: &Snapshot, writer: u8) -> Outcome<u64> {
    match snapshot.get(Cf(writer), b"counter")? {
        Some(value) => Ok(std::str::from_utf8(&value)?.parse()?),
        None => Ok(0),
    }
}

/// What is found must be what was acknowledged, or one batch more, and nothing else.
fn judge(
    snapshot: &Snapshot,
    writer: u8,
    model: &mut Model,
    acknowledged: u64,
    totals: &mut Totals,
) -> Outcome<()> {
    let (found, promised) = (counter(snapshot, writer)?, acknowledged.max(model.n));
    if !(promised..=promised + 1).contains(&found) {
        return Err(format!("{promised} batches were acknowledged, {found} are there").into());
    }
    totals.unheard += found - promised;
    model.advance(writer, found);
    let rows = snapshot.iter(Cf(writer), ..).collect::<Result<Rows, _>>()?;
    if rows != model.rows {
        return Err(format!("{found} batches do not make these rows").into());
    }
    Ok(())
}
