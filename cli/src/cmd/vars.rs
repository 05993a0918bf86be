//! What `/debug/vars` says of the process itself, under the names that readers of Go's expvar know.
//!
//! `cmdline` is the command line. `memstats` has what the operating system knows, in bytes: there is no garbage collector
//! whose numbers could be told. `Sys` is what is mapped (`VmSize`), `RSS` what is in memory (`VmRSS`), `RSSPeak` the most
//! that was (`VmHWM`), `Swap` what is swapped out (`VmSwap`), `Data` private memory that is mapped for writing (`VmData`).
#![allow(clippy::disallowed_methods, reason = "reads /proc and runs no product logic")]

use serde_json::{Map, Value, json};

/// The members that every process has.
pub fn of_process() -> Value {
    let command: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let status = std::fs::read("/proc/self/status").unwrap_or_default();
    json!({ "cmdline": command, "memstats": memory(&String::from_utf8_lossy(&status)) })
}

/// `VmRSS:     1234 kB`
fn memory(status: &str) -> Value {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.unwrap_or(0) * 1024
    };
    let names =
        [("Sys", "VmSize"), ("RSS", "VmRSS"), ("RSSPeak", "VmHWM"), ("Swap", "VmSwap"), ("Data", "VmData")];
    Value::Object(
        names.iter().map(|(ours, theirs)| ((*ours).to_owned(), json!(bytes(theirs)))).collect::<Map<_, _>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_lines_are_read() {
        let memory = memory("Name:\tnokv\nVmSize:\t    2048 kB\nVmRSS:\t 12 kB\n");
        assert_eq!(
            (&memory["Sys"], &memory["RSS"], &memory["Swap"]),
            (&json!(2_097_152), &json!(12288), &json!(0))
        );
        let document = of_process();
        assert!(document["cmdline"].is_array() && document["memstats"]["RSS"].as_u64() > Some(0));
    }
}
