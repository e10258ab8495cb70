//! A running `muster serve`, and the operator's commands against it.

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use crate::faults::at_time;
use crate::run::{Launch, Run};
use crate::site::{Site, read_json};
use crate::{server_program, until};

/// The bound addresses, as `endpoints.json` says them.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// `https://…` for devices.
    pub device: String,
    /// `mqtts://…` for devices.
    pub mqtt: String,
    /// `http://…`: revocation lists, CA certificates, health.
    pub status: String,
    /// `https://…` for operators.
    pub admin: String,
}

/// A token as `token create --json` shows it.
#[derive(Clone, Debug)]
pub struct Minted {
    /// Its id, which is no secret.
    pub id: String,
    /// The secret.
    pub token: String,
    /// The enrolment string that carries it.
    pub enrollment: String,
}

/// A running server. Dropping it kills it and removes its site.
#[derive(Debug)]
pub struct Server {
    endpoints: Endpoints,
    ahead: Duration,
    // Declared before the site, so that the process is gone before its files are.
    process: Process,
    site: Site,
}

/// A child in a process group of its own, killed when dropped.
#[derive(Debug)]
struct Process(Child);

impl Server {
    /// A freshly founded installation, serving.
    pub async fn start() -> Self {
        Site::founded().await.serve().await
    }

    /// Serves `site`; `launch` says under what.
    ///
    /// # Panics
    /// When the server ends before all its listeners accept; with its log.
    pub async fn on(site: Site, launch: Launch) -> Self {
        match Self::try_on(site, launch).await {
            Ok(server) => server,
            Err((site, status)) => {
                panic!("muster serve ended with {status} before it accepted:\n{}", site.log())
            }
        }
    }

    /// Serves `site`, or says how the server ended before it accepted.
    ///
    /// # Errors
    /// The site again, and how the process ended.
    pub async fn try_on(site: Site, launch: Launch) -> Result<Self, (Site, ExitStatus)> {
        let published = site.data_dir().join("endpoints.json");
        let stale = identity_of(&published);
        let mut process = spawn(&site, &launch);
        let started = until("muster serve publishes its endpoints", || match process.0.try_wait() {
            Ok(Some(status)) => Some(Err(status)),
            _ => identity_of(&published).filter(|found| Some(*found) != stale).map(Ok),
        });
        match started.await {
            Ok(_) => {
                Ok(Self { endpoints: Endpoints::read(&published), ahead: Duration::ZERO, process, site })
            }
            Err(status) => Err((site, status)),
        }
    }

    /// The addresses it listens on.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The same server, whose clients now live so much later than the machine: for a server whose clock was set.
    #[must_use]
    pub fn ahead_by(self, ahead: Duration) -> Self {
        Self { ahead, ..self }
    }

    /// How much later its clients live.
    pub fn ahead(&self) -> Duration {
        self.ahead
    }

    /// The directory it serves.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Its process id, or that of the wrapper it runs under.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Runs an operator's command that must succeed; answers its JSON.
    pub async fn cli(&self, arguments: &[&str]) -> Value {
        self.try_cli(arguments).await.ok().json()
    }

    /// Runs an operator's command, however it ends.
    pub async fn try_cli(&self, arguments: &[&str]) -> Run {
        self.site.muster(&self.clock(), arguments).await
    }

    /// How a program is started that lives when this server does.
    pub fn clock(&self) -> Launch {
        if self.ahead.is_zero() { Launch::plain() } else { at_time(&format!("+{}s", self.ahead.as_secs())) }
    }

    /// The same installation, served under the same addresses so many days from now; its operators and other clients live
    /// then, too.
    ///
    /// # Panics
    /// As [`Server::stop`] and [`Server::on`].
    pub async fn later(self, days: u64) -> Self {
        let launch = self.in_place(at_time(&format!("+{days}d")));
        let site = self.stop().await;
        Self::on(site, launch).await.ahead_by(Duration::from_secs(days * 86_400))
    }

    /// One token for `profile`.
    pub async fn mint(&self, profile: &str) -> Minted {
        self.mint_with(&["--profile", profile]).await.remove(0)
    }

    /// The tokens that `token create` with `arguments` makes.
    pub async fn mint_with(&self, arguments: &[&str]) -> Vec<Minted> {
        let words: Vec<&str> = ["token", "create"].into_iter().chain(arguments.iter().copied()).collect();
        let made = self.cli(&words).await;
        made.as_array().expect("token create answers an array").iter().map(Minted::read).collect()
    }

