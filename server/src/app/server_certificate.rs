//! The server's own TLS certificate: a key that never touches the disk, a certificate under the same root.

use super::{App, Error};
use crate::ca::{At, ServerNames};
use crate::domain::policy::{self, Caller, act};
use crate::store::Batch;
use muster_pki::issuer::{CaKey, CaSigner};
use muster_pki::key::Algorithm;
use muster_wire::digest::Sha256Digest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::net::{IpAddr, Ipv4Addr};

/// Life of the server's certificate: 30 days, in seconds.
pub const SERVER_CERTIFICATE_S: i64 = 30 * 24 * 60 * 60;

/// By how many seconds the clock may go back before it counts as set back. Certificates are backdated by more.
const SET_BACK_S: i64 = 60;

/// A certificate for the listeners, with its key.
pub struct ServerCertificate {
    /// Leaf, server-names CA, root: enrolling devices find the root they pin in it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// When it was issued and the last second of its validity.
    pub life: ServerLife,
}

/// From when to when a server certificate is good, in unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLife {
    /// When it was issued.
    pub issued_at: i64,
    /// Its last second.
    pub not_after: i64,
}

impl ServerLife {
    /// Whether another is due at `now`: a third of the life is left, or the clock was set back to before it was issued,
    /// so that nobody else believes it yet.
    pub fn is_over(self, now: i64) -> bool {
        now < self.issued_at.saturating_sub(SET_BACK_S)
            || now >= self.not_after.saturating_sub(SERVER_CERTIFICATE_S / 3)
    }
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
        self.commit(Batch::essential().audit(entry)).await?;
        let mut chain = vec![CertificateDer::from(issued.der)];
        chain.extend(self.ca.server_chain().map(|der| CertificateDer::from(der.to_vec())));
        let key = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes())
            .map_err(|error| failed(Box::new(error)))?;
        Ok(ServerCertificate {
            chain,
            key,
            life: ServerLife { issued_at: now, not_after: issued.not_after_s },
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_is_due_at_two_thirds_and_when_the_clock_was_set_back() {
        let life = ServerLife { issued_at: 1_000_000, not_after: 1_000_000 + SERVER_CERTIFICATE_S };
        assert!(!life.is_over(1_000_000 - SET_BACK_S));
        assert!(!life.is_over(1_000_000 + SERVER_CERTIFICATE_S / 3));
        assert!(life.is_over(1_000_001 + SERVER_CERTIFICATE_S / 3 * 2));
        assert!(life.is_over(1_000_000 - SET_BACK_S - 1));
    }
}
