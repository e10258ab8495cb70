//! What is made beforehand: keys, requests for them, tokens, and the bytes of each HTTP request.

use muster_tests::est::Pledge;
use muster_tests::measure::client;
use muster_tests::{Minted, Server};

/// Most tokens that one `token create` makes.
const PER_COMMAND: usize = 10_000;

/// Whole HTTP requests, each with a token and a key of its own.
#[derive(Debug)]
pub(crate) struct Work(pub(crate) Vec<Vec<u8>>);

impl Work {
    /// `count` enrolments that nobody has asked for yet.
    pub(crate) async fn prepare(server: &Server, count: usize) -> Self {
        let mut requests = Vec::with_capacity(count);
        while requests.len() < count {
            let some = (count - requests.len()).min(PER_COMMAND).to_string();
            let minted = server.mint_with(&["--profile", "sensor-linux", "--count", &some]).await;
            requests.extend(minted.iter().map(|token| request(token, &Pledge::new("device").csr)));
        }
        Self(requests)
    }

    /// `count` requests of the size of an enrolment, for who does not read them.
    pub(crate) fn blank(count: usize) -> Self {
        let csr = Pledge::new("device").csr;
        let token = "muster_".to_owned() + &"0".repeat(38);
        let minted = Minted { id: String::new(), token, enrollment: String::new() };
        Self(vec![request(&minted, &csr); count])
    }
}

fn request(token: &Minted, csr: &[u8]) -> Vec<u8> {
    client::enrolment(&token.token, csr)
}
