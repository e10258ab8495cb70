//! `muster-agent run`: carries out what [`crate::core::session`] decides, and sleeps in between.
//!
//! One task waits for three things: news from the connection, the earliest alarm, the wish to end. Each event is followed
//! by all of its effects, in order, before the next is looked at. A storage error ends the process; that is safe at
//! every point, because a kill would be, and whoever supervises it starts it again.

use std::path::PathBuf;
use std::time::Duration;

use muster_wire::desired::Generation;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::sign1;
use muster_wire::id::DeviceId;
use muster_wire::receipt::ReceiptOutcome;
use muster_wire::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::boottime::{self, Alarm};
use super::deeds::{self, Deeds};
use super::failure::Failure;
use super::files;
use super::http::Server;
use super::mqtt::{Gate, Jammed, Link, News, fault};
use super::outbox::OutboxDir;
use super::place::Place;
use super::run::Hands;
use crate::apply::{Engine, Outcome};
use crate::core::baseline::Admitted;
use crate::core::not_taken::NotTaken;
use crate::core::outbox::{Body, Message};
use crate::core::record::{Past, Refused};
use crate::core::schedule::Moment;
use crate::core::session::{Beginning, Change, Dropped, Effect, Event, InForce, LinkId, Session, Shown};
use crate::core::{Agent, Caller, Held, Leaf, Refusal, Request, Trouble, TroubleKind, lineage};
use crate::posture;
use crate::wipe;

/// News of the connection that nobody has looked at yet. A task that has more waits, and so does the server.
const NEWS: usize = 16;
/// The file that `muster-agent status` reads.
const SHOWN: &str = "session";
/// No such file is larger.
const SHOWN_CAP: usize = 4096;

/// What the loop works with.
#[derive(Debug)]
pub struct Runner {
    hands: Hands,
    place: Place,
    outbox: OutboxDir,
    session: Session,
    engine: Engine,
    deeds: Deeds,
    has_retired: bool,
    root: PathBuf,
    declared: Vec<String>,
    root_spki: Sha256Digest,
    links: Vec<Link>,
    news: mpsc::Receiver<(LinkId, News)>,
    tell: mpsc::Sender<(LinkId, News)>,
    /// By [`boottime::now`].
    started: Duration,
    alarm: Alarm,
    is_over: bool,
    shown: watch::Sender<Shown>,
}

/// The wish to end: it has come once this is true, or its sender is gone.
pub type Stop = watch::Receiver<bool>;

impl Runner {
    /// An agent in `place` that goes on from what is there, working with `hands`.
    ///
    /// # Errors
    /// [`Failure`] when the device is not enrolled or its state cannot be used.
    pub async fn begin(place: Place, mut hands: Hands, past: Past) -> Result<Self, Failure> {
        let held = place.held(&past)?;
        let (past, held, moves) = Agent::settled(past, held)?;
        for effect in moves {
            hands.carry_out(effect).await?;
        }
        let leaf = in_use(&held).ok_or_else(|| Box::new(Refusal::IdentityLost))?;
        hands.clock().never_before(leaf.not_before);
        let now = hands.clock().now();
        let lineage = lineage(&past, &held, now).ok_or(Failure::AuthorityLost)?;
        let accepted = past.accepted.as_ref().ok_or_else(|| Box::new(Refusal::NotEnrolled))?;
        let (root_spki, root, declared) =
            (accepted.root_spki, accepted.root.clone(), accepted.declared.clone());
        let outbox = OutboxDir::new(&place.state_dir);
        files::ensure_dir(&root)?;
        let engine = Engine::new(&place.state_dir, &root, &declared)?;
        let beginning = Beginning {
            taken_back: engine.taken_back().to_vec(),
            lineage,
            in_force: in_force(&engine),
            declared: declared.clone(),
            boot: boottime::boot(&root),
            lease: place.lease(),
            outbox: outbox.read()?,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            shown: shown(&place, Some(leaf.device)),
            leaf,
            past,
            held,
        };
        let (tell, news) = mpsc::channel(NEWS);
        Ok(Self {
            hands,
            outbox,
            session: Session::new(beginning),
            engine,
            deeds: Deeds::default(),
            has_retired: false,
            root,
            declared,
            root_spki,
            links: Vec::new(),
            news,
            tell,
            started: boottime::now(),
            alarm: Alarm::unset(),
            is_over: false,
            shown: watch::channel(Shown::default()).0,
            place,
        })
    }

