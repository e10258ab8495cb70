//! The thief of the demo: every key in the server's data directory is his, and no approver's.
//!
//! He signs what the server could sign: certificates for its name, orders, checkpoints. What an approver has to sign he
//! can only get from an approver, or sign with keys of his own. Nothing here is reached but by `muster demo`, and it
//! listens on this machine alone.

use super::call::text;
use super::false_server::{FalseServer, Heard};
use super::stage::{Broken, in_time, port_of};
use crate::clock::Clock;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use muster_pki::hierarchy::{self, Authority as Signing, ServerTerms};
use muster_pki::issuer::{CaCertificate, CaKey, CaSigner as _};
use muster_pki::key::Algorithm;
use muster_pki::profile::IssuerUrls;
use muster_pki::serial::Serial;
use muster_wire::authority::{Approver, Authority};
use muster_wire::cbor;
use muster_wire::checkpoint::Checkpoint;
use muster_wire::discovery::{Caller, Discovery, Endpoints, TrustBundle};
use muster_wire::envelope::{MultiSigned, SignedByMany, sign1};
use muster_wire::id::{DeviceId, OrderId, WarrantId};
use muster_wire::key::{Ed25519Key, Signer};
use muster_wire::merkle::{ConsistencyProof, TreeHead, prove_inclusion, root_of};
use muster_wire::order::{Action, Order, Sequence};
use muster_wire::time::Timestamp;
use muster_wire::warrant::{Level, Target, Warrant};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How long what he signs is to last, in seconds.
const LASTS_S: i64 = 24 * 60 * 60;
/// A place behind every order that the server has made.
const FAR: u64 = 1_000_000;

/// Whom he is after, and what everybody may know about that device.
#[derive(Clone, Debug)]
pub(super) struct Victim {
    /// Its id.
    pub(super) device: DeviceId,
    /// Its serial number.
    pub(super) serial: String,
    /// How far it has seen the log.
    pub(super) seen: TreeHead,
    /// The chain of authority documents, a line of base64 each, oldest first: what discovery tells everyone.
    pub(super) authority: String,
}

/// The thief, with what he has stolen.
pub(super) struct Thief {
    keys: PathBuf,
    command: SigningKey,
    audit: SigningKey,
    own: [SigningKey; 2],
    victim: Victim,
    first: MultiSigned<Authority>,
    now: Timestamp,
    made: u8,
    server: Option<FalseServer>,
    /// What the agent has said to orders so far: it says so again to whoever does not acknowledge.
    told: Vec<String>,
}

impl std::fmt::Debug for Thief {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Thief(of {})", self.keys.display())
    }
}

impl Thief {
    /// Takes the keys in the copy `data_dir` of the server's data directory.
    pub(super) fn with(data_dir: &Path, victim: Victim) -> Result<Self, Broken> {
        let keys = data_dir.join("keys");
        let stolen = |name: &str| {
            let pem = read_text(&keys.join(name))?;
            SigningKey::from_pkcs8_pem(&pem).map_err(fails("read a stolen key"))
        };
        let (command, audit) = (stolen("command.key")?, stolen("audit.key")?);
        let own = [SigningKey::from_bytes(&random()?), SigningKey::from_bytes(&random()?)];
        let first = victim.authority.lines().next().unwrap_or_default();
        let first = BASE64_STANDARD.decode(first).map_err(fails("read the authority"))?;
        let first = MultiSigned::parse(&first).map_err(fails("read the authority"))?;
        let now = Timestamp(Clock::system().now_s());
        Ok(Self { keys, command, audit, own, victim, first, now, made: 0, server: None, told: Vec::new() })
    }

    /// Opens a gate and a door at the server's `endpoints`.
    pub(super) async fn stands_in(&mut self, endpoints: &Value) -> Result<(), Broken> {
        let ports = (port_of(text(endpoints, "/mqtt")?)?, port_of(text(endpoints, "/device")?)?);
        let discovery = self.discovery(endpoints)?;
        self.server = Some(FalseServer::open(ports, self.disguise()?, discovery).await?);
        Ok(())
    }

    /// Waits until the victim's agent has come and waits for orders.
    pub(super) async fn is_believed(&mut self) -> Result<(), Broken> {
        let came = Heard::Waits(self.victim.device.to_string());
        let server = self.server()?;
        in_time("the agent's coming to the thief", async {
            loop {
                match server.hears().await {
                    Some(heard) if heard == came => return Ok(()),
                    Some(_) => {}
                    None => return Err(ended()),
                }
            }
        })
        .await?
    }

