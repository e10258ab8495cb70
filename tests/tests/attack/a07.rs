//! A07: bodies that are too large, too deep, endless, packed, or hardly there.
//!
//! What is too large is refused before it is parsed; what is odd is refused with a code; nothing panics, and memory
//! stays flat.

use super::der::{self, oid, seq, tlv};
use super::request::{Draft, dns};
use super::siege::{Siege, bearer, refused, text};
use bytes::Bytes;
use http::{Method, Request};
use muster_tests::est::{self, Pledge};
use muster_tests::{Answer, Server, Tls};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// By how much the server's memory may have grown when all is over.
const GROWTH_KIB: u64 = 48 * 1024;

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

async fn post(siege: &Siege, token: &str, body: impl Into<Bytes>, header: Option<(&str, &str)>) -> Answer {
    let request =
        Request::post(est::path(None, "simpleenroll")).header("authorization", format!("Bearer {token}"));
    let request = header.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let mut door = est::connect(siege.server()).await.unwrap();
    door.send(request.body(body.into()).unwrap()).await.unwrap()
}

/// What the server answers to a head that promises `length`, of which nothing is sent.
async fn promised(server: &Server, token: &str, framing: &str) -> String {
    let mut stream = Tls::anonymous(server).open(&server.endpoints().device).await.unwrap();
    let head = format!(
        "POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{framing}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 64];
    let read = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

fn nested(depth: usize) -> Vec<u8> {
    (0..depth).fold(Vec::new(), |inner, _| tlv(0x30, &inner))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_is_parsed() {
    let siege = Siege::begin().await;
    let token = siege.token("sensor-linux").await;
    let before = resident_kib(siege.server());
    for framing in
        ["Content-Length: 16777216", "Content-Length: 18446744073709551615", "Content-Length: 65537"]
    {
        let answer = promised(siege.server(), &token, framing).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{framing}: {answer}");
        assert!(answer.starts_with("HTTP/1.1 413") || framing.ends_with("615"), "{framing}: {answer}");
    }
    let endless = format!("Transfer-Encoding: chunked\r\n\r\n20000\r\n{}", "A".repeat(0x1_f000));
    let answer = promised(siege.server(), &token, &endless).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    for _ in 0..8 {
        let answer = post(&siege, &token, vec![b'A'; 16 << 20], None).await;
        refused(&answer, 413, "too_large");
    }
    let grown = resident_kib(siege.server()).saturating_sub(before);
    assert!(grown < GROWTH_KIB, "memory grew by {grown} KiB");
    let rest = json!({ "profile": "sensor-linux", "site": "x".repeat(300_000) });
    refused(&siege.rest(Method::POST, "/v1/tokens", Some(&rest)).await, 413, "too_large");
    let _ = est::leaf(&post(&siege, &token, Pledge::new("").csr, None).await);
    let _ = siege.lift(1, &["body.too_large"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_inside_is_refused_with_a_code_and_costs_no_memory() {
    let siege = Siege::begin().await;
    let token = siege.token("sensor-linux").await;
    let before = resident_kib(siege.server());
    let good = Pledge::new("").csr;
    let indefinite = [&[0x30, 0x80][..], &good[4..], &[0, 0]].concat();
    let mut long_form = good.clone();
    long_form.splice(1..4, [0x84, 0, 0, good[2], good[3]]);
    let gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0xec; 4_000]].concat();
    let attempts: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("deep nesting", nested(10_000)),
        ("deep nesting of sets", (0..10_000).fold(Vec::new(), |inner, _| tlv(0x31, &inner))),
        ("an indefinite length", indefinite),
        ("indefinite lengths without end", [0x30, 0x80].repeat(20_000)),
        ("a length in too many bytes", long_form),
        ("a length beyond the end", vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 1]),
        ("a request twice", [good.clone(), good.clone()].concat()),
        ("a request and a byte", [&good[..], &[0]].concat()),
        ("half a request", good[..good.len() / 2].to_vec()),
        ("packed", gzip.clone()),
        ("base64 of base64", {
            use base64::prelude::{BASE64_STANDARD, Engine};
            BASE64_STANDARD.encode(BASE64_STANDARD.encode(&good)).into_bytes()
        }),
        (
            "two PEM blocks",
            [der::pem("CERTIFICATE REQUEST", &good), der::pem("CERTIFICATE REQUEST", &good)].concat().into(),
        ),
        ("a private key", der::pem("PRIVATE KEY", &Pledge::new("").key.serialize_der()).into()),
        ("a certificate", std::fs::read(siege.server().site().data_dir().join("keys/root.der")).unwrap()),
        (
            "extensions asked for twice",
            Draft::new()
                .alt_names(&[dns("a")])
                .attribute(seq(&[&oid(der::EXTENSION_REQUEST), &der::set(&seq(&[]))]))
                .sign()
                .csr,
        ),
    ];
    for (name, body) in attempts {
        let answer = post(&siege, &token, body, None).await;
        assert_eq!(answer.code(), "csr_malformed", "{name}: {}", text(&answer));
        refused(&answer, 400, "csr_malformed");
    }
    let packed = post(&siege, &token, gzip, Some(("content-encoding", "gzip"))).await;
    assert!(packed.status.is_client_error(), "{}", text(&packed));
    let grown = resident_kib(siege.server()).saturating_sub(before);
    assert!(grown < GROWTH_KIB, "memory grew by {grown} KiB");
    let _ = est::leaf(&post(&siege, &token, good, None).await);
    let _ = siege.lift(1, &["csr.form"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_of_what_is_allowed_ends_in_a_certificate_or_a_code() {
    let siege = Siege::begin().await;
    let many = Draft::new().alt_names(&vec![dns("a"); 10_000]);
    let empty = Draft::new().extension(der::EXTENDED_KEY_USAGE, true, &seq(&[]));
    let names =
        (0..400).fold(Draft::new(), |draft, n| draft.name(der::COMMON_NAME, der::UTF8, format!("{n}")));
    let extensions =
        (0..800).fold(Draft::new(), |draft, n| draft.extension(&[1, 3, 6, 1, 4, 1, n], false, b""));
    let mut issued = 0;
    for (name, draft) in
        [("10,000 SANs", many), ("an empty EKU", empty), ("400 CNs", names), ("800 extensions", extensions)]
    {
        let token = siege.token("sensor-linux").await;
        let answer = post(&siege, &token, draft.sign().csr, None).await;
        if answer.status == 200 {
            issued += 1;
            assert!(est::leaf(&answer).len() < 1_500, "{name}: none of it is in the certificate");
        } else {
            refused(&answer, 400, "csr_malformed");
        }
    }
    refused(&post(&siege, &siege.token("sensor-linux").await, nested(9), None).await, 400, "csr_malformed");
    let _ = siege.lift(issued, &["csr.form"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_bombs_are_refused_at_the_operators_door() {
    let siege = Siege::begin().await;
    let before = resident_kib(siege.server());
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let objects = format!("{}1{}", "{\"labels\":".repeat(20_000), "}".repeat(20_000));
    let labels: String = (0..10_000).map(|n| format!("\"k{n}\":\"v\",")).collect();
    let bombs = [
        format!("{{\"profile\":{open}{close}}}"),
        format!("{open}{close}"),
        objects,
        format!("{{\"profile\":\"sensor-linux\",\"labels\":{{{}\"k\":\"v\"}}}}", labels),
        "{\"profile\":\"sensor-linux\",\"profile\":\"laptop-linux\"}".to_owned(),
        "{\"profile\":\"sensor-linux\",\"count\":1e999}".to_owned(),
        "{\"profile\":\"sensor-linux\",\"count\":4294967295}".to_owned(),
        "{\"profile\":\"sensor-linux\",\"ttl_s\":9223372036854775807}".to_owned(),
        "{\"profile\":\"\u{0}\"}".to_owned(),
        "\u{feff}{}".to_owned(),
        String::new(),
    ];
    for bomb in bombs {
        let request = Request::post("/v1/tokens")
            .header("authorization", bearer(siege.server()))
            .header("content-type", "application/json")
            .body(Bytes::from(bomb.clone()))
            .unwrap();
        let mut door =
            Tls::anonymous(siege.server()).connect(&siege.server().endpoints().admin).await.unwrap();
        let answer = door.send(request).await.unwrap();
        let short: String = bomb.chars().take(60).collect();
        assert!(answer.status.is_client_error(), "{short}: {}", text(&answer));
        super::siege::discreet(&answer);
    }
    let grown = resident_kib(siege.server()).saturating_sub(before);
    assert!(grown < GROWTH_KIB, "memory grew by {grown} KiB");
    let _ = siege.lift(0, &[]).await;
}
