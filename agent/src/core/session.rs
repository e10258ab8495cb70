//! The running agent: stays connected, tells what there is to tell, hears what it is told, renews by itself.
//!
//! ```text
//!   apart ──alarm──▶ opening ──CONNACK──▶ live ──lost──▶ apart          one link at a time …
//!                                          │
//!                                          └─ renewal ─▶ proving ──CONNACK──▶ live (the former is closed)   … but here
//! ```
//! No socket, file, clock or randomness: events come in with their [`Moment`], effects go out **in order**, each
//! durable before the next begins, and whatever is acknowledged to the server was journaled before. A kill may come
//! anywhere; what the journal ([`Past`]), the files ([`Held`]) and the outbox hold is enough to go on. Nothing that
//! comes from the server counts before the authority's command key is seen beneath it (authority.md).

mod desired;
mod inbound;
mod lease;
mod orders;
mod pace;
mod placed;
mod renewing;
mod telling;
mod wiping;

use std::collections::VecDeque;
use std::time::Duration;

use muster_wire::desired::{DesiredHead, Generation};
use muster_wire::digest::Sha256Digest;
use muster_wire::discovery::Discovery;
use muster_wire::id::{DeviceId, OrderId};
use muster_wire::lineage::Lineage;
use muster_wire::merkle::TreeHead;
use muster_wire::posture::{Drift, EventKind, Fact};
use muster_wire::receipt::ReceiptPhase;
use muster_wire::time::Timestamp;
use muster_wire::topic::Channel;

use super::baseline::{Admitted, CheckedHead, Mark};
use super::effect::{self, Caller, Held};
use super::lease::{Boot, LeaseSheet, Meter};
use super::not_taken::NotTaken;
use super::outbox::{Body, EntryId, Kept, Letters, Message, Outbox};
use super::record::{ENROLLED, Past, Proven, Record, Refused};
use super::schedule::{self, Alarms, Moment, went_off};
use super::trust::{self, Leaf};
use super::wiping::{Hook, HookEnd, PhaseReport, WipeTask};
use super::{Answer, Refusal, Trouble};
pub use desired::{Change, InForce, TakenBack};
pub use lease::Dropped;
use lease::Lapsing;
use pace::Pace;
use renewing::Renewing;
use wiping::Wiping;

/// After so many failures in a row the server is asked over HTTPS where its gate is.
const ASK_AFTER: u32 = 4;
/// A session that lasted this long was a good one: the next failure is a first one.
const GOOD_SESSION: Duration = Duration::from_secs(60);
/// What discovery says is written down no more often than this.
const PROVEN_EVERY: Duration = Duration::from_secs(600);
/// How long after the first connection the first state report goes out, unless a baseline is in place before.
const FIRST_STATE: Duration = Duration::from_millis(500);
/// The same for posture, unless an order asks before.
const FIRST_POSTURE: Duration = Duration::from_secs(2);

/// One connection to the gate; counted from the start of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// An alarm went off, or the agent has just begun.
    Woke,
    /// The server has accepted the connection.
    Opened(LinkId),
    /// Over this connection the server will speak on these channels and no others.
    Granted(LinkId, Vec<Channel>),
    /// There is no such connection, or no longer.
    Closed(LinkId, Trouble),
    /// The server's PUBACK for a message.
    Confirmed(LinkId, EntryId),
    /// A message from the server.
    Received(LinkId, Incoming),
    /// The discovery document that was asked for.
    Discovered(Result<Answer, Trouble>),
    /// The authorities that were asked for.
    Authorities(Result<Answer, Trouble>),
    /// The baseline that was asked for.
    Fetched(Result<Answer, Trouble>),
    /// What became of a desired state, and which is in force now.
    Applied(Change, Box<InForce>),
    /// What differs from the desired state after what may be repaired was repaired.
    Drifted {
        /// What differed before.
        found: Vec<Drift>,
        /// What still does.
        left: Vec<Drift>,
        /// What was put right, now or before, and was not told.
        untold: Vec<Drift>,
    },
    /// The facts that were asked for.
    Collected(Vec<Fact>),
    /// What a renewal asked for.
    Renewal(effect::Event),
    /// What came of the hook that an order asked for.
    HookRan(OrderId, HookEnd),
    /// What came of the hook that a lapsed lease, or its end, asked for.
    LapseHookRan(Hook, HookEnd),
    /// What became of the secrets that a lapsed lease drops, and which desired state is in force now.
    SecretsDropped(Dropped, Box<InForce>),
    /// What came of a phase of a wipe.
    Wiped(OrderId, Box<PhaseReport>),
    /// The process is to end.
    Stopping,
}

