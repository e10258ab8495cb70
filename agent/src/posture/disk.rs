//! Disk and swap encryption, per mount and per swap.
//!
//! Every mount of a real file system counts, except boot files, images that are read-only by nature, and what can
//! be taken out by hand; evidence names each. What is plain decides, then what cannot be told.

use muster_wire::posture::{FactState, FactValue};

use super::block::{self, Layer};
use super::finding::Finding;
use super::mounts::{self, Mount};
use super::tree::{Tree, Unread};

const MOUNTINFO: &str = "/proc/self/mountinfo";
const SWAPS: &str = "/proc/swaps";
const SOURCE: &str = "/proc/self/mountinfo, /sys/dev/block";

/// More mounts than this, in a machine full of containers, are looked at no further.
const MOUNTS_CAP: usize = 256;

/// Kernels and boot loaders lie here, no data; firmware has to read them.
const BOOT: &[&str] = &["/boot", "/boot/efi", "/boot/firmware", "/efi"];

/// Images that come with software, read-only by nature.
const IMAGES: &[&str] = &["squashfs", "iso9660", "erofs", "udf", "cramfs", "romfs"];

/// `disk_encryption`.
pub(super) fn disk_encryption(tree: &Tree) -> Finding {
    let text = match tree.bytes(MOUNTINFO, 1024 * 1024) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(why) => return Finding::unknown(format!("{MOUNTINFO} {why}")).from(SOURCE),
    };
    let mut mounts: Vec<_> = mounts::mounts(&text).into_iter().filter(is_counted).collect();
    mounts.sort_by(|a, b| a.point.cmp(&b.point));
    if mounts.len() > MOUNTS_CAP {
        return Finding::unknown(format!("{} mounts are too many to look at", mounts.len())).from(SOURCE);
    }
    let found = mounts.iter().map(|mount| (mount.point.clone(), counted_layer(tree, mount)));
    amount(found.collect(), "no file system of a disk is mounted").from(SOURCE)
}

/// `swap_encryption`.
pub(super) fn swap_encryption(tree: &Tree) -> Finding {
    let source = format!("{SWAPS}, /sys/dev/block");
    let text = match tree.text(SWAPS) {
        Ok(text) => text,
        Err(why) => return Finding::unknown(format!("{SWAPS} {why}")).from(source),
    };
    let swaps = mounts::swaps(&text);
    if swaps.is_empty() {
        return Finding::not_applicable("nothing is swapped out").from(source);
    }
    let mounts = mounts::mounts(&tree.text(MOUNTINFO).unwrap_or_default());
    let layer = |swap: &mounts::Swap| {
        if swap.is_file {
            let home = mounts.iter().filter(|mount| lies_in(&swap.path, &mount.point));
            let home = home.max_by_key(|mount| mount.point.len());
            return home.map_or_else(|| untold("its file system is not mounted"), |mount| layer(tree, mount));
        }
        let number = block::number_of(tree, &swap.path);
        number.map_or_else(|| untold("sysfs does not know it"), |number| block::climb(tree, &number))
    };
    let found = swaps.iter().map(|swap| (swap.path.clone(), Some(layer(swap))));
    amount(found.collect(), "nothing is swapped out").from(source)
}

/// What mounts or swaps amount to; those with no layer do not count.
fn amount(found: Vec<(String, Option<Layer>)>, when_none: &str) -> Finding {
    let counted: Vec<_> = found.into_iter().filter_map(|(what, layer)| Some((what, layer?))).collect();
    if counted.is_empty() {
        return Finding::unknown(when_none);
    }
    let plain = counted.iter().any(|(_, layer)| matches!(layer, Layer::Plain { .. }));
    let untold = counted.iter().any(|(_, layer)| matches!(layer, Layer::Untold(_)));
    let (state, value) = match (plain, untold) {
        (true, _) => (FactState::Fail, FactValue::Bool(false)),
        (false, true) => (FactState::Unknown, FactValue::Nothing),
        (false, false) => (FactState::Pass, FactValue::Bool(true)),
    };
    // What decides stands first, where it is not cut off.
    let mut told: Vec<_> = counted.iter().map(|(what, layer)| (weight(layer), words(what, layer))).collect();
    told.sort();
    let told: Vec<_> = told.into_iter().map(|(_, words)| words).collect();
    Finding::new(state, value, told.join("; "))
}

