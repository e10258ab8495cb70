//! The ranges and rules that types alone do not express.

use super::nearest;
use crate::profile::{
    Baseline, BaselineFile, CertificatePolicy, EstPolicy, FACTS, Intervals, LeasePolicy, ManagedFile,
    OnLapse, Override, PosturePolicy, Profile, WipeLevel, WipePlan,
};
use std::collections::BTreeSet;

/// One step from the top of a file to a value.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A key of a table.
    Key(String),
    /// A place in a list.
    Index(usize),
}

/// What is wrong, and where.
pub(super) struct Fault {
    pub(super) path: Vec<Step>,
    pub(super) why: String,
}

impl Fault {
    fn at(key: &str, why: impl Into<String>) -> Self {
        Self { path: vec![Step::Key(key.to_owned())], why: why.into() }
    }

    fn under(mut self, key: &str) -> Self {
        self.path.insert(0, Step::Key(key.to_owned()));
        self
    }

    fn nth(mut self, key: &str, index: usize) -> Self {
        self.path.splice(0..0, [Step::Key(key.to_owned()), Step::Index(index)]);
        self
    }

    /// The path in the spelling of `KEYS`.
    pub(super) fn key(&self) -> String {
        let keys = self.path.iter().filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        });
        keys.collect::<Vec<_>>().join(".")
    }
}

type Checked = Result<(), Fault>;

pub(super) fn profile(profile: &Profile) -> Checked {
    name(&profile.name)?;
    ensure(
        !profile.description.trim().is_empty(),
        "description",
        "say in one line what kind of device this is",
    )?;
    certificate(&profile.certificate).map_err(|fault| fault.under("certificate"))?;
    est(&profile.est).map_err(|fault| fault.under("est"))?;
    intervals(&profile.intervals).map_err(|fault| fault.under("intervals"))?;
    leases(&profile.lease, &profile.overrides, Some(profile))?;
    baseline(&profile.baseline).map_err(|fault| fault.under("baseline"))?;
    posture(&profile.posture).map_err(|fault| fault.under("posture"))?;
    wipe(&profile.wipe, profile.personal).map_err(|fault| fault.under("wipe"))?;
    for (index, one) in profile.overrides.iter().enumerate() {
        deviation(one).map_err(|fault| fault.nth("override", index))?;
    }
    Ok(())
}

pub(super) fn baseline_file(file: &BaselineFile) -> Checked {
    leases(&file.lease, &file.overrides, None)?;
    baseline(&file.baseline).map_err(|fault| fault.under("baseline"))?;
    for (index, one) in file.overrides.iter().enumerate() {
        deviation(one).map_err(|fault| fault.nth("override", index))?;
    }
    Ok(())
}

fn ensure(holds: bool, key: &str, why: &str) -> Checked {
    if holds { Ok(()) } else { Err(Fault::at(key, why)) }
}

fn within(value: u32, least: u32, most: u32, key: &str) -> Checked {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Fault::at(key, format!("{value} is out of range; choose {least} to {most}")))
}

fn name(name: &str) -> Checked {
    let first = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let fits = first && rest && name.len() <= 63;
    ensure(
        fits,
        "name",
        "use 1 to 63 of a-z, 0-9 and -, starting with a letter or digit: the name is part of URLs",
    )
}

fn certificate(policy: &CertificatePolicy) -> Checked {
    ensure(!policy.keys.is_empty(), "keys", "name at least one algorithm, \"p256\" for instance")?;
    let distinct: BTreeSet<_> = policy.keys.iter().collect();
    ensure(distinct.len() == policy.keys.len(), "keys", "an algorithm is named twice")?;
    within(policy.validity_days.into(), 1, 398, "validity_days")?;
    within(policy.grace_days.into(), 0, 398, "grace_days")?;
    within(policy.renew_percent.into(), 10, 90, "renew_percent")
}

fn est(policy: &EstPolicy) -> Checked {
    let why = "this release never makes a device's key on the server; set it to false";
    ensure(!policy.server_keygen, "server_keygen", why)
}

fn intervals(intervals: &Intervals) -> Checked {
    within(intervals.report_s, 60, 604_800, "report_s")?;
    within(intervals.posture_s, 60, 604_800, "posture_s")
}

/// The lease, and those of the deviations; `clear` where the profile has that level.
fn leases(own: &Option<LeasePolicy>, overrides: &[Override], profile: Option<&Profile>) -> Checked {
    own.iter().try_for_each(|one| lease(one, profile)).map_err(|fault| fault.under("lease"))?;
    for (index, one) in overrides.iter().enumerate() {
        let checked = one.lease.iter().try_for_each(|one| lease(one, profile));
        checked.map_err(|fault| fault.under("lease").nth("override", index))?;
    }
    Ok(())
}

fn lease(lease: &LeasePolicy, profile: Option<&Profile>) -> Checked {
    within(lease.lasts_hours.into(), 1, 8_784, "lasts_hours")?;
    let can_clear = profile.is_none_or(|profile| profile.wipe.levels.contains(&WipeLevel::Clear));
    let why = "`clear` is not among this profile's wipe levels; choose report, drop_secrets or lock";
    ensure(lease.on_lapse != OnLapse::Clear || can_clear, "on_lapse", why)
}

