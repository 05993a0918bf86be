//! `nokv txn`: a small script of reads and writes, committed as one transaction or not at all.

use crate::args::client::Txn as TxnArgs;
use crate::args::{Format, Global};
use crate::cmd::reach::reach;
use crate::errors::{Failure, Result};
use crate::output::{Out, put_bytes, quote};
use bytes::Bytes;
use nokv_client::{Client, ClientError, Txn};
use nokv_env::Env;
use nokv_proto::key::KeyRange;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Pairs that a `scan` statement without a number reads.
const SCAN_LIMIT: usize = 1000;
/// Patience with the second half of the commit, which others could do for us.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Statement {
    Get(Bytes),
    Put(Bytes, Bytes),
    /// A put that fails when the key has a value.
    Insert(Bytes, Bytes),
    Delete(Bytes),
    Scan(Bytes, Bytes, usize),
}

/// Runs a script.
pub async fn run(env: &Env, args: &TxnArgs, global: &Global) -> Result<u8> {
    let text = match &args.script {
        Some(text) => text.clone(),
        None => std::io::read_to_string(std::io::stdin())
            .map_err(|error| Failure::io("read standard input", &error))?,
    };
    let statements = parse(&text)?;
    let reach = reach(env, &args.cluster)?;
    let mut retries = args.retries;
    let results = loop {
        match once(&reach.client, &statements).await {
            Err(ClientError::Conflict { .. }) if retries > 0 => retries -= 1,
            ended => break ended.map_err(|error| reach.failure(&error))?,
        }
    };
    reach.client.close(CLOSE_PATIENCE).await;
    show(&results, global)?;
    Ok(0)
}

/// What a transaction has to say.
struct Results {
    reads: Vec<(Bytes, Option<Bytes>)>,
    start_ts: u64,
    commit_ts: u64,
}

async fn once(client: &Client, statements: &[Statement]) -> std::result::Result<Results, ClientError> {
    let mut txn = client.begin().await?;
    let mut results = Results { reads: Vec::new(), start_ts: txn.start_ts().0, commit_ts: 0 };
    for statement in statements {
        step(&mut txn, statement, &mut results.reads).await?;
    }
    results.commit_ts = txn.commit().await?.0;
    Ok(results)
}

async fn step(
    txn: &mut Txn,
    statement: &Statement,
    reads: &mut Vec<(Bytes, Option<Bytes>)>,
) -> std::result::Result<(), ClientError> {
    match statement.clone() {
        Statement::Get(key) => {
            let value = txn.get(key.clone()).await?;
            reads.push((key, value));
        }
        Statement::Put(key, value) => txn.put(key, value)?,
        Statement::Insert(key, value) => txn.insert(key, value)?,
        Statement::Delete(key) => txn.delete(key)?,
        Statement::Scan(start, end, limit) => {
            let pairs = txn.scan(KeyRange::new(start, end), limit).await?;
            reads.extend(pairs.into_iter().map(|(key, value)| (key, Some(value))));
        }
    }
    Ok(())
}

fn show(results: &Results, global: &Global) -> Result {
    let mut out = Out::new();
    if global.format() == Format::Plain {
        for (key, value) in &results.reads {
            out.write(key)?;
            if let Some(value) = value {
                out.write(b"\t")?;
                out.write(value)?;
            }
            out.write(b"\n")?;
        }
        out.line(&format!("ok commit_ts={}", results.commit_ts))?;
    } else {
        let read = |(key, value): &(Bytes, Option<Bytes>)| {
            let mut object = Map::new();
            put_bytes(&mut object, "key", key);
            match value {
                Some(value) => put_bytes(&mut object, "value", value),
                None => drop(object.insert("value".into(), Value::Null)),
            }
            Value::Object(object)
        };
        let reads: Vec<Value> = results.reads.iter().map(read).collect();
        let facts = json!({"start_ts": results.start_ts, "commit_ts": results.commit_ts, "reads": reads});
        out.line(&facts.to_string())?;
    }
    out.flush()
}

fn parse(text: &str) -> Result<Vec<Statement>> {
    let pieces = text.split([';', '\n']).map(str::trim).filter(|piece| !piece.is_empty());
    let statements: Vec<Statement> = pieces
        .enumerate()
        .map(|(at, piece)| {
            statement(piece).map_err(|why| {
                Failure::usage(format!("statement {}, {}: {why}", at + 1, quote(piece.as_bytes())))
                    .next("statements: get K; put K V; insert K V; del K; scan START END [N]")
            })
        })
        .collect::<Result<_>>()?;
    if statements.is_empty() {
        return Err(Failure::usage("the script is empty").next("for example: nokv txn 'get a; put a 1'"));
    }
    Ok(statements)
}

fn statement(piece: &str) -> std::result::Result<Statement, String> {
    let (verb, rest) = piece.split_once(char::is_whitespace).unwrap_or((piece, ""));
    let rest = rest.trim();
    let words: Vec<&str> = rest.split_whitespace().collect();
    let own = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let one = || match words[..] {
        [key] => Ok(own(key)),
        _ => Err("wants exactly one key"),
    };
    // The value is the rest of the statement, blanks included.
    let pair = || {
        let (key, value) = rest.split_once(char::is_whitespace).ok_or("wants a key and a value")?;
        Ok::<_, &str>((own(key), own(value.trim())))
    };
    Ok(match verb {
        "get" => Statement::Get(one()?),
        "del" | "delete" => Statement::Delete(one()?),
        "put" => pair().map(|(key, value)| Statement::Put(key, value))?,
        "insert" => pair().map(|(key, value)| Statement::Insert(key, value))?,
        "scan" => match words[..] {
            [start, end] => Statement::Scan(own(start), own(end), SCAN_LIMIT),
            [start, end, limit] => {
                let limit = limit.parse().map_err(|_| format!("'{limit}' is not a number of rows"))?;
                Statement::Scan(own(start), own(end), limit)
            }
            _ => return Err("wants a start and an end".into()),
        },
        other => return Err(format!("unknown statement '{other}'")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_statements_between_semicolons_or_newlines() {
        let statements = parse("get a; put a 1 and more\n scan a z 5;").unwrap();
        let want = [
            Statement::Get("a".into()),
            Statement::Put("a".into(), "1 and more".into()),
            Statement::Scan("a".into(), "z".into(), 5),
        ];
        assert_eq!(statements, want);
    }

    #[test]
    fn a_bad_statement_is_named() {
        let message = parse("get a; pot b 1").unwrap_err().message().to_owned();
        assert_eq!(message, "statement 2, \"pot b 1\": unknown statement 'pot'");
        assert!(parse(" ; ").is_err() && parse("put a").is_err() && parse("get a b").is_err());
    }
}
