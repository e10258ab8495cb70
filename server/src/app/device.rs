//! Devices: listed, shown, explained.

use super::listing::{Placed, part};
use super::progress::Known;
use super::{App, Approval, Error, Frozen, Page};
use crate::domain::commissioning::Missing;
use crate::domain::deprovision::Phase;
use crate::domain::device::{CertificateRecord, Device, DeviceState};
use crate::domain::enrollment::{is_same_serial, serial_key};
use crate::domain::order::{OrderRecord, Phase as OrderPhase};
use crate::domain::policy::{Permit, act};
use crate::domain::posture::PostureRecord;
use crate::domain::quarantine::By;
use crate::domain::refusal::LastRefusal;
use crate::domain::reported::Reported;
use crate::store::collections::{DEVICES, Facet, decode};
use crate::store::key::ordinal;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;
use muster_wire::time::Timestamp;
use std::borrow::Cow;

/// Orders of a device that are looked through for one that it did not carry out, newest first.
const ORDERS_EXPLAINED: usize = 64;

/// Which devices a list shows; all that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// State, as contract.md spells it.
    pub state: Option<String>,
    /// Firmware profile.
    pub profile: Option<String>,
    /// Site.
    pub site: Option<String>,
    /// Owner.
    pub owner: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
}

impl Filter {
    /// The narrowest index that serves this filter.
    fn facet(&self) -> Option<(Facet, Cow<'_, str>)> {
        if let Some(serial) = &self.serial {
            return Some((Facet::Serial, serial_key(serial).into()));
        }
        let narrowest_first = [
            (Facet::Owner, &self.owner),
            (Facet::Site, &self.site),
            (Facet::State, &self.state),
            (Facet::Profile, &self.profile),
        ];
        narrowest_first.into_iter().find_map(|(facet, text)| Some((facet, text.as_deref()?.into())))
    }

    fn matches(&self, device: &Device) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        is(&self.state, Some(device.state.as_str()))
            && is(&self.profile, Some(&device.profile))
            && is(&self.site, device.site.as_deref())
            && is(&self.owner, device.owner.as_deref())
            && self.serial.as_deref().is_none_or(|wanted| {
                device.serial.as_deref().is_some_and(|serial| is_same_serial(serial, wanted))
            })
    }
}

/// A device with what became of its certificate.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The device.
    pub device: Device,
    /// The record of its current, else its issued certificate.
    pub certificate: Option<CertificateRecord>,
    /// Since when it has an MQTT session, unix seconds; `None` where it has none.
    pub connected_since: Option<i64>,
    /// The counter of the generation that it should have.
    pub desired: u64,
    /// What it last reported.
    pub reported: Option<Reported>,
    /// How its posture was last judged.
    pub posture: Option<PostureRecord>,
    /// Version of the record, for `ETag`.
    pub version: u64,
}

/// Why a device is where it is, and what would take it further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// A stable code: a problem code, or the state.
    pub code: String,
    /// The rule that holds it.
    pub rule: String,
    /// The field it looked at.
    pub field: Option<String>,
    /// What to do.
    pub remedy: String,
}