fn baseline(baseline: &Baseline) -> Checked {
    let mut seen = BTreeSet::new();
    for (index, one) in baseline.files.iter().enumerate() {
        file(one).map_err(|fault| fault.nth("files", index))?;
        let why = "this path is managed twice";
        ensure(seen.insert(&one.path), "path", why).map_err(|fault| fault.nth("files", index))?;
    }
    for key in baseline.sysctl.keys() {
        let dotted = key.contains('.') && key.split('.').all(|part| !part.is_empty());
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
        let why = "not the name of a kernel setting; write \"kernel.kptr_restrict\", quoted and with dots";
        ensure(dotted && plain, key, why).map_err(|fault| fault.under("sysctl"))?;
    }
    Ok(())
}

fn file(file: &ManagedFile) -> Checked {
    ensure(is_normal(&file.path), "path", "write an absolute path without `.`, `..` and `//`")?;
    let octal = file.mode.len() == 4 && file.mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let why = "write four octal digits, \"0644\" for instance, without setuid, setgid and sticky bit";
    ensure(octal && file.mode.starts_with('0'), "mode", why)?;
    ensure(!file.owner.is_empty(), "owner", "name the user who owns the file, \"root\" for instance")
}

fn posture(policy: &PosturePolicy) -> Checked {
    let mut seen = BTreeSet::new();
    for (index, rule) in policy.rules.iter().enumerate() {
        let fits = fact(&rule.fact)
            .and_then(|()| ensure(seen.insert(&rule.fact), "fact", "this fact has a rule already"))
            .and_then(|()| {
                let why = "tell the person at the device what to do";
                ensure(!rule.remediation.trim().is_empty(), "remediation", why)
            })
            .and_then(|()| within(rule.grace_hours.into(), 0, 2160, "grace_hours"));
        fits.map_err(|fault| fault.nth("rules", index))?;
    }
    Ok(())
}

fn fact(fact: &str) -> Checked {
    if FACTS.contains(&fact) {
        return Ok(());
    }
    Err(Fault::at(
        "fact",
        match nearest(fact, FACTS.iter().copied()) {
            Some(near) => format!("no agent collects `{fact}`; did you mean `{near}`?"),
            None => format!("no agent collects `{fact}`; choose one of {}", FACTS.join(", ")),
        },
    ))
}

fn wipe(plan: &WipePlan, personal: bool) -> Checked {
    for (index, root) in plan.roots.iter().enumerate() {
        let deep = is_normal(root) && root.len() > 1;
        ensure(deep, "roots", "write absolute directories without `.`, `..` and `//`, and never `/` itself")?;
        let mut others = plan.roots.iter().enumerate().filter(|(other, _)| *other != index);
        let nested = others.any(|(_, other)| is_beneath(root, other));
        ensure(!nested, "roots", "a root lies inside another one; name the outer one only")?;
    }
    for data in &plan.data_roots {
        let within = is_normal(data) && plan.roots.iter().any(|root| is_beneath(data, root));
        ensure(
            within,
            "data_roots",
            "name directories that are a root or lie inside one; nothing else is touched",
        )?;
    }
    ensure(plan.levels.contains(&WipeLevel::Retire), "levels", "`retire` has to be among them")?;
    let rising = plan.levels.is_sorted_by(|a, b| a < b);
    ensure(
        rising,
        "levels",
        "name each level once, mildest first: retire, clear, crypto-erase, factory-reset",
    )?;
    let mild = !personal || plan.levels == [WipeLevel::Retire];
    ensure(mild, "levels", "a personal device is only ever retired; write [\"retire\"]")
}

fn deviation(one: &Override) -> Checked {
    let named = one.site.is_some() || one.label.is_some();
    ensure(
        named,
        "site",
        "an override needs `site` or `label`, or both; what holds everywhere goes to the top",
    )?;
    if let Some(label) = &one.label {
        let pair = label.split_once('=').is_some_and(|(key, _)| !key.is_empty());
        ensure(pair, "label", "write \"key=value\"")?;
    }
    let figures = &one.certificate;
    let fits = figures
        .validity_days
        .map_or(Ok(()), |days| within(days.into(), 1, 398, "validity_days"))
        .and_then(|()| figures.grace_days.map_or(Ok(()), |days| within(days.into(), 0, 398, "grace_days")))
        .and_then(|()| {
            figures.renew_percent.map_or(Ok(()), |share| within(share.into(), 10, 90, "renew_percent"))
        });
    fits.map_err(|fault| fault.under("certificate"))?;
    baseline(&one.baseline).map_err(|fault| fault.under("baseline"))?;
    posture(&one.posture).map_err(|fault| fault.under("posture"))
}

/// Whether `path` is absolute and says what it means.
fn is_normal(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    !path.contains('\0') && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether `path` is `root` or lies in it.
fn is_beneath(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
