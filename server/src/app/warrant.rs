//! Warrants as they are kept and shown, and carried in orders.
//!
//! The record says how far a warrant has come; its papers are the targets, the bytes that approvers sign, and those bytes
//! with their signatures. Asking for one stands in `warrant_request.rs`, signatures in `signing.rs`, orders in
//! `warrant_orders.rs`.

use super::signing::names_of;
use super::{App, Error, Page};
use crate::domain::order::{OrderRecord, Phase};
use crate::domain::policy::{Permit, act};
use crate::domain::warrant::{State, WarrantRecord};
use crate::store::collections::{Held, Paper, WARRANTS};
use muster_wire::cbor;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::MultiSigned;
use muster_wire::id::{DeviceId, WarrantId};
use muster_wire::lineage::Lineage;
use muster_wire::merkle::{InclusionProof, prove_inclusion};
use muster_wire::time::Timestamp;
use muster_wire::warrant::{self, Target, Warrant};
use std::collections::BTreeMap;

/// A warrant with everything that somebody needs who signs it.
#[derive(Clone, Debug)]
pub struct WarrantShown {
    /// The record.
    pub record: WarrantRecord,
    /// How far it has come, with the approvers that count now.
    pub state: State,
    /// The targets, in the order of the tree.
    pub targets: Vec<Target>,
    /// What approvers sign.
    pub payload: Vec<u8>,
    /// The names of the approvers who have signed and count now.
    pub signed_by: Vec<String>,
    /// How many have to.
    pub required: usize,
    /// What came of the orders made so far; empty but where one warrant is asked for by its id.
    pub came: BTreeMap<DeviceId, Came>,
    /// Version of the record, for `ETag`.
    pub version: u64,
}

/// What came of the order of one target.
#[derive(Clone, Debug)]
pub struct Came {
    /// How far it has come.
    pub phase: Phase,
    /// Why the device did not carry it out, in its own words.
    pub reason: Option<String>,
}

/// What an order carries of its warrant.
pub(super) struct Shown {
    pub(super) warrant: Vec<u8>,
    pub(super) leaf: Target,
    pub(super) inclusion: InclusionProof,
}

impl App {
    /// The authority documents in force, as every signature is judged by them.
    pub(super) fn lineage(&self) -> Lineage {
        self.in_force().lineage.clone()
    }

    /// The targets of `warrant`, in the order of its tree.
    pub(super) fn targets(&self, warrant: WarrantId) -> Result<Vec<Target>, Error> {
        cbor::decode(&self.paper(warrant, Paper::Targets)?.unwrap_or_default())
            .map_err(|error| Error::internal("reading the targets of a warrant")(Box::new(error)))
    }

