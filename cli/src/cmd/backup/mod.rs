//! `nokv backup`: all keys and values as of one timestamp in a directory, and back.
//!
//! [`data`] is the format of the files that hold pairs, [`catalogue`] that of the file that says what a backup holds.
//! [`create`] reads a snapshot that it holds and writes one data file after the other; what is written so far stands in
//! `PROGRESS.json`, so a run that was killed goes on behind the last whole file, at the same timestamp. `BACKUP.json` is
//! written last: a directory without it is no backup. [`restore`] checks everything before it writes anything.

mod catalogue;
mod create;
mod data;
mod restore;
mod verify;

use crate::args::Global;
use crate::args::daily::Backup;
use crate::cmd::client;
use crate::cmd::security::Dial;
use crate::errors::Result;

/// Carries out a verb of `nokv backup`.
pub fn run(command: &Backup, global: &Global) -> Result<u8> {
    match command {
        Backup::Create(args) => {
            client(Dial::cluster(&args.cluster), async |env| create::run(&env, args, global).await)
        }
        Backup::Verify(args) => client(Dial::nobody(), async |env| verify::verify(&env, args, global).await),
        Backup::Show(args) => client(Dial::nobody(), async |env| verify::show(&env, args, global)),
        Backup::Restore(args) => restore::run(args, global),
    }
}
