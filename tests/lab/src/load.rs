//! Generators of load.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::client::{Client, Version};

/// How many paced requests may be open at once; beyond it the pace gives way.
const MAX_OPEN: usize = 128;

/// Sends `total` requests at an even pace and tells what failed, in words.
pub async fn paced(
    client: &Client,
    to: SocketAddr,
    path: &str,
    per_second: u32,
    total: usize,
) -> Vec<String> {
    let mut beat = interval(Duration::from_secs(1) / per_second);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut open = JoinSet::new();
    let mut failures = Vec::new();
    for _ in 0..total {
        beat.tick().await;
        while open.len() >= MAX_OPEN {
            failures.extend(open.join_next().await.and_then(failure));
        }
        let (client, path) = (client.clone(), path.to_owned());
        open.spawn(async move { get(&client, to, &path).await });
    }
    while let Some(ended) = open.join_next().await {
        failures.extend(failure(ended));
    }
    failures
}

/// Sends `each` requests one after the other over each of `connections` connections at once and
/// tells what failed, in words.
pub async fn flood(
    version: Version,
    to: SocketAddr,
    path: &str,
    connections: usize,
    each: usize,
) -> Vec<String> {
    let mut all = JoinSet::new();
    for _ in 0..connections {
        let path = path.to_owned();
        all.spawn(async move {
            // A pool of its own, used by one request at a time, is one connection.
            let client = Client::new(version);
            let mut failures = Vec::new();
            for _ in 0..each {
                failures.extend(get(&client, to, &path).await.err());
            }
            failures
        });
    }
    let mut failures = Vec::new();
    while let Some(ended) = all.join_next().await {
        failures.extend(ended.unwrap_or_else(|error| vec![error.to_string()]));
    }
    failures
}

async fn get(client: &Client, to: SocketAddr, path: &str) -> Result<(), String> {
    match client.get(to, path, &[]).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("status {}", answer.status)),
        Err(error) => Err(error),
    }
}

fn failure(ended: Result<Result<(), String>, tokio::task::JoinError>) -> Option<String> {
    match ended {
        Ok(result) => result.err(),
        Err(error) => Some(error.to_string()),
    }
}
