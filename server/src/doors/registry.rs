//! Who is connected, and the kick.
//!
//! Every connection that has passed its handshake sits in here until it ends, HTTPS and MQTT alike. A kick
//! ends it at once: its task drops the socket, whatever it was doing. The order that closes every race is
//!
//! ```text
//! revocation:  commit → status index → kick
//! connection:  handshake → enter → status judged again
//! ```
//!
//! so a connection either is judged after the index has changed, or is in the registry when the kick comes.
//!
//! Memory is bounded: the accept loop limits how many connections there are, and one device holds at most
//! [`PER_DEVICE`] of them, the oldest making room for the newest.
//!
//! A device has at most one MQTT session. A new one ends the older one first and gets a higher generation;
//! what is said about a session ([`Presence`], for instance) carries the generation, so that news of the older
//! session can never undo that of the newer.
//!
//! Nothing is handed to a session through here. Whoever knows that there may be something for a device nudges it:
//! "look again". A nudge that comes while the session is busy is kept, and many are one.

use super::peer::{DeviceId, PeerCertificate, Serial};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;

/// How many connections one device may hold at the same time.
pub const PER_DEVICE: usize = 16;

/// Why a connection was ended from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kicked {
    /// The status of its certificate or device changed.
    Status = 1,
    /// The device opened another MQTT session, or more connections than it may hold.
    Replaced = 2,
    /// The server stops.
    Stop = 3,
}

impl Kicked {
    fn from_code(code: u8) -> Option<Self> {
        [Self::Status, Self::Replaced, Self::Stop].into_iter().find(|kicked| *kicked as u8 == code)
    }
}

#[derive(Debug, Default)]
struct Cord {
    /// 0 while the connection may live.
    kicked: AtomicU8,
    pulled: Notify,
}

impl Cord {
    fn pull(&self, why: Kicked) {
        // The first reason stays.
        if self.kicked.compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.pulled.notify_waiters();
        }
    }

    fn was_pulled(&self) -> Option<Kicked> {
        Kicked::from_code(self.kicked.load(Ordering::Acquire))
    }
}

#[derive(Debug)]
struct Identified {
    serial: Serial,
    cord: Arc<Cord>,
}

#[derive(Debug, Default)]
struct Table {
    /// The last number given to a connection or a session; none is given twice.
    last: u64,
    /// Connections without a certificate.
    anonymous: BTreeMap<u64, Arc<Cord>>,
    /// Connections with one, so that all of a device stand together, oldest first.
    identified: BTreeMap<(DeviceId, u64), Identified>,
    /// From serial number to the same.
    serials: BTreeMap<(Serial, u64), DeviceId>,
    /// Observers' connections.
    observers: BTreeMap<(Serial, u64), Arc<Cord>>,
    /// Each device's MQTT session.
    sessions: HashMap<DeviceId, Held>,
    /// Whether sessions may no longer begin, since the server stops.
    closed: bool,
}

#[derive(Debug)]
struct Held {
    connection: u64,
    session: Session,
    /// Unix seconds.
    since: i64,
}

/// A device's MQTT session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Higher than that of any earlier session.
    pub generation: u64,
    /// Rings when there may be something to send.
    pub nudge: Arc<Notify>,
}

/// A device came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Which.
    pub device: DeviceId,
    /// Its session. News of a lower generation than one heard before is out of date.
    pub generation: u64,
    /// Whether it came.
    pub online: bool,
}

type Told = Box<dyn Fn(Presence) + Send + Sync>;

/// All connections of the process.
#[derive(Default)]
pub struct Registry {
    table: Mutex<Table>,
    told: OnceLock<Told>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("connections", &self.len()).finish_non_exhaustive()
    }
}

impl Registry {
    /// Nobody is connected.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells `told` of every device that comes and goes. It runs inside the sessions' tasks and must not block.
    /// Only the first who asks is told.
    pub fn on_presence(&self, told: impl Fn(Presence) + Send + Sync + 'static) {
        drop(self.told.set(Box::new(told)));
    }

    fn tell(&self, presence: Presence) {
        if let Some(told) = self.told.get() {
            told(presence);
        }
    }

    /// Enters a connection; it stays until the answer is dropped.
    ///
    /// A device that holds [`PER_DEVICE`] connections loses the oldest that is not its MQTT session.
    pub fn enter(self: &Arc<Self>, certificate: Option<&PeerCertificate>) -> Connected {
        let cord = Arc::new(Cord::default());
        let mut table = self.lock();
        let id = table.next();
        let identity = certificate.map(|certificate| (certificate.device, certificate.serial));
        match identity {
            None => {
                table.anonymous.insert(id, Arc::clone(&cord));
            }
            Some((device, serial)) => {
                table.make_room(device);
                table.serials.insert((serial, id), device);
                table.identified.insert((device, id), Identified { serial, cord: Arc::clone(&cord) });
            }
        }
        drop(table);
        Connected { registry: Arc::clone(self), id, identity, observer: None, cord }
    }

