//! A18: slow clients. Slowloris, handshakes that stall, half a CONNECT, thousands of idle sockets, clients that never
//! read, streams that are reset.
//!
//! Every wait has a deadline, every buffer a bound, and who is honest is served meanwhile. How well is measured against
//! itself: phases with and without the attack take turns, and the medians of their 99th percentiles are compared, so that
//! what else the machine does falls on both.

use super::a16::connect;
use super::packets::{Beside, Session, resident_kib};
use super::siege::{Device, Siege, patient};
use muster_tests::{Launch, PATIENCE, Server, Site, Tls, eventually};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A server whose deadlines are short enough to be waited for.
async fn hurried(launch: Launch) -> Siege {
    let launch = launch
        .with("MUSTER_LIMITS_HANDSHAKE_S", "5")
        .with("MUSTER_LIMITS_BODY_S", "5")
        .with("MUSTER_MQTT_CONNECTS_PER_MINUTE", "100000")
        .with("MUSTER_MQTT_WRITE_S", "2");
    Siege::of(Server::on(Site::founded().await, launch).await).await
}

/// Such a deadline, the two seconds that a farewell may take, and a busy machine.
const ENDED_WITHIN: Duration = Duration::from_secs(5 + 2 + 6);

/// Host and port of a URL.
fn place(url: &str) -> &str {
    url.split_once("://").unwrap().1.trim_end_matches('/')
}

