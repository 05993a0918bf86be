//! `nokv bench`: closed-loop load on a live cluster.
//!
//! Each client sends its next request when the last one was answered, so throughput and latency belong together:
//! more clients, more of both. Keys are drawn uniformly; values are pseudo-random and do not compress.

mod histogram;

use crate::args::client::{Bench, BenchCommand, Phase};
use crate::args::{Format, Global};
use crate::cmd::reach::{Reach, reach};
use crate::cmd::standalone;
use crate::errors::{Failure, Result};
use crate::output::{Out, table};
use bytes::Bytes;
use futures_util::future::join_all;
use histogram::Histogram;
use nokv_client::{Client, ClientError};
use nokv_env::{Env, Instant, TasksExt};
use nokv_proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Errors in a row after which a client gives up.
const ERRORS_MAX: u32 = 20;
/// Digits of the number in a key.
const KEY_DIGITS: usize = 12;

/// Runs the phases one after the other.
pub async fn run(env: &Env, args: &Bench, global: &Global) -> Result<u8> {
    if let Some(BenchCommand::Load(args)) = &args.command {
        return standalone::load(env, args, global).await;
    }
    if args.prefix.len() + KEY_DIGITS > KEY_BYTES_MAX {
        return Err(Failure::usage("--prefix is too long for a key"));
    }
    if args.value_size > VALUE_BYTES_MAX {
        return Err(Failure::usage(format!("--value-size: at most {VALUE_BYTES_MAX} bytes are possible")));
    }
    let reach = reach(env, &args.cluster)?;
    // Fails early and clearly when there is no cluster.
    reach.client.tso(1).await.map_err(|error| reach.failure(&error))?;
    let mut results = Vec::new();
    for &phase in &args.phases {
        if global.format() == Format::Plain {
            eprintln!("{}: {} clients, {} s ...", phase.name(), args.clients, args.seconds);
        }
        results.push(measure(env, &reach, args, phase).await?);
    }
    reach.client.close(Duration::from_secs(2)).await;
    show(args, &results, global)?;
    Ok(0)
}

/// One phase.
struct Measured {
    phase: Phase,
    seconds: f64,
    latency: Histogram,
    errors: u64,
    misses: u64,
}

/// What one client counted.
#[derive(Default)]
struct Tally {
    latency: Histogram,
    errors: u64,
    misses: u64,
    /// Why it gave up.
    gave_up: Option<ClientError>,
}

async fn measure(env: &Env, reach: &Reach, args: &Bench, phase: Phase) -> Result<Measured> {
    let began = env.clock.now();
    let end = began + Duration::from_secs(args.seconds);
    let stop = Arc::new(AtomicBool::new(false));
    let tallies = (0..u64::from(args.clients)).map(|number| {
        let (send, receive) = oneshot::channel();
        let load = Load {
            env: env.clone(),
            client: reach.client.clone(),
            phase,
            prefix: args.prefix.clone(),
            keys: args.keys,
            value_size: args.value_size,
            end,
            dice: env.rng.pure("bench", number) | 1,
            stop: stop.clone(),
        };
        env.tasks.go("bench", async move {
            // The receiver is gone when the command was interrupted.
            let _ = send.send(load.run().await);
        });
        receive
    });
    let tallies = join_all(tallies.collect::<Vec<_>>()).await;
    let seconds = env.clock.now().since(began).as_secs_f64();
    let mut measured = Measured { phase, seconds, latency: Histogram::default(), errors: 0, misses: 0 };
    for tally in tallies.into_iter().flatten() {
        if let Some(error) = tally.gave_up {
            return Err(reach.failure(&error));
        }
        measured.latency.merge(&tally.latency);
        measured.errors += tally.errors;
        measured.misses += tally.misses;
    }
    Ok(measured)
}

/// One client.
struct Load {
    env: Env,
    client: Client,
    phase: Phase,
    prefix: String,
    keys: u64,
    value_size: usize,
    end: Instant,
    dice: u64,
    stop: Arc<AtomicBool>,
}

impl Load {
    async fn run(mut self) -> Tally {
        let mut tally = Tally::default();
        let mut in_a_row = 0;
        loop {
            let sent = self.env.clock.now();
            if sent >= self.end || self.stop.load(Ordering::Relaxed) {
                return tally;
            }
            match self.request().await {
                Ok(found) => {
                    in_a_row = 0;
                    tally.latency.add(self.env.clock.now().since(sent));
                    tally.misses += u64::from(!found);
                }
                Err(error) => {
                    in_a_row += 1;
                    tally.errors += 1;
                    if in_a_row >= ERRORS_MAX || !error.is_retryable() {
                        self.stop.store(true, Ordering::Relaxed);
                        tally.gave_up = Some(error);
                        return tally;
                    }
                }
            }
        }
    }

    /// Sends one request; false when there was no value.
    async fn request(&mut self) -> std::result::Result<bool, ClientError> {
        let number = self.roll() % self.keys;
        let key = format!("{}{number:0KEY_DIGITS$}", self.prefix);
        match self.phase {
            Phase::Put => {
                let value = self.value();
                self.client.put(key, value).await.map(|_| true)
            }
            Phase::Get => self.client.get(key).await.map(|value| value.is_some()),
        }
    }

    fn value(&mut self) -> Bytes {
        let mut value = Vec::with_capacity(self.value_size + 8);
        while value.len() < self.value_size {
            value.extend_from_slice(&self.roll().to_le_bytes());
        }
        value.truncate(self.value_size);
        value.into()
    }

    /// xorshift64*: cheap, and good enough to spread keys.
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        self.dice.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn show(args: &Bench, results: &[Measured], global: &Global) -> Result {
    let ms = |duration: Duration| duration.as_micros() as f64 / 1000.0;
    let mut out = Out::new();
    if global.format() == Format::Plain {
        let rows: Vec<Vec<String>> = results
            .iter()
            .map(|m| {
                let latency = [
                    m.latency.mean(),
                    m.latency.quantile(500),
                    m.latency.quantile(990),
                    m.latency.quantile(999),
                    m.latency.max(),
                ];
                let mut row = vec![
                    m.phase.name().to_owned(),
                    m.latency.total().to_string(),
                    format!("{:.0}", m.latency.total() as f64 / m.seconds),
                ];
                row.extend(latency.iter().map(|&duration| format!("{:.2}", ms(duration))));
                row.extend([m.errors.to_string(), m.misses.to_string()]);
                row
            })
            .collect();
        let header =
            ["phase", "requests", "per s", "mean ms", "p50", "p99", "p999", "max", "errors", "misses"];
        out.write(table(&header, &rows).as_bytes())?;
    } else {
        let phases: Vec<_> = results
            .iter()
            .map(|m| {
                json!({
                    "phase": m.phase.name(), "requests": m.latency.total(), "seconds": m.seconds,
                    "per_second": m.latency.total() as f64 / m.seconds, "errors": m.errors, "misses": m.misses,
                    "latency_ms": {
                        "mean": ms(m.latency.mean()), "p50": ms(m.latency.quantile(500)),
                        "p99": ms(m.latency.quantile(990)), "p999": ms(m.latency.quantile(999)),
                        "max": ms(m.latency.max()),
                    },
                })
            })
            .collect();
        out.json(&json!({
            "clients": args.clients, "keys": args.keys, "value_size": args.value_size, "phases": phases,
        }))?;
    }
    out.flush()
}
