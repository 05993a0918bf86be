//! Tasks on tokio, blocking loops on threads of their own, and what a panic means.
//!
//! A panic is a broken belief (an assertion of ours, a `fatal!` of raft-rs). Going on could answer from a
//! state nobody reasoned about, so it stops the node: message on standard error, exit code 1. The replicas
//! elsewhere take over; a supervisor may restart this one.

use futures_util::FutureExt;
use nokv_env::{BoxFuture, Tasks};
use std::any::Any;
use std::panic::AssertUnwindSafe;
use tokio::runtime::Handle;

/// Exit code of a process that a panic stopped.
pub const PANIC_EXIT_CODE: i32 = 1;

/// Spawns on a tokio runtime, or on a named thread.
pub struct RealTasks {
    runtime: Handle,
}

impl RealTasks {
    /// Tasks of `runtime`.
    pub fn new(runtime: Handle) -> Self {
        RealTasks { runtime }
    }
}

impl Tasks for RealTasks {
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        self.runtime.spawn(stop_node_on_panic(name, future));
    }

    fn spawn_dedicated(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        let run = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(stop_node_on_panic(name, future)),
            Err(error) => stop_node(name, &format!("has no runtime: {error}")),
        };
        if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(run) {
            stop_node(name, &format!("has no thread: {error}"));
        }
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }
}

/// Makes a panic on any thread stop the process, also in a handler that the gRPC server runs. For `main`.
pub fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        let thread = std::thread::current();
        stop_node(thread.name().unwrap_or("unnamed"), "panicked (see above)");
    }));
}

async fn stop_node_on_panic(name: &'static str, future: BoxFuture<'static, ()>) {
    if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
        stop_node(name, &format!("panicked: {}", panic_message(&*panic)));
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn stop_node(name: &str, what: &str) -> ! {
    eprintln!("nokv: task `{name}` {what}; stopping this node, its state can no longer be trusted");
    std::process::exit(PANIC_EXIT_CODE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::TasksExt;
    use std::process::Command;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn dedicated_tasks_have_a_named_thread_and_a_timer() {
        let (tx, rx) = oneshot::channel();
        RealTasks::new(Handle::current()).go_dedicated("loop", async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            tx.send(std::thread::current().name().map(str::to_owned)).unwrap();
        });
        assert_eq!(rx.await.unwrap().as_deref(), Some("loop"));
    }

    /// The child process of the next test; on its own it does nothing.
    #[test]
    fn child_panics() {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let tasks = RealTasks::new(runtime.handle().clone());
        match std::env::var("NOKV_TEST_PANIC").as_deref() {
            Ok("task") => tasks.go("fragile", async { panic!("belief broken") }),
            Ok("dedicated") => tasks.go_dedicated("fragile", async { panic!("belief broken") }),
            _ => return,
        }
        std::thread::sleep(std::time::Duration::from_secs(20));
    }

    #[test]
    fn a_panic_in_any_task_ends_the_process() {
        for kind in ["task", "dedicated"] {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "task::tests::child_panics", "--nocapture"])
                .env("NOKV_TEST_PANIC", kind)
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&child.stderr);
            assert_eq!(child.status.code(), Some(PANIC_EXIT_CODE), "{stderr}");
            assert!(stderr.contains("task `fragile` panicked: belief broken"), "{stderr}");
        }
    }
}
