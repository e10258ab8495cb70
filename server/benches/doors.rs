//! What a door costs: server CPU per TLS 1.3 handshake, and memory per certificate in the status index.
//!
//! The server's half of a handshake is driven in memory and timed alone, on one thread, so that neither the
//! client's half nor a socket is counted: `cargo bench -p muster-server --bench doors`. Wall time of one thread
//! is CPU time only on a quiet machine; the median of many handshakes is printed, with the fastest tenth beside.

use muster_server::clock::Clock;
use muster_server::domain::admission::{CertificateStatus, DeviceStanding, Door};
use muster_server::doors::Doors;
use muster_server::doors::peer::{PeerCertificate, Serial};
use muster_server::doors::status_index::{Standing, StatusIndex};
use muster_server::doors::tls::{ServerIdentity, TlsSource, Versions, provider};
use muster_server::doors::verifier::{ClientAuth, LiveClientVerifier};
use muster_wire::id::DeviceId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    SerialNumber,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, NamedGroup, RootCertStore, ServerConfig, ServerConnection, version,
};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

const HANDSHAKES: usize = 400;
const CERTIFICATES: u64 = 1_000_000;

fn main() -> Outcome<()> {
    let bench = Bench::new()?;
    println!("{:<44} {:>10} {:>10}", "server CPU per TLS 1.3 handshake, µs", "median", "fastest");
    for (group, name) in [(NamedGroup::X25519, "X25519"), (NamedGroup::X25519MLKEM768, "X25519MLKEM768")] {
        let anonymous = bench.client(group, false)?;
        report(&format!("device door, server-auth, {name}"), &bench.device, &anonymous)?;
        let enrolled = bench.client(group, true)?;
        report(&format!("mqtt door, mTLS leaf only, {name}"), &bench.mqtt, &enrolled)?;
    }
    index()
}

fn report(name: &str, server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Outcome<()> {
    let mut took = (0..HANDSHAKES).map(|_| handshake(server, client)).collect::<Outcome<Vec<Duration>>>()?;
    took.sort_unstable();
    let at = |index: usize| took.get(index).copied().unwrap_or_default().as_secs_f64() * 1e6;
    println!("{name:<44} {:>10.1} {:>10.1}", at(HANDSHAKES / 2), at(HANDSHAKES / 10));
    Ok(())
}

/// The time that the server's half takes.
fn handshake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Outcome<Duration> {
    let mut client = ClientConnection::new(Arc::clone(client), ServerName::try_from("localhost")?)?;
    let begun = Instant::now();
    let mut server = ServerConnection::new(Arc::clone(server))?;
    let mut took = begun.elapsed();
    while client.is_handshaking() || server.is_handshaking() {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight)?;
        }
        let mut answer = Vec::new();
        let begun = Instant::now();
        let mut unread = flight.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread)?;
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut answer)?;
        }
        took += begun.elapsed();
        let mut unread = answer.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread)?;
            client.process_new_packets()?;
        }
    }
    Ok(took)
}

struct Bench {
    root: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: Vec<u8>,
    device: Arc<ServerConfig>,
    mqtt: Arc<ServerConfig>,
}

impl Bench {
    fn new() -> Outcome<Self> {
        let (root, root_der) = authority("root")?;
        let (issuing, issuing_der) = authority("issuing")?;
        let clock = Clock::system();
        let doors = Doors::new("muster.test".parse()?, clock.clone());
        let (leaf, key) = device_leaf(&issuing)?;
        let shown = PeerCertificate::read(&leaf, &doors.trust_domain)?;
        doors.index.set(&shown.serial, &current(1));
        let identity = server_identity(&root, &root_der)?;
        let tls = TlsSource { identity, provider: provider(), clock };
        let verifier = |auth| {
            let issuers = [issuing_der.clone()];
            LiveClientVerifier::new(&issuers, auth, doors.clone(), provider()).map(Arc::new)
        };
        Ok(Self {
            root: root_der,
            leaf,
            key: key.serialize_der(),
            device: tls.device(verifier(ClientAuth::Optional)?, Versions::Tls13)?,
            mqtt: tls.mqtt(verifier(ClientAuth::Required)?)?,
        })
    }

    fn client(&self, group: NamedGroup, with_certificate: bool) -> Outcome<Arc<ClientConfig>> {
        let all = provider();
        let kx_groups = all.kx_groups.iter().copied().filter(|offered| offered.name() == group).collect();
        let only = CryptoProvider { kx_groups, ..CryptoProvider::clone(&all) };
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(only))
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(roots);
        if !with_certificate {
            return Ok(Arc::new(builder.with_no_client_auth()));
        }
        let key = PrivateKeyDer::try_from(self.key.clone())?;
        Ok(Arc::new(builder.with_client_auth_cert(vec![self.leaf.clone()], key)?))
    }
}

fn authority(name: &str) -> Outcome<(Issuer<'static, KeyPair>, CertificateDer<'static>)> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let der = params.self_signed(&key)?.der().clone();
    Ok((Issuer::new(params, key), der))
}

fn device_leaf(issuing: &Issuer<'static, KeyPair>) -> Outcome<(CertificateDer<'static>, KeyPair)> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(Serial::from_random([1; 16]).as_bytes()));
    let uri = muster_wire::id::device_uri("muster.test", DeviceId::from_parts(1_700_000_000_000, [1; 10]));
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuing)?.der().clone(), key))
}

fn server_identity(
    root: &Issuer<'static, KeyPair>,
    root_der: &CertificateDer<'static>,
) -> Outcome<ServerIdentity> {
    let params = CertificateParams::new(vec!["localhost".to_owned()])?;
    let key = KeyPair::generate()?;
    let chain = vec![params.signed_by(&key, root)?.der().clone(), root_der.clone()];
    Ok(ServerIdentity::new(chain, PrivateKeyDer::try_from(key.serialize_der())?, provider())?)
}

fn current(print: u64) -> Standing {
    Standing { print, certificate: CertificateStatus::Current, device: DeviceStanding::Active { grace_s: 0 } }
}

/// Memory per certificate as the kernel counts it, and the time of one question.
fn index() -> Outcome<()> {
    let serials = (0..CERTIFICATES).map(random_serial);
    let before = resident_bytes()?;
    let index = StatusIndex::new();
    for (record, serial) in serials.clone().enumerate() {
        index.set(&serial, &current(u64::try_from(record)?));
    }
    let each = (resident_bytes()?.saturating_sub(before)) / CERTIFICATES;
    println!(
        "\nstatus index, {CERTIFICATES} certificates: {each} bytes each resident, {} in tables",
        u64::try_from(index.table_bytes())? / CERTIFICATES
    );
    let begun = Instant::now();
    let admitted = serials.filter(|serial| index.admit(serial, i64::MAX, Door::Https, 0).is_ok()).count();
    let took = begun.elapsed() / u32::try_from(CERTIFICATES)?;
    println!("status index, one question: {took:?} ({admitted} of {CERTIFICATES} let in)");
    Ok(())
}

/// A serial number that looks random and is the same in every run (SplitMix64).
fn random_serial(n: u64) -> Serial {
    let mix = |seed: u64| {
        let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let both = (u128::from(mix(2 * n + 1)) << 64) | u128::from(mix(2 * n + 2));
    Serial::from_random(both.to_be_bytes())
}

fn resident_bytes() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
