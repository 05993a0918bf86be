//! Talking to the coordinators: several addresses, any of which may be dead or a stand-by.

use crate::observe::CoordinatorContact;
use crate::region::lock;
use nokv_env::net::MESSAGE_BYTES_MAX;
use nokv_env::{Channel, ClockExt, Env, Instant};
use nokv_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::{Response, Status};

/// A client of one coordinator.
pub(crate) type Client = CoordinatorClient<Channel>;

/// All configured coordinators.
pub(crate) struct Coordinators {
    env: Env,
    timeout: Duration,
    clients: Vec<(String, Client)>,
    /// What came of the heartbeats to each.
    contacts: Vec<Mutex<Contact>>,
    /// The coordinator that last took what only some can take.
    preferred: AtomicUsize,
}

/// What came of the heartbeats to one coordinator.
#[derive(Default)]
struct Contact {
    heard: Option<Instant>,
    missing: Option<Instant>,
    error: String,
}

impl Coordinators {
    pub(crate) fn new(env: &Env, addrs: &[String], timeout: Duration) -> Self {
        let client = |addr: &String| {
            let client = Client::new(env.net.connect(addr))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            (addr.clone(), client)
        };
        let clients = addrs.iter().map(client).collect();
        let contacts = addrs.iter().map(|_| Mutex::default()).collect();
        Self { env: env.clone(), timeout, clients, contacts, preferred: AtomicUsize::new(0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn addr(&self, at: usize) -> &str {
        &self.clients[at].0
    }

    /// A coordinator took a heartbeat.
    pub(crate) fn heard(&self, at: usize, now: Instant) {
        let mut contact = lock(&self.contacts[at]);
        (contact.heard, contact.missing) = (Some(now), None);
        contact.error.clear();
    }

    /// A coordinator did not.
    pub(crate) fn missed(&self, at: usize, now: Instant, error: &str) {
        let mut contact = lock(&self.contacts[at]);
        contact.missing.get_or_insert(now);
        error.clone_into(&mut contact.error);
    }

    /// What came of the heartbeats to each, as of `now`.
    pub(crate) fn contacts(&self, now: Instant) -> Vec<CoordinatorContact> {
        let contact = |((addr, _), contact): (&(String, Client), &Mutex<Contact>)| {
            let contact = lock(contact);
            CoordinatorContact {
                addr: addr.clone(),
                heard_ago: contact.heard.map(|at| now.since(at)),
                missing_for: contact.missing.map(|at| now.since(at)),
                error: contact.error.clone(),
            }
        };
        self.clients.iter().zip(&self.contacts).map(contact).collect()
    }

    /// All coordinators, the one that last helped first.
    pub(crate) fn by_preference(&self) -> impl Iterator<Item = usize> + use<> {
        let (count, first) = (self.len(), self.preferred.load(Ordering::Relaxed));
        (0..count).map(move |step| (first + step) % count)
    }

    /// Remembers who helped.
    pub(crate) fn prefer(&self, at: usize) {
        self.preferred.store(at, Ordering::Relaxed);
    }

    /// Calls one coordinator, within the timeout.
    pub(crate) async fn call<T, F>(&self, at: usize, call: impl FnOnce(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
        T: Send,
    {
        let (addr, client) = &self.clients[at];
        match self.env.clock.timeout(self.timeout, call(client.clone())).await {
            Ok(reply) => reply.map(Response::into_inner),
            Err(_) => {
                Err(Status::deadline_exceeded(format!("no answer of {addr} within {:?}", self.timeout)))
            }
        }
    }

    /// Calls all coordinators at once and takes the first good answer, so that a dead one delays nobody.
    pub(crate) async fn first<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
        T: Send,
    {
        if self.clients.is_empty() {
            return Err(Status::unavailable("no coordinators are configured"));
        }
        let calls = (0..self.clients.len()).map(|at| Box::pin(self.call(at, &call)));
        futures_util::future::select_ok(calls).await.map(|(reply, _)| reply)
    }
}
