//! A card is played: somebody is killed, stopped, cut off, or decided about.

use super::admin::{Act, Admin, Outcome};
use super::chance::{Chance, pick};
use super::network::Weather;
use super::plan::{Card, Turn};
use super::snapshot::Device;
use super::stage::{PROFILE, Stage};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;

/// Requests under way when the server is killed.
const BURST: u64 = 12;

/// The server is killed at most so long after they began, milliseconds.
const BURST_MS: u64 = 1000;

/// What ended comes back within so many milliseconds.
const PAUSE_MS: u64 = 4000;

/// No more than one in so many lives is ended by decision.
const ENDED_AT_MOST: usize = 5;

/// The network is cut for so long, at least and at most, milliseconds.
const CUT_MS: (u64, u64) = (1000, 5000);

impl Stage {
    /// Plays one card.
    ///
    /// # Errors
    /// One sentence when the weather cannot be changed.
    pub(super) async fn play(&mut self, turn: Turn) -> Result<(), String> {
        let mut chance = Chance::of(turn.draw);
        match turn.card {
            Card::KillServer => {
                Box::pin(self.kill_amid_requests(&mut chance)).await;
                self.tally.count(turn.card);
            }
            Card::StopServer => {
                if let Some(left) = self.stop_server().await {
                    Box::pin(self.serve_again(left)).await;
                }
                self.tally.count(turn.card);
            }
            Card::KillSwarm | Card::StopSwarm | Card::KillAgent | Card::StopAgent => {
                self.end_process(turn.card, &mut chance);
            }
            Card::CutNetwork => {
                self.becomes(Weather::Storm)?;
                let (least, most) = CUT_MS;
                let cut = Duration::from_millis(least + chance.below(most - least));
                self.weather_until = Some(std::time::Instant::now() + cut);
                self.tally.count(turn.card);
            }
            Card::Replace => self.replace(&mut chance).await,
            Card::Revoke
            | Card::Quarantine
            | Card::Release
            | Card::Baseline
            | Card::Collect
            | Card::Rotate
            | Card::Mint
            | Card::RevokeToken => {
                if let Some(act) = self.decide(turn.card, &mut chance) {
                    self.act(turn.card, &act).await;
                }
            }
        }
        Ok(())
    }

    /// What an operator would do for `card`; nothing where nobody is there to whom it could be done.
    fn decide(&self, card: Card, chance: &mut Chance) -> Option<Act> {
        let device = |fits: &dyn Fn(&Device) -> bool, draw| {
            let living =
                self.devices.iter().filter(|device| device.is_open() && self.promises.lives(&device.id));
            let fitting: Vec<&Device> = living.filter(|device| fits(device)).collect();
            Some(pick(&fitting, draw)?.id.clone())
        };
        let about =
            |id: String, verb: &str, body: Value| Act { path: format!("/v1/devices/{id}:{verb}"), body };
        let draw = chance.draw();
        match card {
            Card::Revoke => {
                let ended = self.promises.revoked.len() + self.promises.superseded.len();
                if ended * ENDED_AT_MOST >= self.devices.len() {
                    return None;
                }
                Some(about(device(&|_| true, draw)?, "revoke", json!({"reason": "key_compromise"})))
            }
            Card::Quarantine => {
                let id = device(&|device| device.state != "quarantined", draw)?;
                Some(about(id, "quarantine", json!({"reason": "left in a train"})))
            }
            Card::Release => {
                let id = device(&|device| device.state == "quarantined", draw)?;
                Some(about(id, "release", json!({"reason": "found again"})))
            }
            Card::Collect | Card::Rotate => {
                let kind = if card == Card::Collect { "collect_posture" } else { "rotate_identity" };
                let body = json!({"device": device(&|_| true, draw)?, "kind": kind});
                Some(Act { path: "/v1/orders".into(), body })
            }
            Card::Baseline => {
                let toml = format!(
                    "profile = \"{PROFILE}\"\n[[baseline.files]]\n\
                     path = \"/var/lib/muster-agent/managed/notice\"\ncontent = \"{draw}\\n\"\nmode = \"0644\"\n"
                );
                Some(Act { path: "/v1/baselines".into(), body: json!({"toml": toml}) })
            }
            Card::Mint => {
                let body = json!({"profile": PROFILE, "count": 1 + draw % 5});
                Some(Act { path: "/v1/tokens".into(), body })
            }
            Card::RevokeToken => {
                let open = self.promises.tokens.iter().filter(|(_, is_revoked)| **is_revoked == Some(false));
                let spare: Vec<&String> =
                    open.map(|(id, _)| id).filter(|id| !self.used.contains(*id)).collect();
                let id = pick(&spare, draw)?;
                Some(Act { path: format!("/v1/tokens/{id}:revoke"), body: Value::Null })
            }
            Card::KillServer
            | Card::StopServer
            | Card::KillSwarm
            | Card::StopSwarm
            | Card::KillAgent
            | Card::StopAgent
            | Card::CutNetwork
            | Card::Replace => None,
        }
    }

