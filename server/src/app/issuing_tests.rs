//! Another issuing CA: what each step needs, who knows, and that no certificate changes its issuer afterwards.

use super::found::{self, FoundError, Step};
use super::plane_fixture::{Life, Site, report_id};
use crate::ca::keystore::Keystore;
use crate::ca::{Role, file};
use crate::config::Settings;
use crate::domain::issuers::IssuersRefusal;
use crate::domain::policy::{Principal, act};
use crate::domain::revocation::Reason;
use muster_pki::certificate::Certificate;
use muster_wire::cbor::encode;
use muster_wire::desired::Generation;
use muster_wire::posture::StateReport;
use muster_wire::time::Timestamp;
use std::path::{Path, PathBuf};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

fn rotate(dir: &Path) -> Result<Step, FoundError> {
    found::rotate_issuing(dir, None, &Settings::default())
}

fn refusal(step: Result<Step, FoundError>) -> IssuersRefusal {
    match step {
        Err(FoundError::Issuers(refusal)) => refusal,
        Err(error) => panic!("{error}"),
        Ok(step) => panic!("{:?}", step.issuers),
    }
}

impl Site {
    /// Says that `life` has everything of the generation that it is asked for.
    async fn acknowledges(&self, life: &Life) -> u64 {
        let device = self.device(life.id);
        let asked = self.app.plan(&device.profile).unwrap().generation(None);
        let report = StateReport {
            device: life.id,
            id: report_id(),
            generation: Some(asked),
            drift: Vec::new(),
            agent_version: "1".into(),
            last_checkpoint: None,
            at: Timestamp(self.app.clock.now_s()),
        };
        let permit = self.permit(Principal::Device(life.id));
        self.app.report_state(permit, life.id, &encode(&report)).await.unwrap();
        let Generation { counter, .. } = asked;
        counter
    }

    fn roles(&self) -> Vec<&'static str> {
        self.app.ca().certificates().into_iter().map(|(role, _)| Role::as_str(role)).collect()
    }

    /// Which of the issuers lists the certificate as revoked.
    async fn listed_by(&self, der: &[u8]) -> Vec<crate::ca::IssuerId> {
        let serial = Certificate::parse(der).unwrap().serial().unwrap();
        let mut by = Vec::new();
        for issuer in self.app.ca().issuers() {
            let permit = self.permit::<act::ReadStatus>(Principal::Anonymous);
            let list = self.app.crl(&permit, issuer, serial.shard()).await.unwrap();
            let (_, list) = CertificateRevocationList::from_der(&list).unwrap();
            if list.iter_revoked_certificates().any(|entry| entry.raw_serial() == serial.as_bytes()) {
                by.push(issuer);
            }
        }
        by
    }
}

fn issuer(der: &[u8]) -> Vec<u8> {
    Certificate::parse(der).unwrap().issuer_der().to_vec()
}

#[tokio::test]
async fn the_new_one_is_served_signs_when_activated_and_every_leaf_stays_its_issuers() {
    let site = Site::found();
    let before = site.enroll(None).await;
    let founded = site.app.ca().issuing_id();
    assert_eq!(site.roles(), ["root", "issuing", "names"]);

    let site = site
        .restarted(|dir| {
            let step = rotate(dir).unwrap();
            assert_eq!((step.acknowledged.held, step.acknowledged.missing), (0, 1));
            assert!(matches!(refusal(rotate(dir)), IssuersRefusal::Pending { .. }));
        })
        .await;
    assert_eq!(site.roles(), ["root", "issuing", "next", "names"]);
    let between = site.enroll(None).await;
    assert_eq!(issuer(&between.der), issuer(&before.der), "it is served and does not sign");
    let generation = site.acknowledges(&before).await;
    assert_eq!(generation, site.app.ca().lineup().generation);
    let counted = site.app.acknowledged(&site.operator()).unwrap().unwrap();
    assert_eq!((counted.held, counted.missing, counted.named.as_slice()), (1, 1, &[between.id][..]));

    let missing = between.id.to_string();
    let site = site
        .restarted(move |dir| {
            let refused = refusal(found::activate_issuing(dir, None));
            assert_eq!(refused, IssuersRefusal::Missing { missing: 1, named: missing });
            assert!(matches!(
                refusal(found::activate_issuing(dir, Some(2))),
                IssuersRefusal::OtherCount { missing: 1, said: 2 }
            ));
            let step = found::activate_issuing(dir, Some(1)).unwrap();
            assert_eq!(step.issuers.signs.to_string(), "issuing-2");
            assert!(matches!(refusal(found::drop_former(dir)), IssuersRefusal::InUse { .. }));
        })
        .await;
    assert_eq!(site.roles(), ["root", "issuing", "former", "names"]);
    let after = site.enroll(None).await;
    let present = site.app.ca().issuing_id();
    assert_ne!(present, founded);
    assert_ne!(issuer(&after.der), issuer(&before.der), "issuers are told apart by name, too");
    for (life, signed_by) in [(&before, founded), (&between, founded), (&after, present)] {
        site.app.revoke(site.operator(), life.id, Reason::KeyCompromise).await.unwrap();
        assert_eq!(site.listed_by(&life.der).await, [signed_by]);
    }
}

