//! Where alarms go: a webhook whose signatures openssl judges, and a log host. Both only listen.

use serde_json::Value;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::judge::openssl;
use crate::{Launch, eventually};

/// What signs alarms to the webhook.
const SECRET: &str = "a secret that nobody guesses";
/// No request of an alarm is longer, in bytes.
const REQUEST_CAP: usize = 64 * 1024;

/// Somebody who hears alarms. Dropping it closes both ways in.
#[derive(Debug)]
pub struct Ear {
    directory: TempDir,
    webhook: u16,
    syslog: u16,
    heard: Arc<Heard>,
    _listening: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Heard {
    /// Signature and body of each request.
    posts: Mutex<Vec<(String, String)>>,
    messages: Mutex<Vec<String>>,
}

impl Ear {
    /// Listens on free ports of this machine.
    ///
    /// # Panics
    /// When there are none.
    pub async fn open() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("secret"), SECRET).expect("it is writable");
        let posts = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let messages = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let webhook = posts.local_addr().expect("it is bound").port();
        let syslog = messages.local_addr().expect("it is bound").port();
        let heard = Arc::new(Heard::default());
        let mut listening = JoinSet::new();
        listening.spawn(take_posts(posts, Arc::clone(&heard)));
        listening.spawn(take_messages(messages, Arc::clone(&heard)));
        Self { directory, webhook, syslog, heard, _listening: listening }
    }

    /// `launch` of a server whose alarms come here.
    #[must_use]
    pub fn on(&self, launch: Launch) -> Launch {
        launch
            .with("MUSTER_ALARM_WEBHOOK", format!("http://localhost:{}/alarms", self.webhook))
            .with("MUSTER_ALARM_SECRET_FILE", self.directory.path().join("secret"))
            .with("MUSTER_ALARM_ALLOW_PRIVATE", "true")
            .with("MUSTER_ALARM_SYSLOG", format!("udp://127.0.0.1:{}", self.syslog))
    }

    /// Waits until both ways have told of `event` for which `fits`; answers what the webhook was sent, whose signature is
    /// right.
    ///
    /// # Panics
    /// When one of them never does, or the signature is another's.
    pub async fn hears(&self, event: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let (signature, body, alarm) = eventually(&format!("the alarm {event}"), async || {
            let posts = self.heard.posts.lock().unwrap_or_else(PoisonError::into_inner).clone();
            posts.into_iter().find_map(|(signature, body)| {
                let alarm: Value = serde_json::from_str(&body).ok()?;
                (alarm["event"] == event && fits(&alarm)).then_some((signature, body, alarm))
            })
        })
        .await;
        let (time, tag) = signature.split_once(",v1=").expect("a time and a tag");
        let time = time.strip_prefix("t=").expect("a time");
        let words = ["dgst", "-sha256", "-hmac", SECRET, "-r"];
        let judged = openssl(&words, format!("{time}.{body}").as_bytes()).await.ok().text();
        assert_eq!(judged.split_whitespace().next(), Some(tag), "{signature}");
        // Facility 10, severity 1 (RFC 5424 §6.2.1).
        let request = alarm["request_id"].as_str().unwrap_or_default();
        eventually(&format!("the message {event}"), async || {
            let messages = self.heard.messages.lock().unwrap_or_else(PoisonError::into_inner);
            let is_it = |message: &String| {
                message.starts_with("<81>1 ")
                    && message.contains(&format!(" muster - {event} - "))
                    && message.contains(&format!("request={request} "))
            };
            messages.iter().any(is_it).then_some(())
        })
        .await;
        alarm
    }

    /// How often the webhook was told of `event`.
    pub fn count(&self, event: &str) -> usize {
        let posts = self.heard.posts.lock().unwrap_or_else(PoisonError::into_inner);
        posts.iter().filter(|(_, body)| body.contains(&format!("\"event\":\"{event}\""))).count()
    }
}

async fn take_posts(listener: TcpListener, heard: Arc<Heard>) {
    while let Ok((stream, _)) = listener.accept().await {
        if let Some(post) = read_post(stream).await {
            heard.posts.lock().unwrap_or_else(PoisonError::into_inner).push(post);
        }
    }
}

/// Signature and body of one request, which is answered.
async fn read_post(mut stream: TcpStream) -> Option<(String, String)> {
    let mut asked = Vec::new();
    loop {
        if stream.read_buf(&mut asked).await.ok()? == 0 || asked.len() > REQUEST_CAP {
            return None;
        }
        let text = String::from_utf8_lossy(&asked).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        if body.len() < header("content-length")?.parse().ok()? {
            continue;
        }
        let signature = header("muster-signature")?;
        if !head.starts_with("POST /alarms HTTP/1.1") {
            return None;
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.ok()?;
        return Some((signature, body.to_owned()));
    }
}

async fn take_messages(socket: UdpSocket, heard: Arc<Heard>) {
    let mut message = [0; 2048];
    while let Ok(length) = socket.recv(&mut message).await {
        let text = String::from_utf8_lossy(&message[..length]).into_owned();
        heard.messages.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}
