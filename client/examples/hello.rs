//! `nokv demo` in one terminal, `cargo run -p nokv-client --example hello` in another.

use nokv_client::{Client, ClientConfig, KeyRange};
use nokv_realenv::RealEnv;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let coordinator = std::env::args().nth(1).unwrap_or("127.0.0.1:2379".to_owned());
    let client = Client::new(RealEnv::new()?, ClientConfig::new(vec![coordinator]));

    client.put("hello", "world").await?;
    let mut txn = client.begin().await?;
    let whom = txn.get("hello").await?.ok_or("hello is gone")?;
    txn.put("hello/again", whom)?;
    txn.commit().await?;

    for (key, value) in client.scan(KeyRange::prefix(b"hello"), 10).await? {
        println!("{} = {}", key.escape_ascii(), value.escape_ascii());
    }
    Ok(())
}