    /// What the agent shows of itself, as it changes.
    pub fn watch(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// Whether a wipe has ended this device's life.
    pub fn has_retired(&self) -> bool {
        self.has_retired
    }

    /// Runs until `stop` is true, or this device's life is over.
    ///
    /// # Errors
    /// [`Failure`] when this device cannot go on.
    pub async fn run(&mut self, mut stop: Stop) -> Result<(), Failure> {
        let mut event = Some(Event::Woke);
        while !self.is_over {
            if let Some(event) = event.take() {
                self.session.handle(event, self.moment());
            }
            self.carry_out_all(&mut stop).await?;
            if self.is_over {
                break;
            }
            self.hands.hang_up();
            event = self.wait(&mut stop).await?;
            if let Some(Event::Wiped(_, report)) = &event
                && report.outcome != ReceiptOutcome::Done
            {
                self.go_on_after(event.take())?;
            }
        }
        Ok(())
    }

    /// A wipe that was not carried through: the device goes on with what it has left.
    fn go_on_after(&mut self, wiped: Option<Event>) -> Result<(), Failure> {
        self.engine = Engine::new(&self.place.state_dir, &self.root, &self.declared)?;
        let in_force = Box::new(in_force(&self.engine));
        self.session.handle(Event::Applied(Change::Unchanged, in_force), self.moment());
        if let Some(wiped) = wiped {
            self.session.handle(wiped, self.moment());
        }
        Ok(())
    }

    async fn wait(&mut self, stop: &mut Stop) -> Result<Option<Event>, Failure> {
        let alarm = self.session.wake_at();
        let at = self.started.saturating_add(alarm.unwrap_or(Duration::ZERO));
        let news = tokio::select! {
            biased;
            () = wished(stop) => return Ok(Some(Event::Stopping)),
            done = self.deeds.next() => return done,
            news = self.news.recv() => news,
            () = self.alarm.sleep_until(at), if alarm.is_some() => return Ok(Some(Event::Woke)),
        };
        let Some((id, news)) = news else { return Ok(None) };
        let link = self.links.iter_mut().find(|link| link.id() == id);
        Ok(link.and_then(|link| link.understand(news)))
    }

    async fn carry_out_all(&mut self, stop: &mut Stop) -> Result<(), Failure> {
        while let Some(effect) = self.session.next_effect() {
            if let Some(event) = self.carry_out(effect, stop).await? {
                self.session.handle(event, self.moment());
            }
        }
        Ok(())
    }

    async fn carry_out(&mut self, effect: Effect, stop: &mut Stop) -> Result<Option<Event>, Failure> {
        match effect {
            Effect::Open(link, caller) => return Ok(self.open(link, caller)),
            Effect::Close(id) => self.close(id).await,
            Effect::Publish(id, message) => return self.publish(id, message),
            Effect::Acknowledge(id, packet) => {
                let link = self.links.iter().find(|link| link.id() == id);
                let jammed = link.and_then(|link| link.acknowledge(packet).err());
                return Ok(jammed.map(|jammed| self.broken(id, &jammed)));
            }
            Effect::Record(record) => self.hands.record(&record)?,
            Effect::Keep(kept) => self.outbox.keep(&kept)?,
            Effect::Drop(id) => self.outbox.remove(id)?,
            Effect::Discover => return Ok(self.discover(stop).await),
            Effect::AskAuthorities => return Ok(self.ask_authorities(stop).await),
            Effect::Fetch(digest) => return Ok(self.fetch(digest, stop).await),
            Effect::Apply(admitted) => return self.apply(&admitted).map(Some),
            Effect::KeepHead(head, mark) => self.engine.keep_head(&head, mark)?,
            Effect::LookForDrift => return self.look_for_drift().map(Some),
            Effect::ForgetDrift(told) => self.engine.told(&told),
            Effect::ForgetTakenBack(told) => self.engine.told_taken_back(&told),
            Effect::Collect => {
                let now = self.hands.clock().now();
                let facts = posture::collect_with_state(&self.root, &self.place.state_dir, now);
                return Ok(Some(Event::Collected(facts)));
            }
            Effect::Renewal(effect) => {
                let answered = tokio::select! {
                    biased;
                    () = wished(stop) => return Ok(Some(Event::Stopping)),
                    answered = self.hands.carry_out(effect) => answered?,
                };
                return Ok(answered.map(Event::Renewal));
            }
            Effect::Hook(order, hook) => self.deeds.hook(self.root.clone(), order, hook),
            Effect::KeepLease(sheet) => self.place.keep_lease(sheet.as_deref())?,
            Effect::LapseHook(hook) => self.deeds.lapse_hook(self.root.clone(), hook),
            Effect::DropSecrets => return self.drop_secrets().map(Some),
            Effect::Wipe(task, phase) => {
                let engine = wipe::Engine::new(&self.place.state_dir, &self.root, &self.declared);
                self.deeds.wipe(engine, self.place.state_dir.clone(), *task, phase);
            }
            Effect::EndLife => {
                deeds::end_life(&self.place)?;
                self.has_retired = true;
            }
            Effect::Show(shown) => self.show(shown)?,
            Effect::Stop => self.is_over = true,
        }
        Ok(None)
    }

    fn open(&mut self, id: LinkId, caller: Caller) -> Option<Event> {
        let opened = self.gate().and_then(|server| {
            let keys = self.place.keys();
            let gate = Gate { server: &server, keys: &keys, clock: self.hands.clock() };
            Link::open(id, self.session.device(), &gate, caller, self.tell.clone())
        });
        match opened {
            Ok(link) => {
                // Whatever has ended by itself is forgotten here at the latest.
                self.links.retain(|link| !link.has_ended());
                self.links.push(link);
                None
            }
            Err(trouble) => Some(Event::Closed(id, trouble)),
        }
    }

    /// Where the server said that its gate is.
    fn gate(&self) -> Result<Server, Trouble> {
        let url = self.session.gate().unwrap_or_default();
        let unusable = || Trouble {
            kind: TroubleKind::Local,
            server: url.to_owned(),
            detail: "the server's gate has no usable address".to_owned(),
        };
        let (host, port) =
            url.strip_prefix("mqtts://").and_then(|rest| rest.rsplit_once(':')).ok_or_else(unusable)?;
        let port = port.parse().map_err(|_| unusable())?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Server { host, port, root_spki: self.root_spki })
    }