impl Event {
    /// The connection over which the server sent it.
    fn came_over(&self) -> Option<LinkId> {
        if let Self::Granted(link, _) | Self::Confirmed(link, _) | Self::Received(link, _) = self {
            Some(*link)
        } else {
            None
        }
    }
}

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// On which channel.
    pub channel: Channel,
    /// All of it.
    pub payload: Vec<u8>,
    /// What to acknowledge it by.
    pub packet: u16,
}

/// Something to do. The shell does each before it looks at the next.
#[derive(Debug)]
pub enum Effect {
    /// Begin to connect, showing the certificate of the caller; then [`Event::Opened`] or [`Event::Closed`].
    Open(LinkId, Caller),
    /// Say goodbye and forget the connection. No event follows.
    Close(LinkId),
    /// Send; [`Event::Confirmed`] follows if it arrives.
    Publish(LinkId, Message),
    /// PUBACK: what this message asked for is safe here.
    Acknowledge(LinkId, u16),
    /// Append to the journal, durably.
    Record(Record),
    /// Make the outbox on disk hold this entry, durably.
    Keep(Kept),
    /// Remove an entry of the outbox from disk.
    Drop(EntryId),
    /// Ask for the discovery document with the certificate in use; then [`Event::Discovered`].
    Discover,
    /// Ask for the authorities; then [`Event::Authorities`].
    AskAuthorities,
    /// Fetch the baseline with this digest; then [`Event::Fetched`].
    Fetch(Sha256Digest),
    /// Put a desired state in place; then [`Event::Applied`].
    Apply(Box<Admitted>),
    /// Remember what this head, which is in force, says of intervals and policy.
    KeepHead(Box<DesiredHead>, Mark),
    /// Look for drift and repair what is enforced; then [`Event::Drifted`].
    LookForDrift,
    /// Forget that these were put right: it was told, durably.
    ForgetDrift(Vec<Drift>),
    /// Forget that these were taken back: it was told, durably.
    ForgetTakenBack(Vec<TakenBack>),
    /// Collect posture; then [`Event::Collected`].
    Collect,
    /// A step of a renewal, answered with [`Event::Renewal`] where it has an answer.
    Renewal(effect::Effect),
    /// Run the device's own program; then [`Event::HookRan`].
    Hook(OrderId, Hook),
    /// Make the sheet of the lease hold this, durably; nothing is no sheet.
    KeepLease(Option<Box<LeaseSheet>>),
    /// Run the device's own program for a lease; then [`Event::LapseHookRan`].
    LapseHook(Hook),
    /// Take away the secrets that the baseline brought, and forget it; then [`Event::SecretsDropped`].
    DropSecrets,
    /// Do this phase of a wipe; then, without anything waiting for it, [`Event::Wiped`].
    Wipe(Box<WipeTask>, ReceiptPhase),
    /// Destroy the identity and everything else that was this life's, but for the journal.
    EndLife,
    /// Let `muster-agent status` say this.
    Show(Shown),
    /// The end.
    Stop,
}

/// What `muster-agent status` says of the running agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Whether a session is open.
    pub connected: bool,
    /// Generation in place.
    pub generation: Option<Generation>,
    /// The newest state of the audit log that was verified here.
    pub checkpoint: Option<TreeHead>,
    /// When the server last accepted a session or confirmed a message.
    pub last_contact: Option<Timestamp>,
    /// Whether the lease has lapsed: nothing newer was heard for longer than it lasts.
    pub stale: bool,
    /// Whether the server said in its last session that it hears nothing but receipts: the device is being let go.
    pub is_let_go: bool,
    /// The refusal at the gate that stands, and when it was first heard.
    pub refused: Option<Refused>,
    /// The newest baseline, where it is not in force.
    pub not_taken: Option<NotTaken>,
}