    /// Sends `order`; answers in the agent's own words why it refuses.
    pub(super) async fn tries(&mut self, order: &Order) -> Result<String, Broken> {
        let bytes = sign1(order, &self.command).map_err(fails("sign an order"))?;
        let told = self.told.clone();
        let is_new = |words: &String| words.contains("order was refused") && !told.contains(words);
        let server = self.server()?;
        server.order(bytes);
        let answered = async {
            loop {
                match server.hears().await {
                    Some(Heard::Tells(words)) if is_new(&words) => return Ok(words),
                    Some(Heard::Receipt(receipt)) if is_for(&receipt, order.id) => {
                        return Err(Broken::unexpected("the device has taken the thief's order"));
                    }
                    Some(_) => {}
                    None => return Err(ended()),
                }
            }
        };
        let words = in_time("the agent's answer to the thief", answered).await??;
        self.told.push(words.clone());
        Ok(words)
    }

    /// Leaves the server's place; on return its ports are free.
    pub(super) async fn goes(self) {
        if let Some(server) = self.server {
            server.close().await;
        }
    }

    /// An order that lacks nothing but approval: to wipe the victim.
    pub(super) fn order(&mut self) -> Result<Order, Broken> {
        self.made = self.made.saturating_add(1);
        let head = Checkpoint { origin: self.origin()?, head: self.victim.seen };
        let unix_ms = u64::try_from(Clock::system().now_ms()).unwrap_or_default();
        Ok(Order {
            device: self.victim.device,
            id: OrderId::from_parts(unix_ms, random()?),
            sequence: Sequence {
                authority_version: 1,
                restore_epoch: 0,
                counter: FAR + u64::from(self.made),
            },
            action: wipe(),
            warrant: None,
            leaf: None,
            inclusion: None,
            issued_at: self.now,
            expires: self.now.plus_seconds(LASTS_S),
            checkpoint: head.sign(&self.audit).map_err(fails("sign a checkpoint"))?,
            consistency: ConsistencyProof { from_size: self.victim.seen.size, path: Vec::new() },
        })
    }

    /// The same with the warrant `signed`.
    pub(super) fn order_under(&mut self, signed: &MultiSigned<Warrant>) -> Result<Order, Broken> {
        let leaf = self.leaf();
        let inclusion = prove_inclusion(&[leaf.leaf_hash()], 0);
        Ok(Order { warrant: Some(signed.to_bytes()), leaf: Some(leaf), inclusion, ..self.order()? })
    }

    /// What he shows to an approver who is to be taken in, as `muster warrant sign --package` reads it.
    pub(super) fn package(&self, warrant: &Warrant) -> Value {
        let leaf = self.leaf();
        json!({
            "payload": BASE64_STANDARD.encode(cbor::encode(warrant)),
            "action": {"kind": "wipe", "level": Level::Clear.as_str(), "data_roots": []},
            "targets": [{
                "device": leaf.device, "serial": leaf.serial, "owner": leaf.owner,
                "kind": "wipe", "level": Level::Clear.as_str(),
            }],
        })
    }

    /// A warrant of his own that nobody has signed.
    pub(super) fn warrant(&self) -> Result<Warrant, Broken> {
        Ok(Warrant {
            id: WarrantId::from_parts(0, random()?),
            kind: wipe().kind(),
            level: Some(Level::Clear),
            plan: wipe().plan(),
            root: root_of(&[self.leaf().leaf_hash()]),
            count: 1,
            not_after: self.now.plus_seconds(LASTS_S),
            authority_version: 1,
        })
    }

    /// Adds the signatures of the server's keys.
    pub(super) fn sign_as_the_server(&self, warrant: &mut MultiSigned<Warrant>) -> Result<(), Broken> {
        [&self.command, &self.audit].into_iter().try_for_each(|key| sign(warrant, key))
    }

    /// Adds the signatures of the two approvers that he has made up.
    pub(super) fn sign_as_his_own(&self, warrant: &mut MultiSigned<Warrant>) -> Result<(), Broken> {
        self.own.iter().try_for_each(|key| sign(warrant, key))
    }

    fn server(&mut self) -> Result<&mut FalseServer, Broken> {
        self.server.as_mut().ok_or_else(ended)
    }

    fn leaf(&self) -> Target {
        let serial = Some(self.victim.serial.clone());
        let (kind, level) = (wipe().kind(), Some(Level::Clear));
        Target { device: self.victim.device, serial, owner: None, kind, level }
    }

    fn origin(&self) -> Result<String, Broken> {
        Ok(format!("{}/audit", self.founding()?.trust_domain.as_str()))
    }

    fn founding(&self) -> Result<Authority, Broken> {
        self.first.read_unverified().map_err(fails("read the authority"))
    }