    /// Enters the connection of the observer whose certificate has this serial number; it stays until the answer is
    /// dropped. An observer has one connection: the newest.
    pub fn enter_observer(self: &Arc<Self>, serial: Serial) -> Connected {
        let cord = Arc::new(Cord::default());
        let mut table = self.lock();
        let id = table.next();
        table.observers_of(&serial).for_each(|older| older.pull(Kicked::Replaced));
        table.observers.insert((serial, id), Arc::clone(&cord));
        drop(table);
        Connected { registry: Arc::clone(self), id, identity: None, observer: Some(serial), cord }
    }

    /// Ends every connection that showed this certificate; answers how many.
    pub fn kick_serial(&self, serial: &Serial, why: Kicked) -> usize {
        let table = self.lock();
        let hits = table.serials.range((*serial, 0)..=(*serial, u64::MAX));
        hits.filter_map(|((_, id), device)| table.identified.get(&(*device, *id)))
            .map(|connection| &connection.cord)
            .chain(table.observers_of(serial))
            .map(|cord| cord.pull(why))
            .count()
    }

    /// Ends every connection of this device; answers how many.
    pub fn kick_device(&self, device: &DeviceId, why: Kicked) -> usize {
        self.lock().of_device(device).map(|(_, connection)| connection.cord.pull(why)).count()
    }

    /// Ends every connection for which `keep` says no, asking with the serial number that it showed; answers how
    /// many. A sweep with the status index repairs a kick that was lost.
    pub fn sweep(&self, keep: impl Fn(&Serial) -> bool, why: Kicked) -> usize {
        let table = self.lock();
        let devices = table.identified.values().map(|connection| (&connection.serial, &connection.cord));
        let observers = table.observers.iter().map(|((serial, _), cord)| (serial, cord));
        devices.chain(observers).filter(|(serial, _)| !keep(serial)).map(|(_, cord)| cord.pull(why)).count()
    }

    /// Ends every connection; answers how many there were.
    pub fn kick_all(&self, why: Kicked) -> usize {
        let table = self.lock();
        let identified = table.identified.values().map(|connection| &connection.cord);
        table
            .anonymous
            .values()
            .chain(table.observers.values())
            .chain(identified)
            .map(|cord| cord.pull(why))
            .count()
    }

    /// The generation of the device's MQTT session, if it has one.
    pub fn session_of(&self, device: &DeviceId) -> Option<u64> {
        self.lock().sessions.get(device).map(|held| held.session.generation)
    }

    /// Since when the device has its MQTT session, unix seconds; `None` where it has none, and where that is being cut.
    pub fn connected_since(&self, device: &DeviceId) -> Option<i64> {
        let table = self.lock();
        let held = table.sessions.get(device)?;
        let connection = table.identified.get(&(*device, held.connection));
        let is_cut = connection.is_some_and(|connection| connection.cord.was_pulled().is_some());
        (!is_cut).then_some(held.since)
    }

    /// Lets the device's MQTT session look again at what there is to send; answers whether there is a session.
    pub fn nudge(&self, device: &DeviceId) -> bool {
        let table = self.lock();
        table.sessions.get(device).map(|held| held.session.nudge.notify_one()).is_some()
    }

    /// Lets every MQTT session look again; answers how many there are.
    pub fn nudge_all(&self) -> usize {
        let table = self.lock();
        table.sessions.values().map(|held| held.session.nudge.notify_one()).count()
    }

    /// How many MQTT sessions there are.
    pub fn sessions(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Ends every MQTT session and lets none begin any more; answers how many there were.
    pub fn close_sessions(&self) -> usize {
        let mut table = self.lock();
        table.closed = true;
        let cord = |(device, held): (&DeviceId, &Held)| table.identified.get(&(*device, held.connection));
        table.sessions.iter().filter_map(cord).map(|found| found.cord.pull(Kicked::Stop)).count()
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        let table = self.lock();
        table.anonymous.len() + table.observers.len() + table.identified.len()
    }

    /// Is nobody connected?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// No code can panic between two changes that belong together, so a poisoned lock guards a sound table.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn observers_of(&self, serial: &Serial) -> impl Iterator<Item = &Arc<Cord>> {
        self.observers.range((*serial, 0)..=(*serial, u64::MAX)).map(|(_, cord)| cord)
    }

