//! The real world behind the five abstractions of `env`: the operating system, tokio and tonic.
//!
//! [`RealEnv::new`] makes an [`Env`] for a production process; `cli` hands it to the services. Nothing here
//! knows what the services do. [`clock`] and [`task`] stand on tokio, [`disk`] on POSIX files, [`net`] on tonic
//! over TCP with reflection and health checks added to every server, [`tls`] are the certificates of both ends where
//! there are any, [`http`] is the small server behind `/debug/vars`, [`process`] what
//! the system says of the process.
//!
//! Left out on purpose: anything that retries.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "realenv is where the real world enters"
)]

pub mod clock;
pub mod disk;
pub mod http;
pub mod net;
pub mod process;
pub mod task;
pub mod tls;

pub use clock::RealClock;
pub use disk::RealDisk;
pub use net::RealNet;
pub use task::{RealTasks, exit_on_panic};

use nokv_env::{Env, NoHooks, OfCluster, RngSource};
use std::io;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Makes the [`Env`] of a production process.
pub struct RealEnv;

impl RealEnv {
    /// An environment on the current tokio runtime, which must be multi-threaded: dedicated threads hand
    /// their network work to it. Fails without a runtime, and when the system gives no entropy for the seed.
    #[expect(clippy::new_ret_no_self, reason = "the real environment is the ordinary Env with real parts")]
    pub fn new() -> io::Result<Env> {
        Self::secured(None)
    }

    /// The same, with TLS on every connection when `tls` is given.
    pub fn secured(tls: Option<Arc<tls::Tls>>) -> io::Result<Env> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        Ok(Env {
            clock: Arc::new(RealClock::new()),
            disk: Arc::new(RealDisk::new()),
            net: Arc::new(OfCluster::new(Arc::new(RealNet::secured(runtime.clone(), tls)))),
            rng: RngSource::new(getrandom::u64().map_err(io::Error::other)?, u64::from(std::process::id())),
            tasks: Arc::new(RealTasks::new(runtime)),
            hooks: Arc::new(NoHooks),
        })
    }
}
