//! Whether what is written to a block device is encrypted on its way down: the climb through sysfs.
//!
//! ```text
//! 253:1 (LVM) ── slaves/dm-0 ──▶ 253:0, dm/uuid CRYPT-LUKS2-… : encrypted
//! 8:1 (partition) ── ../dev ──▶ 8:0 (disk), no slaves: plain
//! ```
//! A device is encrypted when it is a dm-crypt mapping or when everything beneath it is. A drive that encrypts by
//! itself (OPAL) looks like any other from here, and says so in the evidence.

use super::tree::Tree;

/// No stack of devices is deeper, unless somebody made a loop.
const DEPTH_CAP: usize = 16;

/// So many devices are looked at for one mount, however wide its stack is.
const NODES_CAP: usize = 64;

/// What lies beneath a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// Encrypted, by this mapping.
    Encrypted(String),
    /// Not encrypted; the device at the bottom.
    Plain {
        /// Its name.
        disk: String,
        /// Whether it can be taken out by hand.
        is_removable: bool,
    },
    /// Memory, gone without current.
    Memory(String),
    /// Cannot be told.
    Untold(String),
}

/// Climbs from the device `number` (`major:minor`).
pub(super) fn climb(tree: &Tree, number: &str) -> Layer {
    let mut climber = Climber { tree, looked_at: 0 };
    climber.climb(number, 0)
}

/// The `major:minor` of the device that `/dev/…` names, as sysfs knows it.
pub(super) fn number_of(tree: &Tree, path: &str) -> Option<String> {
    let name = path.strip_prefix("/dev/")?;
    if let Some(mapping) = name.strip_prefix("mapper/") {
        let names = tree.names("/sys/class/block").ok()?;
        let mut maps = names.iter().filter(|name| name.starts_with("dm-"));
        let dir = |name: &str| format!("/sys/class/block/{name}");
        let is_it =
            |name: &&String| tree.line(&format!("{}/dm/name", dir(name))).is_ok_and(|found| found == mapping);
        return maps.find(is_it).and_then(|name| number(tree, &dir(name)));
    }
    if name.contains('/') { None } else { number(tree, &format!("/sys/class/block/{name}")) }
}

/// The number in the `dev` file of the sysfs directory `dir`.
pub(super) fn number(tree: &Tree, dir: &str) -> Option<String> {
    let number = tree.line(&format!("{dir}/dev")).ok()?;
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    (is_plain && number.contains(':') && number.len() < 24).then_some(number)
}

struct Climber<'a> {
    tree: &'a Tree,
    looked_at: usize,
}

impl Climber<'_> {
    fn climb(&mut self, number: &str, depth: usize) -> Layer {
        self.looked_at += 1;
        if depth > DEPTH_CAP || self.looked_at > NODES_CAP {
            return Layer::Untold(format!("the devices beneath {number} go in a circle or are too many"));
        }
        let dir = format!("/sys/dev/block/{number}");
        match self.tree.has(&dir) {
            Ok(true) => {}
            Ok(false) => return Layer::Untold(format!("{dir} is not there")),
            Err(why) => return Layer::Untold(format!("{dir} {why}")),
        }
        if let Ok(uuid) = self.tree.line(&format!("{dir}/dm/uuid"))
            && let Some(kind) = uuid.strip_prefix("CRYPT-")
        {
            let kind = kind.split('-').next().unwrap_or_default();
            return Layer::Encrypted(format!("dm-crypt {kind} {}", self.name(&dir, number)));
        }
        let name = self.name(&dir, number);
        if name.starts_with("zram") || name.starts_with("ram") {
            let backing = self.tree.line(&format!("{dir}/backing_dev")).ok();
            return match backing.filter(|backing| backing != "none") {
                Some(backing) => Layer::Untold(format!("{name} writes back to {backing}")),
                None => Layer::Memory(name),
            };
        }
        if let Ok(file) = self.tree.line(&format!("{dir}/loop/backing_file")) {
            return Layer::Untold(format!("{name} is the file {file}"));
        }
        self.beneath(&dir, name, depth)
    }

    fn beneath(&mut self, dir: &str, name: String, depth: usize) -> Layer {
        if self.tree.surely_has(&format!("{dir}/partition")) {
            // The kernel follows the link first, so `..` is the disk of the partition.
            return match number(self.tree, &format!("{dir}/..")) {
                Some(disk) => self.climb(&disk, depth + 1),
                None => Layer::Untold(format!("the disk of {name} is not to be found")),
            };
        }
        let slaves = match self.tree.names(&format!("{dir}/slaves")) {
            Ok(slaves) => slaves,
            Err(super::tree::Unread::Missing) => Vec::new(),
            Err(why) => return Layer::Untold(format!("{dir}/slaves {why}")),
        };
        if slaves.is_empty() {
            // A mapping always stands on something: one without slaves hides it.
            if self.tree.surely_has(&format!("{dir}/dm")) {
                return Layer::Untold(format!("what {name} stands on is not to be seen"));
            }
            let is_removable = self.tree.line(&format!("{dir}/removable")).is_ok_and(|flag| flag == "1");
            return Layer::Plain { disk: name, is_removable };
        }
        let layers = slaves.iter().map(|slave| match number(self.tree, &format!("{dir}/slaves/{slave}")) {
            Some(number) => self.climb(&number, depth + 1),
            None => Layer::Untold(format!("{slave} beneath {name} has no number")),
        });
        weakest(layers.collect())
    }

    fn name(&self, dir: &str, number: &str) -> String {
        if let Ok(name) = self.tree.line(&format!("{dir}/dm/name")) {
            return name;
        }
        let event = self.tree.text(&format!("{dir}/uevent")).unwrap_or_default();
        let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="));
        name.map_or_else(|| number.to_owned(), str::to_owned)
    }
}

/// What several devices amount to together: one plain one is enough to read from.
pub(super) fn weakest(layers: Vec<Layer>) -> Layer {
    let rank = |layer: &Layer| match layer {
        Layer::Plain { is_removable: false, .. } => 0,
        Layer::Plain { is_removable: true, .. } => 1,
        Layer::Untold(_) => 2,
        Layer::Memory(_) => 3,
        Layer::Encrypted(_) => 4,
    };
    let nothing = Layer::Untold("nothing lies beneath".to_owned());
    layers.into_iter().min_by_key(rank).unwrap_or(nothing)
}
