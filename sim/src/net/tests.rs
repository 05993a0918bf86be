//! Two nodes, a service that echoes bodies, and what faults do to the calls between them.

use super::{Down, Host, Latency, Network, SimNet};
use crate::atoms::Decider;
use crate::exec::own::Order;
use crate::exec::own::OwnExecutor;
use crate::exec::{Executor, Node, SUPERVISOR, lock};
use crate::trace::{Keep, Trace};
use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use nokv_env::Net;
use nokv_env::net::Channel;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::{Service, ServiceExt};

const SERVER: Node = Node(1);
const CLIENT: Node = Node(2);
const ADDR: &str = "server:1";
const MILLI: u64 = 1_000_000;

/// Sends every frame back; a request to `/echo/slow` only after a second; counts handlers under way, and all of them.
#[derive(Clone)]
struct Echo {
    exec: Arc<dyn Executor>,
    under_way: Arc<Mutex<i32>>,
    begun: Arc<Mutex<i32>>,
}

struct UnderWay(Arc<Mutex<i32>>);
impl Drop for UnderWay {
    fn drop(&mut self) {
        *lock(&self.0) -= 1;
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let exec = self.exec.clone();
        *lock(&self.under_way) += 1;
        *lock(&self.begun) += 1;
        let guard = UnderWay(self.under_way.clone());
        Box::pin(async move {
            let _guard = guard;
            if request.uri().path() == "/echo/slow" {
                exec.sleep_until(exec.now_ns() + 1_000 * MILLI).await;
            }
            Ok(http::Response::new(request.into_body()))
        })
    }
}

struct World {
    exec: Arc<OwnExecutor>,
    net: Arc<Network>,
    trace: Arc<Trace>,
    under_way: Arc<Mutex<i32>>,
    begun: Arc<Mutex<i32>>,
}

/// Runs `script` in a world with an echo server.
fn run<F: Future<Output = ()> + Send + 'static>(
    seed: u64,
    script: impl FnOnce(Arc<World>) -> F,
) -> (u64, u64) {
    run_with(seed, Latency::default(), script)
}

/// The same with other links.
fn run_with<F: Future<Output = ()> + Send + 'static>(
    seed: u64,
    latency: Latency,
    script: impl FnOnce(Arc<World>) -> F,
) -> (u64, u64) {
    let trace = Arc::new(Trace::new(Keep::Hash));
    let exec = OwnExecutor::new(Order::Random(seed), 3, 1_000_000, trace.clone());
    let hosts = [(SERVER, "server"), (CLIENT, "client")].map(|(node, name)| Host::new(node, name, name));
    let net = Network::new(exec.clone(), trace.clone(), Decider::new(seed, None), seed, latency, hosts);
    let world = Arc::new(World {
        exec: exec.clone(),
        net: net.clone(),
        trace: trace.clone(),
        under_way: Arc::default(),
        begun: Arc::default(),
    });
    let script = script(world.clone());
    let main = async move {
        world.serve();
        script.await;
    };
    exec.run(Box::pin(main)).expect("the script ends");
    exec.clear();
    net.clear();
    trace.summary()
}

impl World {
    fn serve(&self) {
        let net = SimNet::new(self.net.clone(), self.exec.place(SERVER));
        let exec: Arc<dyn Executor> = self.exec.clone();
        let echo = Echo { exec, under_way: self.under_way.clone(), begun: self.begun.clone() };
        let serve = net.serve(ADDR, Routes::new(echo));
        let keep = async move {
            let _server = serve.await.expect("address is free");
            std::future::pending::<()>().await;
        };
        self.exec.spawn_on(self.exec.place(SERVER), "server", Box::pin(keep));
    }
    fn channel(&self) -> Channel {
        SimNet::new(self.net.clone(), self.exec.place(CLIENT)).connect(ADDR)
    }
    async fn sleep(&self, millis: u64) {
        self.exec.sleep_until(self.exec.now_ns() + millis * MILLI).await;
    }
}

async fn call(channel: &Channel, path: &str, body: Body) -> Result<http::Response<Body>, String> {
    let request = http::Request::builder().uri(path).body(body).expect("valid request");
    channel.clone().oneshot(request).await.map_err(|error| error.to_string())
}

async fn echo(channel: &Channel, text: &'static str) -> Result<Bytes, String> {
    let response =
        call(channel, "/echo/now", Body::new(http_body_util::Full::new(Bytes::from(text)))).await?;
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok(body.to_bytes())
}

/// A body fed by hand.
fn fed_body() -> (tokio::sync::mpsc::Sender<Bytes>, Body) {
    struct Fed(tokio::sync::mpsc::Receiver<Bytes>);
    impl http_body::Body for Fed {
        type Data = Bytes;
        type Error = tonic::Status;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
            self.0.poll_recv(context).map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    (sender, Body::new(Fed(receiver)))
}

async fn next(body: &mut Body) -> Option<Result<Bytes, String>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()).map_err(|error| error.to_string()))
}

