//! A server of Jaeger's remote sampling that answers as it is told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Debug)]
struct State {
    status: u16,
    body: String,
    /// Paths and queries, in order.
    asked: Vec<String>,
}

/// A server; it stops when dropped.
#[derive(Debug)]
pub struct Strategies {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl Strategies {
    /// Starts on a port of the kernel's choice with this answer.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn start(status: u16, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = State { status, body: body.to_owned(), asked: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, server }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it answers from now on.
    pub fn answer(&self, status: u16, body: &str) {
        let mut state = lock(&self.state);
        state.status = status;
        body.clone_into(&mut state.body);
    }

    /// The paths and queries that it was asked, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        lock(&self.state).asked.clone()
    }
}

impl Drop for Strategies {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Dropping the set ends all connections with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request: http::Request<_>| {
            let mut state = lock(&state);
            state.asked.push(request.uri().to_string());
            let mut response = Response::new(Full::new(Bytes::from(state.body.clone())));
            *response.status_mut() = state.status.try_into().unwrap_or_default();
            async { Ok::<_, Infallible>(response) }
        });
        connections.spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}
