//! Directories to look at, and the `nokv` that looks.

use nokv_engine::{Cf, Db, Options, WriteBatch, WriteOptions};
use nokv_env::Env;
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer};
use nokv_realenv::RealEnv;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Runs `work` in the real environment.
fn real<T>(work: impl AsyncFnOnce(Env) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = runtime.block_on(async { work(RealEnv::new().unwrap()).await });
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

/// Two regions of one store.
pub fn regions() -> Vec<RegionDescriptor> {
    let region = |region_id: u64, start: &'static str, end: &'static str| RegionDescriptor {
        region_id,
        start_key: start.into(),
        end_key: end.into(),
        epoch: Some(RegionEpoch { version: 1, conf_version: 1 }),
        peers: vec![RegionPeer { store_id: 1, peer_id: 100 * region_id + 1 }],
        ..Default::default()
    };
    vec![region(1, "", "m"), region(2, "m", "")]
}

fn batch(from: usize, to: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for n in from..to {
        // A few are large enough for the value log.
        let times = if n % 100 == 7 { 600 } else { 8 };
        batch.put(Cf(0), format!("key{n:05}"), format!("value {n} ").repeat(times));
    }
    batch.delete(Cf(0), format!("key{from:05}"));
    batch
}

/// Two tables and a log with 20 records; the same bytes every time.
async fn fill(env: &Env, dir: &Path) {
    let options = Options { is_owner: true, ..Options::default() };
    let db = Db::open(env, dir, options).await.unwrap();
    let sync = WriteOptions { sync: true };
    for round in 0..2 {
        db.write(batch(round * 400, round * 400 + 500), sync).await.unwrap();
        db.flush().await.unwrap();
    }
    for n in 0..20 {
        db.write(batch(2_000 + n * 3, 2_000 + n * 3 + 3), sync).await.unwrap();
    }
    db.close().await.unwrap();
}

/// A database that belongs to no cluster, with one small value.
pub fn small(dir: &Path) {
    real(async |env| {
        let db = Db::open(&env, dir, Options::default()).await.unwrap();
        let mut batch = WriteBatch::new();
        batch.put(Cf(0), "key", "value");
        db.write(batch, WriteOptions { sync: true }).await.unwrap();
        db.close().await.unwrap();
    });
}

/// In the year 2100.
pub const FAR: u64 = 4_102_444_800_000;

/// A database that belongs to no cluster, with rows that have an end: two in a table that comes far from now, one in the log
/// that is over.
pub fn ended(dir: &Path) {
    real(async |env| {
        let db = Db::open(&env, dir, Options::default()).await.unwrap();
        let mut batch = WriteBatch::new();
        batch.put_until(Cf(0), "later", "v", FAR);
        batch.put_until(Cf(0), "later still", "v", FAR + 1);
        batch.put(Cf(0), "stays", "v");
        db.write(batch, WriteOptions { sync: true }).await.unwrap();
        db.flush().await.unwrap();
        let mut batch = WriteBatch::new();
        batch.put_until(Cf(0), "over", "v", 1);
        db.write(batch, WriteOptions { sync: true }).await.unwrap();
        db.close().await.unwrap();
    });
}

/// A database that belongs to no cluster.
pub fn standalone(dir: &Path) {
    real(async |env| fill(&env, dir).await);
}

/// A store that has its first regions and has not run yet.
pub fn seeded(dir: &Path) {
    real(async |env| {
        nokv_raftstore::seed::seed_regions(&env, dir, 1, &regions()).await.unwrap();
        fill(&env, dir).await;
    });
}

/// Runs `nokv` and waits for its end.
pub fn nokv(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nokv"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NOKV_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs `nokv`, which must succeed, and gives what it prints.
pub fn text(args: &[&str]) -> String {
    let output = nokv(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {:?}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

pub fn json(args: &[&str]) -> Value {
    serde_json::from_str(&text(args)).unwrap()
}

/// Runs `nokv`, which must fail like this; gives the whole message.
pub fn fails(exit: i32, code: &str, args: &[&str]) -> String {
    let output = nokv(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {stderr}");
    assert!(stderr.contains(&format!("error[{code}]")), "{args:?}: {stderr}");
    stderr
}

/// Of each file and directory: size, modification time in nanoseconds, permissions, content.
pub type Shape = BTreeMap<PathBuf, (u64, i128, u32, Vec<u8>)>;

pub fn shape(dir: &Path) -> Shape {
    let mut shape = Shape::new();
    let mut add = |path: &Path, content: Vec<u8>| {
        let meta = std::fs::metadata(path).unwrap();
        let changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        shape.insert(path.to_owned(), (meta.len(), changed, meta.mode(), content));
    };
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        add(&dir, Vec::new());
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                add(&path, std::fs::read(&path).unwrap());
            }
        }
    }
    shape
}

/// The newest file with this ending.
pub fn newest(dir: &Path, ending: &str) -> PathBuf {
    let all = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.to_string_lossy().ends_with(ending)).max().unwrap_or_else(|| panic!("no {ending}"))
}

/// Inverts a byte.
pub fn flip(path: &Path, at: usize) {
    let mut data = std::fs::read(path).unwrap();
    data[at] ^= 0xff;
    std::fs::write(path, data).unwrap();
}

/// A free port below those that systems give to whoever asks for any, or connects: nobody else takes it meanwhile.
pub fn port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id() * 16 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (number % 10_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A server that is stopped with the test.
pub struct Server(Child);

impl Server {
    /// Starts `nokv` and waits until something listens on `port`.
    pub fn start(args: &[&str], port: u16) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nokv"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self(command.spawn().unwrap());
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(server.0.try_wait().unwrap().is_none(), "{args:?} has ended");
            assert!(begun.elapsed() < Duration::from_secs(30), "{args:?} does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