#[test]
fn calls_are_answered_and_equal_seeds_give_equal_traces() {
    let script = |world: Arc<World>| async move {
        world.sleep(1).await;
        let channel = world.channel();
        for _ in 0..100 {
            assert_eq!(echo(&channel, "hello").await, Ok(Bytes::from("hello")));
        }
        assert!(world.exec.now_ns() < 300 * MILLI, "took {} ms", world.exec.now_ns() / MILLI);
        assert_eq!(world.net.open_streams(), 0);
        assert_eq!(world.net.stats().connections, 1);
    };
    let first = run(1, script);
    run(2, script);
    assert_eq!(run(1, script), first);
    assert_ne!(run(2, script), first);
}

#[test]
fn nobody_listening_is_refused_and_a_dark_node_times_out() {
    run(3, |world| async move {
        world.sleep(1).await;
        let nowhere = SimNet::new(world.net.clone(), world.exec.place(CLIENT)).connect("server:2");
        let error = echo(&nowhere, "x").await.expect_err("refused");
        assert!(error.contains("refused"), "{error}");
        world.net.node_down(SERVER, Down::Power);
        let before = world.exec.now_ns();
        let error = echo(&world.channel(), "x").await.expect_err("timed out");
        assert!(error.contains("timed out"), "{error}");
        assert_eq!((world.exec.now_ns() - before) / MILLI, 1000);
    });
}

#[test]
fn frames_arrive_in_order_with_backpressure() {
    run(4, |world| async move {
        world.sleep(1).await;
        let (feed, body) = fed_body();
        let mut answer = call(&world.channel(), "/echo/now", body).await.expect("connected").into_body();
        for number in 0..50_u8 {
            feed.send(Bytes::from(vec![number])).await.expect("open");
        }
        for number in 0..50_u8 {
            assert_eq!(next(&mut answer).await, Some(Ok(Bytes::from(vec![number]))));
        }
        // Nobody reads the answers: sooner or later nothing more is taken from the feed.
        let big = Bytes::from(vec![0; 100_000]);
        for _ in 0..200 {
            let _ = feed.try_send(big.clone());
            world.sleep(2).await;
        }
        assert_eq!(feed.capacity(), 0);
        for _ in 0..60 {
            assert!(matches!(next(&mut answer).await, Some(Ok(_))));
        }
        drop(feed);
        while let Some(Ok(_)) = next(&mut answer).await {}
    });
}

#[test]
fn a_dropped_call_cancels_its_handler() {
    run(5, |world| async move {
        world.sleep(1).await;
        let channel = world.channel();
        {
            let slow = call(&channel, "/echo/slow", Body::empty());
            let short = world.sleep(100);
            let raced = futures_util::future::select(Box::pin(slow), Box::pin(short)).await;
            assert!(matches!(raced, futures_util::future::Either::Right(_)));
            assert_eq!(*lock(&world.under_way), 1);
        }
        world.sleep(50).await;
        assert_eq!(*lock(&world.under_way), 0);
        assert_eq!(world.net.open_streams(), 0);
    });
}

#[test]
fn a_killed_process_resets_at_once_and_lost_power_only_by_keepalive() {
    for (down, low, high) in [(Down::Process, 0, 20), (Down::Power, 4_900, 10_100)] {
        run(6, move |world| async move {
            world.sleep(1).await;
            let (feed, body) = fed_body();
            let mut answer = call(&world.channel(), "/echo/now", body).await.expect("connected").into_body();
            let before = world.exec.now_ns();
            world.net.node_down(SERVER, down);
            world.exec.kill(SERVER);
            assert!(matches!(next(&mut answer).await, Some(Err(_))));
            let waited = (world.exec.now_ns() - before) / MILLI;
            assert!((low..=high).contains(&waited), "{down:?}: {waited} ms");
            world.sleep(1).await;
            assert!(feed.is_closed());
            drop(answer);
            assert_eq!(world.net.open_streams(), 0);
        });
    }
}

#[test]
fn a_restarted_node_resets_old_connections_and_serves_new_ones() {
    run(7, |world| async move {
        world.sleep(1).await;
        let channel = world.channel();
        let (_feed, body) = fed_body();
        let mut answer = call(&channel, "/echo/now", body).await.expect("connected").into_body();
        world.net.node_down(SERVER, Down::Power);
        world.exec.kill(SERVER);
        world.sleep(500).await;
        let before = world.exec.now_ns();
        world.net.node_up(SERVER);
        world.serve();
        assert!(matches!(next(&mut answer).await, Some(Err(_))));
        assert!(world.exec.now_ns() - before < 50 * MILLI);
        assert_eq!(echo(&channel, "again").await, Ok(Bytes::from("again")));
    });
}

