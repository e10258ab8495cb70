//! The accept loop, and the one place where a connection is cut.
//!
//! The loop never awaits anything but the next socket: a handshake runs in the connection's own task. Reading
//! the ClientHello costs next to nothing, so a silent client holds a socket and nothing else; from a complete
//! ClientHello on a handshake holds one of a limited number of permits, but a client that does not go on loses it
//! soon, so that those who stop there shut nobody out; and all of it has one deadline.
//!
//! When the kick comes, the connection's task drops the handler and with it the socket, whatever the handler
//! was doing. On a stop the loop closes its listener, handlers are asked to end what is under way, and who has
//! not ended by the deadline is kicked.

use super::Doors;
use super::arrival::Arrival;
use super::peer::{ObserverCertificate, Peer, PeerCertificate};
use super::registry::{Connected, Kicked};
use super::stop::Stop;
use crate::domain::admission::Door;
use rustls::ServerConfig;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// How much one listener takes on, and how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; one more is closed at once.
    pub connections: u32,
    /// Handshakes past their ClientHello at the same time; one more waits, within its deadline. One that takes longer
    /// than a moment no longer counts.
    pub handshakes: u32,
    /// From accept to the end of the handshake.
    pub handshake_deadline: Duration,
    /// From the stop until those who have not ended are kicked.
    pub drain_deadline: Duration,
}

/// How long a handshake counts among those in flight.
const IN_FLIGHT: Duration = Duration::from_millis(250);

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            handshakes: 1_024,
            handshake_deadline: Duration::from_secs(10),
            drain_deadline: Duration::from_secs(10),
        }
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Connection<S> {
    /// The bytes.
    pub stream: S,
    /// Who is on the other end.
    pub peer: Peer,
    /// Its place in the registry; the connection counts as open until this is dropped.
    pub place: Connected,
    /// Its first request, announced when it was accepted.
    pub arrival: Arrival,
    /// Asked when the handler should end what is under way.
    pub stop: Stop,
}

/// What every connection of one listener shares.
struct Listener<H> {
    doors: Doors,
    limits: Limits,
    stop: Stop,
    handler: H,
}

/// Serves plain TCP until `stop`, giving every connection to `handler`. Returns when all have ended.
pub async fn serve_plain<H, F>(listener: TcpListener, doors: Doors, limits: Limits, stop: Stop, handler: H)
where
    H: Fn(Connection<TcpStream>) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let shared = Arc::new(Listener { doors, limits, stop, handler });
    accept_loop(listener, &shared, |socket, addr, slot| {
        let (shared, arrival) = (Arc::clone(&shared), shared.doors.arrivals.announce());
        async move {
            shared.enter(socket, Peer { addr, certificate: None, observer: None }, arrival).await;
            drop(slot);
        }
    })
    .await;
}

/// TLS for [`serve_tls`].
#[derive(Clone, Debug)]
pub struct Secured {
    /// The listener's configuration.
    pub config: Arc<ServerConfig>,
    /// What all doors share.
    pub doors: Doors,
}

/// A TLS stream. Boxed: it passes through several hands, and a task keeps room for it in each.
pub type Secure = Box<TlsStream<TcpStream>>;

/// Serves TLS until `stop`, giving every connection whose handshake succeeded, and whose certificate the table
/// still lets in after it, to `handler`. Returns when all have ended.
pub async fn serve_tls<H, F>(listener: TcpListener, tls: Secured, limits: Limits, stop: Stop, handler: H)
where
    H: Fn(Connection<Secure>) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let shared = Arc::new(Listener { doors: tls.doors, limits, stop, handler });
    let permits = Arc::new(Semaphore::new(permits(limits.handshakes)));
    accept_loop(listener, &shared, |socket, addr, slot| {
        let (shared, permits, config) = (Arc::clone(&shared), Arc::clone(&permits), Arc::clone(&tls.config));
        let arrival = shared.doors.arrivals.announce();
        async move {
            // Boxed, so that a connection does not carry the room of its handshake through its life.
            let Some(stream) = Box::pin(shared.handshake(socket, &permits, config)).await else { return };
            let Ok(peer) = shared.peer(&stream, addr) else { return };
            shared.enter(stream, peer, arrival).await;
            drop(slot);
        }
    })
    .await;
}

