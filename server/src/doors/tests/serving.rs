//! Requests: judged each time, limited in size and time, ended in peace on a stop.

use crate::domain::admission::{Admission, CertificateStatus, DeviceStanding, Renew};
use crate::doors::accept::{Limits, serve_plain};
use crate::doors::body::{BodyError, collect};
use crate::doors::fixture::*;
use crate::doors::http::{HttpDoor, HttpLimits};
use crate::doors::registry::{Handle, Kicked};
use crate::doors::status_index::Standing;
use crate::doors::stop;
use axum::body::Body;
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

const SHORTLY: Duration = Duration::from_millis(50);

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

async fn take(body: Body) -> (StatusCode, String) {
    match collect(body, 1_000).await {
        Ok(bytes) => (StatusCode::OK, format!("{} bytes", bytes.len())),
        Err(BodyError::TooLarge { limit_bytes }) => (StatusCode::PAYLOAD_TOO_LARGE, limit_bytes.to_string()),
        Err(BodyError::Late) => (StatusCode::REQUEST_TIMEOUT, String::new()),
        Err(BodyError::Broken(_)) => (StatusCode::BAD_REQUEST, String::new()),
    }
}

fn app() -> Router {
    let renew = |admission: Option<Extension<Admission>>| async move {
        admission.map_or("anonymous".to_owned(), |Extension(admission)| format!("{:?}", admission.renew))
    };
    Router::new().route("/", get(renew)).route("/take", post(take))
}

#[tokio::test]
async fn each_request_on_a_kept_connection_is_judged_again() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let server = world.serve(app()).await;
    let mut stream = server.connect(&client(Some(&enrolled))).await.unwrap();
    say(&mut stream, GET).await.unwrap();
    assert!(hear(&mut stream).await.ends_with(&format!("{:?}", Renew::Yes)));
    let held = Standing { device: DeviceStanding::Held { grace_s: 0 }, ..active(0) };
    world.stands(1, &enrolled, held);
    say(&mut stream, GET).await.unwrap();
    assert!(hear(&mut stream).await.ends_with(&format!("{:?}", Renew::Held)));
    // No kick: even if that signal were lost, the next request is refused and the connection ends.
    world.stands(1, &enrolled, with_status(CertificateStatus::Revoked));
    say(&mut stream, GET).await.unwrap();
    let answer = hear(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("connection: close"), "{answer}");
    closed(&mut stream).await;
}

#[tokio::test]
async fn a_certificate_that_expires_on_a_kept_connection_is_refused_from_then_on() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let server = world.serve(app()).await;
    let mut stream = server.connect(&client(Some(&enrolled))).await.unwrap();
    say(&mut stream, GET).await.unwrap();
    assert!(hear(&mut stream).await.starts_with("HTTP/1.1 200"));
    world.clock.advance_ms(1_001_000);
    say(&mut stream, GET).await.unwrap();
    assert!(hear(&mut stream).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn a_kick_cuts_a_request_that_is_under_way() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let arrived = Arc::new(Notify::new());
    let seen = Arc::clone(&arrived);
    let hang = move |Extension(handle): Extension<Handle>| {
        let seen = Arc::clone(&seen);
        async move {
            assert_eq!(handle.was_kicked(), None);
            seen.notify_one();
            std::future::pending::<String>().await
        }
    };
    let server = world.serve(Router::new().route("/", get(hang))).await;
    let mut stream = server.connect(&client(Some(&enrolled))).await.unwrap();
    say(&mut stream, GET).await.unwrap();
    arrived.notified().await;
    assert_eq!(world.doors.registry.kick_device(&device(1), Kicked::Status), 1);
    closed(&mut stream).await;
}

#[tokio::test]
async fn half_a_head_and_an_idle_connection_end_at_the_deadline() {
    let mut world = World::new();
    world.http = HttpLimits { head_deadline: SHORTLY, ..HttpLimits::default() };
    let server = world.serve(app()).await;
    for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: "] {
        let mut stream = server.connect(&client(None)).await.unwrap();
        say(&mut stream, begun).await.unwrap();
        closed(&mut stream).await;
    }
    let mut kept = server.connect(&client(None)).await.unwrap();
    say(&mut kept, GET).await.unwrap();
    assert!(hear(&mut kept).await.ends_with("anonymous"));
    closed(&mut kept).await;
}

#[tokio::test]
async fn half_a_body_ends_at_the_deadline() {
    let mut world = World::new();
    world.http = HttpLimits { body_deadline: SHORTLY, ..HttpLimits::default() };
    let server = world.serve(app()).await;
    let mut stream = server.connect(&client(None)).await.unwrap();
    say(&mut stream, "POST /take HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nhalf")
        .await
        .unwrap();
    assert!(hear(&mut stream).await.starts_with("HTTP/1.1 408"));
    closed(&mut stream).await;
}

