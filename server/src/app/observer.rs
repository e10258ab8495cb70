//! Observers: given a certificate, listed, revoked.

use super::{App, Error};
use crate::ca::At;
use crate::domain::device::{CertificateRecord, CertificateRef, CertificateState};
use crate::domain::observer::{self, Addition, Observer, ObserverGrant, Revoked, VALIDITY_S};
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::revocation::Reason;
use crate::store::collections::{CERTIFICATE_BYTES, OBSERVERS, PUBLIC_KEYS, decode};
use crate::store::key::ordinal;
use crate::store::{Batch, Expect};
use muster_pki::csr::VerifiedCsr;
use muster_pki::key::Algorithm;
use muster_pki::profile::{BACKDATE_S, LeafProfile};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::ObserverName;
use muster_wire::problem::Code;
use std::sync::atomic::Ordering;

/// Whose a key is that certifies an observer, in the collection of public keys: no device's.
const NO_DEVICE: [u8; 16] = [0; 16];

/// Observers read at a time.
const PAGE: usize = 1_000;

/// What an observer's certificate is like; nothing of it comes from the request.
fn leaf() -> LeafProfile {
    let algorithms = vec![Algorithm::P256, Algorithm::P384, Algorithm::Ed25519];
    LeafProfile { algorithms, validity_s: VALIDITY_S, backdate_s: BACKDATE_S }
}

impl App {
    /// Gives the observer `name` a certificate for the key of the request `csr`. The same name with the same key
    /// gets the same certificate while it lives.
    ///
    /// # Errors
    /// [`Error::Refused`] with a `csr_…` code where the request is bad, with `conflict` where the name is taken.
    pub async fn add_observer(
        &self,
        permit: Permit<act::AddObserver>,
        name: ObserverName,
        csr: &[u8],
    ) -> Result<(Observer, Vec<u8>), Error> {
        let object = format!("observer/{name}");
        let csr = match self.observers_request(csr) {
            Ok(csr) => csr,
            Err(refusal) => return Err(self.decline(&permit, &object, refusal).await),
        };
        for _ in 0..super::ATTEMPTS {
            match self.try_add_observer(&permit, &name, &csr).await {
                Err(Error::Contended) => {}
                Err(Error::Refused(refusal)) => return Err(self.decline(&permit, &object, refusal).await),
                settled => return settled,
            }
        }
        Err(Error::Contended)
    }

    fn observers_request(&self, body: &[u8]) -> Result<VerifiedCsr, Refusal> {
        let csr =
            VerifiedCsr::parse(body, &leaf().algorithms).map_err(|error| super::csr::refusal(&error))?;
        if self.ca.is_own_key(&Sha256Digest(*csr.spki_sha256())) {
            return Err(Refusal::by("csr.key_of_ca", Code::CsrKeyInUse).at("subjectPublicKeyInfo"));
        }
        Ok(csr)
    }

    async fn try_add_observer(
        &self,
        permit: &Permit<act::AddObserver>,
        name: &ObserverName,
        csr: &VerifiedCsr,
    ) -> Result<(Observer, Vec<u8>), Error> {
        let id = name.as_str().as_bytes();
        let there = self.store.load::<Observer>(id)?;
        let spki = Sha256Digest(*csr.spki_sha256());
        let key = PUBLIC_KEYS.key(spki.as_bytes());
        let (key_is_known, now_ms) = (self.store.get(&key)?.is_some(), self.clock.now_ms());
        let now = now_ms.div_euclid(1000);
        match (observer::add(there.as_ref().map(|held| &held.record), &spki, key_is_known, now)?, there) {
            (Addition::Same, Some(held)) => {
                let der = self.certificate_der(held.record.certificate.ordinal)?;
                Ok((held.record, der))
            }
            (Addition::Same | Addition::Issue, there) => {
                let (certificate, der) = self.issue_observer(permit, name, csr)?;
                let entry = permit
                    .entry(now_ms, format!("observer/{name}"))
                    .states("", "added")
                    .facts(super::certificates::facts(&certificate));
                let batch = put_certificate(Batch::default(), name, &certificate, &der);
                let created_by = permit.caller().principal.actor();
                let name = name.clone();
                let observer =
                    Observer { v: 1, name, certificate, created_at: now, created_by, revoked: None };
                let batch = batch
                    .expect(key.clone(), Expect::Absent)
                    .put(key, NO_DEVICE.to_vec())
                    .replace(id, there.map(|held| held.version), &observer)
                    .audit(entry);
                self.commit(batch).await?;
                Ok((observer, der))
            }
        }
    }