#[tokio::test]
async fn a_rotation_needs_the_key_of_this_root_wherever_it_lies_and_changes_nothing_without() {
    let site = Site::found();
    let elsewhere = tempfile::tempdir().unwrap();
    let (key, other) = (elsewhere.path().join("root.key"), elsewhere.path().join("other.key"));
    let site = site
        .restarted(move |dir| {
            let at: PathBuf = Keystore::of(dir).path(file::ROOT_KEY);
            std::fs::rename(at, &key).unwrap();
            std::fs::copy(Keystore::of(dir).path("issuing.key"), &other).unwrap();
            for unfit in [None, Some(other.as_path())] {
                let refused = found::rotate_issuing(dir, unfit, &Settings::default()).err().unwrap();
                assert!(matches!(refused, FoundError::Keystore(_) | FoundError::Ca(_)), "{refused}");
            }
            assert_eq!(refusal(found::activate_issuing(dir, None)), IssuersRefusal::NoneWaits);
            assert_eq!(refusal(found::drop_former(dir)), IssuersRefusal::NoFormer);
            found::rotate_issuing(dir, Some(&key), &Settings::default()).unwrap();
        })
        .await;
    assert_eq!(site.roles(), ["root", "issuing", "next", "names"]);
}

#[tokio::test]
async fn files_of_a_rotation_that_was_killed_before_its_commit_are_written_over() {
    let site = Site::found()
        .restarted(|dir| {
            let keys = Keystore::of(dir);
            keys.write("issuing-2.key", b"half of a k").unwrap();
            let step = rotate(dir).unwrap();
            assert_eq!(step.issuers.next.unwrap().to_string(), "issuing-2");
            found::activate_issuing(dir, None).unwrap();
        })
        .await;
    let life = site.enroll(None).await;
    assert_eq!(site.app.ca().issuers().len(), 3);
    assert_eq!(site.app.ca().issuer_of(u64::MAX), site.app.ca().issuing_id());
    assert!(site.listed_by(&life.der).await.is_empty());
}

#[tokio::test]
async fn a_former_ones_key_goes_after_its_last_leaf_and_its_leaves_are_still_known() {
    let site = Site::found()
        .restarted(|dir| {
            // Nothing was ever issued: there is no leaf to wait for.
            rotate(dir).unwrap();
            found::activate_issuing(dir, None).unwrap();
            let key = Keystore::of(dir).path("issuing.key");
            assert!(key.exists());
            found::drop_former(dir).unwrap();
            assert!(!key.exists());
            // As a kill between commit and removal leaves it.
            std::fs::write(&key, b"x").unwrap();
            assert_eq!(refusal(found::drop_former(dir)), IssuersRefusal::NoFormer);
            assert!(!key.exists());
        })
        .await;
    assert_eq!(site.roles(), ["root", "issuing", "names"]);
    assert_eq!(site.app.ca().leaf_issuers().len(), 2, "an expired leaf in its grace may still renew");
    assert_eq!(site.app.ca().lineup().bundle, 4);
}

#[tokio::test]
async fn a_lost_issuing_key_is_replaced_and_whoever_has_a_certificate_by_it_keeps_it() {
    let site = Site::found();
    let life = site.enroll(None).await;
    let site = site
        .restarted(|dir| {
            std::fs::remove_file(Keystore::of(dir).path("issuing.key")).unwrap();
            rotate(dir).unwrap();
            found::activate_issuing(dir, Some(1)).unwrap();
        })
        .await;
    assert_eq!(site.roles(), ["root", "issuing", "names"], "a former one without a key signs no lists");
    assert_eq!(site.app.ca().leaf_issuers().len(), 2);
    let next = site.enroll(None).await;
    assert_ne!(issuer(&next.der), issuer(&life.der));
}
