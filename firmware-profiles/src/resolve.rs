//! What one device gets: a profile with the overrides of its site and labels.
//!
//! Overrides are applied in the order of the file; the later one wins. The answer depends on nothing but the
//! arguments, so two servers, or one server twice, come to the same digest.

use crate::profile::{
    Baseline, CertificatePolicy, Intervals, LeasePolicy, Override, PosturePolicy, Profile, WipePlan,
};
use crate::version::Version;
use serde::Serialize;
use std::collections::BTreeMap;

/// Where a device stands.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its site, if it has one.
    pub site: Option<&'a str>,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// A profile as it applies to one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// The profile's name.
    pub profile: String,
    /// Whether the device belongs to the person who carries it.
    pub personal: bool,
    /// The certificate it carries.
    pub certificate: CertificatePolicy,
    /// How often it speaks.
    pub intervals: Intervals,
    /// How long it may go without a word from the server; `None` is without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeasePolicy>,
    /// The configuration it should have.
    pub baseline: Baseline,
    /// What its posture is judged by.
    pub posture: PosturePolicy,
    /// What a wipe may touch. No override widens it.
    pub wipe: WipePlan,
}

impl Resolved {
    /// The digest of everything above.
    pub fn digest(&self) -> Version {
        Version::of(self)
    }
}

/// Settles what a device gets that stands at `target`.
pub fn resolve(profile: &Profile, target: Target<'_>) -> Resolved {
    let mut resolved = Resolved {
        profile: profile.name.clone(),
        personal: profile.personal,
        certificate: profile.certificate.clone(),
        intervals: profile.intervals.clone(),
        lease: profile.lease.clone(),
        baseline: profile.baseline.clone(),
        posture: profile.posture.clone(),
        wipe: profile.wipe.clone(),
    };
    for one in profile.overrides.iter().filter(|one| applies(one, target)) {
        apply(&mut resolved, one);
    }
    resolved
}

fn applies(one: &Override, target: Target<'_>) -> bool {
    let site = one.site.as_deref().is_none_or(|site| target.site == Some(site));
    let label = one.label.as_deref().is_none_or(|label| {
        label.split_once('=').is_some_and(|(key, value)| target.labels.get(key).is_some_and(|v| v == value))
    });
    site && label
}

fn apply(resolved: &mut Resolved, one: &Override) {
    let certificate = &mut resolved.certificate;
    certificate.validity_days = one.certificate.validity_days.unwrap_or(certificate.validity_days);
    certificate.grace_days = one.certificate.grace_days.unwrap_or(certificate.grace_days);
    certificate.renew_percent = one.certificate.renew_percent.unwrap_or(certificate.renew_percent);
    if one.lease.is_some() {
        resolved.lease.clone_from(&one.lease);
    }
    put_all(&mut resolved.baseline.files, &one.baseline.files, |a, b| a.path == b.path);
    resolved.baseline.sysctl.extend(one.baseline.sysctl.clone());
    put_all(&mut resolved.posture.rules, &one.posture.rules, |a, b| a.fact == b.fact);
}

/// Puts each of `news` in the place of its like in `list`, or at the end.
fn put_all<T: Clone>(list: &mut Vec<T>, news: &[T], alike: impl Fn(&T, &T) -> bool) {
    for new in news {
        match list.iter_mut().find(|old| alike(old, new)) {
            Some(old) => *old = new.clone(),
            None => list.push(new.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use crate::profile::OnLapse;
    use proptest::prelude::*;

    const OVERRIDES: &str = r#"
[[override]]
site = "berlin"
certificate = { validity_days = 14 }
baseline = { sysctl = { "kernel.kptr_restrict" = "2" } }

[[override]]
label = "tier=high"
certificate = { validity_days = 7, grace_days = 0 }
posture = { rules = [{ fact = "firewall", remediation = "Call us.", action = "quarantine" }] }

[[override]]
site = "oslo"
label = "tier=high"
baseline = { files = [{ path = "/etc/motd", content = "hei" }] }
"#;

    fn laptop() -> Profile {
        let text = builtin::source("laptop-linux").unwrap();
        Profile::parse("p.toml", &format!("{text}{OVERRIDES}")).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_device_without_site_and_label_gets_the_plain_profile() {
        let none = BTreeMap::new();
        let resolved = resolve(&laptop(), Target { site: None, labels: &none });
        assert_eq!(resolved.certificate, laptop().certificate);
        assert_eq!(resolved.baseline, laptop().baseline);
        assert_eq!(resolved.posture, laptop().posture);
    }

    #[test]
    fn the_later_override_wins_and_what_it_leaves_out_stays() {
        let tier = labels(&[("tier", "high")]);
        let resolved = resolve(&laptop(), Target { site: Some("berlin"), labels: &tier });
        assert_eq!((resolved.certificate.validity_days, resolved.certificate.grace_days), (7, 0));
        assert_eq!(resolved.certificate.renew_percent, 66);
        assert_eq!(resolved.baseline.sysctl["kernel.kptr_restrict"], "2");
        assert_eq!(resolved.baseline.sysctl["kernel.dmesg_restrict"], "1");
    }

    #[test]
    fn a_lease_is_the_profiles_own_unless_a_deviation_names_another() {
        let text = builtin::source("laptop-linux").unwrap();
        let more = "[lease]\nlasts_hours = 336\n[[override]]\nsite = \"ship\"\nlease = { lasts_hours = 2000, on_lapse = \"lock\" }\n";
        let profile = Profile::parse("p.toml", &format!("{text}{more}")).unwrap();
        let none = BTreeMap::new();
        let lease = |site| resolve(&profile, Target { site, labels: &none }).lease.unwrap();
        assert_eq!((lease(None).lasts_s(), lease(None).on_lapse), (336 * 3600, OnLapse::Report));
        assert_eq!((lease(Some("ship")).lasts_hours, lease(Some("ship")).on_lapse), (2000, OnLapse::Lock));
        assert_eq!(resolve(&laptop(), Target { site: None, labels: &none }).lease, None);
    }

    #[test]
    fn a_rule_takes_the_place_of_the_rule_for_the_same_fact() {
        let tier = labels(&[("tier", "high")]);
        let resolved = resolve(&laptop(), Target { site: None, labels: &tier });
        assert_eq!(resolved.posture.rules.len(), laptop().posture.rules.len());
        assert_eq!(resolved.posture.rules[1].remediation, "Call us.");
    }

    #[test]
    fn site_and_label_together_have_to_match_both() {
        let tier = labels(&[("tier", "high")]);
        let none = BTreeMap::new();
        let both = resolve(&laptop(), Target { site: Some("oslo"), labels: &tier });
        let site = resolve(&laptop(), Target { site: Some("oslo"), labels: &none });
        assert_eq!(both.baseline.files.len(), 1);
        assert!(site.baseline.files.is_empty());
    }

    proptest! {
        #[test]
        fn the_same_target_always_gets_the_same_digest(site in "(berlin|oslo|)", tier in "(high|low)") {
            let tier = labels(&[("tier", &tier)]);
            let target = Target { site: Some(&site), labels: &tier };
            prop_assert_eq!(resolve(&laptop(), target).digest(), resolve(&laptop(), target).digest());
        }
    }
}