/// Sends `head`, then a byte every fifth of a second, until the server ends it; answers what it said.
async fn drip<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, head: &[u8]) -> Vec<u8> {
    let began = Instant::now();
    let mut said = Vec::new();
    let mut sent = stream.write_all(head).await;
    while sent.is_ok() {
        match timeout(Duration::from_millis(200), stream.read_buf(&mut said)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(_)) => {}
            Err(_) => {
                sent = stream.write_all(b"x").await;
                drop(stream.flush().await);
            }
        }
        assert!(began.elapsed() < ENDED_WITHIN, "still open: {:?}", String::from_utf8_lossy(&said));
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_slow_bodies_are_ended_at_every_door() {
    let siege = hurried(patient()).await;
    let mut beside = Beside::begin(&siege).await;
    let honest = siege.device("sensor-linux").await;
    let ends = siege.server().endpoints().clone();
    const HEAD: &[u8] = b"GET /.well-known/muster HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    const BODY: &[u8] =
        b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\
        Content-Type: application/pkcs10\r\nContent-Length: 1000\r\n\r\nAAAA";
    let mut slow = JoinSet::new();
    for n in 0..60 {
        let tls = if n % 2 == 0 {
            Tls::anonymous(siege.server())
        } else {
            Tls::with(siege.server(), &honest.identity)
        };
        for (url, head) in [(&ends.device, HEAD), (&ends.device, BODY), (&ends.admin, HEAD)] {
            let (tls, url) = (tls.clone(), url.clone());
            slow.spawn(async move { drip(tls.open(&url).await.unwrap(), head).await });
        }
        let status = place(&ends.status).to_owned();
        slow.spawn(async move { drip(TcpStream::connect(status).await.unwrap(), HEAD).await });
    }
    while !slow.is_empty() {
        assert_eq!(honest.discover(siege.server()).await.status, 200);
        beside.goes_on(siege.server()).await;
        // Whoever has ended by now.
        while let Some(said) = slow.try_join_next() {
            let said = String::from_utf8(said.unwrap()).unwrap();
            assert!(said.is_empty() || said.starts_with("HTTP/1.1 40"), "{said}");
        }
        sleep(Duration::from_millis(300)).await;
    }
    let _ = siege.lift(Beside::ISSUED + 1, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_connect_is_waited_for_until_the_deadline_and_told_of() {
    let siege = hurried(patient()).await;
    let mut beside = Beside::begin(&siege).await;
    let attacker = siege.device("sensor-linux").await;
    let hello = connect(&attacker.id, 2, b"");
    let began = Instant::now();
    let mut waiting = JoinSet::new();
    for length in [0, 1, 5, 12, hello.len() - 1] {
        let mut session = Session::open(siege.server(), &attacker).await.unwrap();
        session.say(&hello[..length]).await;
        waiting.spawn(async move { session.closes().await });
    }
    // Of a CONNECT that promises more than any may have, nothing is waited for at all.
    let mut session = Session::open(siege.server(), &attacker).await.unwrap();
    session.say(&[0x10, 0xff, 0xff, 0x03, 0, 4]).await;
    assert_eq!(session.closes().await, []);
    beside.goes_on(siege.server()).await;
    while let Some(said) = waiting.join_next().await {
        assert_eq!(said.unwrap(), []);
    }
    assert!(began.elapsed() < ENDED_WITHIN, "{:?}", began.elapsed());
    beside.goes_on(siege.server()).await;
    let _ = siege.lift(Beside::ISSUED + 1, &["gate.connect_late", "gate.malformed"]).await;
}

/// As many files as this process may open.
fn many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a process may raise its limit");
    assert!(maximum.is_none_or(|most| most >= 12_000), "this machine allows {maximum:?} open files only");
}

/// Everything that does nothing: a thousand silent sockets at each of the four doors, and 500 handshakes at the two for
/// devices that stop after their ClientHello.
async fn idlers(siege: &Siege) -> Vec<TcpStream> {
    let ends = siege.server().endpoints();
    let mut held = Vec::new();
    for url in [&ends.device, &ends.mqtt, &ends.status, &ends.admin] {
        for _ in 0..1_000 {
            held.push(TcpStream::connect(place(url)).await.unwrap());
        }
    }
    let hello = Tls::anonymous(siege.server()).client_hello("localhost");
    for url in [&ends.device, &ends.mqtt] {
        held.extend(stalled(place(url), &hello, 500).await);
    }
    held
}

/// `count` handshakes at `place` that stop after their ClientHello.
async fn stalled(place: &str, hello: &[u8], count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(place).await.unwrap();
        socket.write_all(hello).await.unwrap();
        held.push(socket);
    }
    held
}

/// The 99th percentile of what an honest device waits for: a handshake, a request and its answer.
async fn p99(siege: &Siege, honest: &Device) -> Duration {
    let mut waits = Vec::new();
    for _ in 0..100 {
        let asked = Instant::now();
        assert_eq!(honest.discover(siege.server()).await.status, 200);
        waits.push(asked.elapsed());
    }
    waits.sort_unstable();
    waits[98]
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of[of.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_idle_sockets_cost_an_honest_device_no_time_and_the_server_little_memory() {
    many_files();
    let siege = Siege::begin().await;
    let mut beside = Beside::begin(&siege).await;
    let honest = siege.device("sensor-linux").await;
    let _ = p99(&siege, &honest).await;
    let before = resident_kib(siege.server());
    let (mut quiet, mut besieged, mut most) = (Vec::new(), Vec::new(), 0);
    for _ in 0..5 {
        quiet.push(p99(&siege, &honest).await);
        let held = idlers(&siege).await;
        assert_eq!(held.len(), 5_000);
        besieged.push(p99(&siege, &honest).await);
        most = most.max(resident_kib(siege.server()));
        beside.goes_on(siege.server()).await;
        drop(held);
    }
    let (quiet, besieged) = (median(quiet), median(besieged));
    // Less than doubled; below a tenth of a second nobody notices, whatever the factor.
    let bound = (2 * quiet).max(Duration::from_millis(100));
    assert!(besieged < bound, "p99 {quiet:?} without, {besieged:?} with the attack");
    assert!(most < before + 160 * 1024, "{before} KiB before, {most} KiB at most");
    let _ = siege.lift(Beside::ISSUED + 1, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_stalled_handshakes_than_are_let_in_at_once_hold_up_nobody() {
    many_files();
    let siege = Siege::begin().await;
    let mut beside = Beside::begin(&siege).await;
    let honest = siege.device("sensor-linux").await;
    let hello = Tls::anonymous(siege.server()).client_hello("localhost");
    let ends = siege.server().endpoints().clone();
    let mut held = stalled(place(&ends.device), &hello, 1_500).await;
    held.extend(stalled(place(&ends.mqtt), &hello, 1_500).await);
    let asked = Instant::now();
    assert_eq!(honest.discover(siege.server()).await.status, 200);
    beside.goes_on(siege.server()).await;
    assert!(asked.elapsed() < Duration::from_secs(4), "an honest handshake took {:?}", asked.elapsed());
    drop(held);
    let _ = siege.lift(Beside::ISSUED + 1, &[]).await;
}

/// A connection to `place` that takes next to nothing from the server until it reads.
async fn narrow(place: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let address = tokio::net::lookup_host(place).await.unwrap().find(std::net::SocketAddr::is_ipv4).unwrap();
    socket.connect(address).await.unwrap()
}

/// Writes `piece` again and again until the server takes no more; answers how often.
async fn flood<S: AsyncWrite + Unpin>(stream: &mut S, piece: &[u8], most: usize) -> usize {
    for n in 0..most {
        match timeout(Duration::from_millis(1_500), stream.write_all(piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return n,
        }
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_never_read_is_ended_and_holds_little() {
    let fast = patient()
        .with("MUSTER_MQTT_PACKETS_PER_SECOND", "1000000")
        .with("MUSTER_MQTT_KIB_PER_SECOND", "1000000");
    let siege = hurried(fast).await;
    let mut beside = Beside::begin(&siege).await;
    let attacker = siege.device("sensor-linux").await;
    let before = resident_kib(siege.server());
    let ends = siege.server().endpoints().clone();
    let stream = narrow(place(&ends.mqtt)).await;
    let mut stream = Tls::with(siege.server(), &attacker.identity).over(stream, "localhost").await.unwrap();
    stream.write_all(&connect(&attacker.id, 2, b"")).await.unwrap();
    let pings = [0xc0, 0].repeat(4_096);
    let taken = flood(&mut stream, &pings, 20_000).await;
    assert!(taken < 20_000, "the server reads no more than it can answer");
    eventually("who never reads is cut", async || {
        let shown = siege.rest(http::Method::GET, &format!("/v1/devices/{}", attacker.id), None).await.json();
        (shown["connected"] == false).then_some(())
    })
    .await;
    let after = resident_kib(siege.server());
    assert!(after < before + 16 * 1024, "{before} KiB before, {after} KiB after");
    beside.goes_on(siege.server()).await;
    let _ = siege.lift(Beside::ISSUED + 1, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_given_up() {
    let siege = hurried(patient()).await;
    let mut beside = Beside::begin(&siege).await;
    let before = resident_kib(siege.server());
    let ends = siege.server().endpoints().clone();
    let mut readers = JoinSet::new();
    let asked = b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..20 {
        let stream = narrow(place(&ends.device)).await;
        let mut stream = Tls::anonymous(siege.server()).over(stream, "localhost").await.unwrap();
        readers.spawn(async move {
            let requests = flood(&mut stream, &asked.repeat(100), 2_000).await * 100;
            // For a write without progress, the server waits half a minute.
            sleep(Duration::from_secs(31)).await;
            let mut said = Vec::new();
            let end = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("given up");
            drop(end);
            (requests, said.windows(9).filter(|window| window == b"HTTP/1.1 ").count())
        });
    }
    let mut most = 0;
    loop {
        beside.goes_on(siege.server()).await;
        most = most.max(resident_kib(siege.server()));
        match timeout(Duration::from_secs(3), readers.join_next()).await {
            Err(_) => {}
            Ok(None) => break,
            Ok(Some(answered)) => {
                let (requests, answers) = answered.unwrap();
                assert!(answers < requests, "{answers} of {requests} answers: nobody waits for ever");
            }
        }
    }
    assert!(most < before + 32 * 1024, "{before} KiB before, {most} KiB at most");
    let _ = siege.lift(Beside::ISSUED, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_could_be_reset_are_not_spoken() {
    let siege = Siege::begin().await;
    let mut beside = Beside::begin(&siege).await;
    let honest = siege.device("sensor-linux").await;
    let ends = siege.server().endpoints().clone();
    for url in [&ends.device, &ends.admin] {
        let tls = Tls::anonymous(siege.server());
        let refused = tls.clone().offering(&["h2"]).open(url).await;
        assert!(refused.is_err(), "a client that speaks nothing else is refused in the handshake");
        let both = tls.clone().offering(&["h2", "http/1.1"]).open(url).await.unwrap();
        assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        // Without asking: the preface, and streams opened and reset as fast as they can be written.
        let said = rapid_resets(tls.open(url).await.unwrap()).await;
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"), "{said:x?}");
    }
    let said = rapid_resets(TcpStream::connect(place(&ends.status)).await.unwrap()).await;
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"), "{said:x?}");
    let gate = Tls::with(siege.server(), &honest.identity).offering(&["h2"]).open(&ends.mqtt).await.unwrap();
    assert_eq!(gate.get_ref().1.alpn_protocol(), None, "the gate agrees to nothing of the kind");
    assert_eq!(rapid_resets(gate).await, b"", "and closes on it");
    beside.goes_on(siege.server()).await;
    let _ = siege.lift(Beside::ISSUED + 1, &["handshake.incompatible", "gate.malformed"]).await;
}

/// HTTP/2 as the rapid reset has it; what the server says until it closes.
async fn rapid_resets<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> Vec<u8> {
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1..20_000_u32).step_by(2) {
        let id = stream.to_be_bytes();
        // HEADERS with `:method GET`, `:scheme https`, `:path /`; RST_STREAM with CANCEL.
        frames.extend([&[0, 0, 3, 1, 5][..], &id, &[0x82, 0x87, 0x84]].concat());
        frames.extend([&[0, 0, 4, 3, 0][..], &id, &[0, 0, 0, 8]].concat());
    }
    let _ = stream.write_all(&frames).await;
    let mut said = Vec::new();
    drop(timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the server closes"));
    said
}