/// What a running agent begins with.
#[derive(Debug)]
pub struct Beginning {
    /// The device.
    pub leaf: Leaf,
    /// What the journal adds up to.
    pub past: Past,
    /// What the files hold.
    pub held: Held,
    /// The authority, walked from the pinned beginning.
    pub lineage: Lineage,
    /// The desired state in force.
    pub in_force: InForce,
    /// Generations that were taken back, of which nobody has been told.
    pub taken_back: Vec<TakenBack>,
    /// The roots declared at enrolment.
    pub declared: Vec<String>,
    /// The boot in which the agent runs.
    pub boot: Boot,
    /// The sheet of the lease.
    pub lease: Option<LeaseSheet>,
    /// What the outbox on disk holds.
    pub outbox: Vec<Kept>,
    /// Which agent this is.
    pub agent_version: String,
    /// What the agent showed that ran here last.
    pub shown: Option<Shown>,
}

/// The running agent.
#[derive(Debug)]
pub struct Session {
    leaf: Leaf,
    past: Past,
    held: Held,
    lineage: Lineage,
    in_force: InForce,
    declared: Vec<String>,
    taken_back: Vec<TakenBack>,
    wanted: Option<Box<CheckedHead>>,
    /// Whether the authorities were asked for that may have come with what is wanted.
    knows_authorities: bool,
    outbox: Outbox,
    agent_version: String,
    drift: Vec<Drift>,
    /// The generation that the last state report named.
    reported: Option<Option<Generation>>,
    /// Whether there was a session since the start.
    has_begun: bool,
    alarms: Alarms,
    link: Link,
    proving: Option<LinkId>,
    links: u64,
    failures: u32,
    renewing: Renewing,
    wiping: Wiping,
    collecting: Collecting,
    /// What the open session lets be said; nothing before the server has said so.
    letters: Letters,
    /// A message under a key that is not known here; it is judged again once the authority was asked for.
    puzzling: Option<(LinkId, Incoming)>,
    is_asking: bool,
    /// An order was left unacknowledged in this session; those after it are, too.
    leaves_orders: bool,
    meter: Meter,
    lapsing: Lapsing,
    pace: Pace,
    /// The moment of the last event, by both clocks.
    clock_seen: Option<(Timestamp, Duration)>,
    /// Whether the journal holds what discovery said last, and when it was last made to.
    is_proven_kept: bool,
    proven_kept_at: Option<Duration>,
    shown: Shown,
    last_contact: Option<Timestamp>,
    is_let_go: bool,
    refused: Option<Refused>,
    not_taken: Option<NotTaken>,
    effects: VecDeque<Effect>,
    drawn: u32,
}

/// Where the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Apart,
    Opening(LinkId),
    Live(LinkId, Duration),
}

/// Whether posture is being collected, and for which orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Collecting {
    is_asked: bool,
    orders: Vec<OrderId>,
}

