//! The server's own TLS certificate: a key that never touches the disk, a certificate under the same root.

use super::{App, Error};
use crate::ca::{At, ServerNames};
use crate::domain::policy::{self, Caller, act};
use crate::store::{Batch, Urgency};
use muster_pki::issuer::{CaKey, CaSigner};
use muster_pki::key::Algorithm;
use muster_wire::digest::Sha256Digest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::net::{IpAddr, Ipv4Addr};

/// Life of the server's certificate: 30 days, in seconds.
pub const SERVER_CERTIFICATE_S: i64 = 30 * 24 * 60 * 60;

/// A certificate for the listeners, with its key.
pub struct ServerCertificate {
    /// Leaf, server-names CA, root: enrolling devices find the root they pin in it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// Last second of the leaf's validity.
    pub not_after_s: i64,
}

impl App {
    /// Issues a certificate for a new key. It carries the public and advertised names, `localhost` and 127.0.0.1.
    ///
    /// # Errors
    /// [`Error::Internal`] where signing fails; [`Error::NoSpace`].
    pub async fn issue_server_certificate(&self) -> Result<ServerCertificate, Error> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::internal("issuing the server's certificate")(error)
        };
        let permit = policy::decide::<act::IssueServerCertificate>(Caller::server())?;
        let key = CaKey::generate(Algorithm::P256).map_err(|error| failed(Box::new(error)))?;
        let names = self.server_names();
        let now = self.clock.now_s();
        let issued = self
            .ca
            .issue_server(&permit, key.spki_der(), &names, At { urls: &self.urls, now_s: now })
            .map_err(|error| failed(Box::new(error)))?;
        let entry = permit.entry(self.clock.now_ms(), format!("certificate/{}", issued.serial)).facts([
            ("certificate_serial", issued.serial.to_string()),
            ("certificate_sha256", Sha256Digest(issued.sha256).to_hex()),
            ("names", names.names.join(" ")),
        ]);
        self.commit(Batch { urgency: Urgency::Essential, ..Batch::default() }.audit(entry)).await?;
        let mut chain = vec![CertificateDer::from(issued.der)];
        chain.extend(self.ca.server_chain().map(|der| CertificateDer::from(der.to_vec())));
        let key = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes())
            .map_err(|error| failed(Box::new(error)))?;
        Ok(ServerCertificate { chain, key, not_after_s: issued.not_after_s })
    }

    fn server_names(&self) -> ServerNames {
        let mut names = vec!["localhost".to_owned()];
        let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        for host in self.server_hosts.iter().chain([&self.founding.public_name]) {
            match host.parse::<IpAddr>() {
                Ok(address) if !addresses.contains(&address) => addresses.push(address),
                Err(_) if !names.contains(host) => names.push(host.clone()),
                Ok(_) | Err(_) => {}
            }
        }
        ServerNames { names, addresses, validity_s: SERVER_CERTIFICATE_S }
    }
}
