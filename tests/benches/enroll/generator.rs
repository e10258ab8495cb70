//! The load: as many devices at once as there are places, each shaking hands as the agent does.
//!
//! It does as little as a client can, for it must never set the pace: it checks neither the server's certificate nor
//! what was issued (the stories do), and writes requests that were made beforehand.

use crate::work::Work;
use muster_tests::measure::client;
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

/// How the operations of a run reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Each on a connection of its own.
    NewConnections,
    /// One after the other on connections that stay; opening them is not measured by rate, but by cost it is.
    KeptConnections,
}

/// How a run went, as seen from the clients.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    /// Operations.
    pub(crate) operations: usize,
    /// From the first to the last byte of all of them.
    pub(crate) took: Duration,
    /// Each operation's own time, ascending.
    pub(crate) latencies: Vec<Duration>,
}

/// Clients of one address.
#[derive(Clone)]
pub(crate) struct Generator {
    config: Arc<ClientConfig>,
    to: SocketAddr,
    places: usize,
}

/// The operations that are left, shared by all places.
type Left = Arc<Mutex<std::vec::IntoIter<Vec<u8>>>>;

impl Generator {
    /// `places` clients of `to` at any time.
    pub(crate) fn of(to: SocketAddr, places: usize) -> Self {
        Self { config: client::config(None), to, places }
    }

    /// Does all of `work`; panics when anything of it is not answered with 200.
    pub(crate) async fn run(&self, pass: Pass, work: Work) -> Passed {
        let operations = work.0.len();
        let left: Left = Arc::new(Mutex::new(work.0.into_iter()));
        let mut places = JoinSet::new();
        let started = Instant::now();
        for _ in 0..self.places {
            let (generator, left) = (self.clone(), Arc::clone(&left));
            places.spawn(async move {
                match pass {
                    Pass::NewConnections => generator.work_anew(&left).await,
                    Pass::KeptConnections => generator.work_on(&left).await,
                }
            });
        }
        let mut latencies: Vec<Duration> = places.join_all().await.concat();
        latencies.sort_unstable();
        Passed { operations, took: started.elapsed(), latencies }
    }

    async fn work_anew(&self, left: &Left) -> Vec<Duration> {
        let mut latencies = Vec::new();
        while let Some(request) = next(left) {
            let started = Instant::now();
            let mut stream = self.connect().await;
            let _ = client::ask(&mut stream, &request).await;
            latencies.push(started.elapsed());
            // The goodbye of a polite client; whether it still arrives is the server's business.
            let _ = stream.shutdown().await;
        }
        latencies
    }

    async fn work_on(&self, left: &Left) -> Vec<Duration> {
        let mut latencies = Vec::new();
        let mut stream = self.connect().await;
        while let Some(request) = next(left) {
            let started = Instant::now();
            let _ = client::ask(&mut stream, &request).await;
            latencies.push(started.elapsed());
        }
        latencies
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        client::open(Arc::clone(&self.config), self.to).await.expect("the server accepts and shakes hands")
    }
}

fn next(left: &Left) -> Option<Vec<u8>> {
    left.lock().unwrap_or_else(PoisonError::into_inner).next()
}
