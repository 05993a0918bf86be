//! The coordinator lease, and how it changes hands: every generation that ends is sealed, every generation that begins
//! covers the seal before it.
//!
//! The state machine knows no time. A lease on record is *live* until it is released, sealed or taken over;
//! whether it has run out is judged by the root leader's own monotonic clock (`crate::lease`), which then
//! proposes a take-over. The take-over names the generation and the number of renewals that the leader saw
//! silent; if a renewal got into the log before it, it fails here, on every node alike.
//!
//! - ISSUE by the holder of a live lease is a renewal: same generation, `renewals` + 1. When it says after which generation it
//!   comes, it is a claim by a new life of the holder: a generation belongs to one life of one process.
//! - SEAL by the holder ends its generation. It says what it handed out of each duty (its *frontiers*), never more than it was
//!   fenced; a duty that it leaves out counts as handed out up to the fence.
//! - ISSUE by another is granted (generation + 1) when the lease was sealed, released or is taken over, else HELD. A
//!   generation that did not seal itself is sealed by the same entry, at its fences: a dead coordinator has handed out nothing
//!   above them. After a seal of its own hand the successor names the seal's digest, so it cannot come from before the seal.
//! - The entry that grants also *closes*: the new lease goes on above the fences, which are at or above every frontier of the
//!   seal, and its holder knows all regions that its predecessor knew. What CONFIRM, CLOSE and REATTACH would ask is
//!   decided there, so they only repeat it; see `docs/design/009-a-hand-over-of-two-entries.md`.
//! - FenceAllocator may name holder and generation; then it counts only for the live lease. So a coordinator
//!   that lost its lease cannot raise a fence and hand out what lies below it.

use super::{Refusal, Reply, RootState};
use crate::digest;
use nokv_proto::meta::v1::root_command::{Closure, Fence, Lease};
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{
    RootCoordinatorClosure, RootCoordinatorClosureCommand, RootCoordinatorClosureCommandKind as ClosureKind,
    RootCoordinatorClosureStage as Stage, RootCoordinatorLease, RootCoordinatorLeaseCommand,
    RootCoordinatorLeaseCommandKind as LeaseKind, RootCoordinatorSeal, RootCursor, RootDutyFrontier,
    RootEvent, RootEventKind,
};

/// Duty bit of ids.
const DUTY_IDS: u32 = 1;
/// Duty bit of timestamps.
const DUTY_TIMESTAMPS: u32 = 2;
/// Duty bit of routes; their frontier is the cluster epoch.
const DUTY_ROUTES: u32 = 4;
/// Ids, timestamps and routes.
const DUTIES_DEFAULT: u32 = 7;
/// Nobody may hold the cluster for longer than this after falling silent.
const TTL_MILLIS_MAX: u64 = 60 * 60 * 1000;

/// Whether somebody holds this lease, as far as the log knows.
pub fn is_live(lease: &RootCoordinatorLease, seal: Option<&RootCoordinatorSeal>) -> bool {
    lease.ttl_millis > 0 && seal.is_none_or(|seal| seal.cert_generation != lease.cert_generation)
}

impl RootState {
    /// The seal of the current generation, if it is sealed.
    pub fn current_seal(&self) -> Option<&RootCoordinatorSeal> {
        let generation = self.lease.as_ref().map_or(0, |lease| lease.cert_generation);
        self.seal.as_ref().filter(|seal| seal.cert_generation == generation)
    }

    /// The lease, if somebody holds it.
    pub fn live_lease(&self) -> Option<&RootCoordinatorLease> {
        self.lease.as_ref().filter(|lease| is_live(lease, self.seal.as_ref()))
    }