fn weight(layer: &Layer) -> u8 {
    match layer {
        Layer::Plain { .. } => 0,
        Layer::Untold(_) => 1,
        Layer::Encrypted(_) | Layer::Memory(_) => 2,
    }
}

fn words(what: &str, layer: &Layer) -> String {
    match layer {
        Layer::Encrypted(by) => format!("{what} encrypted by {by}"),
        Layer::Plain { disk, .. } => {
            format!("{what} plain on {disk}, as far as the kernel sees (OPAL cannot be seen)")
        }
        Layer::Memory(name) => format!("{what} in memory ({name})"),
        Layer::Untold(why) => format!("{what} unknown: {why}"),
    }
}

fn is_counted(mount: &Mount) -> bool {
    let on_disk =
        !mount.device.starts_with("0:") || matches!(mount.kind.as_str(), "btrfs" | "zfs" | "bcachefs");
    let root_of_layers = mount.kind == "overlay" && mount.point == "/";
    (on_disk || root_of_layers)
        && !IMAGES.contains(&mount.kind.as_str())
        && !BOOT.contains(&mount.point.as_str())
}

/// The layer of a mount, none when it can be taken out and is not the root.
fn counted_layer(tree: &Tree, mount: &Mount) -> Option<Layer> {
    let layer = layer(tree, mount);
    let is_stick = matches!(layer, Layer::Plain { is_removable: true, .. });
    if is_stick && mount.point != "/" { None } else { Some(layer) }
}

fn layer(tree: &Tree, mount: &Mount) -> Layer {
    let found = match mount.kind.as_str() {
        "zfs" => untold("ZFS keeps to itself what it encrypts"),
        "bcachefs" => untold("bcachefs keeps to itself what it encrypts"),
        "overlay" => untold("the layers of an overlay are not followed"),
        "btrfs" => btrfs(tree, &mount.source),
        _ => block::climb(tree, &mount.device),
    };
    let is_plain = matches!(found, Layer::Plain { .. });
    let mark = format!("{}/.fscrypt", mount.point.trim_end_matches('/'));
    if is_plain && tree.surely_has(&mark) {
        return untold("fscrypt encrypts some of its directories");
    }
    found
}

/// A btrfs file system may span devices: every one of them counts.
fn btrfs(tree: &Tree, source: &str) -> Layer {
    let Some(number) = block::number_of(tree, source) else {
        return untold("sysfs does not know the device that btrfs was mounted from");
    };
    let systems = match tree.names("/sys/fs/btrfs") {
        Ok(systems) => systems,
        Err(Unread::Missing) => return untold("/sys/fs/btrfs is not there"),
        Err(why) => return untold(&format!("/sys/fs/btrfs {why}")),
    };
    for system in systems {
        let dir = format!("/sys/fs/btrfs/{system}/devices");
        let devices = tree.names(&dir).unwrap_or_default();
        let numbers: Vec<_> =
            devices.iter().map(|device| block::number(tree, &format!("{dir}/{device}"))).collect();
        if numbers.contains(&Some(number.clone())) {
            let climb = |number: &Option<String>| match number {
                Some(number) => block::climb(tree, number),
                None => untold("a device of this btrfs has no number"),
            };
            return block::weakest(numbers.iter().map(climb).collect());
        }
    }
    untold("/sys/fs/btrfs does not list its devices")
}

fn untold(why: &str) -> Layer {
    Layer::Untold(why.to_owned())
}

fn lies_in(path: &str, point: &str) -> bool {
    let point = point.trim_end_matches('/');
    path.strip_prefix(point).is_some_and(|rest| rest.starts_with('/'))
}
