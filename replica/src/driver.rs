//! The loop that owns all groups of a node, from its start to its end.

use crate::config::{Config, GroupConfig};
use crate::core::{Core, Halt};
use crate::error::{Error, ReadError};
use crate::group::Group;
use crate::group_set::GroupSet;
use crate::handle::Handle;
use crate::inbox::{self, Inbox};
use crate::machine::Machine;
use crate::raft_log::RaftLog;
use crate::recover;
use crate::shared::Shared;
use crate::transport::{Resolver, Transport};
use futures_util::future::{Either, select};
use nokv_env::{BoxFuture, Env, Instant, TasksExt};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

/// Ticks that are made up for after a stall. Making up for all would start elections against a leader whose messages
/// are waiting to be read.
const TICKS_MADE_UP: u64 = 2;

/// Starts drivers.
#[derive(Debug, Clone, Copy)]
pub struct Driver;

impl Driver {
    /// Opens the raft log, takes up the groups and starts the loop.
    pub async fn start<M: Machine>(
        env: Env,
        config: Config,
        machine: M,
        resolver: Arc<dyn Resolver>,
        groups: Vec<GroupConfig>,
    ) -> Result<Handle<M>, Error> {
        config.check()?;
        let (mut log, mut known) =
            RaftLog::open(env.disk.clone(), &config.log_dir, config.log_segment_bytes)?;
        if log.torn_bytes() > 0 {
            env.probe("replica.log.torn");
            tracing::info!(bytes = log.torn_bytes(), dir = %config.log_dir.display(), "cut an unfinished write");
        }
        let mut hosted = BTreeMap::new();
        for group in groups {
            let id = group.group;
            let (adopted, changed) = recover::adopt(&config.log_dir, &group, known.remove(&id))?;
            let group = Group::<M>::new(&config, group, adopted)?;
            if changed {
                log.state(id, group.log());
            }
            if hosted.insert(id, group).is_some() {
                return Err(Error::Group { group: id, what: "it is configured twice".to_owned() });
            }
        }
        log.sync()?;
        env.tasks.yield_now().await;
        for (id, orphan) in &known {
            tracing::warn!(group = %id, peer = orphan.peer, "the raft log holds a group that is not hosted");
        }

        let shared = Arc::new(Shared::default());
        let (inbox, mailbox, desk) = inbox::open::<M>(&config);
        let (transport, service) = Transport::new(&env, &config, resolver, mailbox, shared.clone());
        let core = Core {
            env: env.clone(),
            config,
            machine,
            log,
            groups: hosted,
            orphans: known,
            waiting: BTreeMap::new(),
            dirty: GroupSet::default(),
            wanting: GroupSet::default(),
            again: false,
            transport,
            shared: shared.clone(),
            after_sync: Vec::new(),
            ticks: 0,
            heard: BTreeMap::new(),
        };
        let mut running = Running { core, inbox, next_tick: Instant::default(), alarm: None };
        running.begin();
        env.tasks.go_dedicated("raft", running.run());
        Ok(Handle::new(desk, service, shared))
    }
}

/// A driver at work.
struct Running<M: Machine> {
    core: Core<M>,
    inbox: Inbox<M>,
    next_tick: Instant,
    /// The sleep until the tick at this time; most turns end before it does, and the next one goes on with it.
    alarm: Option<(Instant, BoxFuture<'static, ()>)>,
}

/// Says how the driver ended, even when it was by a panic of raft-rs or the machine.
struct End {
    shared: Arc<Shared>,
    clean: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.clean {
            self.shared.fail("the raft driver was broken off".to_owned());
        }
        self.shared.stop.stop();
        self.shared.ended.stop();
    }
}

impl<M: Machine> Running<M> {
    /// Before the first turn: everybody sees the groups, and groups of one peer get their leader.
    fn begin(&mut self) {
        self.next_tick = self.core.env.clock.now() + self.core.config.tick;
        self.core.publish_log();
        let ids: Vec<_> = self.core.groups.keys().copied().collect();
        for id in ids {
            self.core.tell_started(id);
            if let Some(group) = self.core.groups.get_mut(&id) {
                group.lead_if_alone();
            }
            self.core.touched(id);
            self.core.publish(id, true);
        }
    }

    async fn run(mut self) {
        let mut end = End { shared: self.core.shared.clone(), clean: false };
        let mut outcome = self.work().await;
        if matches!(&outcome, Err(Halt::Log(error)) if error.is_disk_full()) {
            // Only who is to stop gives up waiting for room: what was not durable was promised to nobody.
            tracing::info!("the raft driver stops while the disk is full");
            outcome = Ok(());
        }
        if let Err(halt) = &outcome {
            tracing::error!(%halt, "the raft driver stops");
            self.core.shared.fail(halt.to_string());
        }
        end.clean = true;
        self.inbox.close();
        for group in self.core.groups.values_mut() {
            group.abandon(&ReadError::Stopped);
        }
        // Machine and log are closed before anybody is told that this is over.
        drop(self);
    }

    async fn work(&mut self) -> Result<(), Halt> {
        while !self.core.shared.stop.is_stopped() {
            let more = self.core.take_in(&mut self.inbox);
            self.tick()?;
            self.core.again = false;
            self.core.offer();
            if !self.core.dirty.is_empty() || !self.core.after_sync.is_empty() {
                self.core.round().await?;
                if self.core.roll_if_full().await? {
                    self.core.env.tasks.yield_now().await;
                }
            }
            if more || self.core.again || !self.core.dirty.is_empty() {
                self.core.env.tasks.yield_now().await;
            } else {
                self.wait().await;
            }
        }
        match self.core.log.close() {
            // Nobody was promised what is not synced.
            Err(error) if error.is_disk_full() => Ok(()),
            closed => Ok(closed?),
        }
    }

    /// Lets the ticks pass that are due.
    fn tick(&mut self) -> Result<(), Halt> {
        let now = self.core.env.clock.now();
        self.core.shared.turns(now);
        let mut ticks = 0;
        while now >= self.next_tick && ticks < TICKS_MADE_UP {
            ticks += 1;
            self.next_tick = self.next_tick + self.core.config.tick;
            self.core.tick();
        }
        if ticks > 0 {
            if now >= self.next_tick {
                self.core.env.probe("replica.driver.stalled");
                self.next_tick = now + self.core.config.tick;
            }
            self.core.after_tick()?;
        }
        Ok(())
    }

    /// Until something comes in, a tick is due or the driver is to stop.
    async fn wait(&mut self) {
        let bell = pin!(self.inbox.bell.notified());
        let stop = pin!(self.core.shared.stop.stopped());
        let mut alarm = self.alarm.take().filter(|(due, _)| *due == self.next_tick);
        let (_, tick) =
            alarm.get_or_insert_with(|| (self.next_tick, self.core.env.clock.sleep_until(self.next_tick)));
        let rang = matches!(select(bell, select(tick, stop)).await, Either::Right((Either::Left(_), _)));
        if !rang {
            self.alarm = alarm;
        }
    }
}
