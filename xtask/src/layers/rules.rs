//! The arrows, as tables: what may know what. Everything that is not drawn here is forbidden.

/// What one crate may depend on among our own crates.
#[derive(Debug)]
pub(crate) struct CrateRule {
    /// Package name.
    pub(crate) name: &'static str,
    /// Our own crates that it may depend on.
    pub(crate) may_use: &'static [&'static str],
    /// Whether it is a pure core: no input, no output, no clock.
    pub(crate) purity: Purity,
    /// The rooms of the crate and the arrows between them; empty where a crate has no such rules.
    pub(crate) rooms: &'static [RoomRule],
}

/// Whether a crate or a room decides without touching the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purity {
    /// Data in, data out: reads no clock.
    Pure,
    /// Touches sockets, disks, clocks, randomness.
    Shell,
}

/// What one room (a top-level module of a crate) may name.
#[derive(Debug)]
pub(crate) struct RoomRule {
    /// The top-level module; `lib` and `main` are the files of that name.
    pub(crate) name: &'static str,
    /// Rooms, or paths inside rooms, that it may name besides itself.
    pub(crate) may_use: &'static [&'static str],
    /// Whether it decides without touching the world.
    pub(crate) purity: Purity,
}

/// Packages that a pure crate may not depend on directly.
pub(crate) const IMPURE_PACKAGES: &[&str] = &["tokio", "axum", "hyper", "sled", "sqlx", "rumqttc", "rumqttd"];

/// Types that are clocks.
pub(crate) const CLOCK_TYPES: &[&str] = &["SystemTime", "Instant"];

/// Last segments of paths that read a clock, as in `OffsetDateTime::now_utc`.
pub(crate) const CLOCK_READS: &[&str] = &["now", "now_utc", "now_local", "now_v1", "now_v6", "now_v7"];

const fn room(name: &'static str, may_use: &'static [&'static str]) -> RoomRule {
    RoomRule { name, may_use, purity: Purity::Shell }
}

const fn pure_room(name: &'static str) -> RoomRule {
    RoomRule { name, may_use: &[], purity: Purity::Pure }
}

/// Every crate of the workspace.
pub(crate) const CRATES: &[CrateRule] = &[
    CrateRule { name: "muster-wire", may_use: &[], purity: Purity::Pure, rooms: &[] },
    CrateRule { name: "muster-pki", may_use: &[], purity: Purity::Pure, rooms: &[] },
    CrateRule {
        name: "muster-firmware-profiles",
        may_use: &["muster-wire"],
        purity: Purity::Pure,
        rooms: &[],
    },
    CrateRule {
        name: "muster-server",
        may_use: &["muster-wire", "muster-pki", "muster-firmware-profiles"],
        purity: Purity::Shell,
        rooms: SERVER_ROOMS,
    },
    CrateRule {
        name: "muster-agent",
        may_use: &["muster-wire", "muster-pki"],
        purity: Purity::Shell,
        rooms: AGENT_ROOMS,
    },
    CrateRule {
        name: "muster-tests",
        may_use: &["muster-wire", "muster-pki", "muster-firmware-profiles", "muster-server", "muster-agent"],
        purity: Purity::Shell,
        rooms: &[],
    },
    CrateRule { name: "xtask", may_use: &[], purity: Purity::Shell, rooms: &[] },
];

/// The server. `clock`, `config`, `error` and `telemetry` are ground that every room but `domain` stands on.
const SERVER_ROOMS: &[RoomRule] = &[
    room("lib", &[]),
    room("main", &["cli", "demo", "serve", "config", "telemetry"]),
    // The one place that puts the house together; nobody but `main` may name it.
    room(
        "serve",
        &[
            "alarm",
            "app",
            "audit",
            "ca",
            "console",
            "domain",
            "doors",
            "http",
            "mqtt",
            "store",
            "tasks",
            "clock",
            "config",
            "error",
            "telemetry",
        ],
    ),
    room("http", &["doors", "app", "domain", "clock", "config", "error", "telemetry"]),
    room("mqtt", &["doors", "app", "domain", "clock", "config", "error", "telemetry"]),
    room("console", &["doors", "app", "domain", "clock", "config", "error", "telemetry"]),
    room("tasks", &["app", "domain", "clock", "config", "error", "telemetry"]),
    room("doors", &["domain", "clock", "config", "error", "telemetry"]),
    room(
        "app",
        &["domain", "alarm", "ca", "audit", "store", "doors", "clock", "config", "error", "telemetry"],
    ),
    room("alarm", &["clock", "config", "error", "telemetry"]),
    room("ca", &["domain", "clock", "config", "error", "telemetry"]),
    room("audit", &["domain", "clock", "config", "error", "telemetry"]),
    room("store", &["domain", "clock", "config", "error", "telemetry"]),
    pure_room("domain"),
    room("cli", &["app::found", "audit::verify", "clock", "config", "error", "telemetry"]),
    room("demo", &["cli", "clock", "config", "error", "telemetry"]),
    room("clock", &[]),
    room("config", &[]),
    room("error", &[]),
    room("telemetry", &["clock", "config", "error"]),
];

/// The agent. `clock` is ground that every room but `core` stands on.
const AGENT_ROOMS: &[RoomRule] = &[
    room("lib", &[]),
    room("main", &["shell"]),
    room("shell", &["core", "posture", "apply", "wipe", "clock"]),
    room("posture", &["core", "clock"]),
    room("apply", &["core", "clock"]),
    room("wipe", &["core", "clock"]),
    pure_room("core"),
    room("clock", &[]),
];

/// The rule of the package called `name`.
pub(crate) fn of_crate(name: &str) -> Option<&'static CrateRule> {
    CRATES.iter().find(|rule| rule.name == name)
}

impl CrateRule {
    /// The name of the crate in paths.
    pub(crate) fn path_name(&self) -> String {
        self.name.replace('-', "_")
    }

    /// The rule of the room called `name`.
    pub(crate) fn room(&self, name: &str) -> Option<&'static RoomRule> {
        self.rooms.iter().find(|rule| rule.name == name)
    }
}

impl RoomRule {
    /// Whether this room may name `target`, the segments of a path from the crate's root.
    pub(crate) fn allows(&self, target: &[String]) -> bool {
        if target.first().is_some_and(|room| room == self.name) {
            return true;
        }
        self.may_use.iter().any(|allowed| {
            let mut allowed = allowed.split("::");
            let mut target = target.iter();
            allowed.all(|segment| target.next().is_some_and(|found| found == segment))
        })
    }
}
