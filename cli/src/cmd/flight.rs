//! Numbered pieces of work, several under way at once: how files are imported and backups restored.

use crate::errors::Result;
use crate::signals::{Reason, Signals};
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use nokv_env::{ClockExt, Env};
use std::time::Duration;

/// Patience with what is under way when we are asked to stop.
pub const STOP_GRACE: Duration = Duration::from_secs(3);

/// What is under way; each ends with its number.
pub type UnderWay<'a> = FuturesUnordered<LocalBoxFuture<'a, (u64, Result)>>;

/// Work that is done in pieces, which end in any order.
pub trait Flight<'a> {
    /// The pieces under way.
    fn under_way(&mut self) -> &mut UnderWay<'a>;
    /// Starts pieces until enough are under way, or there are no more.
    fn fill(&mut self) -> Result;
    /// A piece has ended.
    fn landed(&mut self, number: u64, ended: Result) -> Result;
}

/// Flies to the end, a failure or a signal, which is given back. What is under way then is waited for; after a signal for
/// a moment only.
pub async fn fly<'a>(
    flight: &mut impl Flight<'a>,
    env: &Env,
    signals: &mut Signals,
) -> Result<Option<Reason>> {
    let mut problem = None;
    loop {
        if problem.is_none()
            && let Err(failure) = flight.fill()
        {
            problem = Some(failure);
        }
        if flight.under_way().is_empty() {
            return problem.map_or(Ok(None), Err);
        }
        match signals.race(flight.under_way().next()).await {
            Ok(Some((number, ended))) => {
                if let Err(failure) = flight.landed(number, ended) {
                    problem.get_or_insert(failure);
                }
            }
            Ok(None) => {}
            Err(reason) => {
                settle(flight, env).await;
                return Ok(Some(reason));
            }
        }
    }
}

async fn settle<'a>(flight: &mut impl Flight<'a>, env: &Env) {
    let mut deadline = env.clock.sleep(STOP_GRACE);
    while let Either::Left((Some((number, ended)), left)) = select(flight.under_way().next(), deadline).await
    {
        // A piece that failed now is one that the next run repeats.
        let _ = flight.landed(number, ended);
        deadline = left;
    }
}