impl App {
    /// The device of this id.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn show(&self, _permit: &Permit<act::ReadDevice>, id: DeviceId) -> Result<Shown, Error> {
        let held = self.device(id)?;
        self.shown(held.record, held.version)
    }

    /// `device` as it is by now, `version` being that of the record that was found. Its certificate is of the same commit
    /// as its record: whoever reads *quarantined* reads that it is on hold, too.
    pub(super) fn shown(&self, mut device: Device, mut version: u64) -> Result<Shown, Error> {
        let mut certificate = self.certificate_of(&device)?;
        for _ in 0..super::ATTEMPTS {
            let now = self.device(device.id)?;
            if now.version == version {
                break;
            }
            (device, version) = (now.record, now.version);
            certificate = self.certificate_of(&device)?;
        }
        let connected_since = self.doors.registry.connected_since(&device.id);
        let reported = self.store.load::<Reported>(device.id.as_bytes())?.map(|held| held.record);
        let desired = self.plan(&device.profile)?.generation(reported.as_ref()).counter;
        let posture = self.posture(device.id)?.map(|held| held.record);
        Ok(Shown { device, certificate, connected_since, desired, reported, posture, version })
    }

    fn certificate_of(&self, device: &Device) -> Result<Option<CertificateRecord>, Error> {
        let Some(held) = device.certificate() else { return Ok(None) };
        Ok(self.store.load::<CertificateRecord>(&ordinal(held.ordinal))?.map(|held| held.record))
    }

    /// Up to `limit` devices that `filter` fits, after `cursor`.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn devices(
        &self,
        _permit: &Permit<act::ReadDevice>,
        filter: &Filter,
        cursor: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<Shown>, Error> {
        let keep = |(device, version): (Device, u64)| {
            let shown = filter.matches(&device).then(|| self.shown(device, version)).transpose()?;
            // It may have changed since it was found.
            Ok(shown.filter(|shown| filter.matches(&shown.device)))
        };
        part(cursor, limit, |after, wanted| self.some_devices(filter, after, wanted), keep)
    }

    /// Up to `wanted` devices after `after`, by the index that serves `filter` best: what it has besides is still to
    /// be judged.
    fn some_devices(
        &self,
        filter: &Filter,
        after: Option<&[u8]>,
        wanted: usize,
    ) -> Result<Vec<Placed<(Device, u64)>>, Error> {
        let mut found = Vec::new();
        let Some((facet, text)) = filter.facet() else {
            let after = after.map(|id| DEVICES.key(id));
            for (key, one) in self.store.scan(DEVICES.prefix, after.as_deref(), wanted)? {
                let place = DEVICES.id(&key).unwrap_or_default().to_vec();
                found.push(((decode(&one.value)?, one.version), place));
            }
            return Ok(found);
        };
        let value = facet.value(text.as_bytes());
        for hit in self.store.index_scan(&DEVICES, "by", &value, after, wanted)? {
            if let Some(held) = self.store.load::<Device>(&hit.id)? {
                found.push(((held.record, held.version), hit.cursor));
            }
        }
        Ok(found)
    }

    /// Why the device of this id is where it is, and what would take it further.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn explain(&self, _permit: &Permit<act::ReadDevice>, id: DeviceId) -> Result<Explanation, Error> {
        let known = self.known(id)?;
        let device = &known.device.record;
        // What a device has said since it was refused says more about it than the refusal.
        let heard = known.reported.as_ref().map(|held| held.record.received_at.div_euclid(1000));
        let lately = device.last_refusal.as_ref().filter(|last| heard.is_none_or(|heard| last.at >= heard));
        if let Some(last) = lately {
            return Ok(by_refusal(last));
        }
        let missing = known.missing();
        let outstanding = device.state == DeviceState::Commissioning && device.current.is_some();
        let explained = match missing.as_slice() {
            [_, ..] if outstanding => by_missing(&missing, known.posture.as_ref().map(|held| &held.record)),
            _ => by_state(device),
        };
        let explained = by_disobedience(explained, self.disobeyed(device)?.as_ref());
        let explained = by_approval(explained, self.awaited_approval(&known)?.as_ref());
        Ok(by_freeze(explained, self.lasting_freeze()?.filter(|_| device.state.is_open()).as_ref()))
    }

    /// The newest order under a warrant, where this device, which is in use, did not carry it out and few orders came after.
    fn disobeyed(&self, device: &Device) -> Result<Option<OrderRecord>, Error> {
        let is_in_use = matches!(
            device.state,
            DeviceState::Commissioning | DeviceState::Active | DeviceState::Quarantined
        );
        if !is_in_use || device.orders_made == 0 {
            return Ok(None);
        }
        let newest = self.newest_order(device.id, &[], |order| order.warrant.is_some(), ORDERS_EXPLAINED)?;
        Ok(newest.filter(|order| matches!(order.phase, OrderPhase::Refused | OrderPhase::Failed)))
    }

    /// What approvers have to sign before this device takes the baseline that it should have and has not.
    fn awaited_approval(&self, known: &Known) -> Result<Option<Approval>, Error> {
        let reported = known.reported.as_ref().map(|held| &held.record);
        let is_in_place = reported.and_then(Reported::in_place) == Some(known.plan.generation(reported));
        let device = &known.device.record;
        let hears = matches!(device.state, DeviceState::Commissioning | DeviceState::Active);
        if is_in_place || device.current.is_none() || !hears {
            return Ok(None);
        }
        Ok(self.approval(&known.ready)?.filter(|approval| approval.missing > 0))
    }
}

/// A device that waits for approvers' signatures on its baseline waits for nothing else first.
fn by_approval(explained: Explanation, approval: Option<&Approval>) -> Explanation {
    let Some(approval) = approval else { return explained };
    let remedy = format!("{} {}", approval.remedy(), explained.remedy);
    Explanation {
        rule: "baseline.unsigned".to_owned(),
        field: Some("baseline".to_owned()),
        remedy,
        ..explained
    }
}

/// What approvers allowed and the device did not do is told, with its own words.
fn by_disobedience(explained: Explanation, order: Option<&OrderRecord>) -> Explanation {
    let Some(order) = order else { return explained };
    let why = order.reason().map_or_else(String::new, |why| format!(", saying: {why}"));
    let remedy = format!(
        "{} It {} the order {} of {}{why}. After mending that on the device, ask for a new warrant.",
        explained.remedy,
        if order.phase == OrderPhase::Refused { "refused" } else { "failed at" },
        order.ask.as_str(),
        Timestamp(order.made_at),
    );
    Explanation { remedy, ..explained }
}

