//! File descriptors: every connection is one, and a server that has none left serves nobody.
//!
//! Many systems start a process with 1,024 of them, although it may ask for far more. So the limit is raised to
//! what is allowed, and the listeners share what the store and the logs do not need: a flood of connections then
//! meets the listeners' own limits, never the system's.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// What is kept back for the store, the logs and the standard streams.
const KEPT_BACK: u64 = 256;

/// Raises the soft limit of open files to the hard one. Answers the limit that holds afterwards; `u64::MAX` when
/// there is none.
///
/// # Errors
/// What the system says when it does not allow it; the former limit holds on.
pub fn raise_limit() -> io::Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

/// How many connections a listener may hold that has `parts` of `all` under `limit` descriptors and wants `wanted`. At
/// least 1.
pub fn share(limit: u64, (parts, all): (u32, u32), wanted: u32) -> u32 {
    let part = limit.saturating_sub(KEPT_BACK) / u64::from(all.max(1));
    u32::try_from(part.saturating_mul(parts.into())).unwrap_or(u32::MAX).min(wanted).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_raising_the_limit_is_the_hard_one() {
        let limit = raise_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX), limit);
    }

    #[test]
    fn listeners_share_what_is_left_and_take_no_more_than_they_want() {
        assert_eq!([10, 4, 1].map(|parts| share(1_024, (parts, 16), 20_000)), [480, 192, 48]);
        assert_eq!(share(u64::MAX, (1, 16), 20_000), 20_000);
        assert_eq!(share(100, (10, 16), 20_000), 1);
    }
}
