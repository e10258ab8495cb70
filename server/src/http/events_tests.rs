//! The stream as a client reads it, without a socket.

use super::*;
use crate::app::fixture::{Bench, UNLIMITED};
use crate::domain::policy::Principal;
use crate::doors::fixture::device;
use crate::doors::peer::Peer;
use crate::doors::registry::Presence;
use crate::http::auth::Entrance;
use http::Request;
use http_body_util::BodyExt as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tower::ServiceExt as _;

async fn ask(bench: &Bench, path: &str, last: Option<&str>) -> Response {
    let mut request = Request::builder()
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {}", bench.credential()))
        .extension(Peer {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            certificate: None,
            observer: None,
        });
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let routes = Routes::new(Arc::clone(&bench.app), Entrance::Admin);
    let router = crate::http::admin(routes).finish();
    router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

/// The next part that is no comment.
async fn part(body: &mut Body) -> Option<String> {
    loop {
        let frame = timeout(Duration::from_secs(5), body.frame()).await.unwrap()?.unwrap();
        let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        if !text.starts_with(':') {
            return Some(text);
        }
    }
}

async fn add_operator(bench: &Bench, name: &str) {
    bench.app.add_operator(bench.permit(Principal::Operator("admin".into())), name, None).await.unwrap();
}

#[tokio::test]
async fn the_first_part_is_a_comment_and_comes_at_once() {
    let bench = Bench::founded(UNLIMITED);
    let answer = ask(&bench, "/v1/events", None).await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = answer.into_body();
    let frame = timeout(Duration::from_secs(5), body.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap().as_ref(), b": muster\n\n");
}

#[tokio::test]
async fn an_event_has_id_topic_and_one_line_of_data() {
    let bench = Bench::founded(UNLIMITED);
    let mut body = ask(&bench, "/v1/events?topic=presence", None).await.into_body();
    bench.app.event_feed().presence(Presence { device: device(1), generation: 1, online: true }, 1);
    let told = part(&mut body).await.unwrap();
    assert!(told.starts_with("event: presence\ndata: {\"v\":1,"), "{told}");
    assert!(told.ends_with("}\n\n") && told.lines().count() == 3, "{told}");
}

#[tokio::test]
async fn what_cannot_be_an_id_or_a_topic_is_malformed() {
    let bench = Bench::founded(UNLIMITED);
    for path in [
        "/v1/events?after=x",
        "/v1/events?topic=",
        "/v1/events?topic=devices,%23",
        "/v1/events?topics=devices",
    ] {
        assert_eq!(ask(&bench, path, None).await.status(), 400, "{path}");
    }
    assert_eq!(ask(&bench, "/v1/events", Some("1;2")).await.status(), 400);
    assert_eq!(ask(&bench, "/v1/events?topic=devices,orders&after=0", Some("3.0")).await.status(), 200);
}

#[tokio::test]
async fn the_last_event_says_why_the_server_ends_the_stream() {
    let bench = Bench::founded(UNLIMITED);
    let mut body = ask(&bench, "/v1/events", None).await.into_body();
    add_operator(&bench, "bob").await;
    bench.app.event_feed().close();
    assert_eq!(
        part(&mut body).await.unwrap(),
        "event: end\ndata: {\"after\":null,\"reason\":\"stopping\"}\n\n"
    );
    assert_eq!(part(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_and_told_where_to_go_on() {
    let bench = Bench::founded(UNLIMITED);
    let mut body = ask(&bench, "/v1/events", None).await.into_body();
    for generation in 0..200 {
        bench.app.event_feed().presence(Presence { device: device(1), generation, online: true }, 1);
    }
    tokio::time::sleep(PATIENCE + Duration::from_secs(1)).await;
    let mut parts = Vec::new();
    while let Some(part) = part(&mut body).await {
        parts.push(part);
    }
    assert!(parts.len() <= BUFFERED + 1, "{}", parts.len());
    assert!(parts.last().unwrap().starts_with("event: end\ndata: {\"after\":null,\"reason\":\"slow\"}"));
}

#[tokio::test]
async fn a_client_that_goes_frees_its_place() {
    let bench = Bench::founded(UNLIMITED);
    let answer = ask(&bench, "/v1/events", None).await;
    assert_eq!(bench.app.event_feed().subscriptions(), 1);
    drop(answer);
    timeout(Duration::from_secs(5), async {
        while bench.app.event_feed().subscriptions() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}