impl<H> Listener<H> {
    /// The TLS stream; nothing when it failed, came too late or the server stops meanwhile.
    async fn handshake(
        &self,
        socket: TcpStream,
        permits: &Semaphore,
        config: Arc<ServerConfig>,
    ) -> Option<Secure> {
        let shaken = tokio::select! {
            biased;
            shaken = timeout(self.limits.handshake_deadline, shake_hands(socket, permits, config)) => shaken,
            () = self.stop.asked() => return None,
        };
        let counters = &self.doors.counters;
        match shaken {
            Ok(Ok(stream)) => {
                counters.handshakes.fetch_add(1, Ordering::Relaxed);
                return Some(Box::new(stream));
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "handshake failed");
                if let Some(reason) = blame(&error) {
                    self.doors.stranger(reason);
                }
            }
            Err(_late) => tracing::debug!("handshake came too late"),
        }
        counters.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// What the peer's certificate says, if it showed one.
    fn peer(&self, stream: &TlsStream<TcpStream>, addr: SocketAddr) -> Result<Peer, ()> {
        let nobody = Peer { addr, certificate: None, observer: None };
        let (_, connection) = stream.get_ref();
        let Some(leaf) = connection.peer_certificates().and_then(<[_]>::first) else { return Ok(nobody) };
        // The verifier has read the same bytes, so one of these succeeds; if none does, nobody is let in.
        let domain = &self.doors.trust_domain;
        match PeerCertificate::read(leaf, domain) {
            Ok(certificate) => Ok(Peer { certificate: Some(Arc::new(certificate)), ..nobody }),
            Err(_) => {
                let observer = ObserverCertificate::read(leaf, domain).map_err(drop)?;
                Ok(Peer { observer: Some(Arc::new(observer)), ..nobody })
            }
        }
    }

    /// Enters the registry, is judged once more and handled until it ends or is kicked.
    async fn enter<S, F>(&self, stream: S, peer: Peer, arrival: Arrival)
    where
        H: Fn(Connection<S>) -> F,
        F: Future<Output = ()>,
    {
        let place = match &peer.observer {
            Some(observer) => self.doors.registry.enter_observer(observer.serial),
            None => self.doors.registry.enter(peer.certificate.as_deref()),
        };
        // After entering: a revocation that this look does not see kicks the place that it sees.
        if let Some(certificate) = &peer.certificate
            && self.doors.judge(certificate, Door::Handshake).is_err()
        {
            return;
        }
        if let Some(observer) = &peer.observer
            && self.doors.judge_observer(observer).is_err()
        {
            return;
        }
        let handle = place.handle();
        let handled = (self.handler)(Connection { stream, peer, place, arrival, stop: self.stop.clone() });
        tokio::select! {
            biased;
            why = handle.kicked() => {
                self.doors.counters.kicked.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(connection = handle.id(), ?why, "connection ended");
            }
            () = handled => {}
        }
    }
}

async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    permits: &Semaphore,
    config: Arc<ServerConfig>,
) -> io::Result<TlsStream<S>> {
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
    let permit = permits.acquire().await.map_err(io::Error::other)?;
    let mut shaking = pin!(hello.into_stream(config));
    let shaken = timeout(IN_FLIGHT, &mut shaking).await;
    drop(permit);
    match shaken {
        Ok(shaken) => shaken,
        Err(_stalled) => shaking.await,
    }
}

/// What a failed handshake says about its client, as a stable code for the audit log.
///
/// Nothing where the connection merely broke off, where the client refused us, and where the table refused a
/// certificate of ours, which has been told already.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else there is or will be is not the client's fault"
)]
fn blame(error: &io::Error) -> Option<&'static str> {
    use rustls::CertificateError as Bad;
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(
            Bad::Expired | Bad::Revoked | Bad::ApplicationVerificationFailure,
        ) => None,
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            Some("handshake.certificate_not_ours")
        }
        rustls::Error::InvalidCertificate(_) => Some("handshake.certificate_invalid"),
        rustls::Error::NoCertificatesPresented => Some("handshake.no_certificate"),
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
            Some("handshake.incompatible")
        }
        rustls::Error::PeerMisbehaved(_)
        | rustls::Error::InvalidMessage(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. }
        | rustls::Error::DecryptError => Some("handshake.malformed"),
        _ => None,
    }
}

