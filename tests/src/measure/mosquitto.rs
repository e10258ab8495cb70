//! Mosquitto, as the peer that a measurement has beside it: mutual TLS, no disk, the same devices.

use super::{books, cores};
use crate::{Server, Tls, est, until};
use rcgen::generate_simple_self_signed;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A running mosquitto. Dropping it ends it.
#[derive(Debug)]
pub struct Mosquitto {
    child: Child,
    address: SocketAddr,
    /// Its configuration and keys, gone with it.
    _directory: TempDir,
}

impl Mosquitto {
    /// Starts on the server's core, letting in the devices of `server`; nothing where it is not installed.
    ///
    /// # Panics
    /// When it is installed and does not serve.
    pub async fn beside(server: &Server) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("muster-peer-").tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let made = generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(path("server.pem"), made.cert.pem()).expect("a file");
        std::fs::write(path("server.key"), made.signing_key.serialize_pem()).expect("a file");
        std::fs::write(path("ca.pem"), authorities(server).await).expect("a file");
        let address = free_address();
        let at = directory.path().display();
        let config = format!(
            "listener {} 127.0.0.1\ncafile {at}/ca.pem\ncertfile {at}/server.pem\nkeyfile {at}/server.key\n\
             require_certificate true\nallow_anonymous true\nset_tcp_nodelay true\npersistence false\n\
             max_keepalive 65535\nlog_dest file {at}/log\nlog_type error\nlog_type warning\nuser root\n",
            address.port(),
        );
        std::fs::write(path("mosquitto.conf"), config).expect("a file");
        cores::pin(cores::SERVER);
        let start = |program: &&str| {
            Command::new(program)
                .args(["-c".as_ref(), path("mosquitto.conf").as_os_str()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()
        };
        // Debian keeps it where only root looks.
        let child = ["mosquitto", "/usr/sbin/mosquitto"].iter().find_map(start);
        cores::pin(cores::GENERATOR);
        let peer = Self { child: child?, address, _directory: directory };
        until("mosquitto listens", || std::net::TcpStream::connect(address).ok()).await;
        Some(peer)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its memory, in bytes.
    pub fn pss_bytes(&self) -> u64 {
        books::pss_bytes(self.pid())
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended by itself; it must not outlive this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The CA certificates of `server`, PEM.
async fn authorities(server: &Server) -> String {
    let url = format!("{}{}", server.endpoints().device.trim_end_matches('/'), est::path(None, "cacerts"));
    let request = http::Request::get(url).body(Default::default()).expect("a request");
    let answer = Tls::anonymous(server).request(request).await.expect("an answer");
    est::certificates(&answer).iter().map(|der| pem(der)).collect()
}

fn pem(der: &[u8]) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound listener has an address")
}