    /// Asks the server to stop and waits for it.
    ///
    /// # Panics
    /// When it does not end with 0.
    pub async fn stop(self) -> Site {
        let (site, status) = self.asked_to_stop().await;
        assert!(status.success(), "muster serve stopped with {status}:\n{}", site.log());
        site
    }

    /// Asks the server to stop, and says how it ended.
    pub async fn asked_to_stop(mut self) -> (Site, ExitStatus) {
        signal(&self.process.0, Signal::TERM);
        let status =
            until("muster serve stops when asked", || self.process.0.try_wait().ok().flatten()).await;
        (self.site, status)
    }

    /// Ends the server as a power cut would, without its knowing.
    pub fn kill(self) -> Site {
        drop(self.process);
        self.site
    }

    /// Waits for the server to end by itself.
    pub async fn ended(mut self) -> (Site, ExitStatus) {
        let status = until("muster serve ends", || self.process.0.try_wait().ok().flatten()).await;
        (self.site, status)
    }

    /// Whether the server still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.0.try_wait(), Ok(None))
    }

    /// `launch`, with every listener where this server has it: for a server that comes back under the same address.
    #[must_use]
    pub fn in_place(&self, launch: Launch) -> Launch {
        let Endpoints { device, mqtt, status, admin } = &self.endpoints;
        let places = [("DEVICE", device), ("MQTT", mqtt), ("STATUS", status), ("ADMIN", admin)];
        places.into_iter().fold(launch, |launch, (name, url)| {
            let place = url.split_once("://").map_or(url.as_str(), |(_, place)| place);
            launch.with(format!("MUSTER_LISTEN_{name}"), place.trim_end_matches('/'))
        })
    }

    /// Stops and serves the same directory again.
    pub async fn restart(self) -> Self {
        self.stop().await.serve().await
    }
}

impl Launch {
    /// A server with the budget that it has without any setting, which tests otherwise lift.
    #[must_use]
    pub fn on_rails(self) -> Self {
        let limits = [("DAY_LEAST", "3"), ("DAY_PERCENT", "1"), ("HOUR", "10"), ("COOLING_OFF_S", "14400")];
        limits
            .into_iter()
            .fold(self, |launch, (name, value)| launch.with(format!("MUSTER_RAILS_{name}"), value))
    }
}

impl Endpoints {
    fn read(path: &Path) -> Self {
        let json = read_json(path);
        let url =
            |name: &str| json[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}")).to_owned();
        Self { device: url("device"), mqtt: url("mqtt"), status: url("status"), admin: url("admin") }
    }
}

impl Minted {
    fn read(json: &Value) -> Self {
        let text =
            |name: &str| json[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}")).to_owned();
        Self { id: text("id"), token: text("token"), enrollment: text("enrollment") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        signal(&self.0, Signal::KILL);
        let _ = self.0.wait();
    }
}

fn spawn(site: &Site, launch: &Launch) -> Process {
    let data = site.data_dir();
    let arguments = ["serve".as_ref(), "--data-dir".as_ref(), data.as_os_str()];
    let mut command = launch.command(&server_program(), &arguments);
    for listener in ["DEVICE", "MQTT", "STATUS", "ADMIN"].map(|name| format!("MUSTER_LISTEN_{name}")) {
        if launch.environment.iter().all(|(name, _)| *name != *listener) {
            command.env(listener, "127.0.0.1:0");
        }
    }
    // Stories and attacks end more devices in a minute than anybody should; those about the rails set them.
    for (name, value) in [("DAY_LEAST", "1000000"), ("HOUR", "1000000")] {
        let name = format!("MUSTER_RAILS_{name}");
        if launch.environment.iter().all(|(set, _)| *set != *name) {
            command.env(name, value);
        }
    }
    let log = File::create(site.path("serve.log")).expect("the site is writable");
    let out = File::create(site.path("serve.out")).expect("the site is writable");
    let child = command.stdin(Stdio::null()).stdout(out).stderr(log).process_group(0).spawn();
    Process(child.unwrap_or_else(|cause| panic!("{command:?}: {cause}")))
}

fn signal(child: &Child, signal: Signal) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // A group that is already gone needs no signal.
    let _ = group.map(|group| kill_process_group(group, signal));
}

/// What tells one publication from the next, even when a stale one was left behind.
fn identity_of(path: &Path) -> Option<(u64, i64, i64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}