    /// Signs an observer's certificate in memory; nothing has left the process when this returns.
    fn issue_observer(
        &self,
        permit: &Permit<act::AddObserver>,
        name: &ObserverName,
        csr: &VerifiedCsr,
    ) -> Result<(CertificateRef, Vec<u8>), Error> {
        let (grant, now) = (ObserverGrant::new(permit, name.clone()), self.clock.now_s());
        let issued = self
            .ca
            .issue_observer(&grant, csr, &leaf(), At { urls: &self.urls, now_s: now })
            .map_err(|error| Error::internal("issuing an observer's certificate")(Box::new(error)))?;
        let certificate = CertificateRef {
            ordinal: self.next_ordinal.fetch_add(1, Ordering::Relaxed),
            serial: issued.serial,
            sha256: Sha256Digest(issued.sha256),
            spki: Sha256Digest(issued.spki_sha256),
            issued_at: now,
            not_after: issued.not_after_s,
        };
        Ok((certificate, issued.der))
    }

    /// Ends the certificate of the observer `name`. When this returns the gate refuses it, its session is cut, and
    /// the next reader of the CRL finds it listed. Revoking twice changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn revoke_observer(
        &self,
        permit: Permit<act::RevokeObserver>,
        name: &ObserverName,
        reason: Reason,
    ) -> Result<Observer, Error> {
        let id = name.as_str().as_bytes();
        for _ in 0..super::ATTEMPTS {
            let held = self.store.load::<Observer>(id)?.ok_or(Error::NotFound { kind: "observer" })?;
            if held.record.revoked.is_some() {
                return Ok(held.record);
            }
            let now_ms = self.clock.now_ms();
            let mut observer = held.record;
            observer.revoked = Some(Revoked { at: now_ms.div_euclid(1000), reason });
            let entry = permit
                .entry(now_ms, format!("observer/{name}"))
                .because(reason.as_str())
                .states("added", "revoked")
                .facts([("revoked_serials", observer.certificate.serial.to_string())]);
            let batch = Batch::essential();
            let batch = self.end_certificate(batch, &observer.certificate, reason)?;
            match self.commit(batch.update(id, held.version, &observer).audit(entry)).await {
                Err(Error::Contended) => {}
                settled => return settled.map(|()| observer),
            }
        }
        Err(Error::Contended)
    }

    /// Every observer, by name.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn observers(&self, _permit: &Permit<act::ReadObserver>) -> Result<Vec<Observer>, Error> {
        let mut all = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan(OBSERVERS.prefix, after.as_deref(), PAGE)?;
            for (_, found) in &page {
                all.push(decode::<Observer>(&found.value)?);
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(all),
            }
        }
    }
}

