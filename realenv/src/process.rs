//! This process in numbers, as the operating system counts them. What it does not say is left out.

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

static STARTED: LazyLock<f64> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));

/// The process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Process {
    /// Memory in use.
    pub resident_bytes: Option<u64>,
    /// Address space in use.
    pub virtual_bytes: Option<u64>,
    /// Processor time of all threads.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// How many may be open.
    pub max_fds: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Since the Unix epoch.
    pub start_time_seconds: f64,
}

/// Takes note of when the process started; the first call counts.
pub fn started() {
    LazyLock::force(&STARTED);
}

/// Looks.
pub fn look() -> Process {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    Process {
        resident_bytes: field("VmRSS").map(|kib| kib << 10),
        virtual_bytes: field("VmSize").map(|kib| kib << 10),
        cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        // The directory that is being listed is one of them.
        open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count().saturating_sub(1) as u64),
        max_fds: getrlimit(Resource::Nofile).current,
        threads: field("Threads"),
        start_time_seconds: *STARTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_exists() {
        started();
        let process = look();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{process:?}");
        assert!(process.open_fds.is_some_and(|fds| fds >= 3) && process.threads >= Some(1), "{process:?}");
        assert!(process.cpu_seconds > 0.0 && process.start_time_seconds > 1.6e9, "{process:?}");
    }
}