#[test]
fn a_cut_holds_messages_back_and_a_heal_lets_them_through() {
    for (from, to) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
        run(8, move |world| async move {
            world.sleep(1).await;
            let channel = world.channel();
            assert!(echo(&channel, "warm").await.is_ok());
            world.net.cut(from, to);
            let healer = world.clone();
            world.exec.spawn_on(
                world.exec.place(SUPERVISOR),
                "healer",
                Box::pin(async move {
                    healer.sleep(2_000).await;
                    healer.net.mend(from, to);
                }),
            );
            let before = world.exec.now_ns();
            assert_eq!(echo(&channel, "late").await, Ok(Bytes::from("late")));
            assert!((world.exec.now_ns() - before) / MILLI >= 2_000);
        });
    }
}

#[test]
fn a_long_cut_breaks_the_connection() {
    run(9, |world| async move {
        world.sleep(1).await;
        let channel = world.channel();
        assert!(echo(&channel, "warm").await.is_ok());
        world.net.cut(SERVER, CLIENT);
        let before = world.exec.now_ns();
        let error = echo(&channel, "never").await.expect_err("broken");
        assert!(error.contains("broken"), "{error}");
        let waited = Duration::from_nanos(world.exec.now_ns() - before);
        assert!((5..=10).contains(&waited.as_secs()), "{waited:?}");
        world.net.heal();
        assert_eq!(echo(&channel, "again").await, Ok(Bytes::from("again")));
    });
}

#[test]
fn a_reset_strikes_in_the_middle_of_a_stream() {
    run(10, |world| async move {
        world.sleep(1).await;
        let (feed, body) = fed_body();
        let mut answer = call(&world.channel(), "/echo/now", body).await.expect("connected").into_body();
        feed.send(Bytes::from("a")).await.expect("open");
        assert_eq!(next(&mut answer).await, Some(Ok(Bytes::from("a"))));
        world.net.reset(CLIENT, SERVER);
        assert!(matches!(next(&mut answer).await, Some(Err(_))));
        assert_eq!(*lock(&world.under_way), 0);
    });
}

#[test]
fn a_paused_server_answers_after_it_resumed() {
    run(11, |world| async move {
        world.sleep(1).await;
        let channel = world.channel();
        assert!(echo(&channel, "warm").await.is_ok());
        world.exec.pause(SERVER);
        let resumer = world.clone();
        let resume = Box::pin(async move {
            resumer.sleep(700).await;
            resumer.exec.resume(SERVER);
        });
        world.exec.spawn_on(world.exec.place(SUPERVISOR), "resumer", resume);
        let before = world.exec.now_ns();
        assert!(echo(&channel, "late").await.is_ok());
        assert!((world.exec.now_ns() - before) / MILLI >= 700);
        let _ = world.trace.summary();
    });
}

#[test]
fn what_a_caller_gave_up_during_a_cut_is_carried_out_afterwards() {
    run(12, |world| async move {
        world.sleep(1).await;
        let channel = world.channel();
        assert!(echo(&channel, "warm").await.is_ok());
        world.net.cut(CLIENT, SERVER);
        {
            let held = echo(&channel, "held");
            let short = world.sleep(100);
            let raced = futures_util::future::select(Box::pin(held), Box::pin(short)).await;
            assert!(matches!(raced, futures_util::future::Either::Right(_)));
        }
        assert_eq!(*lock(&world.begun), 1);
        world.net.mend(CLIENT, SERVER);
        world.sleep(500).await;
        assert_eq!(*lock(&world.begun), 2);
        assert_eq!((*lock(&world.under_way), world.net.open_streams()), (0, 0));
    });
}

#[test]
fn a_request_may_arrive_once_more_after_its_sender_has_died() {
    let always = Latency { again_one_in: 1, ..Latency::default() };
    run_with(13, always, |world| async move {
        world.sleep(1).await;
        assert!(echo(&world.channel(), "once").await.is_ok());
        assert_eq!(*lock(&world.begun), 1);
        world.net.node_down(CLIENT, Down::Process);
        world.exec.kill(CLIENT);
        world.sleep(7_000).await;
        assert_eq!(*lock(&world.begun), 2);
        assert_eq!(world.net.open_streams(), 0);
    });
}

#[test]
fn messages_of_a_stream_may_arrive_once_more() {
    let always = Latency { again_one_in: 1, ..Latency::default() };
    run_with(14, always, |world| async move {
        world.sleep(1).await;
        let (feed, body) = fed_body();
        let mut answer = call(&world.channel(), "/echo/now", body).await.expect("connected").into_body();
        for _ in 0..3 {
            feed.send(Bytes::from("message")).await.expect("taken");
            assert!(matches!(next(&mut answer).await, Some(Ok(_))));
        }
        world.sleep(7_000).await;
        assert_eq!(*lock(&world.begun), 4, "the stream, and each of its messages late");
        drop((feed, answer));
        world.sleep(7_000).await;
        assert_eq!(world.net.open_streams(), 0);
    });
}