    /// Kills the server while requests are under way: each answer is a promise, silence may be either.
    async fn kill_amid_requests(&mut self, chance: &mut Chance) {
        let cards = [Card::Collect, Card::Rotate, Card::Collect, Card::Mint, Card::Quarantine, Card::Release];
        let mut asking = JoinSet::new();
        for n in 0..BURST {
            let Some(card) = pick(&cards, n) else { continue };
            let Some(act) = self.decide(*card, chance) else { continue };
            let mut admin: Admin = self.admin.another();
            let card = *card;
            asking.spawn(async move {
                let answered = admin.post(&act.path, &act.body).await;
                (card, act, answered)
            });
        }
        tokio::time::sleep(Duration::from_millis(chance.below(BURST_MS))).await;
        let left = self.kill_server();
        let at = self.at();
        while let Some(asked) = asking.join_next().await {
            let (card, act, answered) = asked.expect("asking does not panic");
            let outcome: Outcome = act.note(answered, &mut self.promises, at);
            self.outcome(card, outcome);
        }
        if let Some(left) = left {
            self.serve_again(left).await;
        }
    }

    fn end_process(&mut self, card: Card, chance: &mut Chance) {
        let is_swarm = matches!(card, Card::KillSwarm | Card::StopSwarm);
        let fitting: Vec<usize> = (0..self.fleet.len())
            .filter(|at| self.fleet[*at].is_running() && self.fleet[*at].device.is_none() == is_swarm)
            .collect();
        let Some(place) = pick(&fitting, chance.draw()).copied() else { return };
        let pause = Duration::from_millis(chance.below(PAUSE_MS));
        if matches!(card, Card::KillSwarm | Card::KillAgent) {
            self.fleet[place].kill(pause);
            for told in self.fleet[place].panics(&mut self.logs) {
                self.notice("nothing panics", told);
            }
        } else {
            self.fleet[place].stop(pause);
        }
        self.tally.count(card);
    }

    /// A thing that lives as a process of its own is imaged anew: its next life ends the former.
    async fn replace(&mut self, chance: &mut Chance) {
        let fitting: Vec<usize> = (0..self.fleet.len())
            .filter(|at| self.fleet[*at].device.as_ref().is_some_and(|id| self.promises.lives(id)))
            .collect();
        let Some(place) = pick(&fitting, chance.draw()).copied() else { return };
        self.fleet[place].kill(Duration::ZERO);
        self.fleet[place].is_done_with();
        let (serial, former) = (self.fleet[place].serial.clone(), self.fleet[place].device.clone());
        let former = former.unwrap_or_default();
        self.promises.may_be_superseded(&former);
        self.image(serial, former).await;
        self.tally.count(Card::Replace);
    }
}