    async fn close(&mut self, id: LinkId) {
        if let Some(at) = self.links.iter().position(|link| link.id() == id) {
            self.links.swap_remove(at).close().await;
        }
    }

    fn publish(&mut self, id: LinkId, message: Message) -> Result<Option<Event>, Failure> {
        let Message { id: entry, channel, body } = message;
        let payload = match body {
            Body::Plain(bytes) => bytes,
            Body::Receipt(receipt) => {
                sign1(&*receipt, &self.place.keys().signer()?).map_err(Failure::Sign)?
            }
            Body::Renew(renew) => sign1(&*renew, &self.place.keys().signer()?).map_err(Failure::Sign)?,
        };
        let Some(link) = self.links.iter_mut().find(|link| link.id() == id) else { return Ok(None) };
        let jammed = link.publish(entry, channel, payload).err();
        Ok(jammed.map(|jammed| self.broken(id, &jammed)))
    }

    fn broken(&mut self, id: LinkId, jammed: &Jammed) -> Event {
        self.links.retain(|link| link.id() != id);
        Event::Closed(id, fault(jammed))
    }

    async fn discover(&mut self, stop: &mut Stop) -> Option<Event> {
        let asking = async {
            let answer = self.hands.ask(&Request::Discovery(Caller::Current)).await;
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return answer;
            }
            // A device that is being let go is known at the gate alone; what everybody may hear, it may hear, too.
            let anonymous = self.hands.ask(&Request::Discovery(Caller::Anonymous)).await;
            if anonymous.as_ref().is_ok_and(|answer| answer.status == 200) { anonymous } else { answer }
        };
        tokio::select! {
            biased;
            () = wished(stop) => Some(Event::Stopping),
            answer = asking => Some(Event::Discovered(answer)),
        }
    }

    async fn ask_authorities(&mut self, stop: &mut Stop) -> Option<Event> {
        let request = Request::CaCerts(Caller::Current);
        tokio::select! {
            biased;
            () = wished(stop) => Some(Event::Stopping),
            answer = self.hands.ask(&request) => Some(Event::Authorities(answer)),
        }
    }

    async fn fetch(&mut self, digest: Sha256Digest, stop: &mut Stop) -> Option<Event> {
        let request = Request::Baseline(digest);
        tokio::select! {
            biased;
            () = wished(stop) => Some(Event::Stopping),
            answer = self.hands.ask(&request) => Some(Event::Fetched(answer)),
        }
    }

    fn apply(&mut self, admitted: &Admitted) -> Result<Event, Failure> {
        let change = match self.engine.apply(admitted)? {
            Outcome::Applied { .. } => Change::Applied,
            Outcome::Unchanged => Change::Unchanged,
            Outcome::RolledBack { generation, why, is_repeated } => {
                Change::RolledBack { generation, why, is_repeated }
            }
        };
        Ok(Event::Applied(change, Box::new(in_force(&self.engine))))
    }

    fn drop_secrets(&mut self) -> Result<Event, Failure> {
        let (files, failed) = wipe::drop_files(&self.root, &self.declared, &self.engine.secrets());
        self.engine.forget_content()?;
        Ok(Event::SecretsDropped(Dropped { files, failed }, Box::new(in_force(&self.engine))))
    }

    fn look_for_drift(&mut self) -> Result<Event, Failure> {
        let repair = self.engine.repair()?;
        let left = repair.left.into_iter().map(|(drift, _)| drift).collect();
        Ok(Event::Drifted { found: repair.found, left, untold: repair.untold })
    }

    fn show(&self, shown: Shown) -> Result<(), Failure> {
        let file = ShownFile::of(self.session.device(), &shown);
        let text = serde_json::to_vec(&file).unwrap_or_default();
        files::write_atomic(&self.place.state_dir.join(SHOWN), &text)?;
        self.shown.send_replace(shown);
        Ok(())
    }

    fn moment(&self) -> Moment {
        self.hands.clock().never_before(self.session.certified_since());
        let mut random = [0; 16];
        // Without randomness waits are not spread and report ids still differ by their time.
        let _ = getrandom::fill(&mut random);
        Moment {
            wall: self.hands.clock().now(),
            calendar: self.hands.clock().calendar(),
            since_start: boottime::now().saturating_sub(self.started),
            random,
        }
    }
}