    fn of_device(&self, device: &DeviceId) -> impl Iterator<Item = (u64, &Identified)> {
        self.identified
            .range((*device, 0)..=(*device, u64::MAX))
            .map(|((_, id), connection)| (*id, connection))
    }

    /// Pulls the cords of a device's oldest connections until one more fits. They leave the table when their
    /// tasks end, so those that were pulled already do not count. Its MQTT session stays: only another session may
    /// take its place, so that a copy of the device's certificate cannot push it out by connecting alone.
    fn make_room(&mut self, device: DeviceId) {
        let session = self.sessions.get(&device).map(|held| held.connection);
        let alive = || self.of_device(&device).filter(|(_, found)| found.cord.was_pulled().is_none());
        let surplus = (alive().count() + 1).saturating_sub(PER_DEVICE);
        alive()
            .filter(|(id, _)| Some(*id) != session)
            .take(surplus)
            .for_each(|(_, connection)| connection.cord.pull(Kicked::Replaced));
    }

    /// Forgets a connection; answers the session that went with it.
    fn leave(&mut self, id: u64, identity: Option<(DeviceId, Serial)>) -> Option<Presence> {
        let Some((device, serial)) = identity else {
            self.anonymous.remove(&id);
            return None;
        };
        self.identified.remove(&(device, id));
        self.serials.remove(&(serial, id));
        // Only the session that is still the device's may take its presence along.
        let generation = self.sessions.get(&device).filter(|held| held.connection == id)?.session.generation;
        self.sessions.remove(&device);
        Some(Presence { device, generation, online: false })
    }
}

/// A connection's place in the registry; dropping it leaves.
#[derive(Debug)]
pub struct Connected {
    registry: Arc<Registry>,
    id: u64,
    identity: Option<(DeviceId, Serial)>,
    /// The serial number that an observer showed.
    observer: Option<Serial>,
    cord: Arc<Cord>,
}

impl Connected {
    /// The number of this connection, never used twice in the life of the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What a handler may hold on to: it tells and causes the end of the connection, but does not keep it open.
    pub fn handle(&self) -> Handle {
        Handle { id: self.id, cord: Arc::clone(&self.cord) }
    }

    /// Makes this connection its device's MQTT session from `now` (unix seconds) on, ending the older one first. `None`
    /// for a connection without a certificate, and once sessions may no longer begin.
    pub fn begin_session(&self, now: i64) -> Option<Session> {
        let (device, _) = self.identity?;
        let session = {
            let mut table = self.registry.lock();
            if table.closed {
                return None;
            }
            let session = Session { generation: table.next(), nudge: Arc::new(Notify::new()) };
            let held = Held { connection: self.id, session: session.clone(), since: now };
            let older = table.sessions.insert(device, held).filter(|older| older.connection != self.id);
            if let Some(older) = older.and_then(|older| table.identified.get(&(device, older.connection))) {
                older.cord.pull(Kicked::Replaced);
            }
            session
        };
        self.registry.tell(Presence { device, generation: session.generation, online: true });
        Some(session)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let gone = {
            let mut table = self.registry.lock();
            match self.observer {
                Some(serial) => table.observers.remove(&(serial, self.id)).and(None),
                None => table.leave(self.id, self.identity),
            }
        };
        if let Some(presence) = gone {
            self.registry.tell(presence);
        }
    }
}

/// A connection as its handlers see it.
#[derive(Clone, Debug)]
pub struct Handle {
    id: u64,
    cord: Arc<Cord>,
}

impl Handle {
    /// The number of the connection.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Why the connection was ended, once it was.
    pub fn was_kicked(&self) -> Option<Kicked> {
        self.cord.was_pulled()
    }

    /// Ends the connection.
    pub fn kick(&self, why: Kicked) {
        self.cord.pull(why);
    }