/// While a freeze lasts nothing reaches the device that would take it further.
fn by_freeze(explained: Explanation, frozen: Option<&Frozen>) -> Explanation {
    let Some(Frozen { began_at, by, .. }) = frozen else { return explained };
    let remedy = format!(
        "{} Nothing new is sent to it: there is a freeze since {}, begun by {by}; approvers lift it with \
         `muster freeze --lift --key FILE`.",
        explained.remedy,
        Timestamp(*began_at),
    );
    Explanation { remedy, ..explained }
}

fn by_refusal(last: &LastRefusal) -> Explanation {
    let remedy = Code::ALL.iter().find(|code| code.as_str() == last.code).map_or("", |code| code.remedy());
    Explanation {
        code: last.code.clone(),
        rule: last.rule.clone(),
        field: last.field.clone(),
        remedy: remedy.to_owned(),
    }
}

fn by_quarantine(device: &Device) -> (&'static str, &'static str) {
    match device.quarantine.as_ref().map(|quarantine| &quarantine.by) {
        Some(By::Rule { .. }) => (
            "quarantine.rule",
            "Mend what `posture.failing` names on the device: its next report releases it. Or `muster device release` it.",
        ),
        Some(By::Manual { .. }) | None => (
            "quarantine.manual",
            "A person holds it; `muster device show` says since when and why, `muster device history` who it was. `muster device release` lets it go back.",
        ),
    }
}

fn by_leaving(device: &Device) -> (&'static str, &'static str) {
    match device.leaving().map(|leaving| (leaving.phase, leaving.order.is_some())) {
        Some((Phase::Requested, _)) => (
            "leaving.signatures",
            "Approvers have to sign: `muster warrant list` names the warrant, `muster warrant sign` signs it.",
        ),
        Some((Phase::Warranted, _)) => {
            ("leaving.turn", "Its order waits for its turn, or for `muster freeze` to be lifted.")
        }
        Some((Phase::Ordered, _)) => ("leaving.contact", "The order goes out when the device connects."),
        Some((Phase::Unproven, false)) => (
            "leaving.doomed_unsigned",
            "Its deadline has passed and there is no order: let approvers sign the warrant, or `muster device retire` it.",
        ),
        Some((Phase::Unproven, true)) => (
            "leaving.doomed",
            "Its deadline has passed without proof. If it ever connects it gets the order; `muster device retire` gives it up.",
        ),
        Some(_) | None => ("leaving.receipt", "Wait for its next receipt."),
    }
}

/// What is missing first is the rule; `posture` is what the device last said of it.
pub(super) fn by_missing(missing: &[Missing], posture: Option<&PostureRecord>) -> Explanation {
    let mut remedies: Vec<String> = missing.iter().map(|missing| missing.remedy().to_owned()).collect();
    let untold = posture.map(PostureRecord::untold).unwrap_or_default();
    if missing.contains(&Missing::Untold) && !untold.is_empty() {
        remedies.push(format!("Unknown: {}.", untold.join(", ")));
    }
    Explanation {
        code: DeviceState::Commissioning.as_str().to_owned(),
        rule: missing.first().map_or("", |first| first.rule()).to_owned(),
        field: Some("state".to_owned()),
        remedy: remedies.join(" "),
    }
}

fn by_state(device: &Device) -> Explanation {
    let (rule, remedy) = match device.state {
        DeviceState::Expected => {
            ("device.has_not_asked", "Start the agent on the device with its enrolment string.")
        }
        DeviceState::Pending => match &device.waiting {
            Some(waiting) if waiting.approved_by.is_none() => {
                (waiting.rule.as_str(), "Look at the device, then `muster device approve` it.")
            }
            _ => ("device.approved", "It is approved; it gets its certificate when it asks again."),
        },
        DeviceState::Commissioning if device.current.is_none() => (
            "certificate.not_used",
            "The device was sent its certificate and has not used it yet; see its log.",
        ),
        DeviceState::Commissioning => {
            ("commissioning.complete", "Nothing is missing: its next report makes it active.")
        }
        DeviceState::Active => ("device.active", "Nothing: it passed muster."),
        DeviceState::Quarantined => by_quarantine(device),
        DeviceState::Deprovisioning => by_leaving(device),
        DeviceState::Retired => {
            ("device.retired", "Its life is over; enrol the thing again with a new token.")
        }
        DeviceState::Cancelled => ("device.cancelled", "It never began; enrol it with a new token."),
    };
    // A device that waits is told so over EST; here it has the same name.
    let is_pending = device.state == DeviceState::Pending;
    let code = if is_pending { Code::PendingApproval.as_str() } else { device.state.as_str() };
    Explanation {
        code: code.to_owned(),
        rule: rule.to_owned(),
        field: Some("state".to_owned()),
        remedy: remedy.to_owned(),
    }
}