/// Adds an observer's certificate to `batch`. It is current at once: an observer proves nothing by using it.
fn put_certificate(batch: Batch, name: &ObserverName, certificate: &CertificateRef, der: &[u8]) -> Batch {
    let id = ordinal(certificate.ordinal);
    let record = CertificateRecord {
        v: 1,
        serial: certificate.serial,
        sha256: certificate.sha256,
        device: None,
        observer: Some(name.clone()),
        not_after: certificate.not_after,
        grace_s: 0,
        held: false,
        leaving: None,
        state: CertificateState::Current,
    };
    batch.insert(&id, &record).put(CERTIFICATE_BYTES.key(&id), der.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::fixture::{Bench, UNLIMITED};
    use crate::app::{Enroll, Wanted};
    use crate::domain::admission::{Door, Refusal as Refused};
    use crate::domain::policy::{Act, Principal};
    use crate::doors::peer::{ObserverCertificate, PeerCertificate};
    use muster_wire::topic::EventTopic;

    fn request() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    }

    fn leave<A: Act>(bench: &Bench) -> Permit<A> {
        bench.permit(Principal::Operator("admin".into()))
    }

    async fn add(bench: &Bench, name: &str, csr: &[u8]) -> Result<(Observer, Vec<u8>), Error> {
        bench.app.add_observer(leave(bench), name.parse().unwrap(), csr).await
    }

    fn shown(bench: &Bench, der: &[u8]) -> ObserverCertificate {
        ObserverCertificate::read(der, &bench.app.doors().trust_domain).unwrap()
    }

    #[tokio::test]
    async fn an_observers_certificate_names_it_opens_the_gate_and_is_no_devices() {
        let bench = Bench::founded(UNLIMITED);
        let (observer, der) = add(&bench, "dashboard", &request()).await.unwrap();
        let certificate = shown(&bench, &der);
        assert_eq!(certificate.name.as_str(), "dashboard");
        assert_eq!(certificate.not_after, bench.clock.clock().now_s() + VALIDITY_S);
        assert!(bench.app.doors().judge_observer(&certificate).is_ok());
        assert!(PeerCertificate::read(&der, &bench.app.doors().trust_domain).is_err());
        let now = bench.clock.clock().now_s();
        let index = &bench.app.doors().index;
        assert_eq!(
            index.admit(&observer.certificate.serial, certificate.not_after, Door::Gate, now),
            Err(Refused::Unknown)
        );
    }

    #[tokio::test]
    async fn the_same_request_again_gets_the_same_certificate_and_another_key_a_conflict() {
        let bench = Bench::founded(UNLIMITED);
        let csr = request();
        let first = add(&bench, "dashboard", &csr).await.unwrap();
        assert_eq!(add(&bench, "dashboard", &csr).await.unwrap(), first);
        assert!(
            matches!(add(&bench, "dashboard", &request()).await, Err(Error::Refused(r)) if r.code == Code::Conflict)
        );
        assert!(
            matches!(add(&bench, "other", &csr).await, Err(Error::Refused(r)) if r.code == Code::CsrKeyInUse)
        );
        assert_eq!(bench.refusals(), ["observer.name_taken", "observer.key_in_use"]);
    }

    #[tokio::test]
    async fn a_revoked_observer_is_refused_listed_and_may_come_back_with_another_key() {
        let bench = Bench::founded(UNLIMITED);
        let (_, der) = add(&bench, "dashboard", &request()).await.unwrap();
        let name: ObserverName = "dashboard".parse().unwrap();
        let mut heard =
            bench.app.events(&leave(&bench), None, Wanted::NONE.and(EventTopic::Certificates)).unwrap();
        let revoked = bench.app.revoke_observer(leave(&bench), &name, Reason::KeyCompromise).await.unwrap();
        assert_eq!(revoked.state(0), "revoked");
        assert_eq!(bench.app.doors().judge_observer(&shown(&bench, &der)), Err(Refused::Revoked));
        let told = heard.next().await.unwrap();
        assert!(
            told.body.contains("\"observer\":\"dashboard\"") && told.body.contains("\"status\":\"revoked\"")
        );
        let serial = revoked.certificate.serial;
        let permit = bench.permit(Principal::Anonymous);
        let crl = bench.app.crl(&permit, bench.app.ca().issuing_id(), serial.shard()).await.unwrap();
        assert!(crl.windows(16).any(|bytes| bytes == serial.as_bytes()), "in the CRL");
        assert!(add(&bench, "dashboard", &request()).await.is_ok());
        assert_eq!(bench.app.observers(&leave(&bench)).unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_observers_key_enrols_no_device() {
        let bench = Bench::founded(UNLIMITED);
        let csr = request();
        add(&bench, "dashboard", &csr).await.unwrap();
        let token = bench.tokens(None, 1).await.remove(0);
        let from = std::net::IpAddr::from([127, 0, 0, 1]);
        let request = Enroll { label: None, credential: Some(token.reveal()), body: &csr, from };
        let refused = bench.app.simple_enroll(bench.permit(Principal::Anonymous), request).await;
        assert!(matches!(refused, Err(Error::Refused(r)) if r.code == Code::CsrKeyInUse), "{refused:?}");
    }
}
