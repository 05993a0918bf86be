//! The simulated world: a whole cluster, its clients and its faults in one seeded, deterministic run.
pub mod check;
pub mod config;
pub mod draw;
pub mod exec;
pub mod history;
pub mod net;
pub mod node;
pub mod plan;
pub mod trace;
pub mod watch;