impl Session {
    /// An agent that is about to connect for the first time.
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { leaf, past, held, lineage, .. } = beginning;
        let last = beginning.shown.unwrap_or_default();
        let mut meter = Meter::new(leaf.device, beginning.boot, beginning.lease);
        let InForce { head, highest, .. } = &beginning.in_force;
        if let (Some(head), Some((newest, _)), None) = (head, highest, meter.sheet()) {
            // Without a sheet, lost or never needed, the lease of the word in force begins anew.
            meter.hear(*newest, head.lease, Duration::ZERO);
        }
        Self {
            leaf,
            past,
            held,
            lineage,
            in_force: beginning.in_force,
            declared: beginning.declared,
            taken_back: beginning.taken_back,
            wanted: None,
            knows_authorities: false,
            outbox: Outbox::found(beginning.outbox),
            agent_version: beginning.agent_version,
            drift: Vec::new(),
            reported: None,
            has_begun: false,
            alarms: Alarms {
                connect: Some(Duration::ZERO),
                renew: Some(Duration::ZERO),
                drift: Some(Duration::ZERO),
                wipe: Some(Duration::ZERO),
                lease: Some(Duration::ZERO),
                ..Alarms::default()
            },
            link: Link::Apart,
            proving: None,
            links: 0,
            failures: 0,
            renewing: Renewing::default(),
            wiping: Wiping::default(),
            collecting: Collecting::default(),
            letters: Letters::None,
            puzzling: None,
            is_asking: false,
            leaves_orders: false,
            meter,
            lapsing: Lapsing::default(),
            pace: Pace::default(),
            clock_seen: None,
            is_proven_kept: true,
            proven_kept_at: None,
            shown: Shown::default(),
            last_contact: last.last_contact,
            is_let_go: last.is_let_go,
            refused: last.refused,
            not_taken: last.not_taken,
            effects: VecDeque::new(),
            drawn: 0,
        }
    }

    /// The next thing to carry out, if any.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Event::Woke`] is to come, counted from the start of the agent.
    pub fn wake_at(&self) -> Option<Duration> {
        self.alarms.earliest()
    }

    /// Whose agent this is.
    pub fn device(&self) -> DeviceId {
        self.leaf.device
    }

    /// Since when the certificate in use is valid. It was taken when that was past, so it is no earlier now.
    pub fn certified_since(&self) -> Timestamp {
        self.leaf.not_before
    }

    /// Where the gate is, as far as the server has said.
    pub fn gate(&self) -> Option<&str> {
        self.past.proven.as_ref()?.mqtt.as_deref()
    }

    /// Takes note of `event` and queues what follows from it.
    pub fn handle(&mut self, event: Event, now: Moment) {
        self.drawn = 0;
        self.count_session(&event, now);
        let (was_live, was_farewell) = (self.live().is_some(), self.is_farewell());
        self.look_at_clock(now);
        match event {
            Event::Woke => {}
            Event::Opened(link) => self.opened(link, now),
            Event::Granted(link, channels) => self.granted(link, &channels),
            Event::Closed(link, trouble) => self.closed(link, trouble, now),
            Event::Confirmed(link, id) => self.confirmed(link, id, now),
            Event::Received(link, incoming) => self.received(link, incoming, now),
            Event::Discovered(answer) => self.discovered(answer, now),
            Event::Authorities(answer) => self.authorities_came(answer, now),
            Event::Fetched(answer) => self.fetched(answer, now),
            Event::Applied(change, in_force) => self.applied(change, *in_force, now),
            Event::Drifted { found, left, untold } => self.drifted(&found, left, untold, now),
            Event::Collected(facts) => self.collected(facts, now),
            Event::Renewal(event) => self.renewal_went_on(event, now),
            Event::HookRan(order, end) => self.hook_ran(order, end, now),
            Event::LapseHookRan(hook, end) => self.lapse_hook_ran(hook, &end, now),
            Event::SecretsDropped(dropped, in_force) => self.secrets_dropped(&dropped, *in_force, now),
            Event::Wiped(order, report) => self.wiped(order, *report, now),
            Event::Stopping => {
                self.mark_lease(now);
                self.proven_kept_at = None;
                self.keep_proven(now);
                return self.stop();
            }
        }
        self.follow_session(was_live, was_farewell, now);
        self.look_at_alarms(now);
        self.keep_proven(now);
        self.send();
        self.show();
    }

    /// A calendar that was set is told, and is a reason to look at the certificate; nothing else depends on it.
    fn look_at_clock(&mut self, now: Moment) {
        let Some(jump_s) =
            self.clock_seen.replace((now.calendar, now.since_start)).and_then(|seen| now.jump_s(seen))
        else {
            return;
        };
        let to = if jump_s > 0 { "ahead" } else { "back" };
        let detail = format!("the clock was set {to} by {} s, to {}", jump_s.unsigned_abs(), now.calendar);
        self.tell(EventKind::ClockJumped, &detail, now);
        self.alarms.renew = self.alarms.renew.map(|_| now.since_start);
    }

    fn look_at_alarms(&mut self, now: Moment) {
        let at = now.since_start;
        if went_off(&mut self.alarms.wipe, at) {
            self.go_on_wiping(now);
        }
        if went_off(&mut self.alarms.connect, at) && self.link == Link::Apart {
            self.connect(now);
        }
        if went_off(&mut self.alarms.credential, at) {
            self.credential_is_late(now);
        }
        if went_off(&mut self.alarms.renew, at) {
            self.consider_renewal(now);
        }
        if went_off(&mut self.alarms.fetch, at) {
            self.fetch();
        }
        if went_off(&mut self.alarms.drift, at) && !self.is_wiping() {
            let taken_back = std::mem::take(&mut self.taken_back);
            self.tell_of_the_taken_back(taken_back, now);
            self.effects.push_back(Effect::LookForDrift);
        }
        if went_off(&mut self.alarms.posture, at) {
            self.collect();
        }
        if went_off(&mut self.alarms.lease, at) {
            self.look_at_lease(now);
        }
        if went_off(&mut self.alarms.state, at) {
            self.outbox.remind();
            self.report_state(now);
        }
    }

    // ---- the connection -----------------------------------------------------------------------------------------

    fn connect(&mut self, now: Moment) {
        // Without a calendar the date in the answer is the time, which the gate does not say.
        let wants_the_time = self.links == 0 && now.calendar < now.wall;
        if wants_the_time || self.gate().is_none() || self.failures % ASK_AFTER == ASK_AFTER - 1 {
            self.discover();
        } else {
            self.open();
        }
    }

    fn open(&mut self) {
        let link = self.next_link();
        self.link = Link::Opening(link);
        self.effects.push_back(Effect::Open(link, Caller::Current));
    }

    fn next_link(&mut self) -> LinkId {
        self.links += 1;
        LinkId(self.links)
    }

    fn discover(&mut self) {
        if !self.is_asking {
            self.is_asking = true;
            self.effects.push_back(Effect::Discover);
        }
    }

    /// The server has said where its gate is and what its authority is; neither is believed before it was checked.
    fn discovered(&mut self, answer: Result<Answer, Trouble>, now: Moment) {
        self.is_asking = false;
        if let Ok(Ok(found)) = answer.map(Answer::discovery) {
            let adopted = trust::adopt(&mut self.past, &mut self.held, &found, now.wall);
            self.effects.extend(adopted.into_iter().map(Effect::Renewal));
            self.hear_discovery(found, now);
            if let Some(lineage) = trust::lineage(&self.past, &self.held, now.wall) {
                self.lineage = lineage;
            }
        }
        if let Some((link, incoming)) = self.puzzling.take() {
            self.judge(link, incoming, false, now);
        }
        if self.link == Link::Apart {
            match self.gate() {
                Some(_) => self.open(),
                None => self.try_later(now),
            }
        }
    }

    /// Remembers where the gate is and what the server calls the device, where either is news; on disk only so often.
    fn hear_discovery(&mut self, found: Discovery, now: Moment) {
        let Some(former) = &self.past.proven else { return };
        let caller = found.device.filter(|caller| caller.id == self.leaf.device);
        let mut proven = Proven { mqtt: Some(found.endpoints.mqtt), ..former.clone() };
        if let Some(caller) = caller.filter(|caller| caller.state != former.state) {
            (proven.state, proven.at) = (caller.state, now.wall);
        }
        if proven != *former {
            self.past.add(&Record::Proven(proven));
            self.is_proven_kept = false;
        }
    }

    /// Writes down what discovery said last, if it is not: no more often than every [`PROVEN_EVERY`], since whoever speaks
    /// as the server could say something else each time, and the journal never forgets. A refusal heard meanwhile is written
    /// once more: in the journal it would count as taken back by what comes after it.
    fn keep_proven(&mut self, now: Moment) {
        let is_due = |at: Duration| now.since_start.saturating_sub(at) >= PROVEN_EVERY;
        if self.is_proven_kept || !self.proven_kept_at.is_none_or(is_due) {
            return;
        }
        (self.is_proven_kept, self.proven_kept_at) = (true, Some(now.since_start));
        let proven = self.past.proven.clone().map(Record::Proven);
        let refused = self.past.refused.clone().map(Record::Refused);
        self.effects.extend(proven.into_iter().chain(refused).map(Effect::Record));
    }

    fn try_later(&mut self, now: Moment) {
        self.failures = self.failures.saturating_add(1);
        let pause = schedule::reconnect_after(self.failures, now.jitter());
        self.alarms.connect = Some(now.since_start + pause);
    }

    fn opened(&mut self, link: LinkId, now: Moment) {
        self.last_contact = Some(now.wall);
        if self.proving == Some(link) {
            return self.proven(link, now);
        }
        if self.link != Link::Opening(link) {
            return self.effects.push_back(Effect::Close(link));
        }
        self.is_live(link, now);
    }

    fn is_live(&mut self, link: LinkId, now: Moment) {
        self.link = Link::Live(link, now.since_start);
        self.letters = Letters::None;
        self.leaves_orders = false;
        self.outbox.lost();
        self.refused = None;
        if self.past.refused.is_some() {
            // It is welcome again; as what, a session does not say.
            let proven = self.past.proven.clone();
            let proven = proven.map(|proven| Proven { state: ENROLLED.to_owned(), at: now.wall, ..proven });
            proven.into_iter().for_each(|proven| self.record(Record::Proven(proven)));
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            self.alarms.state = Some(now.since_start + FIRST_STATE);
            self.alarms.posture = Some(now.since_start + FIRST_POSTURE);
            self.resume_orders(now);
        }
    }

    fn closed(&mut self, link: LinkId, trouble: Trouble, now: Moment) {
        if self.proving == Some(link) {
            self.proving = None;
            return self.renewal_went_on(effect::Event::Unanswered(trouble), now);
        }
        let lasted = match self.link {
            Link::Live(live, since) if live == link => now.since_start.saturating_sub(since),
            Link::Opening(opening) if opening == link => Duration::ZERO,
            Link::Live(..) | Link::Opening(_) | Link::Apart => return,
        };
        if lasted >= GOOD_SESSION {
            self.failures = 0;
        }
        if self.link == Link::Opening(link) {
            self.note_refusal(&trouble, now);
        }
        self.is_apart();
        self.session_is_gone(trouble, now);
        if self.link == Link::Apart {
            self.try_later(now);
        }
    }

    /// Remembers that the gate would not have this device, for `status` to say. It is shown and not journaled: whoever holds
    /// the line can say so as often as they like.
    fn note_refusal(&mut self, trouble: &Trouble, now: Moment) {
        let refusal = Refusal::Unanswered(trouble.clone());
        let refused = Refused { code: refusal.code().to_owned(), at: now.wall };
        let is_news = self.refused.as_ref().is_none_or(|former| former.code != refused.code);
        if refusal.ends_the_life() && is_news {
            self.refused = Some(refused);
        }
    }

    fn is_apart(&mut self) {
        self.link = Link::Apart;
        self.letters = Letters::None;
        self.leaves_orders = false;
        self.outbox.lost();
        self.puzzling = None;
    }

    fn live(&self) -> Option<LinkId> {
        match self.link {
            Link::Live(link, _) => Some(link),
            Link::Opening(_) | Link::Apart => None,
        }
    }

    fn stop(&mut self) {
        let open = match self.link {
            Link::Live(link, _) | Link::Opening(link) => Some(link),
            Link::Apart => None,
        };
        for link in open.into_iter().chain(self.proving.take()) {
            self.effects.push_back(Effect::Close(link));
        }
        self.link = Link::Apart;
        self.alarms = Alarms::default();
        self.show();
        self.effects.push_back(Effect::Stop);
    }
}

fn unix_ms(now: Moment) -> u64 {
    u64::try_from(now.wall.seconds()).unwrap_or(0).saturating_mul(1000)
}

impl Message {
    /// A message that does not wait in the outbox.
    fn passing(id: EntryId, channel: Channel, body: Body) -> Self {
        Self { id, channel, body }
    }
}

#[cfg(test)]
mod tests;
