//! The simulated world: a whole cluster, its clients and its faults in one seeded, deterministic run.
//!
//! Start at [`run()`]: it draws a configuration, a fault plan and a workload from the seed, runs them in simulated
//! time on one thread, heals everything, and judges what happened. Equal seed, binary and options give an equal
//! trace.
//!
//! Bottom up:
//! - [`exec`]: who runs tasks. Our own executor, or madsim behind the same trait; [`trace`] is what happened;
//! - [`net`]: gRPC over simulated links; [`node`]: one life of a node as an `Env`;
//! - [`world`]: the cluster and the levers on it; [`services`]: the product's front doors;
//! - [`config`], [`plan`], [`workload`]: what to do, as data, drawn with [`draw`]; [`cases`]: saved ones;
//! - [`atoms`]: everything else that a world decides against the default, recorded and replayed;
//! - [`routes`]: a client that only asks for routes;
//! - [`faults`], [`damage`], [`triggers`], [`operator`]: carrying out a plan; [`scenario`]: the story of a run;
//! - [`history`], [`watch`]: what clients and protocols did; [`check`]: the judges;
//! - [`mod@run`], [`record`], [`report`]: the verdict and how it came about; [`shrink`]: a failing run made small.
//!
//! The crate reads no clock and starts no thread except in [`run::sweep`], one a job; each run is single-threaded.

pub mod atoms;
pub mod cases;
pub mod check;
pub mod config;
pub mod coverage;
pub mod damage;
pub mod draw;
pub mod events;
pub mod exec;
pub mod faults;
pub mod history;
pub mod net;
pub mod node;
pub mod operator;
pub mod plan;
pub mod record;
pub mod report;
pub mod routes;
pub mod run;
pub mod scenario;
pub mod services;
pub mod shrink;
pub mod sweep;
pub mod trace;
pub mod triggers;
pub mod watch;
pub mod workload;
pub mod world;

pub use run::{Given, RunOptions, Verdict, check_determinism, run, run_keeping};
