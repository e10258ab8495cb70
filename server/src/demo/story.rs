//! What happens in the demo, step by step, and what each step has to show. What happens over the
//! open line is in [`super::line`], what others judge in [`super::proof`], what a thief of the server tries in
//! [`super::robbery`].

use super::call::{Call, is, last_json, problem, said, shortened, text};
use super::scene::Scene;
use super::stage::{Broken, Program, Ran, Stage, until};
use super::teller::Teller;
use super::thief::Thief;
use crate::cli::connection::get_plain;
use crate::cli::table::value_at;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tokio::process::Child;

/// The server's data directory, in the demo's.
pub(super) const SERVER: &str = "server";
/// The device's serial number.
pub(super) const SERIAL: &str = "DEMO-0001";
/// The second device's serial number.
pub(super) const SECOND: &str = "DEMO-0002";
/// Where the device keeps its certificate.
pub(super) const CERTIFICATE: &str = "device/identity/certificate.pem";
/// The trust domain founded.
pub(super) const TRUST_DOMAIN: &str = "demo.example";

/// The story so far.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) stage: Stage,
    pub(super) server: Option<Child>,
    pub(super) agent: Option<Child>,
    pub(super) second: Option<Child>,
    pub(super) dashboard: Option<Child>,
    enrollment: String,
    pub(super) device: String,
    pub(super) certificate_serial: String,
    pub(super) second_device: String,
    pub(super) warrant: String,
    pub(super) thief: Option<Thief>,
    /// How the agent has refused the thief, in its own words.
    pub(super) refused: Vec<String>,
}

/// What a step showed, or why it does not hold.
pub(super) type Outcome = Result<Value, Broken>;

impl Story {
    /// A story that has not begun.
    pub(super) fn on(stage: Stage) -> Self {
        Self {
            stage,
            server: None,
            agent: None,
            second: None,
            dashboard: None,
            enrollment: String::new(),
            device: String::new(),
            certificate_serial: String::new(),
            second_device: String::new(),
            warrant: String::new(),
            thief: None,
            refused: Vec::new(),
        }
    }

    /// Where it plays.
    pub(super) fn directory(&self) -> &Path {
        self.stage.directory()
    }

    /// Plays one step; answers what it showed.
    pub(super) async fn play(&mut self, scene: Scene, teller: &mut Teller) -> Outcome {
        match scene {
            Scene::Keys => self.keys(teller).await,
            Scene::Init => self.init(teller).await,
            Scene::Serve => self.serve(teller).await,
            Scene::Token => self.token(teller).await,
            Scene::Enroll => self.enroll(teller).await,
            Scene::Judge => self.judge(teller).await,
            Scene::SecondUse => self.second_use(teller).await,
            Scene::Renew => self.renew(teller).await,
            Scene::Observe => self.observe(teller).await,
            Scene::Connect => self.connect(teller).await,
            Scene::Baseline => self.baseline(teller).await,
            Scene::Drift => self.drift(teller).await,
            Scene::Commission => self.commission(teller).await,
            Scene::Posture => self.posture(teller).await,
            Scene::Rotate => self.rotate(teller).await,
            Scene::Hold => self.hold(teller).await,
            Scene::Release => self.release(teller).await,
            Scene::Second => self.second(teller).await,
            Scene::Revoke => self.revoke(teller).await,
            Scene::Cut => self.cut(teller).await,
            Scene::Crl => self.crl(teller).await,
            Scene::Door => self.door(teller).await,
            Scene::Heard => self.heard(teller).await,
            Scene::Stolen => self.stolen(teller).await,
            Scene::Unapproved => self.unapproved(teller).await,
            Scene::HalfApproved => self.half_approved(teller).await,
            Scene::SelfApproved => self.self_approved(teller).await,
            Scene::Back => self.back(teller).await,
            Scene::Deprovision => self.deprovision(teller).await,
            Scene::HalfSigned => self.half_signed(teller).await,
            Scene::Wiped => self.wiped(teller).await,
            Scene::Proof => self.proof(teller).await,
            Scene::Dead => self.dead(teller).await,
            Scene::Audit => self.audit(teller).await,
            Scene::Inclusion => self.inclusion(teller).await,
            Scene::Tamper => self.tamper(teller).await,
            Scene::Stop => self.stop(teller).await,
        }
    }