async fn accept_loop<H, F>(
    listener: TcpListener,
    shared: &Listener<H>,
    // It keeps the slot until it ends. Were it awaited by another future that did, every connection would carry twice
    // the room of its task: for what is captured, and for what is awaited.
    task: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let limits = &shared.limits;
    let counters = &shared.doors.counters;
    let slots = Arc::new(Semaphore::new(permits(limits.connections)));
    let mut failures = 0;
    let mut stopped = pin!(shared.stop.asked());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                failures += 1;
                rest(&error, failures).await;
                continue;
            }
        };
        failures = 0;
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            counters.turned_away.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        if socket.set_nodelay(true).is_err() {
            continue;
        }
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(task(socket, addr, slot));
    }
    drop(listener);
    drain(&slots, shared).await;
}

/// Waits until every connection has given its slot back, kicking at the deadline who has not.
async fn drain<H>(slots: &Semaphore, shared: &Listener<H>) {
    let limits = &shared.limits;
    if timeout(limits.drain_deadline, slots.acquire_many(limits.connections)).await.is_err() {
        let late = shared.doors.registry.kick_all(Kicked::Stop);
        tracing::warn!(connections = late, "connections did not end in time and were cut");
        drop(slots.acquire_many(limits.connections).await);
    }
}

/// Waits before the next accept when this error would only come again.
async fn rest(error: &io::Error, failures: u32) {
    let pause = pause_after(error, failures);
    if pause.is_zero() {
        return;
    }
    tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept");
    sleep(pause).await;
}

/// How long to wait after `failures` accept errors in a row, the last of which is `error`.
///
/// An error that belongs to one connection asks for no pause. Anything else (no file descriptors left, no
/// memory) doubles it from 5 ms up to 1 s, so that the loop neither spins nor stays away.
fn pause_after(error: &io::Error, failures: u32) -> Duration {
    let of_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    );
    if of_one_connection {
        return Duration::ZERO;
    }
    Duration::from_millis(5 << failures.saturating_sub(1).min(8)).min(Duration::from_secs(1))
}

fn permits(count: u32) -> usize {
    usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::CertificateStatus;
    use crate::doors::fixture::{World, active, client, peer_certificate, serial, with_status};
    use std::pin::Pin;
    use std::sync::atomic::AtomicBool;
    use std::task::Poll;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn an_accept_error_of_one_connection_asks_for_no_pause() {
        for kind in [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset] {
            assert_eq!(pause_after(&kind.into(), 3), Duration::ZERO);
        }
    }

    #[test]
    fn a_lasting_accept_error_doubles_the_pause_up_to_a_second() {
        let emfile = io::Error::from_raw_os_error(24);
        let pauses: Vec<u128> = (1..=10).map(|failures| pause_after(&emfile, failures).as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[tokio::test]
    async fn a_status_that_changed_since_the_handshake_is_seen_before_the_handler() {
        let world = World::new();
        let (_stopper, stop) = crate::doors::stop::channel();
        let handled = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&handled);
        let listener = Listener {
            doors: world.doors.clone(),
            limits: Limits::default(),
            stop,
            handler: move |_connection: Connection<()>| {
                seen.store(true, Ordering::Relaxed);
                std::future::ready(())
            },
        };
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let certificate = || Some(Arc::new(peer_certificate(1)));
        let peer = || Peer { addr, certificate: certificate(), observer: None };
        world.doors.index.set(&serial(1), &with_status(CertificateStatus::Revoked));
        let arrival = || world.doors.arrivals.announce();
        listener.enter((), peer(), arrival()).await;
        assert!(!handled.load(Ordering::Relaxed));
        assert!(world.doors.registry.is_empty());
        world.doors.index.set(&serial(1), &active(0));
        listener.enter((), peer(), arrival()).await;
        assert!(handled.load(Ordering::Relaxed));
    }

    /// Polls once.
    async fn now<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
    }

    #[tokio::test]
    async fn a_handshake_past_its_hello_waits_for_a_permit() {
        let world = World::new();
        let config = world.tls.admin().unwrap();
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut client = rustls::ClientConnection::new(client(None), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        far.write_all(&hello).await.unwrap();
        let permits = Semaphore::new(1);
        let held = permits.acquire().await.unwrap();
        let mut shaking = Box::pin(shake_hands(near, &permits, config));
        let mut answer = [0; 1024];
        assert!(now(&mut shaking).await.is_pending());
        assert!(now(&mut Box::pin(far.read(&mut answer))).await.is_pending(), "no answer yet");
        drop(held);
        assert!(now(&mut shaking).await.is_pending());
        assert!(now(&mut Box::pin(far.read(&mut answer))).await.is_ready(), "the server's hello");
    }
}
