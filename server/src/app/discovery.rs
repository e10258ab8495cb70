//! What a device must know of us before it trusts anything else.

use super::{App, Error};
use crate::ca::Role;
use crate::domain::policy::{Permit, Principal, act};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_wire::discovery::{Caller, Discovery, TrustBundle};

impl App {
    /// Endpoints, trust bundle and authority chain; for a device also how it stands.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn discover(&self, permit: &Permit<act::Discover>) -> Result<Discovery, Error> {
        let device = match &permit.caller().principal {
            Principal::Device(id) => {
                let device = self.device(*id)?.record;
                Some(Caller { id: device.id, state: device.state.as_str().to_owned() })
            }
            Principal::Anonymous | Principal::Observer(_) | Principal::Operator(_) | Principal::Server => {
                None
            }
        };
        Ok(Discovery {
            trust_domain: self.ca.trust_domain().clone(),
            endpoints: self.endpoints.clone(),
            trust_bundle: TrustBundle {
                version: self.ca.lineup().bundle,
                roots: vec![STANDARD.encode(self.ca.root_der())],
                issuers: self
                    .ca
                    .certificates()
                    .iter()
                    .filter(|(role, _)| issues_leaves(*role))
                    .map(|(_, certificate)| STANDARD.encode(certificate.der()))
                    .collect(),
            },
            authority: self.in_force().chain.iter().map(|link| STANDARD.encode(link)).collect(),
            device,
        })
    }

    /// Root, issuing CAs and server-names CA (RFC 7030 §4.1.3), DER.
    pub fn ca_certificates(&self, _permit: &Permit<act::ReadCaCertificates>) -> Vec<&[u8]> {
        self.ca.certificates().into_iter().map(|(_, certificate)| certificate.der()).collect()
    }
}

fn issues_leaves(role: Role) -> bool {
    match role {
        Role::Issuing | Role::Next | Role::Former { .. } => true,
        Role::Root | Role::Names => false,
    }
}
