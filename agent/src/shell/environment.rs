//! Variables of the environment: the agent reads none, and says so to whoever sets one in vain.

/// Options that somebody may expect to be variables, too.
const OPTIONS: [(&str, &str); 3] = [("STATEDIR", "--state-dir"), ("ROOT", "--root"), ("JSON", "--json")];

/// Why each of `names` is in vain that looks like an option of ours. Others belong to somebody else.
pub(super) fn in_vain(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let told = |name: String| {
        let rest = name.strip_prefix("MUSTER_")?;
        let rest = rest.strip_prefix("AGENT_").unwrap_or(rest).replace('_', "");
        let (_, option) = OPTIONS.iter().find(|(option, _)| is_near(&rest, option))?;
        Some(format!("the variable {name} is not read; did you mean the option {option}?"))
    };
    names.into_iter().filter_map(told).collect()
}

/// Whether the two differ in one letter at most, which is another, missing or too much.
fn is_near(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let ahead = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let behind = one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
    let longer = one.len().max(other.len());
    one.len().abs_diff(other.len()) <= 1 && ahead + behind + 1 >= longer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_looks_like_an_option_is_told_and_no_other() {
        let told = |name: &str| in_vain([name.to_owned()]).pop();
        for name in ["MUSTER_STATE_DIR", "MUSTER_AGENT_STATE_DIR", "MUSTER_STATEDIR", "MUSTER_STAT_DIR"] {
            assert!(told(name).is_some_and(|text| text.ends_with("--state-dir?")), "{name}");
        }
        assert!(told("MUSTER_ROOT").is_some_and(|text| text.contains("--root")));
        for name in
            ["MUSTER_DATA_DIR", "MUSTER_SERVER", "MUSTER_AGENT_BIN", "MUSTER_BIN", "STATE_DIR", "PATH"]
        {
            assert_eq!(told(name), None, "{name}");
        }
    }
}
