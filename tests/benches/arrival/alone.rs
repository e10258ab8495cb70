//! E4: from the start of the agent to the report, durable at the server, that its baseline is in place.
//!
//! The real agent, in the commands by which it is installed: `muster-agent enroll`, and as soon as that has ended,
//! `muster-agent run`. The clock starts before the first is started and stops at the instant of the line in the
//! server's log that says, after the sync, that the device reported its generation. Once with everything on a tmpfs, so
//! that it tells what the programs need; once with server and agent on the disk, with the syncs of both.

use muster_tests::measure::books::{self, Metrics};
use muster_tests::measure::{self, Report, cores, figures, now};
use muster_tests::{Agent, Launch, Minted, Server, Site, until};
use serde_json::{Value, json};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where nothing waits for a disk.
const TMPFS: &str = "/dev/shm";

/// What the devices on one kind of disk took.
struct Starts {
    times: Vec<Duration>,
    enrolled: Vec<Duration>,
    server_fsyncs: f64,
}

pub(super) async fn measure(report: &mut Report) {
    let count = measure::number("MUSTER_BENCH_STARTS", 100);
    let disk = std::env::temp_dir();
    let quick = starts(Path::new(TMPFS), count).await;
    let slow = starts(&disk, count).await;
    let agent_fsyncs = agent_syncs(&disk).await;
    report.condition("starts", count);
    report.condition("starts_load", books::load());
    let at = |times: &[Duration], percent| figures::percentile_ms(times, percent);
    report.row(json!({
        "id": "E4",
        "p50_ms": at(&quick.times, 50),
        "p99_ms": at(&quick.times, 99),
        "enrolled_p50_ms": at(&quick.enrolled, 50),
        "fsyncs_per_op": figures::thousandths(slow.server_fsyncs),
        "disk": {
            "p50_ms": at(&slow.times, 50),
            "p99_ms": at(&slow.times, 99),
            "enrolled_p50_ms": at(&slow.enrolled, 50),
            "server_fsyncs": figures::thousandths(slow.server_fsyncs),
            "agent_fsyncs": agent_fsyncs,
        },
    }));
}

async fn starts(place: &Path, count: usize) -> Starts {
    let server = serve(place).await;
    let tokens = server.mint_with(&["--profile", "sensor-linux", "--count", &(count + 1).to_string()]).await;
    let mut log = Tail::of(server.site().path("serve.log"));
    let (warm_up, measured) = tokens.split_first().expect("one more than is measured");
    let _ = start(place, warm_up, &mut log).await;
    let before = Metrics::of(&server).await;
    let (mut times, mut enrolled) = (Vec::new(), Vec::new());
    for token in measured {
        let (whole, enrolment) = start(place, token, &mut log).await;
        times.push(whole);
        enrolled.push(enrolment);
    }
    let after = Metrics::of(&server).await;
    let fsyncs = |metrics: &Metrics| {
        metrics.get("muster_store_fsyncs_total") + metrics.get("muster_audit_fsyncs_total")
    };
    Starts { times, enrolled, server_fsyncs: (fsyncs(&after) - fsyncs(&before)) / count as f64 }
}

/// A server on its own core, everything of which lies beneath `place`.
async fn serve(place: &Path) -> Server {
    let site = Site::founded_beneath(place).await;
    cores::on(cores::SERVER, Server::on(site, Launch::plain())).await
}

/// One device: how long it took to its reported baseline, and of that, to the end of `enroll`.
async fn start(place: &Path, token: &Minted, log: &mut Tail) -> (Duration, Duration) {
    let device = Agent::beneath(place, Launch::plain());
    let began = now();
    let _ = device.enroll(&token.enrollment).await.ok();
    let enrolled = now().saturating_sub(began);
    let running = device.start();
    let object = format!("device/{}", device.id());
    let reported = until("the baseline is reported", || {
        log.lines().into_iter().find_map(|line| is_report_of(&line, &object))
    })
    .await;
    // Gone as in a power cut: it has nothing to say any more.
    drop(running);
    (reported.saturating_sub(began), enrolled)
}

/// When `line` of the log was written, if it says that `object` has reported a generation.
fn is_report_of(line: &str, object: &str) -> Option<Duration> {
    let event: Value = serde_json::from_str(line).ok()?;
    let is_report = event["action"] == "report.state" && event["object"] == object;
    let names_one = event["new_state"].as_str().is_some_and(|state| state.starts_with("generation"));
    (is_report && names_one).then(|| event["timestamp"].as_str().map(measure::instant))?
}

/// How often an agent waits for its disk from its start to the report, by `strace`; null where there is none.
async fn agent_syncs(place: &Path) -> Value {
    let server = serve(place).await;
    let mut log = Tail::of(server.site().path("serve.log"));
    let trace = server.site().path("agent.strace");
    let words = ["strace", "-f", "-A", "-e", "trace=fsync,fdatasync", "-o"];
    let mut wrapper: Vec<_> = words.map(Into::into).to_vec();
    wrapper.push(trace.clone().into());
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        return Value::Null;
    }
    let device = Agent::beneath(place, Launch { wrapper, environment: Vec::new() });
    let _ = device.enroll(&server.mint("sensor-linux").await.enrollment).await.ok();
    let running = device.start();
    let object = format!("device/{}", device.id());
    until("the baseline is reported", || {
        log.lines().into_iter().find_map(|line| is_report_of(&line, &object))
    })
    .await;
    drop(running);
    let text = std::fs::read_to_string(&trace).unwrap_or_default();
    text.lines().filter(|line| line.contains("sync(")).count().into()
}

/// What is added to a file.
struct Tail {
    path: PathBuf,
    read: u64,
}

impl Tail {
    fn of(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// The whole lines that came since it was last asked.
    fn lines(&mut self) -> Vec<String> {
        let mut text = String::new();
        let mut file = std::fs::File::open(&self.path).expect("the server writes a log");
        file.seek(SeekFrom::Start(self.read)).expect("a file has places");
        file.read_to_string(&mut text).expect("the log is text");
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        text[..whole].lines().map(str::to_owned).collect()
    }
}