    /// A paper of `warrant`, if it has one.
    pub(super) fn paper(&self, warrant: WarrantId, paper: Paper) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.store.get_document(&paper.key(warrant))?.map(|found| found.value))
    }

    /// The signatures of `warrant` there are, if there is one.
    pub(super) fn signatures(&self, warrant: WarrantId) -> Result<Option<MultiSigned<Warrant>>, Error> {
        let Some(bytes) = self.paper(warrant, Paper::Signed)? else { return Ok(None) };
        let signed = MultiSigned::parse(&bytes);
        signed.map(Some).map_err(|error| Error::internal("reading a warrant")(Box::new(error)))
    }

    /// What an order to `device` carries of `warrant`; `None` where the warrant does not hold by the approvers that
    /// count now.
    pub(super) fn warranted(&self, id: WarrantId, device: DeviceId) -> Result<Option<Shown>, Error> {
        let Some(signed) = self.signatures(id)? else { return Ok(None) };
        if warrant::verify(&signed, &self.lineage(), Timestamp(self.clock.now_s())).is_err() {
            return Ok(None);
        }
        let place = self.place_in(id, device)?;
        Ok(place.map(|(leaf, inclusion)| Shown { warrant: signed.to_bytes(), leaf, inclusion }))
    }

    /// The leaf of `device` in the tree of the warrant, and the proof that it stands there; `None` where it does not.
    pub(super) fn place_in(
        &self,
        id: WarrantId,
        device: DeviceId,
    ) -> Result<Option<(Target, InclusionProof)>, Error> {
        let targets = self.targets(id)?;
        let leaves: Vec<Sha256Digest> = targets.iter().map(Target::leaf_hash).collect();
        let place = targets.iter().position(|target| target.device == device);
        let inclusion = place.and_then(|place| prove_inclusion(&leaves, place));
        let leaf = place.and_then(|place| targets.into_iter().nth(place));
        Ok(leaf.zip(inclusion))
    }

    /// The warrant of this id.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn show_warrant(
        &self,
        _permit: &Permit<act::ReadWarrant>,
        id: WarrantId,
    ) -> Result<WarrantShown, Error> {
        let mut shown = self.warrant_shown(id)?;
        // Orders are made in the order of the targets.
        let ordered = usize::try_from(shown.record.ordered).unwrap_or(usize::MAX);
        for target in shown.targets.iter().take(ordered) {
            let is_under = |order: &OrderRecord| order.warrant == Some(id);
            if let Some(order) = self.newest_order(target.device, id.as_bytes(), is_under, usize::MAX)? {
                let reason = order.reason().map(str::to_owned);
                shown.came.insert(target.device, Came { phase: order.phase, reason });
            }
        }
        Ok(shown)
    }

    pub(super) fn warrant_shown(&self, id: WarrantId) -> Result<WarrantShown, Error> {
        let Held { version, record } = self.warrant(id)?;
        let (lineage, now) = (self.lineage(), Timestamp(self.clock.now_s()));
        let signed = self.signatures(id)?;
        let signers = signed.as_ref().map(|signed| signed.signers(&lineage.counting_keys(now)));
        let signers = signers.and_then(Result::ok).unwrap_or_default();
        let signed_by = names_of(&signers, &lineage, now);
        let authority = &lineage.current().required;
        let required = warrant::approvers_needed(authority, record.kind(), record.level(), record.count);
        let required = required.unwrap_or(usize::MAX);
        // Where an approver who signed has left, others have to sign before orders go out again.
        let lacks = record.state == State::Warranted && signed_by.len() < required;
        Ok(WarrantShown {
            state: if lacks { State::Requested } else { record.state },
            targets: self.targets(id)?,
            payload: self.paper(id, Paper::Payload)?.unwrap_or_default(),
            signed_by,
            required,
            came: BTreeMap::new(),
            version,
            record,
        })
    }

    pub(super) fn warrant(&self, id: WarrantId) -> Result<Held<WarrantRecord>, Error> {
        self.store.load::<WarrantRecord>(id.as_bytes())?.ok_or(Error::NotFound { kind: "warrant" })
    }

    /// Up to `limit` warrants after `cursor`, oldest first.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn warrants(
        &self,
        _permit: &Permit<act::ReadWarrant>,
        cursor: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<WarrantShown>, Error> {
        let all = |after: Option<&[u8]>, wanted: usize| {
            let after = after.map(|id| WARRANTS.key(id));
            let page = self.store.scan(WARRANTS.prefix, after.as_deref(), wanted)?;
            let ids = page.iter().filter_map(|(key, _)| WARRANTS.id(key));
            Ok(ids.map(|id| (id.to_vec(), id.to_vec())).collect())
        };
        let keep = |id: Vec<u8>| {
            let Ok(id) = <[u8; 16]>::try_from(id) else { return Ok(None) };
            self.warrant_shown(WarrantId::from_bytes(id)).map(Some)
        };
        super::listing::part(cursor, limit, all, keep)
    }
}

/// What audit entries say of a warrant.
pub(super) fn facts(record: &WarrantRecord) -> impl Iterator<Item = (&'static str, String)> {
    let always = [
        ("kind", record.kind().to_string()),
        ("count", record.count.to_string()),
        ("payload_sha256", record.payload_sha256.to_hex()),
        ("not_after", Timestamp(record.not_after).to_string()),
    ];
    always.into_iter().chain(record.level().map(|level| ("level", level.to_string())))
}
