//! When to stop: SIGINT, SIGTERM, or the death of the parent that started us.

use crate::errors::{Code, Failure, Result};
use nokv_env::task::Stop;
use std::io::Read;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Set by `nokv demo` for its children: standard input is a pipe whose end means that the parent is gone.
pub const STOP_WITH_STDIN: &str = "NOKV_STOP_WITH_STDIN";

/// Why we are asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// SIGINT
    Interrupt,
    /// SIGTERM
    Terminate,
    /// The parent closed our standard input.
    ParentGone,
}

/// Waits for requests to stop. Once made, signals no longer kill the process.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    parent_gone: Option<Stop>,
}

impl Signals {
    /// Begins to listen.
    pub fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("listen for signals", &error));
        let interrupt = listen(SignalKind::interrupt())?;
        let terminate = listen(SignalKind::terminate())?;
        let parent_gone = std::env::var_os(STOP_WITH_STDIN).is_some().then(watch_stdin);
        Ok(Self { interrupt, terminate, parent_gone })
    }

    /// Listens to signals alone from here on; that the parent is gone is known.
    pub fn forget_parent(&mut self) {
        self.parent_gone = None;
    }

    /// Completes at the first request.
    pub async fn wait(&mut self) -> Reason {
        use futures_util::future::{Either, select};
        let signals = select(Box::pin(self.interrupt.recv()), Box::pin(self.terminate.recv()));
        let Some(parent_gone) = &self.parent_gone else { return which(signals.await) };
        match select(signals, Box::pin(parent_gone.stopped())).await {
            Either::Left((signal, _)) => which(signal),
            Either::Right(_) => Reason::ParentGone,
        }
    }

    /// Runs `work` unless a request to stop comes first.
    pub async fn race<T>(&mut self, work: impl Future<Output = T>) -> std::result::Result<T, Reason> {
        use futures_util::future::{Either, select};
        match select(std::pin::pin!(work), std::pin::pin!(self.wait())).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right((reason, _)) => Err(reason),
        }
    }
}

fn which<A, B>(signal: futures_util::future::Either<A, B>) -> Reason {
    match signal {
        futures_util::future::Either::Left(_) => Reason::Interrupt,
        futures_util::future::Either::Right(_) => Reason::Terminate,
    }
}

impl Reason {
    /// How a client command ends.
    pub fn failure(self) -> Failure {
        match self {
            Reason::Interrupt => Failure::new(Code::Interrupted, "interrupted"),
            Reason::Terminate | Reason::ParentGone => Failure::new(Code::Terminated, "terminated"),
        }
    }
}

/// Raises the flag once standard input ends.
#[allow(
    clippy::disallowed_methods,
    reason = "a blocking read of standard input belongs on a thread of its own"
)]
fn watch_stdin() -> Stop {
    let gone = Stop::new();
    let raise = gone.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while std::io::stdin().read(&mut buffer).is_ok_and(|count| count > 0) {}
        raise.stop();
    });
    gone
}
