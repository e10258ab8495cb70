//! A network that loses replies, or everything: whatever passes between a device and the server passes through it.
//!
//! It forwards bytes and understands none. Told to cut at the `n`-th reply, it throws away the `n`-th piece that
//! comes from the server, counted over all connections, and closes that connection on both sides. It can be blocked in
//! two ways: whoever comes is turned away, or is let in and never answered.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A listener in front of another one. Dropping it closes every connection through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    target: Mutex<Option<SocketAddr>>,
    /// Replies that still pass before one is lost; 0 when none is to be lost.
    until_cut: AtomicU64,
    way: watch::Sender<Way>,
    /// Connections that came while nothing was let through.
    in_vain: AtomicU64,
}

/// Whether anything gets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Open,
    /// Connections are closed, old ones and new ones.
    Refusing,
    /// Connections stay open and are silent, old ones and new ones.
    Swallowing,
}

impl Proxy {
    /// Listens on a free port; forwards nothing until [`Proxy::forward_to`].
    pub async fn bind() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// Where devices connect.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on new connections lead to `url`, of which only the port is read; it is on this machine.
    ///
    /// # Panics
    /// When `url` names no port.
    pub fn forward_to(&self, url: &str) {
        let uri: http::Uri = url.parse().expect("a URL");
        let port = uri.port_u16().expect("a URL with a port");
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Ipv4Addr::LOCALHOST, port).into());
    }

    /// Loses the `n`-th reply from now on, counted from 1, and no other.
    pub fn cut_at_reply(&self, n: u64) {
        self.shared.until_cut.store(n, Ordering::SeqCst);
    }

    /// Whether the reply that was to be lost has been lost already.
    pub fn is_cut(&self) -> bool {
        self.shared.until_cut.load(Ordering::SeqCst) == 0
    }

    /// From now on connections are closed, and new ones, too.
    pub fn refuse(&self) {
        self.set(Way::Refusing);
    }

    /// From now on nothing that is said on any connection arrives, and nobody is told so.
    pub fn swallow(&self) {
        self.set(Way::Swallowing);
    }

    /// From now on new connections lead to the server again. Those that were swallowed are gone.
    pub fn open(&self) {
        self.set(Way::Open);
    }

    fn set(&self, way: Way) {
        let _ = self.shared.way.send_replace(way);
    }

    /// How many connections have come in vain while nothing was let through.
    pub fn in_vain(&self) -> u64 {
        self.shared.in_vain.load(Ordering::SeqCst)
    }

    /// Whether the reply that was to be lost has been lost; from now on none will be.
    pub fn has_cut(&self) -> bool {
        self.shared.until_cut.swap(0, Ordering::SeqCst) == 0
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    /// Whether the reply at hand is the one to lose.
    fn loses(&self) -> bool {
        let counted =
            self.until_cut.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        counted == Ok(1)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((device, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move { carry(device, &shared).await });
    }
}

async fn carry(mut device: TcpStream, shared: &Shared) {
    let mut way = shared.way.subscribe();
    if *way.borrow_and_update() != Way::Open {
        let _ = shared.in_vain.fetch_add(1, Ordering::SeqCst);
        return silent(&mut way).await;
    }
    let target = *shared.target.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(target) = target else { return };
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let ((from_device, to_device), (from_server, to_server)) = (device.split(), server.split());
    // Whichever side ends first ends both; what the other had still to say is lost, as in a real cut.
    let is_blocked = tokio::select! {
        () = requests(from_device, to_server) => false,
        () = replies(from_server, to_device, shared) => false,
        () = blocked(&mut way) => true,
    };
    if is_blocked {
        silent(&mut way).await;
    }
}

/// Until nothing is let through.
async fn blocked(way: &mut watch::Receiver<Way>) {
    // A proxy that is gone lets nothing through.
    let _ = way.wait_for(|way| *way != Way::Open).await;
}

/// While everything is swallowed.
async fn silent(way: &mut watch::Receiver<Way>) {
    // A proxy that is gone lets go of every connection.
    let _ = way.wait_for(|way| *way != Way::Swallowing).await;
}

async fn requests(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
    // Either side may vanish; that is what a network does.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn replies(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, shared: &Shared) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if shared.loses() || to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each byte with itself.
    async fn echo() -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("tcp://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        url
    }

    /// How many of three bytes, each sent after the answer to the one before, are answered.
    async fn answered(proxy: &Proxy) -> usize {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap();
        for done in 0..3 {
            let mut byte = [0];
            let sent = stream.write_all(b"x").await;
            if sent.is_err() || stream.read_exact(&mut byte).await.is_err() {
                return done;
            }
        }
        3
    }

    #[tokio::test]
    async fn the_reply_it_was_told_to_lose_is_lost_and_no_other() {
        let proxy = Proxy::bind().await;
        proxy.forward_to(&echo().await);
        for (n, expected) in [(1, 0), (2, 1), (3, 2)] {
            proxy.cut_at_reply(n);
            assert_eq!(answered(&proxy).await, expected);
            assert!(proxy.has_cut());
        }
        proxy.cut_at_reply(4);
        assert_eq!(answered(&proxy).await, 3);
        assert!(!proxy.has_cut(), "the fourth reply never came");
        assert_eq!(answered(&proxy).await, 3);
    }

    #[tokio::test]
    async fn a_blocked_network_turns_away_or_stays_silent_and_forgets_whom_it_kept_waiting() {
        let proxy = Proxy::bind().await;
        proxy.forward_to(&echo().await);
        let connected = async || TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap();
        let mut byte = [0];
        let mut kept = connected().await;
        kept.write_all(b"x").await.unwrap();
        kept.read_exact(&mut byte).await.unwrap();

        proxy.swallow();
        let mut late = connected().await;
        for silent in [&mut kept, &mut late] {
            silent.write_all(b"x").await.unwrap();
            let answer = silent.read(&mut byte);
            assert!(tokio::time::timeout(std::time::Duration::from_millis(50), answer).await.is_err());
        }
        proxy.refuse();
        for mut gone in [kept, late, connected().await] {
            assert_ne!(gone.read(&mut byte).await.ok(), Some(1));
        }
        assert_eq!(proxy.in_vain(), 2);
        proxy.open();
        assert_eq!(answered(&proxy).await, 3);
    }
}