    /// Returns, with the reason, once the connection was ended.
    pub async fn kicked(&self) -> Kicked {
        // Listening starts here and not with the first poll, so a pull between the look and the wait is heard.
        let pulled = self.cord.pulled.notified();
        if let Some(why) = self.was_kicked() {
            return why;
        }
        pulled.await;
        // Cords are pulled once and stay pulled.
        self.was_kicked().unwrap_or(Kicked::Status)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{device, peer_certificate, serial};
    use super::*;

    /// A second certificate of device 1.
    fn renewed() -> PeerCertificate {
        PeerCertificate { serial: serial(9), ..peer_certificate(1) }
    }

    #[tokio::test]
    async fn a_kick_by_serial_ends_that_certificates_connections_only() {
        let registry = Arc::new(Registry::new());
        let first = registry.enter(Some(&peer_certificate(1)));
        let second = registry.enter(Some(&peer_certificate(1)));
        let renewed = registry.enter(Some(&renewed()));
        let other = registry.enter(Some(&peer_certificate(2)));
        assert_eq!(registry.kick_serial(&serial(1), Kicked::Status), 2);
        assert_eq!(first.handle().kicked().await, Kicked::Status);
        assert_eq!(second.handle().kicked().await, Kicked::Status);
        assert_eq!((renewed.handle().was_kicked(), other.handle().was_kicked()), (None, None));
    }

    #[tokio::test]
    async fn a_kick_by_device_ends_the_connections_of_all_its_certificates() {
        let registry = Arc::new(Registry::new());
        let places = [registry.enter(Some(&peer_certificate(1))), registry.enter(Some(&renewed()))];
        let other = registry.enter(Some(&peer_certificate(2)));
        assert_eq!(registry.kick_device(&device(1), Kicked::Status), 2);
        assert!(places.iter().all(|place| place.handle().was_kicked() == Some(Kicked::Status)));
        assert_eq!(other.handle().was_kicked(), None);
    }

    #[tokio::test]
    async fn an_observer_has_one_connection_which_a_kick_by_serial_ends() {
        let registry = Arc::new(Registry::new());
        let (older, other) = (registry.enter_observer(serial(1)), registry.enter_observer(serial(2)));
        let newer = registry.enter_observer(serial(1));
        assert_eq!(older.handle().kicked().await, Kicked::Replaced);
        drop(older);
        assert_eq!(registry.kick_serial(&serial(1), Kicked::Status), 1);
        assert_eq!(newer.handle().kicked().await, Kicked::Status);
        assert_eq!(registry.sweep(|_| false, Kicked::Status), 2);
        assert_eq!(other.handle().kicked().await, Kicked::Status);
        drop((newer, other));
        assert!(registry.is_empty());
    }

    #[tokio::test]
    async fn a_kick_wakes_who_listens_already_and_who_listens_later() {
        let registry = Arc::new(Registry::new());
        let place = registry.enter(None);
        let early = tokio::spawn({
            let handle = place.handle();
            async move { handle.kicked().await }
        });
        tokio::task::yield_now().await;
        assert_eq!(registry.kick_all(Kicked::Stop), 1);
        assert_eq!(early.await.unwrap(), Kicked::Stop);
        assert_eq!(place.handle().kicked().await, Kicked::Stop);
    }

    #[test]
    fn the_first_reason_of_a_kick_stays() {
        let registry = Arc::new(Registry::new());
        let place = registry.enter(Some(&peer_certificate(1)));
        place.handle().kick(Kicked::Status);
        registry.kick_all(Kicked::Stop);
        assert_eq!(place.handle().was_kicked(), Some(Kicked::Status));
    }

    #[test]
    fn a_sweep_ends_whom_the_index_no_longer_lets_in() {
        let registry = Arc::new(Registry::new());
        let stays = registry.enter(Some(&peer_certificate(1)));
        let goes = registry.enter(Some(&peer_certificate(2)));
        assert_eq!(registry.sweep(|shown| *shown == serial(1), Kicked::Status), 1);
        assert_eq!(stays.handle().was_kicked(), None);
        assert_eq!(goes.handle().was_kicked(), Some(Kicked::Status));
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let registry = Arc::new(Registry::new());
        let places = [registry.enter(None), registry.enter(Some(&peer_certificate(1)))];
        places[1].begin_session(7);
        assert_eq!(registry.len(), 2);
        drop(places);
        assert!(registry.is_empty());
        let table = registry.lock();
        assert!(table.serials.is_empty() && table.sessions.is_empty());
    }

    #[test]
    fn a_device_holds_so_many_connections_and_the_oldest_makes_room() {
        let registry = Arc::new(Registry::new());
        let places: Vec<_> = (0..=PER_DEVICE).map(|_| registry.enter(Some(&peer_certificate(1)))).collect();
        let kicked: Vec<_> = places.iter().map(|place| place.handle().was_kicked()).collect();
        assert_eq!(kicked[0], Some(Kicked::Replaced));
        assert!(kicked[1..].iter().all(Option::is_none));
        let other = registry.enter(Some(&peer_certificate(2)));
        assert_eq!(other.handle().was_kicked(), None);
    }

    #[test]
    fn a_new_session_ends_the_older_and_has_a_higher_generation_whichever_connected_first() {
        let registry = Arc::new(Registry::new());
        let (first, second) =
            (registry.enter(Some(&peer_certificate(1))), registry.enter(Some(&peer_certificate(1))));
        let older = second.begin_session(7).unwrap().generation;
        let newer = first.begin_session(7).unwrap().generation;
        assert!(newer > older);
        assert_eq!(second.handle().was_kicked(), Some(Kicked::Replaced));
        assert_eq!(first.handle().was_kicked(), None);
        assert_eq!(registry.session_of(&device(1)), Some(newer));
    }

    #[test]
    fn an_older_session_that_ends_late_does_not_take_the_newer_along() {
        let registry = Arc::new(Registry::new());
        let (first, second) =
            (registry.enter(Some(&peer_certificate(1))), registry.enter(Some(&peer_certificate(1))));
        first.begin_session(7);
        let newer = second.begin_session(7).map(|session| session.generation);
        drop(first);
        assert_eq!(registry.session_of(&device(1)), newer);
        drop(second);
        assert_eq!(registry.session_of(&device(1)), None);
    }

    #[test]
    fn a_device_is_connected_since_its_newest_session_began() {
        let registry = Arc::new(Registry::new());
        let (first, second) =
            (registry.enter(Some(&peer_certificate(1))), registry.enter(Some(&peer_certificate(1))));
        assert_eq!(registry.connected_since(&device(1)), None);
        first.begin_session(7);
        second.begin_session(9);
        assert_eq!(registry.connected_since(&device(1)), Some(9));
        drop(second);
        assert_eq!(registry.connected_since(&device(1)), None);
    }

    #[test]
    fn who_showed_no_certificate_begins_no_session() {
        let registry = Arc::new(Registry::new());
        assert!(registry.enter(None).begin_session(7).is_none());
    }

    #[test]
    fn connections_alone_do_not_push_a_session_out() {
        let registry = Arc::new(Registry::new());
        let session = registry.enter(Some(&peer_certificate(1)));
        session.begin_session(7).unwrap();
        let others: Vec<_> =
            (0..2 * PER_DEVICE).map(|_| registry.enter(Some(&peer_certificate(1)))).collect();
        assert_eq!(session.handle().was_kicked(), None);
        let alive = others.iter().filter(|place| place.handle().was_kicked().is_none()).count();
        assert_eq!(alive, PER_DEVICE - 1);
    }

    #[tokio::test]
    async fn a_nudge_that_comes_early_is_kept_and_reaches_its_device_only() {
        let registry = Arc::new(Registry::new());
        let places = [registry.enter(Some(&peer_certificate(1))), registry.enter(Some(&peer_certificate(2)))];
        let sessions = places.each_ref().map(|place| place.begin_session(7).unwrap());
        assert!(registry.nudge(&device(1)) && registry.nudge(&device(1)));
        sessions[0].nudge.notified().await;
        for quiet in &sessions {
            let mut rung = std::pin::pin!(quiet.nudge.notified());
            assert!(
                std::future::poll_fn(|cx| std::task::Poll::Ready(rung.as_mut().poll(cx).is_pending())).await
            );
        }
        assert_eq!(registry.nudge_all(), 2);
        sessions[1].nudge.notified().await;
        assert!(!registry.nudge(&device(3)), "who has no session cannot be nudged");
    }

    #[test]
    fn presence_is_told_with_the_generation_and_a_replaced_session_never_says_goodbye() {
        let registry = Arc::new(Registry::new());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Arc::clone(&heard);
        registry
            .on_presence(move |presence| ear.lock().unwrap().push((presence.generation, presence.online)));
        let (first, second) =
            (registry.enter(Some(&peer_certificate(1))), registry.enter(Some(&peer_certificate(1))));
        let older = first.begin_session(7).unwrap().generation;
        let newer = second.begin_session(7).unwrap().generation;
        drop((first, second));
        assert_eq!(*heard.lock().unwrap(), [(older, true), (newer, true), (newer, false)]);
    }

    #[test]
    fn when_sessions_are_closed_they_end_and_none_begins_while_other_connections_stay() {
        let registry = Arc::new(Registry::new());
        let (session, plain) =
            (registry.enter(Some(&peer_certificate(1))), registry.enter(Some(&peer_certificate(2))));
        session.begin_session(7).unwrap();
        assert_eq!(registry.close_sessions(), 1);
        assert_eq!(session.handle().was_kicked(), Some(Kicked::Stop));
        assert_eq!(plain.handle().was_kicked(), None);
        assert!(plain.begin_session(7).is_none());
    }
}
