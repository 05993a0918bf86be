//! `nokv migrate`: from a stand-alone database to a cluster, step by step.
//!
//! [`local`] works on a directory, [`rollout`] on running stores. Every step may be repeated: it looks first and does
//! what is missing.

mod local;
mod rollout;
mod rows;

use crate::args::Global;
use crate::args::migrate::Migrate;
use crate::cmd::client;
use crate::cmd::security::Dial;
use crate::errors::Result;

/// Carries out the step.
pub fn run(command: &Migrate, global: &Global) -> Result<u8> {
    match command {
        Migrate::Plan(args) => client(Dial::nobody(), async |env| local::plan(&env, args, global)),
        Migrate::Init(args) => client(Dial::nobody(), async |env| local::init(&env, args, global).await),
        Migrate::Status(args) => {
            client(Dial::flags(&args.security), async |env| local::status(&env, args, global).await)
        }
        Migrate::Report(args) => {
            client(Dial::flags(&args.security), async |env| local::report(&env, args, global).await)
        }
        Migrate::Expand(args) => rollout::expand(args, global),
        Migrate::RemovePeer(args) => {
            client(Dial::flags(&args.security), async |env| rollout::remove_peer(&env, args, global).await)
        }
        Migrate::TransferLeader(args) => client(Dial::flags(&args.security), async |env| {
            rollout::transfer_leader(&env, args, global).await
        }),
    }
}
