//! What the measurements in `tests/benches` share.
//!
//! ```text
//!   fleet.rs (identities) ─▶ line.rs (MQTT) ─▶ the server, on its core (cores.rs)
//!   client.rs (TLS)       ─▶ HTTPS          ─▶      └─ books.rs: what it cost, by the kernel and by its metrics
//! ```
//! A measurement is a program that writes `{"conditions": {…}, "rows": [{"id": …, …}]}` to the file named by
//! `MUSTER_BENCH_JSON`, again after each row, so that a row which fails takes no other with it. `MUSTER_BENCH_ONLY`
//! (`M1,M2`) names the rows that are wanted.

pub mod books;
pub mod client;
pub mod cores;
pub mod figures;
pub mod fleet;
pub mod line;
pub mod mosquitto;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a program has measured so far.
#[derive(Debug, Default)]
pub struct Report {
    conditions: Map<String, Value>,
    rows: Vec<Value>,
}

impl Report {
    /// Under what the rows were taken: `name` is one program's own.
    pub fn condition(&mut self, name: &str, value: impl Into<Value>) {
        self.conditions.insert(name.to_owned(), value.into());
    }

    /// One more row; everything so far is written.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn row(&mut self, row: Value) {
        self.rows.push(row);
        let report = json!({ "conditions": self.conditions, "rows": self.rows }).to_string();
        match std::env::var_os("MUSTER_BENCH_JSON") {
            Some(file) => std::fs::write(&file, report).expect("the report can be written"),
            None => println!("{report}"),
        }
    }
}

/// Whether the row `id` is wanted.
pub fn is_wanted(id: &str) -> bool {
    std::env::var("MUSTER_BENCH_ONLY").map_or(true, |only| only.split(',').any(|one| one == id))
}

/// The number that `variable` holds, or `default`.
///
/// # Panics
/// When it holds something else.
pub fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// The socket address in a URL whose host is an address.
///
/// # Panics
/// When there is none.
pub fn address(url: &str) -> SocketAddr {
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    place.trim_end_matches('/').parse().expect("the server listens on an address")
}

/// As many open files as this user may have, for this program and for what it starts; answers how many.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, the connection that is one too many says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Runs a measurement on the generator's core.
///
/// # Panics
/// When there is no runtime.
pub fn run(measurement: impl Future<Output = ()>) {
    cores::pin(cores::GENERATOR);
    let _ = raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(measurement);
}

/// The instant that a line of the server's log bears (RFC 3339), since 1970.
///
/// # Panics
/// When it is none.
pub fn instant(text: &str) -> Duration {
    use time::format_description::well_known::Rfc3339;
    let at = time::OffsetDateTime::parse(text, &Rfc3339).expect("an instant");
    Duration::from_nanos(u64::try_from(at.unix_timestamp_nanos()).expect("after 1970"))
}

/// The present, to be compared with the server's log.
#[expect(clippy::disallowed_methods, reason = "the server under test has the machine's present")]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}
