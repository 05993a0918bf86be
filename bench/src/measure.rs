//! What the system says of this process, and when it has come to rest.

use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Running totals at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    at: Instant,
    user: Duration,
    system: Duration,
    written_bytes: u64,
    processors: Processors,
}

/// Ticks of all processors together.
#[derive(Debug, Clone, Copy)]
struct Processors {
    /// Some process or the kernel ran.
    busy: u64,
    /// Another machine had them.
    stolen: u64,
}

/// What happened between two moments.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// Time by the clock on the wall, in seconds.
    pub wall: f64,
    /// Processor time of all threads in user space, in seconds.
    pub user: f64,
    /// Processor time of all threads in the kernel, in seconds.
    pub system: f64,
    /// Bytes that the process caused to be written to disk.
    pub written_bytes: u64,
    /// Processors that the machine did not get, on average.
    pub stolen: f64,
    /// Processors that other processes and threads of the kernel had, on average.
    pub others: f64,
}

impl Usage {
    /// The totals now.
    pub fn now() -> Result<Self> {
        // SAFETY: all zero is a valid rusage, and the call fills it.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
            usage
        };
        let time = |time: libc::timeval| {
            Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
        };
        Ok(Self {
            at: Instant::now(),
            user: time(usage.ru_utime),
            system: time(usage.ru_stime),
            written_bytes: number_after("/proc/self/io", "write_bytes:")?,
            processors: processors()?,
        })
    }

    /// What was spent since `before`.
    pub fn since(&self, before: &Usage) -> Spent {
        let wall = self.at.duration_since(before.at).as_secs_f64();
        // SAFETY: asks for a constant of the system.
        let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        let average = |ticks: u64| ticks as f64 / ticks_per_second / wall.max(1e-9);
        let user = self.user.saturating_sub(before.user).as_secs_f64();
        let system = self.system.saturating_sub(before.system).as_secs_f64();
        let busy = average(self.processors.busy - before.processors.busy);
        Spent {
            wall,
            user,
            system,
            written_bytes: self.written_bytes - before.written_bytes,
            stolen: average(self.processors.stolen - before.processors.stolen),
            others: (busy - (user + system) / wall.max(1e-9)).max(0.0),
        }
    }
}

fn processors() -> Result<Processors> {
    let stat = fs::read_to_string("/proc/stat")?;
    // cpu user nice system idle iowait irq softirq steal …
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().context("/proc/stat")?;
    let [user, nice, system, _idle, _waiting, interrupt, soft_interrupt, stolen, ..] = ticks[..] else {
        bail!("/proc/stat does not begin with the ticks of all processors");
    };
    Ok(Processors { busy: user + nice + system + interrupt + soft_interrupt, stolen })
}

fn number_after(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.with_context(|| format!("{path} has no {name}"))?.parse().with_context(|| path.to_owned())
}

/// Has everything written that any process still owes to the disk, so that we do not pay for others.
pub fn clear_debts() {
    // SAFETY: asks the system for something, without arguments.
    unsafe { libc::sync() };
}

/// Forgets the peak of resident memory so far.
pub fn forget_peak_memory() -> Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("/proc/self/clear_refs")
}

/// The most memory that was resident since, in bytes.
pub fn peak_memory() -> Result<u64> {
    Ok(number_after("/proc/self/status", "VmHWM:")? << 10)
}

/// Bytes that the files below `dir` take on disk, holes not counted.
pub fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path())?,
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0, // removed meanwhile
        };
    }
    Ok(bytes)
}

/// How long nothing may happen until we call it rest.
const QUIET: Duration = Duration::from_millis(300);
/// Processor time in that while which is only us looking.
const QUIET_CPU: Duration = Duration::from_millis(6);
/// After this we go on in any case.
const SETTLE_MAX: Duration = Duration::from_secs(180);

/// Waits until the process has written nothing and computed next to nothing for a while, and `is_busy` agrees.
pub fn settle(is_busy: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    let mut before = Usage::now()?;
    while begun.elapsed() < SETTLE_MAX {
        std::thread::sleep(QUIET);
        let now = Usage::now()?;
        let cpu = (now.user + now.system).saturating_sub(before.user + before.system);
        if !is_busy() && cpu < QUIET_CPU && now.written_bytes == before.written_bytes {
            return Ok(());
        }
        before = now;
    }
    eprintln!("still busy after {} s; measured as it is", SETTLE_MAX.as_secs());
    Ok(())
}