    pub(super) fn lease_command(
        &mut self,
        at: RootCursor,
        request: &Lease,
        events: &mut Vec<RootEvent>,
    ) -> Result<Reply, Refusal> {
        let command = request.command.as_ref().ok_or_else(|| Refusal::invalid("no lease command"))?;
        if command.holder_id.is_empty() {
            return Err(Refusal::invalid("lease holder id is empty"));
        }
        let granted = match command.kind() {
            LeaseKind::Issue => self.issue(at, request, command, events)?,
            LeaseKind::Release => self.release(command, events)?,
            LeaseKind::Unspecified => return Err(Refusal::invalid("unknown lease command")),
        };
        self.committed(at, events);
        Ok(Reply::Lease { protocol: Box::new(self.protocol()), granted })
    }

    fn issue(
        &mut self,
        at: RootCursor,
        request: &Lease,
        command: &RootCoordinatorLeaseCommand,
        events: &mut Vec<RootEvent>,
    ) -> Result<bool, Refusal> {
        let ttl_millis = ttl_millis(command)?;
        check_frontiers(&command.handoff_frontiers)?;
        let current = self.lease.clone();
        if !is_timely(command, current.as_ref()) {
            return Ok(false);
        }
        let next = match &current {
            None => self.successor(at, 1, command, &[])?,
            Some(current) if self.current_seal().is_some() => {
                self.check_lineage(command)?;
                self.succeed(at, current, command, events)?
            }
            Some(current) if current.ttl_millis == 0 => self.succeed(at, current, command, events)?,
            Some(current) if current.holder_id == command.holder_id && command.after_generation.is_some() => {
                self.succeed(at, current, command, events)?
            }
            Some(current) if current.holder_id == command.holder_id => {
                let next = renewed(current, command)?;
                self.raise_fences(&command.handoff_frontiers)?;
                next
            }
            Some(current) if is_takeover(request, current) => self.succeed(at, current, command, events)?,
            Some(_) => return Ok(false),
        };
        let generation = next.cert_generation;
        let lease = RootCoordinatorLease {
            ttl_millis,
            expires_unix_nano: command.expires_unix_nano,
            address: command.address.clone(),
            ..next
        };
        self.record_lease(lease, events);
        if current.is_some_and(|before| before.cert_generation < generation) {
            self.close(at, events);
        }
        Ok(true)
    }

    /// The lease of the generation after `current`, which is sealed at its fences if it did not seal itself.
    fn succeed(
        &mut self,
        at: RootCursor,
        current: &RootCoordinatorLease,
        command: &RootCoordinatorLeaseCommand,
        events: &mut Vec<RootEvent>,
    ) -> Result<RootCoordinatorLease, Refusal> {
        let consumed = match self.current_seal() {
            Some(seal) => seal.consumed_frontiers.clone(),
            None => self.frontiers(),
        };
        let next = self.successor(at, current.cert_generation + 1, command, &consumed)?;
        if self.current_seal().is_none() {
            self.record_seal(at, current, consumed, true, events);
        }
        let digest = self.current_seal().map(|seal| seal.digest.clone()).unwrap_or_default();
        Ok(RootCoordinatorLease { predecessor_digest: digest, ..next })
    }

    /// The lease of a new generation, on top of what its predecessor consumed. Raises the fences to what the command says.
    fn successor(
        &mut self,
        at: RootCursor,
        generation: u64,
        command: &RootCoordinatorLeaseCommand,
        consumed: &[RootDutyFrontier],
    ) -> Result<RootCoordinatorLease, Refusal> {
        if let Some(why) = uncovered(consumed, &command.handoff_frontiers) {
            return Err(Refusal::Precondition(why));
        }
        self.raise_fences(&command.handoff_frontiers)?;
        // Numbers go on above the fences, whoever knows them; what it knows of regions only the coordinator can say.
        let known = frontier(&command.handoff_frontiers, DUTY_ROUTES);
        let mut inherited = self.frontiers();
        for routes in inherited.iter_mut().filter(|frontier| frontier.duty_mask == DUTY_ROUTES) {
            routes.frontier = routes.frontier.min(known);
        }
        Ok(RootCoordinatorLease {
            holder_id: command.holder_id.clone(),
            cert_generation: generation,
            issued_cursor: Some(at),
            duty_mask: DUTIES_DEFAULT,
            handoff_frontiers: inherited,
            ..Default::default()
        })
    }

