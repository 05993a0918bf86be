//! What came of one phase of one engine: a line of JSON.

use crate::workload::Phase;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// Figures of one phase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Who.
    pub engine: String,
    /// What.
    pub phase: Phase,
    /// How often it had been done before.
    pub round: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Keys of the data set.
    pub keys: u64,
    /// Threads that asked.
    pub threads: usize,
    /// Block cache.
    pub cache_mib: u64,
    /// Memtable.
    pub memtable_mib: u64,
    /// Share of each value that compresses away.
    pub compressible: f64,
    /// Whether tables are compressed.
    pub lz4: bool,
    /// Operations done.
    pub operations: u64,
    /// Seconds for them.
    pub seconds: f64,
    /// Seconds until rest after them; 0 if that was not waited for.
    pub seconds_settling: f64,
    /// Operations in a second.
    pub per_second: f64,
    /// Processor time of an operation, all threads, until rest.
    pub cpu_us: f64,
    /// The part of it that was the kernel's.
    pub cpu_system_us: f64,
    /// Half of the operations took no longer.
    pub p50_us: f64,
    /// 99 of a hundred took no longer.
    pub p99_us: f64,
    /// 999 of a thousand took no longer.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// Most memory that was resident.
    pub memory_mib: f64,
    /// Bytes written to disk until rest, for a byte of key or value put.
    pub write_amplification: Option<f64>,
    /// Bytes on disk at rest, for a byte of data.
    pub space_amplification: Option<f64>,
    /// Bytes on disk at rest.
    pub disk_mib: f64,
    /// Processors that the machine did not get, on average.
    pub stolen: f64,
    /// Processors that other processes and threads of the kernel had, on average.
    pub others: f64,
    /// Too much was stolen, also when it was tried again.
    #[serde(default)]
    pub discarded: bool,
}

/// Reads lines of JSON.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), number + 1))
    };
    text.lines().enumerate().filter(|(_, line)| !line.is_empty()).map(parse).collect()
}
