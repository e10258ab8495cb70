//! How the device stands: thirteen facts, each tri-state, with value, evidence and source (agent.md, "Posture").
//!
//! A collector reads files beneath a root and says what it saw; what cannot be told is `unknown` with the reason,
//! never a guess. One collector starts a program, `nft`, and only where the root is the machine itself. Nothing
//! here judges: whether a failing fact matters, and whether a release is still supported, the server decides.
//!
//! | module | facts |
//! | --- | --- |
//! | `disk` (with `block`, `mounts`) | `disk_encryption`, `swap_encryption` |
//! | `boot` | `secure_boot`, `tpm`, `kernel_lockdown` |
//! | `firewall` (with `nft`) | `firewall` |
//! | `system` | `os_support` |
//! | `updates` (with `version`) | `security_updates`, `reboot_required` |
//! | `ssh` | `ssh_root_login`, `ssh_password` |
//! | `clock_sync` | `time_sync` |
//! | `integrity` | `agent_integrity` |

use std::path::Path;

use muster_wire::posture::Fact;
use muster_wire::time::Timestamp;

mod block;
mod boot;
mod clock_sync;
mod disk;
mod finding;
mod firewall;
mod integrity;
mod mounts;
mod nft;
mod ssh;
mod system;
mod tree;
mod updates;
mod version;

use finding::Finding;
use tree::Tree;

/// Where an installed agent keeps its state, beneath the root.
const STATE: &str = "var/lib/muster-agent";

/// Every fact about the tree at `root`, in alphabetical order, as of `now`; the agent's state lies where an
/// installed agent keeps it.
pub fn collect(root: &Path, now: Timestamp) -> Vec<Fact> {
    collect_with_state(root, &root.join(STATE), now)
}

/// The same, for an agent that keeps its state in `state_dir`, wherever that is.
pub fn collect_with_state(root: &Path, state_dir: &Path, now: Timestamp) -> Vec<Fact> {
    let tree = Tree::at(root);
    let (root_login, password) = ssh::ssh(&tree);
    let system = system::id(&tree);
    let integrity = integrity::agent_integrity(&tree, &Tree::at(state_dir), integrity::own_digest());
    let found: [(&str, Finding); 13] = [
        ("agent_integrity", integrity),
        ("disk_encryption", disk::disk_encryption(&tree)),
        ("firewall", firewall::firewall(&tree)),
        ("kernel_lockdown", boot::kernel_lockdown(&tree)),
        ("os_support", system::os_support(&tree)),
        ("reboot_required", updates::reboot_required(&tree)),
        ("secure_boot", boot::secure_boot(&tree)),
        ("security_updates", updates::security_updates(&tree, now, system.as_deref())),
        ("ssh_password", password),
        ("ssh_root_login", root_login),
        ("swap_encryption", disk::swap_encryption(&tree)),
        ("time_sync", clock_sync::time_sync(&tree, now)),
        ("tpm", boot::tpm(&tree)),
    ];
    let fact = |(name, finding): (&str, Finding)| Some(finding.into_fact(name.parse().ok()?, now));
    found.into_iter().filter_map(fact).collect()
}