    /// Ends the children and the directory; answers where it is when it is kept.
    pub(super) async fn end(mut self, keep: bool) -> Option<PathBuf> {
        let children = [self.dashboard.take(), self.second.take(), self.agent.take(), self.server.take()];
        for mut child in children.into_iter().flatten() {
            // It may have ended by itself.
            let _ = child.kill().await;
        }
        self.stage.strike(keep)
    }

    async fn keys(&self, teller: &mut Teller) -> Outcome {
        let mut keys = Vec::new();
        for name in ["alice", "bob"] {
            let file = format!("{name}.key");
            let call = Call::of(Program::Muster, &["operator", "keygen", &file, "--json"]);
            let made = last_json(&self.run(teller, &call).await?.stdout);
            let fingerprint = text(&made, "/fingerprint")?;
            teller.output(&format!("{name}.pub  {fingerprint}"));
            keys.push(json!({"name": name, "fingerprint": fingerprint}));
        }
        Ok(json!({"approvers": keys}))
    }

    async fn init(&self, teller: &mut Teller) -> Outcome {
        let names = ["init", "--public-name", "localhost", "--trust-domain", TRUST_DOMAIN];
        let approvers = ["--approver", "alice.pub", "--approver", "bob.pub"];
        let founded = self.muster(teller, &[names.as_slice(), &approvers].concat()).await?;
        let digest = text(&founded, "/authority_digest")?;
        teller.output(&format!("trust domain {}, authority {digest}", text(&founded, "/trust_domain")?));
        teller.output(&format!("two approvers do not suffice for: {}", value_at(&founded, "/unmet")));
        Ok(json!({
            "trust_domain": founded.get("trust_domain"),
            "authority_digest": digest,
            "root_spki_sha256": founded.get("root_spki_sha256"),
            "unmet": founded.get("unmet"),
        }))
    }

    async fn serve(&mut self, teller: &mut Teller) -> Outcome {
        let endpoints = self.start_server(teller).await?;
        self.stage.settle(&endpoints)?;
        for name in ["device", "mqtt", "status", "admin"] {
            teller.output(&format!("{name:<7} {}", text(&endpoints, &format!("/{name}"))?));
        }
        let ready = format!("{}/readyz", text(&endpoints, "/status")?.trim_end_matches('/'));
        teller.command(&format!("curl {ready}"));
        let (status, body) = fetch(&ready).await?;
        teller.output(&format!("{status} {}", String::from_utf8_lossy(&body)));
        if status != 200 {
            return Err(Broken::unexpected(format!("/readyz answered {status}")));
        }
        Ok(json!({"endpoints": endpoints, "readyz": status}))
    }

    /// Starts the server and waits until it says where it listens; answers that.
    pub(super) async fn start_server(&mut self, teller: &mut Teller) -> Outcome {
        let call = Call::of(Program::Muster, &["serve", "--data-dir", SERVER]);
        teller.command(&format!("MUSTER_LISTEN_DEVICE=127.0.0.1:… {} &", call.shown()));
        let mut child = self.stage.start(&call, "serve.log")?;
        let log = self.stage.path("serve.log");
        let published = until("the server's endpoints.json", async || {
            if let Ok(Some(status)) = child.try_wait() {
                let last = last_line(&log);
                return Err(Broken::unexpected(format!("the server ended with {status}: {last}")));
            }
            Ok(self.endpoints().ok())
        })
        .await;
        self.server = Some(child);
        published
    }

    /// Where the server listens, as it says itself.
    pub(super) fn endpoints(&self) -> Outcome {
        let path = self.stage.path("server/endpoints.json");
        let said = std::fs::read(&path).map_err(Broken::system("read", &path))?;
        serde_json::from_slice(&said)
            .map_err(|cause| Broken::unexpected(format!("endpoints.json is not whole: {cause}")))
    }