    /// The most that anybody can have handed out so far, of each duty.
    fn frontiers(&self) -> Vec<RootDutyFrontier> {
        [(DUTY_IDS, self.id_fence), (DUTY_TIMESTAMPS, self.tso_fence), (DUTY_ROUTES, self.cluster_epoch)]
            .map(|(duty_mask, frontier)| RootDutyFrontier { duty_mask, frontier })
            .to_vec()
    }

    fn release(
        &mut self,
        command: &RootCoordinatorLeaseCommand,
        events: &mut Vec<RootEvent>,
    ) -> Result<bool, Refusal> {
        let lease = self.owned_lease(&command.holder_id)?;
        let (meant, current) = (command.cert_generation, lease.cert_generation);
        if meant != 0 && meant != current {
            return Err(Refusal::precondition(format!(
                "lease generation {meant} has passed: it is {current} now"
            )));
        }
        check_frontiers(&command.handoff_frontiers)?;
        if lease.ttl_millis > 0 {
            let lease = RootCoordinatorLease {
                ttl_millis: 0,
                expires_unix_nano: command.now_unix_nano,
                renewals: lease.renewals + 1,
                ..lease.clone()
            };
            self.raise_fences(&command.handoff_frontiers)?;
            self.record_lease(lease, events);
        }
        Ok(true)
    }

    fn raise_fences(&mut self, frontiers: &[RootDutyFrontier]) -> Result<(), Refusal> {
        use nokv_proto::meta::v1::RootAllocatorKind as Allocator;
        for (duty, allocator) in [(DUTY_IDS, Allocator::Id), (DUTY_TIMESTAMPS, Allocator::Tso)] {
            self.raise_fence(allocator, frontier(frontiers, duty))?;
        }
        Ok(())
    }

    fn record_lease(&mut self, lease: RootCoordinatorLease, events: &mut Vec<RootEvent>) {
        self.lease = Some(lease.clone());
        let payload = Some(Payload::CoordinatorLease(lease));
        events.push(RootEvent { kind: RootEventKind::CoordinatorLease as i32, payload });
    }

    /// Whoever succeeds a generation that sealed itself has seen the seal.
    fn check_lineage(&self, command: &RootCoordinatorLeaseCommand) -> Result<(), Refusal> {
        match self.current_seal() {
            Some(seal) if command.predecessor_digest != seal.digest => {
                Err(Refusal::precondition("predecessor digest is not that of the sealed generation"))
            }
            _ => Ok(()),
        }
    }

    /// Fails unless the named coordinator may raise fences.
    pub(super) fn check_fence_owner(&self, fence: &Fence) -> Result<(), Refusal> {
        if fence.cert_generation == 0 && fence.holder_id.is_empty() {
            return Ok(());
        }
        let current = self.live_lease();
        let is_owner = current.is_some_and(|lease| {
            lease.cert_generation == fence.cert_generation
                && (fence.holder_id.is_empty() || lease.holder_id == fence.holder_id)
        });
        if is_owner {
            return Ok(());
        }
        let (holder, generation) =
            current.map_or(("nobody", 0), |lease| (&lease.holder_id, lease.cert_generation));
        Err(Refusal::precondition(format!(
            "coordinator lease not held: generation {} of {} is over, {holder} holds generation {generation}",
            fence.cert_generation, fence.holder_id
        )))
    }

    fn owned_lease(&self, holder: &str) -> Result<&RootCoordinatorLease, Refusal> {
        match &self.lease {
            Some(lease) if lease.holder_id == holder => Ok(lease),
            Some(lease) => {
                let owner = &lease.holder_id;
                Err(Refusal::precondition(format!(
                    "coordinator lease not held: {owner} owns it, not {holder}"
                )))
            }
            None => Err(Refusal::precondition("coordinator lease not held: nobody ever had it")),
        }
    }
}

