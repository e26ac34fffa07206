//! Many requests, as fast as they go or at a given rate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, Version};

/// A number of requests to one address.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// The path of request number `n`.
    pub path: fn(usize) -> String,
    /// How many.
    pub requests: usize,
    /// How many at a time.
    pub concurrency: usize,
    /// Requests a second; `None` is as fast as they go.
    pub rate: Option<u32>,
    /// Who sends them.
    pub client: Client,
}

/// What came of a [`Load`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// How many answers had each status.
    pub by_status: BTreeMap<u16, usize>,
    /// How many requests got no answer.
    pub failed: usize,
}

impl Load {
    /// Requests to `/` over HTTP/1.1, 16 at a time, as fast as they go.
    #[must_use]
    pub fn new(address: SocketAddr, requests: usize) -> Self {
        Self {
            address,
            path: |_| "/".into(),
            requests,
            concurrency: 16,
            rate: None,
            client: Client::new(Version::H1),
        }
    }

    /// With this path of request number `n`.
    #[must_use]
    pub fn path(mut self, path: fn(usize) -> String) -> Self {
        self.path = path;
        self
    }

    /// With so many at a time.
    #[must_use]
    pub const fn concurrency(mut self, at_a_time: usize) -> Self {
        self.concurrency = at_a_time;
        self
    }

    /// With so many a second, evenly spaced.
    #[must_use]
    pub const fn rate(mut self, per_second: u32) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// With another client.
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// Sends them all.
    ///
    /// # Panics
    /// If a task of the load itself dies.
    pub async fn run(self) -> Outcome {
        let start = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency {
            workers.spawn(send_all(self.clone(), Arc::clone(&next), start));
        }
        let mut outcome = Outcome::default();
        while let Some(joined) = workers.join_next().await {
            let part = joined.expect("the senders live");
            outcome.failed = outcome.failed.saturating_add(part.failed);
            for (status, n) in part.by_status {
                let count = outcome.by_status.entry(status).or_default();
                *count = count.saturating_add(n);
            }
        }
        outcome
    }
}

async fn send_all(load: Load, next: Arc<AtomicUsize>, start: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= load.requests {
            return outcome;
        }
        if let Some(rate) = load.rate {
            let turn = Duration::from_secs(1)
                .saturating_mul(u32::try_from(n).unwrap_or(u32::MAX))
                .checked_div(rate);
            sleep_until(start + turn.unwrap_or_default()).await;
        }
        match load.client.get(load.address, &(load.path)(n), &[]).await {
            Ok(answer) => {
                let count = outcome.by_status.entry(answer.status).or_default();
                *count = count.saturating_add(1);
            }
            Err(_) => outcome.failed = outcome.failed.saturating_add(1),
        }
    }
}
