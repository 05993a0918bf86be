//! The web console of a coordinator: one page, and the JSON that it asks for.
//!
//! ```text
//! coordinator ── Survey, at most twice a second ──► feed    rows of regions that know when they changed
//! meta-roots, coordinators, stores ── answers ────► probe   asked only while somebody looks
//!                                                   health  both of them, in words
//! browser ── /api/cluster?since=… ◄────────────────┘        what is new since its last question
//! ```
//!
//! The page itself is in `cli/console`; `docs/console.md` describes it to those who look at it.

mod feed;
mod health;
mod page;
mod probe;

use feed::Feed;
use nokv_coordinator::Survey;
use nokv_env::{ClockExt, Env, Instant, TasksExt};
use nokv_realenv::http::{Page, Reply, StatusCode};
use probe::{Answers, Ways};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Pause between two rounds of questions.
const PAUSE: Duration = Duration::from_secs(2);
/// Nobody looks any more when nobody has asked for this long.
const WATCHED_FOR: Duration = Duration::from_secs(10);

/// What the pages share.
struct Console {
    env: Env,
    survey: Box<dyn Fn() -> Survey + Send + Sync>,
    /// Coordinators that the configuration names.
    coordinators: Vec<String>,
    feed: Mutex<Feed>,
    answers: Mutex<Arc<Answers>>,
    watched: Mutex<Option<Instant>>,
    /// Rung when somebody looks.
    bell: Notify,
}

/// The pages of a coordinator, by path. `coordinators`: those that are to be asked how they are, beside the holder of the
/// lease.
pub fn pages(
    env: &Env,
    survey: impl Fn() -> Survey + Send + Sync + 'static,
    coordinators: Vec<String>,
) -> Vec<(String, Page)> {
    let console = Arc::new(Console {
        env: env.clone(),
        survey: Box::new(survey),
        coordinators,
        feed: Mutex::new(Feed::new(env.clock.unix_millis())),
        answers: Mutex::default(),
        watched: Mutex::default(),
        bell: Notify::new(),
    });
    env.tasks.go("console-probe", ask_around(console.clone()));
    let whole: Page = Arc::new(|_| Reply::page(page::text));
    let regions = console.clone();
    vec![
        ("/".to_owned(), whole.clone()),
        ("/console".to_owned(), whole),
        ("/api/cluster".to_owned(), Arc::new(move |query: &str| console.cluster(query))),
        ("/api/region".to_owned(), Arc::new(move |query: &str| regions.region(query))),
    ]
}

/// Asks everybody how they are while somebody looks, for ever.
async fn ask_around(console: Arc<Console>) {
    let mut ways = Ways::default();
    loop {
        if !console.is_watched() {
            console.bell.notified().await;
        }
        let survey = console.feed().survey();
        let answers = probe::ask(&console.env, &mut ways, &survey, &console.coordinators).await;
        *console.answers.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(answers);
        console.env.clock.sleep(PAUSE).await;
    }
}

impl Console {
    fn cluster(&self, query: &str) -> Reply {
        let answers = self.look();
        let since = parameter(query, "since").unwrap_or_default();
        Reply::json(self.feed().cluster(&answers, since, self.env.clock.unix_millis()))
    }

    fn region(&self, query: &str) -> Reply {
        let Some(id) = parameter(query, "id").and_then(|id| id.parse().ok()) else {
            return Reply::text(StatusCode::BAD_REQUEST, "say which region: /api/region?id=7\n");
        };
        self.look();
        match self.feed().region(id) {
            Some(region) => Reply::json(region.to_string()),
            None => Reply::text(StatusCode::NOT_FOUND, format!("there is no region {id}\n")),
        }
    }

    /// Brings the feed up to date; what others have answered lately.
    fn look(&self) -> Arc<Answers> {
        let now = self.env.clock.now();
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut feed = self.feed();
        if feed.is_due(now) {
            feed.take_in((self.survey)(), &answers);
        }
        drop(feed);
        self.bell.notify_one();
        answers
    }

    fn is_watched(&self) -> bool {
        let watched = *self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.is_some_and(|at| self.env.clock.now().since(at) < WATCHED_FOR)
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value of `name` in a query. Values here are numbers and the like: nothing in them is ever escaped.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_by_name() {
        assert_eq!(parameter("a=1&since=5.7&b", "since"), Some("5.7"));
        assert_eq!(parameter("id=&x", "id"), Some(""));
        assert_eq!(parameter("sinc=1", "since"), None);
    }
}