fn in_force(engine: &Engine) -> InForce {
    InForce {
        head: engine.head().cloned(),
        profile: engine.profile().map(str::to_owned),
        highest: engine.highest(),
        has_failed: engine.failed().is_some(),
    }
}

/// The certificate in use, if its key is there.
pub(super) fn in_use(held: &Held) -> Option<Leaf> {
    let leaf = Leaf::read(held.certificate.as_deref()?).ok()?;
    (held.key == Some(leaf.spki)).then_some(leaf)
}

/// Comes to an end when the wish does.
async fn wished(stop: &mut Stop) {
    // An error is the sender's end: nobody is left who could wish.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// [`Shown`] as its file has it.
#[derive(Debug, Serialize, Deserialize)]
struct ShownFile {
    /// Whose life it speaks of; files that were written before that was told have none.
    #[serde(default)]
    device: Option<DeviceId>,
    connected: bool,
    generation: Option<(u64, u64)>,
    last_contact: Option<Timestamp>,
    #[serde(default)]
    stale: bool,
    #[serde(default)]
    is_let_go: bool,
    #[serde(default)]
    refused: Option<Refused>,
    #[serde(default)]
    not_taken: Option<NotTaken>,
}

impl ShownFile {
    fn of(device: DeviceId, shown: &Shown) -> Self {
        let generation = shown.generation.map(|generation| (generation.restore_epoch, generation.counter));
        let Shown { connected, last_contact, stale, is_let_go, .. } = *shown;
        let (refused, not_taken) = (shown.refused.clone(), shown.not_taken.clone());
        Self {
            device: Some(device),
            connected,
            generation,
            last_contact,
            stale,
            is_let_go,
            refused,
            not_taken,
        }
    }
}

/// What the agent that runs in `place`, or ran there last, shows of itself; nothing where that was another life than that of
/// `device`.
pub fn shown(place: &Place, device: Option<DeviceId>) -> Option<Shown> {
    let bytes = files::read(&place.state_dir.join(SHOWN), SHOWN_CAP).ok()??;
    let file: ShownFile = serde_json::from_slice(&bytes).ok()?;
    if device.is_none() || file.device.is_some_and(|of| Some(of) != device) {
        return None;
    }
    let generation = file.generation.map(|(restore_epoch, counter)| Generation { restore_epoch, counter });
    Some(Shown {
        connected: file.connected,
        generation,
        checkpoint: None,
        last_contact: file.last_contact,
        stale: file.stale,
        is_let_go: file.is_let_go,
        refused: file.refused,
        not_taken: file.not_taken,
    })
}
