//! M3: from the revocation of a device to the end of its session, and to the list that names its certificate.
//!
//! Revocations come one after the other over one connection of an operator. Durable is when the server's log says that
//! it was decided, which it says once the commit is synced; a session that ended before that line was written counts as
//! 0. The list is that of the certificate's own shard, fetched over a new connection once the operator has an answer.

use muster_tests::measure::fleet::{self, Member};
use muster_tests::measure::line::Line;
use muster_tests::measure::{self, Report, address, books, client, figures, now};
use muster_tests::{Connection, Server, Tls};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use x509_parser::prelude::{
    CertificateRevocationList, DistributionPointName, FromDer, GeneralName, ParsedExtension, X509Certificate,
};

/// How many sessions are cut off, one after the other, at each stage.
const PROBES: usize = 100;

/// Stages: certificates revoked before.
const FEW: usize = 1_000;
const MANY: usize = 20_000;

/// One revocation, in seconds since 1970 where it is an instant.
#[derive(Debug)]
struct Cut {
    device: String,
    asked: Duration,
    closed: Duration,
    answered: Duration,
    listed: Duration,
}

/// The figures of a stage.
#[derive(Debug)]
struct Stage {
    from_durable: Vec<Duration>,
    from_call: Vec<Duration>,
    crl: Vec<Duration>,
    crl_bytes: usize,
}

pub(super) async fn measure(report: &mut Report) {
    let many = measure::number("MUSTER_BENCH_REVOKED", MANY);
    let server = super::serve().await;
    let mut operator = Operator::of(&server).await;
    operator.revoke_many(&server, FEW).await;
    let few = stage(&server, &mut operator).await;
    operator.revoke_many(&server, many.saturating_sub(FEW + PROBES)).await;
    let more = stage(&server, &mut operator).await;
    report.condition("revoked", json!([FEW, many]));
    report.condition("revoked_load", books::load());
    let at = |times: &[Duration], percent| figures::percentile_ms(times, percent);
    report.row(json!({
        "id": "M3",
        "closed_ms": at(&more.from_durable, 99),
        "closed_p50_ms": at(&more.from_durable, 50),
        "closed_from_call_ms": at(&more.from_call, 99),
        "closed_from_call_p50_ms": at(&more.from_call, 50),
        "crl_ms": at(&more.crl, 99),
        "crl_p50_ms": at(&more.crl, 50),
        "crl_bytes": more.crl_bytes,
        "with_few": {
            "closed_ms": at(&few.from_durable, 99),
            "closed_p50_ms": at(&few.from_durable, 50),
            "closed_from_call_p50_ms": at(&few.from_call, 50),
            "crl_ms": at(&few.crl, 99),
            "crl_p50_ms": at(&few.crl, 50),
            "crl_bytes": few.crl_bytes,
        },
        "growth": figures::thousandths(at(&more.from_call, 50) / at(&few.from_call, 50)),
    }));
}

async fn stage(server: &Server, operator: &mut Operator) -> Stage {
    let members: Vec<Arc<Member>> =
        fleet::enrolled(server, "sensor-linux", PROBES).await.into_iter().map(Arc::new).collect();
    let lines = fleet::connected(&members, address(&server.endpoints().mqtt), 600, &[]).await;
    let (mut cuts, mut crl_bytes) = (Vec::new(), 0);
    for (member, line) in members.iter().zip(lines) {
        let waiting = tokio::spawn(ended(line));
        let asked = now();
        operator.revoke(&member.id.to_string()).await;
        let answered = now();
        crl_bytes = crl_bytes.max(listed(server, member).await);
        let listed = now();
        let closed = waiting.await.expect("a session that was cut off ends");
        cuts.push(Cut { device: member.id.to_string(), asked, closed, answered, listed });
    }
    let durable = decided(server);
    let from_durable =
        cuts.iter().map(|cut| cut.closed.saturating_sub(durable[&format!("device/{}", cut.device)]));
    Stage {
        from_durable: from_durable.collect(),
        from_call: cuts.iter().map(|cut| cut.closed.saturating_sub(cut.asked)).collect(),
        crl: cuts.iter().map(|cut| cut.listed.saturating_sub(cut.answered)).collect(),
        crl_bytes,
    }
}

/// When the session ended.
async fn ended(mut line: Line) -> Duration {
    let never = Duration::from_secs(3_600);
    let _ = line.idle(never, never).await.expect_err("it only ends by an error");
    now()
}

/// Fetches the list that must name the certificate of `member`; answers its size.
async fn listed(server: &Server, member: &Member) -> usize {
    let (_, certificate) = X509Certificate::from_der(member.identity.leaf()).expect("a certificate");
    let path = list_of(&certificate);
    let to = address(&server.endpoints().status);
    let mut stream = TcpStream::connect(to).await.expect("the status listener accepts");
    let answer = client::ask(&mut stream, &client::get(&path)).await;
    let der = client::body(&answer);
    let (_, list) = CertificateRevocationList::from_der(der).expect("a list");
    let is_named =
        list.iter_revoked_certificates().any(|entry| entry.raw_serial() == certificate.raw_serial());
    assert!(is_named, "the list does not name a certificate whose revocation was answered");
    der.len()
}

/// The path of the list that covers `certificate`.
fn list_of(certificate: &X509Certificate<'_>) -> String {
    let point = certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() else {
            return None;
        };
        let DistributionPointName::FullName(names) = points.points.first()?.distribution_point.as_ref()?
        else {
            return None;
        };
        names.iter().find_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
    });
    let uri: http::Uri = point.expect("a leaf names its list").parse().expect("a URI");
    uri.path().to_owned()
}

/// When the log says that a device's revocation was durable, by the device.
fn decided(server: &Server) -> HashMap<String, Duration> {
    let log = server.site().log();
    let lines = log.lines().filter(|line| line.contains("device.revoke"));
    let read = |line: &str| {
        let event: Value = serde_json::from_str(line).ok()?;
        let at = measure::instant(event["timestamp"].as_str()?);
        Some((event["object"].as_str()?.to_owned(), at))
    };
    lines.filter_map(read).collect()
}

/// An operator with one connection.
struct Operator {
    door: Connection,
    token: String,
}

impl Operator {
    async fn of(server: &Server) -> Self {
        let credential = server.site().credential();
        let token = credential["token"].as_str().expect("the credential holds a token").to_owned();
        let door = Tls::anonymous(server).connect(&server.endpoints().admin).await;
        Self { door: door.expect("the admin listener accepts"), token }
    }

    async fn revoke(&mut self, device: &str) {
        let request = http::Request::post(format!("/v1/devices/{device}:revoke"))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(r#"{"reason":"privilege_withdrawn"}"#.into());
        let answer = self.door.send(request.expect("a request")).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    }

    /// Enrols `count` devices and revokes them.
    async fn revoke_many(&mut self, server: &Server, count: usize) {
        let members = fleet::enrolled(server, "sensor-linux", count).await;
        *self = Self::of(server).await;
        for member in members {
            self.revoke(&member.id.to_string()).await;
        }
    }
}
