//! `firewall`: whether what comes in is refused unless a rule lets it in, from the rules that nftables has loaded.
//!
//! A chain at the input hook counts when its policy is drop or when its last rule refuses everything. Rules of the
//! older iptables cannot be seen through nftables; where they are loaded, the answer is unknown. Files of ufw and
//! firewalld say what somebody wants, not what is loaded: they are evidence, never the answer.

use std::collections::BTreeSet;

use muster_wire::posture::FactValue;
use serde_json::Value;

use super::finding::Finding;
use super::nft;
use super::tree::Tree;

/// `firewall`.
pub(super) fn firewall(tree: &Tree) -> Finding {
    let (loaded, source) = nft::ruleset(tree);
    let wishes = wishes(tree);
    let finding = match loaded {
        Err(why) => Finding::unknown(format!("{why}{wishes}")),
        Ok(text) => match serde_json::from_slice(&text) {
            Err(_) => Finding::unknown(format!("nft answered no JSON{wishes}")),
            Ok(ruleset) => judge(&ruleset, has_ipv6(tree), has_legacy(tree), &wishes),
        },
    };
    finding.from(source)
}

fn judge(ruleset: &Value, has_ipv6: bool, has_legacy: bool, wishes: &str) -> Finding {
    let Some(items) = ruleset.get("nftables").and_then(Value::as_array) else {
        return Finding::unknown(format!("nft answered JSON that is no ruleset{wishes}"));
    };
    let closed = closed_families(items);
    let value = FactValue::List(closed.iter().map(|family| (*family).to_owned()).collect());
    let is_closed = |family| closed.contains(family) || closed.contains("inet");
    if is_closed("ip") && (is_closed("ip6") || !has_ipv6) {
        let families: Vec<_> = closed.iter().copied().collect();
        return Finding::pass(
            value,
            format!("input is refused unless allowed ({}){wishes}", families.join(", ")),
        );
    }
    if has_legacy {
        return Finding::unknown(format!("older iptables rules are loaded, which nft does not list{wishes}"));
    }
    if is_closed("ip") {
        return Finding::fail(value, format!("IPv6 input is accepted by default{wishes}"));
    }
    if jumps(items) {
        return Finding::unknown(format!(
            "input is accepted by default; its jumps were not followed{wishes}"
        ));
    }
    Finding::fail(value, format!("input is accepted by default{wishes}"))
}

/// The families whose input is refused by default.
fn closed_families(items: &[Value]) -> BTreeSet<&str> {
    let closed = input_chains(items).filter(|chain| {
        let by_policy = chain.get("policy").and_then(Value::as_str) == Some("drop");
        let last = rules_of(items, chain).last();
        by_policy || last.is_some_and(refuses_everything)
    });
    closed.filter_map(|chain| chain.get("family")?.as_str()).collect()
}

fn input_chains(items: &[Value]) -> impl Iterator<Item = &Value> {
    items.iter().filter_map(|item| item.get("chain")).filter(|chain| {
        let is = |key: &str, word: &str| chain.get(key).and_then(Value::as_str) == Some(word);
        is("hook", "input") && is("type", "filter")
    })
}

fn rules_of<'a>(items: &'a [Value], chain: &'a Value) -> impl DoubleEndedIterator<Item = &'a Value> {
    items.iter().filter_map(|item| item.get("rule")).filter(move |rule| {
        rule.get("family") == chain.get("family")
            && rule.get("table") == chain.get("table")
            && rule.get("chain") == chain.get("name")
    })
}

/// Whether a rule has no condition and drops or rejects.
fn refuses_everything(rule: &Value) -> bool {
    let Some(statements) = rule.get("expr").and_then(Value::as_array) else { return false };
    let is_one_of =
        |statement: &Value, words: &[&str]| words.iter().any(|word| statement.get(word).is_some());
    let harmless = statements.iter().all(|one| is_one_of(one, &["drop", "reject", "counter", "log"]));
    harmless && statements.iter().any(|one| is_one_of(one, &["drop", "reject"]))
}