    async fn token(&mut self, teller: &mut Teller) -> Outcome {
        let words = ["token", "create", "--profile", "laptop-linux", "--serial", SERIAL, "--ttl", "1h"];
        let made = self.muster(teller, &words).await?;
        text(&made, "/0/enrollment")?.clone_into(&mut self.enrollment);
        teller.output(&shortened(&self.enrollment));
        teller.output(&format!("good until {}", text(&made, "/0/expires_at")?));
        Ok(json!({
            "id": made.pointer("/0/id"),
            "profile": made.pointer("/0/profile"),
            "expires_at": made.pointer("/0/expires_at"),
        }))
    }

    async fn enroll(&mut self, teller: &mut Teller) -> Outcome {
        let words = ["enroll", "-", "--serial", SERIAL, "--state-dir", "device", "--json"];
        self.run(teller, &Call::of(Program::Agent, &words).reading(&self.enrollment)).await?;
        let status = self.status(teller).await?;
        text(&status, "/device")?.clone_into(&mut self.device);
        text(&status, "/certificate/serial")?.clone_into(&mut self.certificate_serial);
        teller.output(&format!("device      {}", self.device));
        teller.output(&format!("certificate {}", self.certificate_serial));
        teller.output(&format!("until       {}", text(&status, "/certificate/not_after")?));
        let key = self.stage.path("device/identity/key.pem");
        let mode = std::fs::metadata(&key).map_err(Broken::system("look at", &key))?.permissions().mode();
        teller.output(&format!("device/identity/key.pem, mode {:o}", mode & 0o777));
        if mode & 0o077 != 0 {
            return Err(Broken::unexpected("others may read the device's key"));
        }
        Ok(json!({
            "device": self.device,
            "certificate": status.get("certificate"),
            "key_mode": format!("{:o}", mode & 0o777),
        }))
    }

    /// Somebody else, with another key and the same string.
    async fn second_use(&self, teller: &mut Teller) -> Outcome {
        let words = ["enroll", "-", "--serial", SERIAL, "--state-dir", "thief", "--json"];
        let call = Call::of(Program::Agent, &words).reading(&self.enrollment).ending(3);
        let ran = self.run(teller, &call).await?;
        teller.output(&said(&ran));
        if self.stage.path("thief/identity/certificate.pem").exists() {
            return Err(Broken::unexpected("the second device holds a certificate"));
        }
        let log = self.muster(teller, &["audit", "tail", "-n", "5"]).await?;
        let entries = log.as_array().into_iter().flatten();
        let refused = entries.rev().find(|entry| is(entry, "/outcome", "refused"));
        let refused = refused.ok_or_else(|| Broken::unexpected("the log says nothing of the refusal"))?;
        let words = ["/seq", "/action", "/outcome", "/reason"].map(|pointer| value_at(refused, pointer));
        teller.output(&words.join("  "));
        Ok(json!({
            "exit": 3,
            "code": problem(&ran).get("code"),
            "audit_entry": refused.get("seq"),
            "reason": refused.get("reason"),
        }))
    }

    async fn renew(&mut self, teller: &mut Teller) -> Outcome {
        self.run(teller, &Call::of(Program::Agent, &["renew", "--state-dir", "device", "--json"])).await?;
        let status = self.status(teller).await?;
        let serial = text(&status, "/certificate/serial")?.to_owned();
        let former = std::mem::replace(&mut self.certificate_serial, serial.clone());
        let shown = self.muster(teller, &["device", "show", SERIAL]).await?;
        teller.output(&format!("{former} → {serial}, {}", value_at(&shown, "/certificate/status")));
        if serial == former {
            return Err(Broken::unexpected("the certificate is still the former one"));
        }
        if !is(&shown, "/certificate/serial", &serial) || !is(&shown, "/certificate/status", "current") {
            return Err(Broken::unexpected("the server takes another certificate for the current one"));
        }
        Ok(json!({"former": former, "serial": serial, "status": "current"}))
    }

