//! What an appraisal has to hold to, rule by rule and over random histories.

use super::*;
use muster_wire::posture::FactValue;
use proptest::prelude::*;

const HOUR: i64 = 3600;
const T0: Timestamp = Timestamp(1_790_000_000);

fn rule(fact: &str, grace_hours: u16, action: Action) -> PostureRule {
    let remediation = format!("repair {fact}");
    PostureRule { fact: fact.into(), remediation, grace_hours, action, unknown: WhenUnknown::Counted }
}

fn fact(name: &str, state: FactState) -> Fact {
    Fact {
        name: name.parse().unwrap(),
        state,
        value: FactValue::Nothing,
        evidence: String::new(),
        source: String::new(),
        collected_at: T0,
    }
}

fn later(hours: i64) -> Timestamp {
    T0.plus_seconds(hours * HOUR)
}

fn disk(state: FactState, before: &[Failing], at: Timestamp) -> Appraisal {
    appraise(
        &[rule("disk_encryption", 24, Action::Quarantine)],
        &[fact("disk_encryption", state)],
        before,
        at,
    )
}

#[test]
fn a_fact_that_passes_or_means_nothing_here_holds() {
    for state in [FactState::Pass, FactState::NotApplicable] {
        let found = disk(state, &[], T0);
        assert_eq!((found.verdict, found.action), (Verdict::Pass, None));
    }
}

#[test]
fn grace_runs_from_the_first_failure_and_the_action_is_due_when_it_ends() {
    let first = disk(FactState::Fail, &[], T0);
    assert_eq!((first.verdict, first.action), (Verdict::Grace, None));
    assert_eq!((first.failing[0].since, first.failing[0].due), (T0, later(24)));
    assert_eq!(first.failing[0].remediation, "repair disk_encryption");
    assert_eq!(first.next_due(T0), Some(later(24)));
    let still = disk(FactState::Fail, &first.failing, later(23));
    assert_eq!((still.verdict, still.failing[0].since), (Verdict::Grace, T0));
    let beyond = disk(FactState::Fail, &still.failing, later(24));
    assert_eq!((beyond.verdict, beyond.action), (Verdict::Fail, Some(Action::Quarantine)));
    assert_eq!(beyond.quarantined_for(later(24)).unwrap().fact, "disk_encryption");
    assert_eq!(beyond.next_due(later(24)), None);
}

#[test]
fn a_device_that_passes_again_is_released_and_starts_afresh() {
    let beyond = disk(FactState::Fail, &disk(FactState::Fail, &[], T0).failing, later(30));
    let repaired = disk(FactState::Pass, &beyond.failing, later(31));
    assert_eq!((repaired.verdict, repaired.action, repaired.failing.len()), (Verdict::Pass, None, 0));
    assert_eq!(disk(FactState::Fail, &repaired.failing, later(40)).failing[0].since, later(40));
}

#[test]
fn falling_silent_does_not_end_a_failure() {
    let first = disk(FactState::Fail, &[], T0);
    let silent = appraise(&[rule("disk_encryption", 24, Action::Quarantine)], &[], &first.failing, later(25));
    assert_eq!((silent.verdict, silent.action), (Verdict::Fail, Some(Action::Quarantine)));
    assert_eq!(silent.failing[0].since, T0);
}

#[test]
fn what_cannot_be_told_is_no_pass_and_never_quarantines() {
    for state in [FactState::Unknown, FactState::Error] {
        let found = disk(state, &[], later(10_000));
        assert_eq!((found.verdict, found.action), (Verdict::Unknown, None));
        assert_eq!(found.unknown, ["disk_encryption"]);
    }
    let missing = appraise(&[rule("disk_encryption", 0, Action::Quarantine)], &[], &[], T0);
    assert_eq!((missing.verdict, missing.action), (Verdict::Unknown, None));
}

#[test]
fn a_rule_may_tolerate_what_cannot_be_told_but_not_a_failure() {
    let tolerant = PostureRule { unknown: WhenUnknown::Tolerated, ..rule("firewall", 0, Action::Warn) };
    let judge = |state| appraise(std::slice::from_ref(&tolerant), &[fact("firewall", state)], &[], T0);
    assert_eq!(judge(FactState::Unknown).verdict, Verdict::Pass);
    let failed = judge(FactState::Fail);
    assert_eq!((failed.verdict, failed.action), (Verdict::Fail, Some(Action::Warn)));
}