/// Seal and closure.
impl RootState {
    pub(super) fn closure_command(
        &mut self,
        at: RootCursor,
        request: &Closure,
        events: &mut Vec<RootEvent>,
    ) -> Result<Reply, Refusal> {
        let command = request.command.as_ref().ok_or_else(|| Refusal::invalid("no closure command"))?;
        if command.holder_id.is_empty() {
            return Err(Refusal::invalid("lease holder id is empty"));
        }
        match command.kind() {
            ClosureKind::Seal => self.seal_lease(at, command, events)?,
            ClosureKind::Confirm | ClosureKind::Close | ClosureKind::Reattach => {
                self.check_closed(command)?;
            }
            ClosureKind::Unspecified => return Err(Refusal::invalid("unknown closure command")),
        }
        self.committed(at, events);
        Ok(Reply::Closure { protocol: Box::new(self.protocol()) })
    }

    fn seal_lease(
        &mut self,
        at: RootCursor,
        command: &RootCoordinatorClosureCommand,
        events: &mut Vec<RootEvent>,
    ) -> Result<(), Refusal> {
        let lease = self.owned_lease(&command.holder_id)?.clone();
        let (meant, current) = (command.cert_generation, lease.cert_generation);
        if meant != 0 && meant != current {
            return Err(Refusal::precondition(format!(
                "lease generation {meant} has passed: it is {current} now"
            )));
        }
        if self.current_seal().is_some() {
            return Ok(());
        }
        let mut consumed = self.frontiers();
        for known in &mut consumed {
            let told = command.frontiers.iter().filter(|told| told.duty_mask == known.duty_mask);
            let Some(told) = told.map(|told| told.frontier).max() else { continue };
            if told > known.frontier {
                return Err(Refusal::invalid(format!(
                    "frontier {told} of duty {} is above the fence {}",
                    known.duty_mask, known.frontier
                )));
            }
            known.frontier = told;
        }
        self.record_seal(at, &lease, consumed, false, events);
        Ok(())
    }

    /// Ends the generation of `lease`. What was closed before is history now.
    fn record_seal(
        &mut self,
        at: RootCursor,
        lease: &RootCoordinatorLease,
        consumed_frontiers: Vec<RootDutyFrontier>,
        by_root: bool,
        events: &mut Vec<RootEvent>,
    ) {
        let mut seal = RootCoordinatorSeal {
            holder_id: lease.holder_id.clone(),
            cert_generation: lease.cert_generation,
            duty_mask: if lease.duty_mask == 0 { DUTIES_DEFAULT } else { lease.duty_mask },
            consumed_frontiers,
            sealed_at_cursor: Some(at),
            by_root,
            digest: String::new(),
        };
        seal.digest = digest::seal(&seal);
        self.seal = Some(seal.clone());
        self.closure = None;
        let payload = Some(Payload::CoordinatorSeal(seal));
        events.push(RootEvent { kind: RootEventKind::CoordinatorSeal as i32, payload });
    }

    /// The lease just granted covers the seal before it.
    fn close(&mut self, at: RootCursor, events: &mut Vec<RootEvent>) {
        let (Some(seal), Some(lease)) = (&self.seal, &self.lease) else { return };
        let closure = RootCoordinatorClosure {
            holder_id: lease.holder_id.clone(),
            seal_generation: seal.cert_generation,
            successor_generation: lease.cert_generation,
            seal_digest: seal.digest.clone(),
            stage: Stage::Reattached as i32,
            confirmed_at_cursor: Some(at),
            closed_at_cursor: Some(at),
            reattached_at_cursor: Some(at),
        };
        self.record_closure(closure, events);
    }

    /// CONFIRM, CLOSE and REATTACH: the grant has done it, if it is the caller's.
    fn check_closed(&self, command: &RootCoordinatorClosureCommand) -> Result<(), Refusal> {
        let generation = self.live_holder(&command.holder_id)?.cert_generation;
        match &self.closure {
            Some(closure) if closure.successor_generation == generation => Ok(()),
            _ => Err(Refusal::precondition("the generation of this lease succeeds none")),
        }
    }

