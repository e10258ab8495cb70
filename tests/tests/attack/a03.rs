//! A03: ten thousand guesses whose right beginning grows.
//!
//! Tokens are looked up by digest, so that a right beginning is worth nothing; after thirty wrong ones a minute an
//! address is asked to wait, whatever it says about where it comes from; and good tokens of the same address are
//! taken all the while.

use super::siege::{Siege, refused};
use muster_tests::Server;
use muster_tests::est::{self, Pledge};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

const GUESSES: usize = 10_000;
const CONNECTIONS: usize = 4;
/// Wrong tokens a minute that are answered; as the settings say when nobody sets them.
const LIMIT: usize = 30;
const PREFIX: usize = "muster_".len();
const CHECK: usize = 6;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A well-formed token that agrees with `token` in the first `right` digits, and with no other guess.
fn guess(token: &str, right: usize, n: usize) -> String {
    let secret = &token[..token.len() - CHECK];
    let mut text: Vec<u8> = secret.bytes().take(PREFIX + right).collect();
    let mut rest = n;
    while text.len() < secret.len() {
        let wrong = if text.len() == PREFIX + right { secret.as_bytes()[text.len()] } else { 0 };
        let digit = BASE62.iter().cycle().skip(rest % 62).find(|digit| **digit != wrong).unwrap();
        text.push(*digit);
        rest /= 62;
    }
    let mut check = crc32(&text);
    let mut digits = [b'0'; CHECK];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[usize::try_from(check % 62).unwrap()];
        check /= 62;
    }
    text.extend(digits);
    String::from_utf8(text).unwrap()
}

/// CRC-32 as in zip, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_guesses_with_growing_right_prefixes_find_nothing() {
    let siege = Siege::of(Server::start().await).await;
    let token = siege.token("sensor-linux").await;
    let digits = token.len() - PREFIX - CHECK;
    assert_eq!(guess(&token, digits, 0), token, "guesses are well-formed");

    let mut guessing = JoinSet::new();
    for part in 0..CONNECTIONS {
        let mut door = est::connect(siege.server()).await.unwrap();
        let token = token.clone();
        guessing.spawn(async move {
            let mut codes: BTreeMap<(u16, String), usize> = BTreeMap::new();
            for n in (part..GUESSES).step_by(CONNECTIONS) {
                let guess = guess(&token, n * digits / GUESSES, n);
                let mut request = est::enroll_request(None, &guess, b"");
                for header in ["x-forwarded-for", "forwarded", "x-real-ip"] {
                    let from = format!("203.0.{}.{}", n / 256 % 256, n % 256);
                    request.headers_mut().insert(header, from.parse().unwrap());
                }
                let answer = door.send(request).await.unwrap();
                if answer.status == 429 {
                    refused(&answer, 429, "rate_limited");
                    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
                    assert!((1..=60).contains(&wait));
                } else {
                    refused(&answer, 401, "token_refused");
                }
                *codes.entry((answer.status.as_u16(), answer.code())).or_default() += 1;
            }
            codes
        });
    }
    let mut codes: BTreeMap<(u16, String), usize> = BTreeMap::new();
    while let Some(part) = guessing.join_next().await {
        part.unwrap().into_iter().for_each(|(code, count)| *codes.entry(code).or_default() += count);
    }
    // A minute that ends while guessing lets another thirty be answered.
    let answered = codes[&(401, "token_refused".to_owned())];
    assert!((LIMIT..=3 * LIMIT).contains(&answered), "{codes:?}");
    assert_eq!(codes.values().sum::<usize>(), GUESSES);

    let written = siege.entries().await.iter().filter(|entry| entry["outcome"] == "refused").count();
    assert!(written <= answered + 3, "guessing does not fill the log: {written} entries");
    let good = est::enroll(siege.server(), &token, &Pledge::new("").csr).await.unwrap();
    let _ = est::leaf(&good);
    let _ = siege.lift(1, &["token.unknown", "token.rate"]).await;
}
