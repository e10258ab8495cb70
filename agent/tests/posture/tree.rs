//! Building a tree: files, links, and block devices as sysfs shows them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use muster_agent::posture;
use muster_wire::posture::{Fact, FactState, FactValue};
use muster_wire::time::Timestamp;

/// A tree in a directory of its own.
pub(crate) struct Tree(tempfile::TempDir);

impl Tree {
    /// A tree of nothing.
    pub(crate) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub(crate) fn dir(&self, path: &str) -> &Self {
        fs::create_dir_all(self.path(path)).unwrap();
        self
    }

    pub(crate) fn link(&self, path: &str, to: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
        self
    }

    /// A whole disk called `name`.
    pub(crate) fn disk(&self, name: &str, number: &str) -> &Self {
        let home = format!("/sys/devices/{name}");
        self.device(&home, name, number).dir(&format!("{home}/slaves"))
    }

    /// A partition of `disk`.
    pub(crate) fn partition(&self, disk: &str, name: &str, number: &str) -> &Self {
        let home = format!("/sys/devices/{disk}/{name}");
        self.device(&home, name, number).file(&format!("{home}/partition"), "1\n")
    }

    /// A mapping `dm-N` called `name` over other devices, by where these live beneath `/sys/devices`.
    pub(crate) fn mapping(&self, dm: &str, number: &str, name: &str, uuid: &str, over: &[&str]) -> &Self {
        let home = format!("/sys/devices/virtual/{dm}");
        self.device(&home, dm, number)
            .file(&format!("{home}/dm/name"), format!("{name}\n"))
            .file(&format!("{home}/dm/uuid"), format!("{uuid}\n"))
            .dir(&format!("{home}/slaves"));
        for below in over {
            let base = below.rsplit('/').next().unwrap();
            self.link(&format!("{home}/slaves/{base}"), &format!("/sys/devices/{below}"));
        }
        self
    }

    fn device(&self, home: &str, name: &str, number: &str) -> &Self {
        self.file(&format!("{home}/dev"), format!("{number}\n"))
            .file(&format!("{home}/uevent"), format!("MAJOR=1\nDEVNAME={name}\n"))
            .link(&format!("/sys/dev/block/{number}"), home)
            .link(&format!("/sys/class/block/{name}"), home)
    }

    /// `/proc/self/mountinfo` with `number point kind source` a line.
    pub(crate) fn mounts(&self, mounts: &[&str]) -> &Self {
        let line = |mount: &&str| {
            let [number, point, kind, source] = mount.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{mount}")
            };
            format!("25 1 {number} / {point} rw,relatime shared:1 - {kind} {source} rw\n")
        };
        let pseudo = "22 25 0:21 / /proc rw - proc proc rw\n".to_owned();
        self.file("/proc/self/mountinfo", mounts.iter().map(line).fold(pseudo, |all, one| all + &one))
    }

    pub(crate) fn swaps(&self, lines: &[&str]) -> &Self {
        let heading = "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n".to_owned();
        self.file("/proc/swaps", lines.iter().fold(heading, |all, line| all + line + "\t1048572\t0\t-2\n"))
    }

    pub(crate) fn facts(&self) -> Vec<Fact> {
        posture::collect(self.root(), now())
    }

    pub(crate) fn fact(&self, name: &str) -> Fact {
        self.facts().into_iter().find(|fact| fact.name.as_str() == name).unwrap()
    }

    pub(crate) fn state(&self, name: &str) -> FactState {
        self.fact(name).state
    }

    /// A line a fact, without what differs from run to run.
    pub(crate) fn golden(&self) -> String {
        let line = |fact: &Fact| {
            let value = match &fact.value {
                FactValue::Nothing => "-".to_owned(),
                FactValue::Bool(value) => value.to_string(),
                FactValue::Number(value) => value.to_string(),
                FactValue::Text(_) if fact.name.as_str() == "agent_integrity" => "DIGEST".to_owned(),
                FactValue::Text(value) => value.clone(),
                FactValue::List(values) => format!("{values:?}"),
            };
            format!("{} {} {value} | {}\n", fact.name.as_str(), fact.state.as_str(), fact.evidence)
        };
        self.facts().iter().map(line).collect()
    }
}

/// The present of the files' own clock: a tree is as old as the test.
pub(crate) fn now() -> Timestamp {
    muster_agent::clock::Clock::system().now()
}