/// Whether an input chain hands packets to another chain.
fn jumps(items: &[Value]) -> bool {
    let jumps = |rule: &Value| {
        let statements = rule.get("expr").and_then(Value::as_array);
        statements.is_some_and(|all| {
            all.iter().any(|one| ["jump", "goto", "vmap"].iter().any(|word| one.get(word).is_some()))
        })
    };
    input_chains(items).any(|chain| rules_of(items, chain).any(jumps))
}

fn has_ipv6(tree: &Tree) -> bool {
    tree.text("/proc/net/if_inet6").map_or(true, |addresses| !addresses.trim().is_empty())
}

fn has_legacy(tree: &Tree) -> bool {
    let named = |path| tree.text(path).is_ok_and(|tables| !tables.trim().is_empty());
    named("/proc/net/ip_tables_names") || named("/proc/net/ip6_tables_names")
}

/// What configuration files ask for.
fn wishes(tree: &Tree) -> String {
    let mut wishes = String::new();
    if let Ok(text) = tree.text("/etc/ufw/ufw.conf") {
        let enabled = text.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes"));
        wishes.push_str(if enabled { "; ufw.conf says enabled" } else { "; ufw.conf says not enabled" });
    }
    if tree.surely_has("/etc/firewalld/firewalld.conf") {
        wishes.push_str("; firewalld is configured");
    }
    wishes
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::posture::FactState::{self, Fail, Pass, Unknown};
    use proptest::prelude::*;
    use serde_json::json;

    fn chain(family: &str, policy: &str) -> Value {
        json!({"chain": {"family": family, "table": "filter", "name": "input", "handle": 1,
            "type": "filter", "hook": "input", "prio": 0, "policy": policy}})
    }

    fn rule(expr: &Value) -> Value {
        json!({"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 2, "expr": expr}})
    }

    fn state(items: &[Value], has_ipv6: bool, has_legacy: bool) -> FactState {
        judge(&json!({ "nftables": items }), has_ipv6, has_legacy, "").state
    }

    #[test]
    fn a_drop_policy_or_a_last_rule_that_refuses_everything_closes_a_family() {
        assert_eq!(state(&[chain("inet", "drop")], true, false), Pass);
        let reject = rule(&json!([{"counter": {"packets": 1}}, {"reject": {"type": "icmpx"}}]));
        assert_eq!(state(&[chain("inet", "accept"), reject], true, false), Pass);
    }

    #[test]
    fn no_rules_and_rules_that_refuse_something_only_leave_it_open() {
        assert_eq!(state(&[], true, false), Fail);
        let one_port = rule(&json!([{"match": {"op": "==", "left": 1, "right": 23}}, {"drop": null}]));
        assert_eq!(state(&[chain("inet", "accept"), one_port], true, false), Fail);
    }

    #[test]
    fn a_drop_rule_for_another_chain_closes_nothing() {
        let other = json!({"rule": {"family": "inet", "table": "filter", "chain": "forward", "expr": [{"drop": null}]}});
        assert_eq!(state(&[chain("inet", "accept"), other], true, false), Fail);
    }

    #[test]
    fn ipv4_alone_is_enough_only_without_ipv6() {
        assert_eq!(state(&[chain("ip", "drop")], true, false), Fail);
        assert_eq!(state(&[chain("ip", "drop")], false, false), Pass);
        assert_eq!(state(&[chain("ip", "drop"), chain("ip6", "drop")], true, false), Pass);
    }

    #[test]
    fn what_nft_cannot_show_is_unknown() {
        assert_eq!(state(&[], true, true), Unknown);
        let jump = rule(&json!([{"jump": {"target": "more"}}]));
        assert_eq!(state(&[chain("inet", "accept"), jump], true, false), Unknown);
        assert_eq!(judge(&json!([1]), true, false, "").state, Unknown);
    }

    proptest! {
        #[test]
        fn no_json_makes_it_panic(text in "(\\PC|[\\[\\]{},:\"]|nftables|chain|rule|expr|null){0,120}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                judge(&value, true, false, "");
            }
        }
    }
}