#[tokio::test]
async fn a_body_too_large_is_answered_before_and_while_it_is_sent() {
    let mut world = World::new();
    world.http = HttpLimits { linger: SOON, ..HttpLimits::default() };
    let server = world.serve(app()).await;
    for (framing, chunk) in [
        ("content-length: 16000000", "0123456789".repeat(1_600)),
        ("transfer-encoding: chunked", format!("3e80\r\n{}\r\n", "0123456789".repeat(1_600))),
    ] {
        let stream = server.connect(&client(None)).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let head = format!("POST /take HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\n");
        let sending = async move {
            writer.write_all(head.as_bytes()).await?;
            for _ in 0..1_000 {
                writer.write_all(chunk.as_bytes()).await?;
            }
            std::io::Result::Ok(writer)
        };
        // Only when all is sent does this client read: nothing may reset it before.
        let writer = tokio::time::timeout(SOON, sending).await.expect("in time").expect("all was taken");
        let mut answer = [0; 12];
        reader.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413", "{framing}");
        drop(writer);
    }
}

#[tokio::test]
async fn a_client_that_closes_its_direction_after_the_request_is_still_answered() {
    let world = World::new();
    let go = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&go);
    let slow = move || {
        let wait = Arc::clone(&wait);
        async move {
            wait.acquire().await.unwrap().forget();
            "done"
        }
    };
    let server = world.serve(Router::new().route("/", get(slow))).await;
    let mut stream = server.connect(&client(None)).await.unwrap();
    say(&mut stream, GET).await.unwrap();
    stream.shutdown().await.unwrap();
    go.add_permits(1);
    assert!(hear(&mut stream).await.ends_with("done"));
    closed(&mut stream).await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_413_instead() {
    let world = World::new();
    let server = world.serve(app()).await;
    let mut stream = server.connect(&client(None)).await.unwrap();
    let head =
        "POST /take HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1001\r\nexpect: 100-continue\r\n\r\n";
    say(&mut stream, head).await.unwrap();
    assert!(hear(&mut stream).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn heads_and_targets_have_a_size() {
    let world = World::new();
    let server = world.serve(app()).await;
    let long = format!("/{}", "a".repeat(2 * 1024));
    assert!(server.get(&client(None), &long).await.unwrap().starts_with("HTTP/1.1 414"));
    let headers = |count: usize, bytes: usize| {
        let mut head = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n".to_owned();
        (0..count).for_each(|n| head.push_str(&format!("x-{n}: {}\r\n", "a".repeat(bytes))));
        head + "\r\n"
    };
    for (head, answer) in [(headers(60, 10), "200"), (headers(65, 10), "431"), (headers(2, 9_000), "431")] {
        let mut stream = server.connect(&client(None)).await.unwrap();
        say(&mut stream, &head).await.unwrap();
        let heard = hear(&mut stream).await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {answer}")), "{heard}");
    }
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_closes_idle_connections_and_the_port() {
    let world = World::new();
    let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (seen, wait) = (Arc::clone(&arrived), Arc::clone(&go));
    let slow = move || {
        let (seen, wait) = (Arc::clone(&seen), Arc::clone(&wait));
        async move {
            seen.notify_one();
            wait.acquire().await.unwrap().forget();
            "done"
        }
    };
    let server = world.serve(app().route("/slow", get(slow))).await;
    let mut idle = server.connect(&client(None)).await.unwrap();
    say(&mut idle, GET).await.unwrap();
    drop(hear(&mut idle).await);
    let mut busy = server.connect(&client(None)).await.unwrap();
    say(&mut busy, "GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    arrived.notified().await;
    server.stopper.stop();
    closed(&mut idle).await;
    let refused = async { while TcpStream::connect(server.addr).await.is_ok() {} };
    tokio::time::timeout(SOON, refused).await.expect("the port closes while a request is under way");
    go.add_permits(1);
    assert!(hear(&mut busy).await.ends_with("done"));
    drop(busy);
    tokio::time::timeout(SOON, server.task).await.expect("ends").unwrap();
    assert!(world.doors.registry.is_empty());
}

#[tokio::test]
async fn who_has_not_ended_by_the_deadline_of_a_stop_is_cut() {
    let mut world = World::new();
    world.limits = Limits { drain_deadline: SHORTLY, ..Limits::default() };
    let arrived = Arc::new(Notify::new());
    let seen = Arc::clone(&arrived);
    let hang = move || {
        seen.notify_one();
        std::future::pending::<String>()
    };
    let server = world.serve(Router::new().route("/", get(hang))).await;
    let mut stream = server.connect(&client(None)).await.unwrap();
    say(&mut stream, GET).await.unwrap();
    arrived.notified().await;
    server.stopper.stop();
    tokio::time::timeout(SOON, server.task).await.expect("ends").unwrap();
    closed(&mut stream).await;
}

#[tokio::test]
async fn the_status_port_speaks_plain_http_through_the_same_doors() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stopper, stop) = stop::channel();
    let door = HttpDoor::new(app(), world.judge(), world.http);
    let serving =
        tokio::spawn(serve_plain(listener, world.doors.clone(), world.limits, stop, move |connection| {
            door.clone().serve(connection)
        }));
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("anonymous"), "{answer}");
    stopper.stop();
    tokio::time::timeout(SOON, serving).await.expect("ends").unwrap();
}
