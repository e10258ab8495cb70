//! Labels of a device after its enrolment.
//!
//! The label that protects a device goes by an act of its own, which is told outside at once; every other one is changed
//! here, and that a device is somebody's own no more is told as well. What a device should be like may differ by label, so
//! it looks again afterwards.

use super::device::Shown;
use super::refuse::About;
use super::{App, Error};
use crate::domain::policy::{Act, Permit, act};
use crate::domain::rails::{PROTECTED, is_labelled_personal};
use crate::domain::refusal::Refusal;
use crate::store::Batch;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;
use std::collections::{BTreeMap, BTreeSet};

/// Most labels of a device.
const LABELS_MAX: usize = 64;
/// Most bytes of a name or a value.
const TEXT_BYTES: usize = 128;

impl App {
    /// Sets the labels of `set` and removes those of `remove`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no label; [`Error::Refused`] where the one that protects would go.
    pub async fn label(
        &self,
        permit: Permit<act::LabelDevice>,
        id: DeviceId,
        set: &BTreeMap<String, String>,
        remove: &BTreeSet<String>,
    ) -> Result<Shown, Error> {
        let plain = |text: &String| {
            (1..=TEXT_BYTES).contains(&text.len())
                && text.chars().all(|c| !c.is_control())
                && text.trim() == text
        };
        if !set.iter().all(|(name, value)| plain(name) && plain(value)) {
            let expected =
                format!("must have names and values of 1 to {TEXT_BYTES} bytes without control characters");
            return Err(Error::Invalid { field: "set", expected });
        }
        if remove.contains(PROTECTED) {
            let refusal = Refusal::by("label.protected", Code::Conflict).at("remove");
            return Err(self.refuse(&permit, About::Device(id), refusal).await);
        }
        self.change_labels(&permit, id, |labels| {
            labels.retain(|name, _| !remove.contains(name));
            labels.extend(set.clone());
        })
        .await
    }

    /// Takes the label from `id` that protects it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn unprotect(
        &self,
        permit: Permit<act::UnprotectDevice>,
        id: DeviceId,
    ) -> Result<Shown, Error> {
        let device = self.device(id)?.record;
        let shown = self.change_labels(&permit, id, |labels| drop(labels.remove(PROTECTED))).await?;
        if device.labels.contains_key(PROTECTED) {
            self.alarm_of(&permit, "unprotected", std::slice::from_ref(&device), String::new());
        }
        Ok(shown)
    }

    async fn change_labels<A: Act>(
        &self,
        permit: &Permit<A>,
        id: DeviceId,
        change: impl Fn(&mut BTreeMap<String, String>),
    ) -> Result<Shown, Error> {
        for _ in 0..super::ATTEMPTS {
            let held = self.device(id)?;
            let mut device = held.record.clone();
            change(&mut device.labels);
            if device == held.record {
                return self.shown(held.record, held.version);
            }
            if device.labels.len() > LABELS_MAX {
                let expected = format!("would make more than {LABELS_MAX} labels");
                return Err(Error::Invalid { field: "set", expected });
            }
            let entry = permit
                .entry(self.clock.now_ms(), format!("device/{id}"))
                .states(in_words(&held.record.labels), in_words(&device.labels));
            let batch = Batch::default().update(id.as_bytes(), held.version, &device).audit(entry);
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    if is_labelled_personal(&held.record.labels) && !is_labelled_personal(&device.labels) {
                        let devices = std::slice::from_ref(&device);
                        self.alarm_of(permit, "no_longer_personal", devices, String::new());
                    }
                    self.doors.registry.nudge(&id);
                    let held = self.device(id)?;
                    return self.shown(held.record, held.version);
                }
            }
        }
        Err(Error::Contended)
    }
}

/// The names alone: values may be about people.
fn in_words(labels: &BTreeMap<String, String>) -> String {
    let names: Vec<&str> = labels.keys().map(String::as_str).collect();
    format!("labels {}", names.join(" "))
}