    fn record_closure(&mut self, closure: RootCoordinatorClosure, events: &mut Vec<RootEvent>) {
        self.closure = Some(closure.clone());
        let payload = Some(Payload::CoordinatorClosure(closure));
        events.push(RootEvent { kind: RootEventKind::CoordinatorClosure as i32, payload });
    }

    fn live_holder(&self, holder: &str) -> Result<&RootCoordinatorLease, Refusal> {
        let lease = self.live_lease().filter(|lease| lease.holder_id == holder);
        lease.ok_or_else(|| {
            Refusal::precondition(format!("coordinator lease not held: {holder} has no live lease"))
        })
    }
}

/// Life without renewal; a caller that speaks in wall-clock times only means their difference.
fn ttl_millis(command: &RootCoordinatorLeaseCommand) -> Result<u64, Refusal> {
    let by_wall_clock = command.expires_unix_nano.saturating_sub(command.now_unix_nano) / 1_000_000;
    let ttl = match command.ttl_millis {
        0 => u64::try_from(by_wall_clock).unwrap_or(0),
        ttl => ttl,
    };
    match ttl {
        0 => Err(Refusal::invalid("a lease needs a time to live")),
        ttl if ttl > TTL_MILLIS_MAX => {
            Err(Refusal::invalid(format!("a lease of {ttl} ms is longer than {TTL_MILLIS_MAX} ms")))
        }
        ttl => Ok(ttl),
    }
}

/// The same lease with a new life.
fn renewed(
    current: &RootCoordinatorLease,
    command: &RootCoordinatorLeaseCommand,
) -> Result<RootCoordinatorLease, Refusal> {
    if !command.predecessor_digest.is_empty() && command.predecessor_digest != current.predecessor_digest {
        return Err(Refusal::precondition("a renewal cannot change the predecessor digest"));
    }
    Ok(RootCoordinatorLease { renewals: current.renewals + 1, ..current.clone() })
}

/// Whether a request is about the lease as it is: it may have come late, or twice.
fn is_timely(command: &RootCoordinatorLeaseCommand, current: Option<&RootCoordinatorLease>) -> bool {
    let generation = current.map_or(0, |lease| lease.cert_generation);
    let renews = command.cert_generation;
    if renews != 0 {
        return renews == generation && current.is_some_and(|lease| lease.holder_id == command.holder_id);
    }
    command.after_generation.is_none_or(|after| after == generation)
}

fn is_takeover(request: &Lease, current: &RootCoordinatorLease) -> bool {
    request.takeover_of_generation == current.cert_generation && request.observed_renewals == current.renewals
}

fn check_frontiers(frontiers: &[RootDutyFrontier]) -> Result<(), Refusal> {
    match frontiers.iter().find(|frontier| frontier.frontier > super::FENCE_MAX) {
        Some(frontier) => Err(Refusal::invalid(format!(
            "frontier {} of duty {} is too high",
            frontier.frontier, frontier.duty_mask
        ))),
        None => Ok(()),
    }
}

/// The frontier of one duty; zero when it is not mentioned.
fn frontier(frontiers: &[RootDutyFrontier], duty: u32) -> u64 {
    frontiers
        .iter()
        .filter(|frontier| frontier.duty_mask == duty)
        .map(|frontier| frontier.frontier)
        .max()
        .unwrap_or(0)
}

/// Which consumed frontier the successor does not reach, if any. Of numbers it need not speak: they go on above the fences.
fn uncovered(consumed: &[RootDutyFrontier], successor: &[RootDutyFrontier]) -> Option<String> {
    consumed.iter().find_map(|consumed| {
        let (duty, required) = (consumed.duty_mask, consumed.frontier);
        let actual = frontier(successor, duty);
        let spoken = duty == DUTY_ROUTES || successor.iter().any(|frontier| frontier.duty_mask == duty);
        (spoken && actual < required)
            .then(|| format!("frontier {actual} of duty {duty} does not cover {required}"))
    })
}
