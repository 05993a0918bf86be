//! Start of a driver.

use crate::config::{Config, GroupConfig};
use crate::error::Error;
use crate::handle::Handle;
use crate::inbox;
use crate::machine::Machine;
use crate::shared::Shared;
use crate::transport::{Resolver, Transport};
use nokv_env::Env;
use std::sync::Arc;

/// Starts drivers.
#[derive(Debug, Clone, Copy)]
pub struct Driver;

impl Driver {
    /// Opens the raft log, takes up the groups and starts the loop.
    #[allow(clippy::unused_async, reason = "opening will await the disk")]
    pub async fn start<M: Machine>(
        env: Env,
        config: Config,
        machine: M,
        resolver: Arc<dyn Resolver>,
        groups: Vec<GroupConfig>,
    ) -> Result<Handle<M>, Error> {
        config.check()?;
        let _ = (machine, groups);
        let shared = Arc::new(Shared::default());
        let (_inbox, mailbox, desk) = inbox::open::<M>(&config);
        let (_transport, service) = Transport::new(&env, &config, resolver, mailbox, shared.clone());
        Ok(Handle::new(desk, service, shared))
    }
}
