//! What the machine booted through: secure boot, a trusted platform module, the kernel's lockdown.

use muster_wire::posture::FactValue;

use super::finding::Finding;
use super::tree::{Tree, Unread};

/// EFI_GLOBAL_VARIABLE (UEFI specification, 3.3).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

const EFIVARS: &str = "/sys/firmware/efi/efivars";

/// `secure_boot`.
pub(super) fn secure_boot(tree: &Tree) -> Finding {
    let source = format!("{EFIVARS}/SecureBoot, SetupMode");
    match (tree.has("/sys/firmware"), tree.has("/sys/firmware/efi")) {
        (Ok(true), Ok(false)) => {
            return Finding::not_applicable("the kernel was not started by EFI").from("/sys/firmware");
        }
        (Ok(true), Ok(true)) => {}
        _ => return Finding::unknown("/sys/firmware is not to be seen").from("/sys/firmware"),
    }
    let enabled = match flag(tree, "SecureBoot") {
        Ok(enabled) => enabled,
        Err(why) => return Finding::unknown(why).from(source),
    };
    let finding = match (enabled, flag(tree, "SetupMode")) {
        (false, _) => Finding::fail(FactValue::Bool(false), "SecureBoot is 0"),
        (true, Ok(true)) => Finding::fail(
            FactValue::Bool(false),
            "SecureBoot is 1, but SetupMode too: anyone may replace the keys",
        ),
        (true, Ok(false)) => Finding::pass(FactValue::Bool(true), "SecureBoot is 1, SetupMode 0"),
        (true, Err(why)) => Finding::unknown(format!("SecureBoot is 1, but {why}")),
    };
    finding.from(source)
}

/// A variable of one byte, after the four of its attributes.
fn flag(tree: &Tree, name: &str) -> Result<bool, String> {
    match tree.bytes(&format!("{EFIVARS}/{name}-{GLOBAL}"), 64) {
        Ok(bytes) => match bytes.as_slice() {
            [_, _, _, _, 0] => Ok(false),
            [_, _, _, _, 1] => Ok(true),
            other => Err(format!("{name} has {} bytes that mean nothing", other.len())),
        },
        Err(why) => Err(format!("{name} {why}")),
    }
}

/// `tpm`.
pub(super) fn tpm(tree: &Tree) -> Finding {
    let source = "/sys/class/tpm";
    if !tree.surely_has("/sys/class") {
        return Finding::unknown("/sys/class is not to be seen").from(source);
    }
    let none = || Finding::fail(FactValue::Text("none".into()), "the kernel knows no TPM");
    let finding = match tree.has("/sys/class/tpm/tpm0") {
        Ok(false) => none(),
        Err(why) => Finding::unknown(format!("{source} {why}")),
        Ok(true) => match tree.line("/sys/class/tpm/tpm0/tpm_version_major").as_deref() {
            Ok("2") => Finding::pass(FactValue::Text("2.0".into()), "tpm0 speaks TPM 2.0"),
            Ok("1") => Finding::fail(FactValue::Text("1.2".into()), "tpm0 speaks TPM 1.2 only"),
            Ok(other) => Finding::unknown(format!("tpm0 has version {other:?}")),
            Err(why) => Finding::unknown(format!("tpm_version_major {why}")),
        },
    };
    finding.from(source)
}

/// `kernel_lockdown`.
pub(super) fn kernel_lockdown(tree: &Tree) -> Finding {
    let lockdown = "/sys/kernel/security/lockdown";
    let modules = tree.line("/sys/kernel/security/lsm");
    let finding = match tree.line(lockdown) {
        Ok(modes) => match chosen(&modes) {
            Some(mode) => {
                let evidence = format!("lockdown is {mode}{}", others(tree, modules.ok().as_deref()));
                let holds = matches!(mode, "integrity" | "confidentiality");
                Finding::judged(holds, FactValue::Text(mode.to_owned()), evidence)
            }
            None => Finding::unknown(format!("{lockdown} says {modes:?}")),
        },
        Err(Unread::Missing) => match modules {
            Ok(modules) if !modules.split(',').any(|module| module == "lockdown") => Finding::fail(
                FactValue::Text("none".into()),
                format!("the kernel has no lockdown{}", others(tree, Some(&modules))),
            ),
            _ => Finding::unknown("securityfs is not mounted at /sys/kernel/security"),
        },
        Err(why) => Finding::unknown(format!("{lockdown} {why}")),
    };
    finding.from("/sys/kernel/security/lockdown, lsm")
}

/// The word in brackets: `none [integrity] confidentiality`.
fn chosen(modes: &str) -> Option<&str> {
    let mode = modes.split_once('[')?.1.split_once(']')?.0;
    matches!(mode, "none" | "integrity" | "confidentiality").then_some(mode)
}

/// Other security modules, as extra evidence.
fn others(tree: &Tree, modules: Option<&str>) -> String {
    let selinux = match tree.line("/sys/fs/selinux/enforce").as_deref() {
        Ok("1") => ", SELinux enforces",
        Ok("0") => ", SELinux only warns",
        _ => "",
    };
    let apparmor = match tree.line("/sys/module/apparmor/parameters/enabled").as_deref() {
        Ok("Y") => ", AppArmor is on",
        _ => "",
    };
    modules.map_or_else(String::new, |modules| format!(", modules {modules}")) + selinux + apparmor
}