    /// A successor of the authority in which he approves, signed by every key that he has.
    fn successor(&self) -> Result<MultiSigned<Authority>, Broken> {
        let mut document = self.founding()?;
        document.version = 2;
        document.previous = Some(self.first.payload_digest());
        let approver = |(name, key): (&str, &SigningKey)| {
            let key = Ed25519Key::from_bytes(key.verifying_key().as_bytes());
            Ok(Approver {
                name: name.parse().map_err(fails("name an approver"))?,
                key: key.map_err(fails("make an approver's key"))?,
                valid_from: Timestamp(0),
            })
        };
        document.approvers =
            ["eve", "mallory"].into_iter().zip(&self.own).map(approver).collect::<Result<_, _>>()?;
        let mut next = MultiSigned::unsigned(&document);
        for key in [&self.command, &self.audit].into_iter().chain(&self.own) {
            sign(&mut next, key)?;
        }
        Ok(next)
    }

    /// What his door tells: the server's own root and addresses, and the authority that he would like to be obeyed.
    fn discovery(&self, endpoints: &Value) -> Result<String, Broken> {
        let url = |name: &str| Ok::<_, Broken>(text(endpoints, &format!("/{name}"))?.to_owned());
        let mut authority: Vec<String> = self.victim.authority.lines().map(str::to_owned).collect();
        authority.push(BASE64_STANDARD.encode(self.successor()?.to_bytes()));
        let discovery = Discovery {
            trust_domain: self.founding()?.trust_domain,
            endpoints: Endpoints { device: url("device")?, mqtt: url("mqtt")?, status: url("status")? },
            trust_bundle: TrustBundle {
                version: 1,
                roots: vec![BASE64_STANDARD.encode(read(&self.keys.join("root.der"))?)],
                issuers: Vec::new(),
            },
            authority,
            device: Some(Caller { id: self.victim.device, state: "active".to_owned() }),
        };
        serde_json::to_string(&discovery).map_err(fails("write a discovery document"))
    }

    /// A certificate for the server's names, from the stolen key of the CA for server names.
    fn disguise(&self) -> Result<Arc<ServerConfig>, Broken> {
        let names_key = CaKey::from_pem(&read_text(&self.keys.join("server-names.key"))?);
        let names_key = names_key.map_err(fails("read a stolen key"))?;
        let names = read(&self.keys.join("server-names.der"))?;
        let certificate = CaCertificate::parse(&names).map_err(fails("read a stolen certificate"))?;
        let urls = IssuerUrls::new("http://localhost", "thief").map_err(fails("name an issuer"))?;
        let authority = Signing { certificate: &certificate, key: &names_key, urls: &urls };
        let own = CaKey::generate(Algorithm::P256).map_err(fails("make a key"))?;
        let terms = ServerTerms {
            names: &["localhost".to_owned()],
            addresses: &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
            validity_s: LASTS_S,
            serial: Serial::from_random(random()?),
        };
        let issued =
            hierarchy::issue_server_certificate(&authority, own.spki_der(), &terms, self.now.seconds());
        let leaf = issued.map_err(fails("issue a certificate"))?.der;
        let chain = [leaf, names, read(&self.keys.join("root.der"))?].map(CertificateDer::from).into();
        let key = PrivateKeyDer::from_pem_slice(own.to_pem().as_bytes()).map_err(fails("read a key"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(fails("speak TLS 1.3"))?
            // He takes everybody for whom he says he is.
            .with_no_client_auth()
            .with_single_cert(chain, key);
        Ok(Arc::new(config.map_err(fails("use a certificate"))?))
    }
}

/// What he wants.
fn wipe() -> Action {
    Action::Wipe { level: Level::Clear, data_roots: Vec::new() }
}

fn sign<T: SignedByMany>(document: &mut MultiSigned<T>, key: &dyn Signer) -> Result<(), Broken> {
    document.add_signature(key).map_err(fails("sign a document"))
}

/// Whether a receipt is for the order `id`, whose sixteen bytes stand in it.
fn is_for(receipt: &[u8], id: OrderId) -> bool {
    receipt.windows(16).any(|part| part == id.as_bytes())
}

fn random<const N: usize>() -> Result<[u8; N], Broken> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(fails("get random bytes"))?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<Vec<u8>, Broken> {
    std::fs::read(path).map_err(Broken::system("read", path))
}

fn read_text(path: &Path) -> Result<String, Broken> {
    std::fs::read_to_string(path).map_err(Broken::system("read", path))
}

fn ended() -> Broken {
    Broken::unexpected("the thief's server has ended")
}

/// Something that the thief, and not the agent, could not do.
fn fails<E: Display>(what: &str) -> impl FnOnce(E) -> Broken {
    let what = what.to_owned();
    move |cause| Broken::unexpected(format!("the thief cannot {what}: {cause}"))
}
