//! The server and the devices on one line, and what is known of them.

use super::admin::{Act, Admin, Outcome, Silence};
use super::fleet::{Process, launch};
use super::invariants::{Bounds, Checker};
use super::logs::Logs;
use super::network::Line;
use super::options::Options;
use super::plan::Card;
use super::promises::Promises;
use super::report::Tally;
use super::snapshot::{Device, Order};
use super::trail::Trail;
use crate::{Agent, Server, Site};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The one profile of the fleet: nobody has to sit in front of a sensor for it to pass muster.
pub(super) const PROFILE: &str = "sensor-linux";

/// Devices in one process, at most.
const SWARM: usize = 110;

/// One in so many devices is a process of its own, up to so many.
const SINGLES: (usize, usize) = (8, 40);

/// Devices are told to come back later and nobody else asks much: no stop needs the time that open requests would get.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// A thing that was imaged: its serial number, the device that it was, and what came of it.
pub(super) type Imaged = (String, String, Result<(Agent, String), String>);

/// Everything that takes part.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) options: Options,
    pub(super) began: Instant,
    pub(super) server: Option<Server>,
    pub(super) admin: Admin,
    pub(super) line: Line,
    pub(super) fleet: Vec<Process>,
    pub(super) imaging: JoinSet<Imaged>,
    pub(super) promises: Promises,
    pub(super) checker: Checker,
    pub(super) trail: Trail,
    pub(super) logs: Logs,
    pub(super) tally: Tally,
    /// As last seen.
    pub(super) devices: Vec<Device>,
    /// Tokens that were given to devices.
    pub(super) used: BTreeSet<String>,
    /// When the present weather passes.
    pub(super) weather_until: Option<Instant>,
    pub(super) orders: Vec<Order>,
    /// Where revocation lists are, with `{shard}` in it.
    pub(super) list_template: Option<String>,
    /// Packets lost before the weather last changed.
    pub(super) lost_before: u64,
    /// What was noticed since the last look.
    pub(super) noticed: Vec<(&'static str, String)>,
    pub(super) archive: PathBuf,
    /// When the installation was last looked at, or the server came back.
    pub(super) looked_at: Instant,
}

impl Stage {
    /// A server, and a fleet whose processes have been started.
    ///
    /// # Errors
    /// One sentence when packets cannot be lost here.
    pub(super) async fn set(options: Options, archive: &Path) -> Result<Self, String> {
        let server = Server::on(Site::founded().await, launch()).await;
        let line = Line::to(server.endpoints(), options.network)?;
        let admin = Admin::of(&server);
        let agents = options.agents as u64;
        // A server with every device connected takes a few hundred KiB each in a debug build, at the most.
        let bounds =
            Bounds { resident_bytes: (512 << 20) + agents * (512 << 10), descriptors: 256 + 6 * agents };
        let mut stage = Self {
            began: Instant::now(),
            admin,
            line,
            fleet: Vec::new(),
            imaging: JoinSet::new(),
            promises: Promises::default(),
            checker: Checker::new(bounds),
            trail: Trail::default(),
            logs: Logs::kept_in(archive),
            tally: Tally::default(),
            devices: Vec::new(),
            used: BTreeSet::new(),
            weather_until: None,
            orders: Vec::new(),
            list_template: None,
            lost_before: 0,
            noticed: Vec::new(),
            archive: archive.to_owned(),
            looked_at: Instant::now(),
            server: Some(server),
            options,
        };
        stage.people().await;
        Ok(stage)
    }

    /// Since the beginning of the run.
    pub(super) fn at(&self) -> Duration {
        self.began.elapsed()
    }

