//! The error contract: one shape, stable codes, exit codes that scripts can rely on.
//!
//! A command fails with a [`Failure`]: what happened, why (when we know), and what to do next. People read it
//! on standard error:
//!
//! ```text
//! error[workdir_in_use]: /data/s1 is open in another process (pid 4121, nokv serve)
//!   why:  only one process may write to a directory
//!   next: stop that process, or give another --workdir
//! ```
//!
//! With `--json` the same facts are one JSON object on standard error. Codes never change their meaning; all of
//! them are in the one table below, which `nokv help errors` prints.

use serde_json::{Map, Value, json};
use std::fmt::Display;

/// Result of a command.
pub type Result<T = ()> = std::result::Result<T, Failure>;

macro_rules! codes {
    ($($variant:ident $name:literal $exit:literal $retry:literal $meaning:literal;)*) => {
        /// What kind of failure it is; decides the exit code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The name that scripts match on.
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// The process's exit code.
            pub fn exit(self) -> u8 {
                match self { $(Code::$variant => $exit,)* }
            }

            /// Whether the same command may succeed later without anybody doing something first.
            pub fn is_retryable(self) -> bool {
                match self { $(Code::$variant => $retry,)* }
            }

            /// One line for the table.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    Internal "internal" 1 false "a bug, or something nobody thought of; please report it";
    SimulationFailed "simulation_failed" 1 false "a simulated run broke an invariant; the message says how to replay it";
    NotReached "not_reached" 1 false "a sweep did not reach a state that it must reach";
    RunsDiffer "runs_differ" 1 false "two simulated runs are not equal; the output says where they part";
    Usage "usage" 2 false "unknown command or flag, missing or malformed value";
    UnknownCommand "unknown_command" 2 false "no such command; a near miss is suggested and never run";
    ConfigInvalid "config_invalid" 2 false "the configuration file is wrong; every problem is listed";
    KeyEmpty "key_empty" 2 false "keys have at least one byte";
    BadLine "bad_line" 2 false "a line of the imported file is malformed; what comes before it is imported";
    KeyNotFound "key_not_found" 3 false "the key has no value";
    FileNotFound "file_not_found" 3 false "a file given by name is missing";
    RegionNotFound "region_not_found" 3 false "no such region";
    TransitionNotFound "transition_not_found" 3 false "no such transition";
    NotAWorkdir "not_a_workdir" 3 false "the directory holds no data of ours";
    NotABackup "not_a_backup" 3 false "the directory holds no backup";
    Unavailable "unavailable" 4 true "nobody answered in time: no coordinator, no leader or no quorum";
    RootQuorumLost "root_quorum_lost" 4 true "two of the three meta-roots do not answer: no new routes, ids or timestamps";
    EndpointUnreachable "endpoint_unreachable" 4 true "nothing useful answered at the address of a metrics endpoint";
    OutcomeUnknown "outcome_unknown" 4 false "a write was sent and no answer settled it: it may have happened";
    NotReady "not_ready" 4 true "a process did not become ready in time";
    WorkdirInUse "workdir_in_use" 5 false "another process has the directory open";
    WorkdirNotFresh "workdir_not_fresh" 5 false "the directory is used already and may not be seeded";
    StoreIdMismatch "store_id_mismatch" 5 false "the directory belongs to another store id";
    MembershipMismatch "membership_mismatch" 5 false "the meta-root directory was born with other peers or another node id";
    WrongMode "wrong_mode" 5 false "the directory is in a mode that this command may not open";
    AlreadySeeded "already_seeded" 5 false "the directory became a region under other ids";
    AddressInUse "address_in_use" 5 false "another process listens on the address";
    WrongService "wrong_service" 5 false "the address belongs to another kind of process";
    Refused "refused" 5 false "the state of the cluster forbids it";
    WouldLoseQuorum "would_lose_quorum" 5 false "the peers that would be left are no majority that answers";
    FileExists "file_exists" 5 false "a file is in the way and is not overwritten";
    ImportStateMismatch "import_state_mismatch" 5 false "the state file belongs to another input file";
    TooOld "too_old" 5 false "what a timestamp saw may be gone: old versions are kept for the coordinator's --gc-life";
    TargetNotEmpty "target_not_empty" 5 false "a backup is restored into a range without keys only";
    BackupExists "backup_exists" 5 false "the directory holds a backup, or other things";
    BackupMismatch "backup_mismatch" 5 false "what is there belongs to another backup, range or cluster";
    Corrupt "corrupt" 6 false "bytes on disk are not what was written there; the file is left as it is";
    ModeFileCorrupt "mode_file_corrupt" 6 false "MODE.json or a progress file is not what was written";
    ManifestCorrupt "manifest_corrupt" 6 false "CURRENT or the manifest that it names is damaged; both are left as they are";
    CurrentMissing "current_missing" 6 false "the directory holds data but CURRENT is gone; nothing was changed";
    Io "io" 6 false "the operating system refused to read or write";
    TlsRequired "tls_required" 7 false "the server wants TLS and was spoken to without";
    TlsUnexpected "tls_unexpected" 7 false "the server has no TLS and was spoken to with it";
    CertificateRequired "certificate_required" 7 false "the server wants to see a client certificate";
    CertificateRejected "certificate_rejected" 7 false "the server does not accept our certificate";
    CertificateExpired "certificate_expired" 7 false "the time of a certificate is over; the message says since when";
    CertificateInvalid "certificate_invalid" 7 false "a certificate is damaged, of an unknown authority, or for another host";
    Denied "denied" 7 false "the other side refuses this client";
    TooLarge "too_large" 8 false "a key, value or request is over a limit";
    DiskFull "disk_full" 8 false "no space left on the device, or a store keeps what is left free";
    PartlyDone "partly_done" 9 true "part of the work is done; run the same command again to go on";
    Conflict "conflict" 10 true "the transaction lost to another writer";
    Degraded "degraded" 11 true "status: the cluster serves, but something is down";
    ClusterDown "cluster_down" 12 true "status: the cluster does not serve";
    Interrupted "interrupted" 130 true "stopped by SIGINT";
    Terminated "terminated" 143 true "stopped by SIGTERM";
}

/// Why a command did not do what was asked.
#[derive(Debug, Clone)]
pub struct Failure {
    code: Code,
    message: String,
    why: Option<String>,
    next: Option<String>,
    details: Map<String, Value>,
    trace_id: Option<Box<str>>,
}

impl Failure {
    /// A failure of kind `code`.
    pub fn new(code: Code, message: impl Display) -> Self {
        Self {
            code,
            message: message.to_string(),
            why: None,
            next: None,
            details: Map::new(),
            trace_id: None,
        }
    }

    /// Wrong use of the command line.
    pub fn usage(message: impl Display) -> Self {
        Self::new(Code::Usage, message)
    }

    /// The operating system failed us while `doing`.
    pub fn io(doing: impl Display, error: &std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => Code::FileNotFound,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Code::DiskFull,
            _ => Code::Io,
        };
        Self::new(code, format!("cannot {doing}: {error}"))
    }

    /// Adds the reason.
    pub fn why(mut self, why: impl Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// Adds what to do about it.
    pub fn next(mut self, next: impl Display) -> Self {
        self.next = Some(next.to_string());
        self
    }

    /// Adds a fact for programs.
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Adds what stores call the requests of this command in their logs.
    pub fn trace(mut self, id: &str) -> Self {
        self.trace_id = Some(id.into());
        self
    }

    /// Says where it happened, before everything else.
    pub fn at(mut self, place: impl Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The kind of failure.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What happened, in one sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Why, if that is known.
    pub fn reason(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<&str> {
        self.next.as_deref()
    }

    /// The human form.
    pub fn to_text(&self) -> String {
        let mut text = format!("error[{}]: {}", self.code.name(), self.message.trim_end());
        let trace =
            self.trace_id.as_ref().map(|id| format!("{id} (in the logs of stores where a request was slow)"));
        for (label, line) in [("why: ", &self.why), ("next:", &self.next), ("trace:", &trace)] {
            if let Some(line) = line {
                text.push_str(&format!("\n  {label} {}", line.trim_end().replace('\n', "\n        ")));
            }
        }
        text
    }

    /// The form for programs.
    pub fn to_json(&self) -> Value {
        let mut error = json!({
            "code": self.code.name(),
            "message": self.message,
            "hint": self.next,
            "retryable": self.code.is_retryable(),
            "details": self.details,
        });
        if let Some(why) = &self.why {
            error["why"] = json!(why);
        }
        if let Some(id) = &self.trace_id {
            error["trace_id"] = json!(id);
        }
        json!({ "error": error })
    }

    /// Prints to standard error, as JSON when asked.
    pub fn print(&self, as_json: bool) {
        if as_json {
            eprintln!("{}", self.to_json());
        } else {
            eprintln!("{}", self.to_text());
        }
    }
}

/// The table that `nokv help errors` prints.
pub fn table() -> String {
    let mut text = String::from(
        "Every failure has a code, printed as error[code], and an exit code:\n\n  exit  retry  code                   meaning\n",
    );
    for code in Code::ALL {
        let retry = if code.is_retryable() { "yes" } else { "no" };
        text.push_str(&format!("  {:<4}  {retry:<5}  {:<22} {}\n", code.exit(), code.name(), code.meaning()));
    }
    text.push_str(
        "\nretry: the same command may succeed later without anybody doing something first.\n\
         With --json the failure is one JSON object on standard error:\n\
         {\"error\": {\"code\", \"message\", \"hint\", \"retryable\", \"details\"}}, with \"why\" and \"trace_id\" where known\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_listed() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        let text = table();
        assert!(names.iter().all(|name| text.contains(name)));
    }

    #[test]
    fn both_forms_say_the_same() {
        let failure =
            Failure::new(Code::WorkdirInUse, "/d is open").why("one writer").next("stop it").detail("pid", 7);
        assert_eq!(failure.to_json()["error"].get("trace_id"), None);
        let traced = failure.clone().trace("order-17");
        assert!(
            traced
                .to_text()
                .ends_with("\n  trace: order-17 (in the logs of stores where a request was slow)")
        );
        assert_eq!(traced.to_json()["error"]["trace_id"], "order-17");
        assert_eq!(
            failure.to_text(),
            "error[workdir_in_use]: /d is open\n  why:  one writer\n  next: stop it"
        );
        let json = failure.to_json();
        assert_eq!(json["error"]["code"], "workdir_in_use");
        assert_eq!(json["error"]["hint"], "stop it");
        assert_eq!(json["error"]["details"]["pid"], 7);
    }
}