#[test]
fn the_strongest_action_that_is_due_counts_and_the_longest_due_is_named() {
    let rules = [
        rule("firewall", 1, Action::Quarantine),
        rule("tpm", 0, Action::Warn),
        rule("disk_encryption", 0, Action::Quarantine),
    ];
    let facts: Vec<_> = rules.iter().map(|rule| fact(&rule.fact, FactState::Fail)).collect();
    let now = appraise(&rules, &facts, &[], T0);
    assert_eq!(now.action, Some(Action::Quarantine));
    assert_eq!(now.quarantined_for(later(5)).unwrap().fact, "disk_encryption");
    assert_eq!(now.quarantined_for(T0).unwrap().fact, "disk_encryption");
}

#[test]
fn beyond_grace_outweighs_unknown_and_unknown_outweighs_grace() {
    let rules = [rule("firewall", 5, Action::Warn), rule("tpm", 0, Action::Warn)];
    let facts = [fact("firewall", FactState::Fail)];
    let found = appraise(&rules, &facts, &[], T0);
    assert_eq!(found.verdict, Verdict::Unknown);
    assert_eq!(appraise(&rules, &facts, &found.failing, later(5)).verdict, Verdict::Fail);
}

#[test]
fn a_rule_that_went_takes_its_failure_with_it_and_a_changed_one_keeps_since() {
    let first = disk(FactState::Fail, &[], T0);
    assert_eq!(
        appraise(&[], &[fact("disk_encryption", FactState::Fail)], &first.failing, T0).verdict,
        Verdict::Pass
    );
    let stricter = [rule("disk_encryption", 2, Action::Warn)];
    let found = appraise(&stricter, &[fact("disk_encryption", FactState::Fail)], &first.failing, later(3));
    assert_eq!((found.failing[0].since, found.failing[0].due), (T0, later(2)));
    assert_eq!(found.action, Some(Action::Warn));
}

#[test]
fn a_fact_told_twice_counts_as_the_worse() {
    let rules = [rule("tpm", 9, Action::Warn)];
    let judge = |states: [FactState; 2]| appraise(&rules, &states.map(|s| fact("tpm", s)), &[], T0).verdict;
    assert_eq!(judge([FactState::Pass, FactState::Fail]), Verdict::Grace);
    assert_eq!(judge([FactState::Unknown, FactState::Fail]), Verdict::Grace);
    assert_eq!(judge([FactState::Pass, FactState::Unknown]), Verdict::Unknown);
}

#[test]
fn os_support_is_judged_here_whatever_the_device_says() {
    let rules = [rule("os_support", 0, Action::Warn)];
    let mut system = fact("os_support", FactState::Pass);
    system.value = FactValue::Text("debian 10".into());
    let found = appraise(&rules, std::slice::from_ref(&system), &[], T0);
    assert_eq!(found.verdict, Verdict::Fail);
    assert_eq!(found.facts[0].evidence, "security support ended 2024-06-30");
    system.value = FactValue::Text("debian 12".into());
    assert_eq!(appraise(&rules, &[system], &found.failing, T0).verdict, Verdict::Pass);
}

fn any_state() -> impl Strategy<Value = FactState> {
    prop_oneof![
        Just(FactState::Pass),
        Just(FactState::Fail),
        Just(FactState::Unknown),
        Just(FactState::NotApplicable),
        Just(FactState::Error),
    ]
}

proptest! {
    /// Against a model that keeps, beside, when the fact last began to fail.
    #[test]
    fn a_history_ends_where_its_last_seen_failure_says(
        history in proptest::collection::vec((any_state(), 0i64..30), 1..20),
        grace in 0u16..48,
    ) {
        let rules = [rule("firewall", grace, Action::Quarantine)];
        let (mut now, mut before, mut since) = (T0, Vec::new(), None);
        for (state, hours) in history {
            now = now.plus_seconds(hours * HOUR);
            since = match state {
                FactState::Pass | FactState::NotApplicable => None,
                FactState::Fail => since.or(Some(now)),
                FactState::Unknown | FactState::Error => since,
            };
            let found = appraise(&rules, &[fact("firewall", state)], &before, now);
            let due = since.map(|since: Timestamp| since.plus_seconds(i64::from(grace) * HOUR));
            prop_assert_eq!(found.failing.first().map(|one| one.since), since);
            prop_assert_eq!(found.action.is_some(), due.is_some_and(|due| now >= due));
            prop_assert_eq!(found.quarantined_for(now).is_some(), found.action.is_some());
            before = found.failing;
        }
    }
}