    /// The server, which runs whenever nobody is about to start it.
    pub(super) fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs between two cards")
    }

    /// Makes the fleet and starts it.
    async fn people(&mut self) {
        let singles = (self.options.agents / SINGLES.0).clamp(2, SINGLES.1);
        let swarmed = self.options.agents - singles;
        let swarms = swarmed.div_ceil(SWARM).max(2);
        for n in 0..swarms {
            let count = swarmed / swarms + usize::from(n < swarmed % swarms);
            let strings = self.strings(&json!({"profile": PROFILE, "count": count, "ttl_s": 86_400})).await;
            self.fleet.push(Process::swarm(format!("swarm-{n}"), &strings));
        }
        self.start();
        for n in 0..singles {
            self.image(format!("SOAK-{n}"), String::new()).await;
        }
        while let Some(imaged) = self.imaging.join_next().await {
            self.adopt(imaged.expect("imaging does not panic"));
        }
    }

    /// Enrolment strings for what `body` asks.
    async fn strings(&mut self, body: &serde_json::Value) -> Vec<String> {
        let path = "/v1/tokens";
        let answer = self.admin.post(path, body).await.unwrap_or_else(|Silence(why)| panic!("{why}"));
        let tokens = answer.json();
        self.promises.made(path, &tokens, self.began.elapsed());
        let items = tokens.as_array().unwrap_or_else(|| panic!("no tokens: {tokens}"));
        let text = |token: &serde_json::Value, name| token[name].as_str().expect("a text").to_owned();
        self.used.extend(items.iter().map(|token| text(token, "id")));
        items.iter().map(|token| text(token, "enrollment")).collect()
    }

    /// Begins to enrol the thing `serial` with a state of its own; its former life was the device `former`.
    pub(super) async fn image(&mut self, serial: String, former: String) {
        let asked = json!({"profile": PROFILE, "serial": serial, "ttl_s": 86_400});
        let string = self.strings(&asked).await.remove(0);
        self.imaging.spawn(async move {
            let agent = Agent::under(launch());
            let ran = agent.enroll_with(&string, &["--serial", &serial, "--wait", "50"]).await;
            if ran.code != Some(0) {
                let why = format!("{serial}: {:?} {}", ran.code, ran.stderr);
                return (serial, former, Err(why));
            }
            let id = agent.id();
            (serial, former, Ok((agent, id)))
        });
    }

    /// Takes in a thing that was imaged: a new one, or one that had another life.
    pub(super) fn adopt(&mut self, (serial, former, imaged): Imaged) {
        let (agent, id) = match imaged {
            Ok(imaged) => imaged,
            Err(why) => return self.notice("a token enrols", why),
        };
        let mut process = Process::single(serial.to_lowercase(), agent, id, serial);
        process.revive(&mut self.logs);
        if former.is_empty() {
            self.fleet.push(process);
            return;
        }
        self.promises.is_superseded(&former);
        let place = self.fleet.iter_mut().find(|other| other.device.as_ref() == Some(&former));
        if let Some(old) = place {
            *old = process;
        }
    }

    /// Starts whatever is due.
    pub(super) fn start(&mut self) {
        self.fleet.iter_mut().for_each(|process| process.revive(&mut self.logs));
    }

    /// Remembers that `rule` does not hold, for the next look.
    pub(super) fn notice(&mut self, rule: &'static str, what: String) {
        self.noticed.push((rule, what));
    }

    /// Has an operator do `act`, as `card` says.
    pub(super) async fn act(&mut self, card: Card, act: &Act) {
        let at = self.at();
        let outcome = act.carry_out(&mut self.admin, &mut self.promises, at).await;
        if outcome == Outcome::Unknown {
            self.notice("the server answers", format!("not to {}", act.path));
        }
        self.outcome(card, outcome);
    }

    /// Counts what became of an act.
    pub(super) fn outcome(&mut self, card: Card, outcome: Outcome) {
        match outcome {
            Outcome::Promised => self.tally.count(card),
            Outcome::Refused(status) => *self.tally.refused.entry((card, status)).or_default() += 1,
            Outcome::Unknown => self.tally.unanswered += 1,
        }
    }

    /// The server's process ends as by a power cut; answers where it served.
    pub(super) fn kill_server(&mut self) -> Option<(Site, crate::Launch)> {
        let server = self.server.take()?;
        let launch = server.in_place(launch());
        Some((server.kill(), launch))
    }

    /// Asks the server to stop; answers where it served.
    pub(super) async fn stop_server(&mut self) -> Option<(Site, crate::Launch)> {
        let server = self.server.take()?;
        let launch = server.in_place(launch());
        let asked = Instant::now();
        let (site, status) = server.asked_to_stop().await;
        self.tally.longest_stop = self.tally.longest_stop.max(asked.elapsed());
        if asked.elapsed() > STOP_WITHIN {
            self.notice("the server stops when asked", format!("it took {:?}", asked.elapsed()));
        }
        if !status.success() {
            self.notice("the server stops when asked", format!("it ended with {status}"));
        }
        Some((site, launch))
    }

    /// Serves again where it served before.
    pub(super) async fn serve_again(&mut self, (site, launch): (Site, crate::Launch)) {
        let gone = Instant::now();
        self.read_server_log(&site);
        self.logs.begins_anew(&site.path("serve.log"));
        match Server::try_on(site, launch).await {
            Ok(server) => self.server = Some(server),
            Err((site, status)) => panic!("the server does not come back, {status}:\n{}", site.log()),
        }
        self.tally.longest_absence = self.tally.longest_absence.max(gone.elapsed());
        self.looked_at = Instant::now();
    }

    /// Looks for panics in the server's log.
    pub(super) fn read_server_log(&mut self, site: &Site) {
        for told in self.logs.read("server", &site.path("serve.log")) {
            self.notice("nothing panics", told);
        }
    }

    /// Judges how those ended that were asked to, and starts whatever is due.
    pub(super) async fn tend(&mut self) {
        for place in 0..self.fleet.len() {
            if let Some(code) = self.fleet[place].has_stopped().await {
                self.judge_end(place, code);
            }
        }
        self.start();
    }

    fn judge_end(&mut self, place: usize, code: Option<i32>) {
        let process = &self.fleet[place];
        // Devices that were let go are a failure of their process, as it has to be.
        let may_fail = process.device.as_ref().is_none_or(|device| !self.promises.lives(device));
        if !(code == Some(0) || may_fail && code.is_some()) {
            let what = format!("{} ended with {code:?}", process.name);
            self.notice("agents stop when asked", what);
        }
        for told in self.fleet[place].panics(&mut self.logs) {
            self.notice("nothing panics", told);
        }
    }
}
