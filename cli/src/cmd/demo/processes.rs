//! The children of a demo.

use super::layout;
use crate::args::Scope;
use crate::config::Cluster;
use crate::errors::{Failure, Result};
use crate::signals::STOP_WITH_STDIN;
use nokv_env::{ClockExt, Env};
use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Time for all children to stop before they are killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const STOP_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Lines of a log shown when its process died.
const LAST_LINES: usize = 8;

/// A child.
pub struct Process {
    is_root: bool,
    /// `store-1`.
    pub name: String,
    /// Where it listens.
    pub addr: String,
    /// Where its output goes.
    pub log: PathBuf,
    arguments: Vec<String>,
    child: Child,
    ended: bool,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// A child that has ended.
pub struct Ended {
    /// `store-1`.
    pub name: String,
    /// Its former process id.
    pub pid: u32,
    /// `signal 9`, `exit code 5`.
    pub how: String,
    /// Where its output went.
    pub log: PathBuf,
    /// The end of it.
    pub last_words: String,
    /// The command that starts it again.
    pub command: String,
}

/// All children, in the order of their start.
pub struct Processes(Vec<Process>);

impl Processes {
    /// Starts meta-roots, coordinators and stores.
    pub fn start(dir: &Path, file: &Path, cluster: &Cluster) -> Result<Self> {
        let mut all = Processes(Vec::new());
        for root in &cluster.meta_roots {
            let arguments = ["meta-root".into(), "--node-id".into(), root.node_id.to_string()];
            let addr = root.addr(Scope::Host).cloned().unwrap_or_default();
            all.spawn(format!("meta-root-{}", root.node_id), addr, &arguments, dir, file)?;
        }
        for (n, addr) in cluster.coordinators(Scope::Host).iter().enumerate() {
            let name = format!("coordinator-{}", n + 1);
            let mut arguments = vec![
                "coordinator".into(),
                "--coordinator-id".into(),
                name.clone(),
                "--addr".into(),
                addr.clone(),
            ];
            if let Some(console) = layout::console_addr(addr) {
                arguments.extend(["--metrics-addr".into(), console]);
            }
            all.spawn(name, addr.clone(), &arguments, dir, file)?;
        }
        for store in &cluster.stores {
            let arguments = ["serve".into(), "--store-id".into(), store.store_id.to_string()];
            let addr = store.listen_addr(Scope::Host).cloned().unwrap_or_default();
            all.spawn(format!("store-{}", store.store_id), addr, &arguments, dir, file)?;
        }
        Ok(all)
    }

    fn spawn(&mut self, name: String, addr: String, arguments: &[String], dir: &Path, file: &Path) -> Result {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--config".to_owned(), file.display().to_string()]);
        let log = dir.join("logs").join(format!("{name}.log"));
        let failed = |error: std::io::Error| Failure::io(format!("start {name}"), &error);
        let output = || OpenOptions::new().create(true).append(true).open(&log).map_err(failed);
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        // What is meant for this process would configure all children alike.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("NOKV_") && variable != crate::logging::VARIABLE {
                command.env_remove(variable);
            }
        }
        let child = command
            .args(&arguments)
            .env(STOP_WITH_STDIN, "1")
            .stdin(Stdio::piped())
            .stdout(output()?)
            .stderr(output()?)
            // Ctrl-C of the terminal is for us; we stop them in order.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let is_root = name.starts_with("meta-root-");
        self.0.push(Process { is_root, name, addr, log, arguments, child, ended: false });
        Ok(())
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Process> {
        self.0.iter()
    }

    /// Those that have ended since the last look.
    pub fn newly_ended(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for process in self.0.iter_mut().filter(|process| !process.ended) {
            if let Ok(Some(status)) = process.child.try_wait() {
                process.ended = true;
                ended.push(describe(process, status));
            }
        }
        ended
    }

    /// Stops stores and coordinators, then the meta-roots that they say goodbye to; names those that had to be killed.
    pub async fn stop(&mut self, env: &Env) -> Vec<String> {
        let deadline = env.clock.now() + STOP_PATIENCE;
        let mut killed = Vec::new();
        for roots in [false, true] {
            let of_kind = |process: &&mut Process| process.is_root == roots;
            for process in self.0.iter_mut().filter(of_kind) {
                drop(process.child.stdin.take());
            }
            for process in self.0.iter_mut().filter(of_kind) {
                while matches!(process.child.try_wait(), Ok(None)) {
                    if env.clock.now() >= deadline {
                        killed.push(process.name.clone());
                        // It may have ended just now; then there is nothing to kill.
                        let _ = process.child.kill();
                        let _ = process.child.wait();
                        break;
                    }
                    env.clock.sleep(STOP_LOOK_INTERVAL).await;
                }
            }
        }
        killed
    }
}

fn describe(process: &Process, status: ExitStatus) -> Ended {
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => status.to_string(),
    };
    let log = std::fs::read(&process.log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    Ended {
        name: process.name.clone(),
        pid: process.pid(),
        how,
        log: process.log.clone(),
        last_words: lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"),
        command: format!("nokv {}", process.arguments.join(" ")),
    }
}
