//! What a device must know of us before it trusts anything else.

use super::{App, Error};
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
            trust_bundle: TrustBundle { version: 1, roots: vec![STANDARD.encode(self.ca.root_der())] },
            authority: self.authority_chain()?.iter().map(|link| STANDARD.encode(link)).collect(),
            device,
        })
    }

    /// Root, issuing CA and server-names CA (RFC 7030 §4.1.3), DER.
    pub fn ca_certificates(&self, _permit: &Permit<act::ReadCaCertificates>) -> [&[u8]; 3] {
        self.ca.certificates().map(|(_, certificate)| certificate.der())
    }
}