    async fn revoke(&self, teller: &mut Teller) -> Outcome {
        let words = ["device", "revoke", SECOND, "--reason", "key_compromise", "--yes"];
        let shown = self.muster(teller, &words).await?;
        let state = text(&shown, "/state")?;
        let status = text(&shown, "/certificate/status")?;
        teller.output(&format!("device {state}, certificate {status}"));
        if (state, status) != ("retired", "revoked") {
            return Err(Broken::unexpected(format!("the device is {state}, its certificate {status}")));
        }
        Ok(
            json!({"state": state, "certificate": shown.get("certificate"), "retirement": shown.get("retirement")}),
        )
    }

    async fn door(&self, teller: &mut Teller) -> Outcome {
        let words = ["renew", "--state-dir", "second", "--json"];
        let ran = self.run(teller, &Call::of(Program::Agent, &words).ending(3)).await?;
        teller.output(&said(&ran));
        let explained = self.muster(teller, &["device", "explain", SECOND]).await?;
        let words = ["/code", "/rule", "/remedy"].map(|pointer| value_at(&explained, pointer));
        teller.output(&words.join("  "));
        Ok(json!({"exit": 3, "code": problem(&ran).get("code"), "explain": explained}))
    }

    async fn stop(&mut self, teller: &mut Teller) -> Outcome {
        let Some(mut server) = self.server.take() else {
            return Err(Broken::unexpected("no server runs"));
        };
        if let Some(agent) = &mut self.agent {
            asked_to_end(agent, "the agent", teller).await?;
        }
        self.agent = None;
        let ended = asked_to_end(&mut server, "the server", teller).await;
        let status = match ended {
            Ok(status) => status,
            Err(broken) => {
                self.server = Some(server);
                return Err(broken);
            }
        };
        if self.stage.path("server/endpoints.json").exists() {
            return Err(Broken::unexpected("endpoints.json is still there"));
        }
        Ok(json!({"exit": status.code()}))
    }

    /// The last lines of the server's log, for whoever has to find out why a step does not hold.
    pub(super) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.stage.path("serve.log")).unwrap_or_default();
        let mut lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.reverse();
        lines.join("\n")
    }

    async fn status(&self, teller: &mut Teller) -> Outcome {
        let call = Call::of(Program::Agent, &["status", "--state-dir", "device", "--json"]);
        Ok(last_json(&self.run(teller, &call).await?.stdout))
    }

    /// Runs an operator's command that has to succeed; answers its JSON.
    pub(super) async fn muster(&self, teller: &mut Teller, words: &[&str]) -> Outcome {
        let call = Call::of(Program::Muster, &[words, &["--data-dir", SERVER, "--json"]].concat());
        let value = last_json(&self.run(teller, &call).await?.stdout);
        if value.is_null() {
            return Err(Broken::unexpected(format!("`{}` printed no JSON", call.shown())));
        }
        Ok(value)
    }

    /// Shows a command and runs it; it has to end as it says.
    pub(super) async fn run(&self, teller: &mut Teller, call: &Call<'_>) -> Result<Ran, Broken> {
        teller.command(&call.shown());
        call.judge(self.stage.run(call).await?)
    }
}

/// Tells a child to end, and waits until it has, in order.
pub(super) async fn asked_to_end(
    child: &mut Child,
    who: &'static str,
    teller: &mut Teller,
) -> Result<ExitStatus, Broken> {
    teller.command(&format!("kill -TERM …  # {who}"));
    let what = Path::new(who);
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Broken::unexpected(format!("{who} has ended already")))?;
    kill_process(pid, Signal::TERM).map_err(|cause| Broken::system("stop", what)(cause.into()))?;
    let ended = until(who, async || child.try_wait().map_err(Broken::system("wait for", what))).await?;
    teller.output(&ended.to_string());
    if ended.success() { Ok(ended) } else { Err(Broken::unexpected(format!("{who} ended with {ended}"))) }
}

/// What a plain HTTP address answers.
pub(super) async fn fetch(url: &str) -> Result<(u16, Vec<u8>), Broken> {
    let parsed = url.parse().map_err(|_| Broken::unexpected(format!("{url} is no address")))?;
    match get_plain(&parsed).await {
        Ok((status, body)) => Ok((status, body.to_vec())),
        Err(error) => Err(Broken::unexpected(error.to_string())),
    }
}

pub(super) fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("it said nothing").to_owned()
}
