//! The null responder: shakes hands and answers a fixed body. It tells how fast the generator can ask at all.
//!
//! It is this program again, as a child on the server's core, so that it shares nothing with the generator.

use crate::generator::{Generator, Pass};
use crate::work;
use crate::work::Work;
use muster_tests::measure::cores;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::NoServerSessionStorage;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The argument that makes this program the responder.
const ARGUMENT: &str = "--null-responder";

/// A body as long as that of an enrolment.
const BODY_BYTES: usize = 1_100;

/// The responder while it runs.
struct Responder(Child);

impl Drop for Responder {
    fn drop(&mut self) {
        // It may have ended by itself; it must not outlive this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this process is to be the responder.
pub(crate) fn asked_for() -> Option<Vec<String>> {
    let arguments: Vec<String> = std::env::args().collect();
    arguments.iter().any(|argument| argument == ARGUMENT).then_some(arguments)
}

/// Operations a second that the generator gets out of a responder which does next to nothing.
pub(crate) async fn rate(pass: Pass, places: usize, operations: usize) -> f64 {
    cores::pin(cores::SERVER);
    let program = std::env::current_exe().expect("a program knows where it is");
    let child = Command::new(program).arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut responder = Responder(child.expect("this program can be started again"));
    cores::pin(cores::GENERATOR);
    let mut said = String::new();
    let out = responder.0.stdout.take().expect("standard output is a pipe");
    BufReader::new(out).read_line(&mut said).expect("the responder says where it listens");
    let generator = Generator::of(said.trim().parse().expect("an address"), places);
    let _ = generator.run(pass, work::Work::blank(places * 4)).await;
    let passed = generator.run(pass, Work::blank(operations)).await;
    passed.operations as f64 / passed.took.as_secs_f64()
}

/// Answers until it is killed.
pub(crate) fn respond(_arguments: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let acceptor = TlsAcceptor::from(Arc::new(config()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            tokio::spawn(answer(acceptor.clone(), socket));
        }
    });
}

async fn answer(acceptor: TlsAcceptor, socket: TcpStream) {
    let body = "x".repeat(BODY_BYTES);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY_BYTES}\r\n\r\n{body}");
    if socket.set_nodelay(true).is_err() {
        return;
    }
    let Ok(mut stream) = acceptor.accept(socket).await else { return };
    let mut request = vec![0; 8 * 1024];
    // A request comes in one record and is read whole.
    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn config() -> ServerConfig {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("PKCS#8");
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a usable key");
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}
