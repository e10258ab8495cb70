//! Serving: opens what was founded, binds four listeners, and ends in order.
//!
//! `endpoints.json` appears once **all** listeners accept, and is removed at the end. A store that fails ends the
//! process: whatever it had acknowledged is on the disk, and the next start reads it.

use crate::alarm::{self, Alarms, Outlets, Raised};
use crate::app::found::{FoundError, Founding, bracketed, founded, status_urls};
use crate::app::{
    App, EngineSource, Error, EventFeed, Issuance, Local, Parts, RefusedAtDoor, RevocationChanges,
    ServerCertificate, feed, fill, refusals_at_doors,
};
use crate::audit::{self, AuditKey, Pace};
use crate::ca::keystore::{Keystore, write_durably};
use crate::ca::{Ca, CaError};
use crate::clock::Clock;
use crate::config::{Advertised, ConfigError, FILE_NAME, Rails, Settings, misspelt};
use crate::domain::quarantine::Budget;
use crate::domain::rails;
use crate::doors::accept::{Connection, Limits, Secure, Secured, serve_plain, serve_tls};
use crate::doors::arrival::Arrivals;
use crate::doors::http::{HttpDoor, HttpLimits, Judge};
use crate::doors::stop::{Stop, channel};
use crate::doors::tls::{ServerIdentity, TlsError, TlsSource, Versions, provider};
use crate::doors::verifier::{ClientAuth, LiveClientVerifier, VerifierError};
use crate::doors::{Doors, descriptors};
use crate::http::auth::Entrance;
use crate::http::routes::Routes;
use crate::mqtt::budget::{Rate, Rates};
use crate::mqtt::bus::Bus;
use crate::mqtt::gate::{self, Gate};
use crate::mqtt::observer::ObserverGate;
use crate::store::collections::{ALL, LoadError};
use crate::store::embedded::{self, Founding as Open};
use crate::store::{self, OpenError, Store};
use crate::telemetry::{self, TelemetryError};
use crate::{http, tasks};
use muster_wire::discovery::Endpoints;
use rustls::pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// In how many parts the listeners share the process's descriptors, and how many each has of them: a device holds its
/// MQTT session for months, everything else for a moment.
const PARTS: u32 = 16;
const MQTT_PARTS: u32 = 10;
const DEVICE_PARTS: u32 = 4;
const OTHER_PARTS: u32 = 1;

/// The file that tells where the listeners are.
pub const ENDPOINTS: &str = "endpoints.json";

/// What is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The installation.
    pub data_dir: PathBuf,
    /// Settings file; `<data-dir>/muster.toml` when it is there and none is named.
    pub config: Option<PathBuf>,
}

/// Why the server does not run, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The settings are not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no log.
    #[error(transparent)]
    Log(#[from] TelemetryError),
    /// There is no installation that could be served.
    #[error(transparent)]
    Found(#[from] FoundError),
    /// The keys are not usable.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store cannot be read.
    #[error("the store cannot be read at start")]
    Load(#[from] LoadError),
    /// Alarms cannot go where they should.
    #[error(transparent)]
    Alarm(#[from] alarm::PlaceError),
    /// The audit log refuses to be appended to.
    #[error(transparent)]
    Audit(#[from] audit::OpenError),
    /// A port is taken or not ours.
    #[error("cannot listen on {address} for {listener}: {source}; choose another with MUSTER_LISTEN_{} or [listen] {listener}", listener.to_uppercase())]
    Listen {
        /// Which listener.
        listener: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// Client certificates cannot be judged.
    #[error("client certificates cannot be judged")]
    Verifier(#[from] VerifierError),
    /// A verb that runs at the start failed.
    #[error("starting failed")]
    Start(#[from] Error),
    /// The file system or the runtime said no.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The store failed while serving; what was acknowledged is on the disk.
    #[error("{reason}; start again: everything that was acknowledged is on the disk")]
    Failed {
        /// What failed.
        reason: String,
    },
}

/// Serves `options.data_dir` until SIGTERM, SIGINT or a failure of the store.
///
/// # Errors
/// [`ServeError`], each one sentence that says what to do.
pub fn run(options: &ServeOptions) -> Result<(), ServeError> {
    let settings = settings(options)?;
    let level = std::env::var(telemetry::LEVEL_VARIABLE).ok();
    telemetry::init(settings.log.format, level.as_deref())?;
    misspelt::warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::Io { doing: "start the runtime".to_owned(), source })?;
    runtime.block_on(serve(&options.data_dir, &settings))
}

fn settings(options: &ServeOptions) -> Result<Settings, ConfigError> {
    let default = options.data_dir.join(FILE_NAME);
    let file = options.config.as_deref().or_else(|| default.exists().then_some(default.as_path()));
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Settings::load(file, environment)
}

async fn serve(dir: &Path, settings: &Settings) -> Result<(), ServeError> {
    founded(dir)?;
    let sockets = Sockets::bind(settings).await?;
    let (app, refusals, raised) = open(dir, settings, &sockets)?;
    let outlets = Outlets::open(&settings.alarm, app.ca().trust_domain().as_str())?;
    // Only now: until the store was locked, another process may have been serving here.
    remove_endpoints(dir)?;
    let (stopper, stop) = channel();
    let mut running = JoinSet::new();
    let fatal = watch::Sender::new(None);
    start(&mut running, Started { app: &app, settings, stop: &stop, fatal: &fatal, refusals }, sockets)
        .await?;
    let stopped = stop.clone();
    running.spawn(alarm::deliver(outlets, raised, async move { stopped.asked().await }));
    app.note_rails().await?;
    tell_former_place(&app, settings).await?;
    write_endpoints(dir, &app)?;
    tracing::info!(data_dir = %dir.display(), "serving");

    let mut store_failed = app.store().failure();
    let mut log_failed = fatal.subscribe();
    let failed = tokio::select! {
        () = signalled() => None,
        reason = store_failed.wait_for(Option::is_some) => Some(reason.ok().and_then(|r| r.clone())),
        reason = log_failed.wait_for(Option::is_some) => Some(reason.ok().and_then(|r| r.clone())),
    };
    remove_endpoints(dir)?;
    if let Some(reason) = failed {
        return Err(ServeError::Failed { reason: reason.unwrap_or_else(|| "the store failed".to_owned()) });
    }
    tracing::info!("stopping");
    stopper.stop();
    while running.join_next().await.is_some() {}
    finish(&app).await
}

/// The last checkpoint, then the store.
async fn finish(app: &Arc<App>) -> Result<(), ServeError> {
    let last = Arc::clone(app);
    match tokio::task::spawn_blocking(move || last.publish_checkpoint()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the last checkpoint was not signed; the next start signs it")
        }
        Err(error) => tracing::error!(%error, "signing the last checkpoint panicked"),
    }
    app.store().close().await.map_err(|error| ServeError::Failed { reason: error.to_string() })?;
    tracing::info!("stopped");
    Ok(())
}

fn limits_of(settings: &Settings) -> rails::Limits {
    let Rails { day_least, day_percent, hour, cooling_off_s } = settings.rails;
    rails::Limits { day_least, day_percent, hour, cooling_off_s }
}

/// Whoever changes where alarms go is told of at the place that they went to before.
async fn tell_former_place(app: &App, settings: &Settings) -> Result<(), ServeError> {
    let Some((former, alarm)) = app.note_alarm_place(&settings.alarm).await? else { return Ok(()) };
    match Outlets::open(&former, app.ca().trust_domain().as_str()) {
        Ok(outlets) => drop(tokio::spawn(async move { outlets.tell(&alarm).await })),
        Err(error) => {
            tracing::error!(%error, "the former place of alarms cannot be told that there is another")
        }
    }
    Ok(())
}

/// The four listeners, bound and not yet served.
struct Sockets {
    device: TcpListener,
    mqtt: TcpListener,
    status: TcpListener,
    admin: TcpListener,
}

impl Sockets {
    async fn bind(settings: &Settings) -> Result<Self, ServeError> {
        async fn one(listener: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
            TcpListener::bind(address).await.map_err(|source| ServeError::Listen {
                listener,
                address,
                source,
            })
        }
        let listen = &settings.listen;
        Ok(Self {
            device: one("device", listen.device).await?,
            mqtt: one("mqtt", listen.mqtt).await?,
            status: one("status", listen.status).await?,
            admin: one("admin", listen.admin).await?,
        })
    }
}

fn port(listener: &TcpListener) -> Result<u16, ServeError> {
    let address = listener.local_addr();
    let address = address.map_err(|source| ServeError::Io { doing: "read a port".to_owned(), source })?;
    Ok(address.port())
}

/// Opens store, keys and log, and puts the verbs together.
fn open(
    dir: &Path,
    settings: &Settings,
    sockets: &Sockets,
) -> Result<(Arc<App>, Refusals, Raised), ServeError> {
    let (alarms, raised) = Alarms::queue();
    let clock = Clock::system();
    let options = embedded::Options {
        cache_bytes: settings.store.cache_bytes,
        ..embedded::Options::new(dir.join("store"), Open::Existing)
    };
    let engine = embedded::open(&options)?;
    let founding = Founding::read(dir, engine.as_ref())?;
    let ca =
        Ca::open(&Keystore::of(dir), founding.trust_domain.clone(), &founding.issuers, &founding.succession)?;
    let log_key = AuditKey::new(founding.trust_domain.as_str(), ca.audit_key())
        .map_err(|_| CaError::no_key(crate::ca::file::AUDIT_KEY))?;
    let former = founding.former_audit_keys(dir)?;
    let source = EngineSource(engine.as_ref());
    let (log, publisher) = audit::open(&source, &dir.join("audit"), log_key, &former)?;
    let (tell, refusals) = refusals_at_doors();
    let (strangers, misconduct, observers) = (tell.clone(), tell.clone(), tell.clone());
    let doors = Doors::new(founding.trust_domain.clone(), clock.clone())
        .on_refusal(move |certificate, door, why| tell.certificate(certificate, door, why))
        .on_stranger(move |reason| strangers.stranger(reason))
        .on_misconduct(move |certificate, rule| misconduct.misconduct(certificate, rule))
        .on_observer(move |certificate, rule| observers.observer(certificate, rule));
    let revocation_changes = Arc::new(RevocationChanges::default());
    let events = Arc::new(EventFeed::default());
    let first = feed(Arc::clone(&doors.index), Arc::clone(&doors.registry), Arc::clone(&revocation_changes));
    let observer = events.after(first);
    let (presence, now) = (Arc::clone(&events), clock.clone());
    doors.registry.on_presence(move |told| presence.presence(told, now.now_s()));
    let limits = store::Limits {
        queue: usize::try_from(settings.store.queue).unwrap_or(usize::MAX),
        floor_bytes: settings.store.free_space_floor_bytes,
        ..store::Limits::default()
    };
    let store = Store::open(engine, ALL, Box::new(log), observer, limits)?;
    fill(&doors.index, &store)?;
    let name = settings.public_name.as_deref().unwrap_or(&founding.public_name);
    let device = Advertised::or(settings.advertise.device.as_ref(), name, port(&sockets.device)?);
    let mqtt = Advertised::or(settings.advertise.mqtt.as_ref(), name, port(&sockets.mqtt)?);
    let status = Advertised::or(settings.advertise.status.as_ref(), name, port(&sockets.status)?);
    let url = |scheme: &str, (host, port): &(String, u16)| format!("{scheme}://{}:{port}", bracketed(host));
    let app = App::new(Parts {
        urls: status_urls(&ca, &url("http", &status))?,
        endpoints: Endpoints {
            device: url("https", &device),
            mqtt: url("mqtts", &mqtt),
            status: url("http", &status),
        },
        local: Local {
            device: local_url("https", &sockets.device)?,
            mqtt: local_url("mqtts", &sockets.mqtt)?,
            status: local_url("http", &sockets.status)?,
            admin: local_url("https", &sockets.admin)?,
        },
        server_hosts: vec![name.to_owned(), device.0.clone(), mqtt.0.clone()],
        device_address: device,
        store,
        ca,
        publisher,
        pace: Pace {
            interval: settings.audit.checkpoint_interval,
            entries: u64::from(settings.audit.checkpoint_entries),
        },
        clock,
        doors,
        founding,
        revocation_changes,
        events,
        wrong_tokens_per_minute: settings.limits.wrong_tokens_per_minute,
        rule_holds: Budget {
            least: settings.posture.quarantines_per_hour,
            percent: settings.posture.quarantines_percent,
        },
        issuance: Issuance {
            device_renewals_per_hour: settings.limits.device_renewals_per_hour,
            batch_enrolments_per_minute: settings.limits.batch_enrolments_per_minute,
            site_enrolments_per_minute: settings.limits.site_enrolments_per_minute,
        },
        rails: limits_of(settings),
        alarms,
    })?;
    Ok((Arc::new(app), refusals, raised))
}

fn local_url(scheme: &str, listener: &TcpListener) -> Result<String, ServeError> {
    let address = listener.local_addr();
    let mut address = address.map_err(|source| ServeError::Io { doing: "read a port".to_owned(), source })?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Ok(format!("{scheme}://{address}"))
}

/// What is started, and by what it ends.
struct Started<'a> {
    app: &'a Arc<App>,
    settings: &'a Settings,
    stop: &'a Stop,
    fatal: &'a watch::Sender<Option<String>>,
    refusals: Refusals,
}

/// What the doors refused and the log has to hear of.
type Refusals = mpsc::Receiver<RefusedAtDoor>;

async fn start(running: &mut JoinSet<()>, started: Started<'_>, sockets: Sockets) -> Result<(), ServeError> {
    let Started { app, settings, stop, fatal, refusals } = started;
    let provider = provider();
    let issued = app.issue_server_certificate().await?;
    let identity = ServerIdentity::new(issued.chain, issued.key, Arc::clone(&provider))?;
    let source =
        TlsSource { identity: identity.clone(), provider: Arc::clone(&provider), clock: app.clock().clone() };
    let verifier = |auth| {
        let issuers: Vec<_> = app.ca().leaf_issuers().into_iter().map(CertificateDer::from).collect();
        LiveClientVerifier::new(&issuers, auth, app.doors().clone(), Arc::clone(&provider))
    };
    let versions = if settings.est.tls12 { Versions::Tls12And13 } else { Versions::Tls13 };
    let device_tls = source.device(Arc::new(verifier(ClientAuth::Optional)?), versions)?;
    let mqtt_tls = source.mqtt(Arc::new(verifier(ClientAuth::Required)?.with_observers()))?;
    let admin_tls = source.admin()?;
    let limits = |parts| Limits {
        connections: connections(settings.limits.connections, parts),
        handshake_deadline: settings.limits.handshake,
        drain_deadline: settings.limits.shutdown,
        ..Limits::default()
    };
    let doors = app.doors();
    let secured = |config| Secured { config, doors: doors.clone() };
    let store = app.store().clone();
    let arrivals = Arrivals::new(move || Box::new(store.announce()));

    let door = https(app, settings, http::est::routes(Routes::new(Arc::clone(app), Entrance::Device)));
    let handler = move |connection| door.clone().serve(connection);
    let device = Secured { config: device_tls, doors: doors.clone().on_arrival(arrivals) };
    running.spawn(serve_tls(sockets.device, device, limits(DEVICE_PARTS), stop.clone(), handler));
    let door = https(app, settings, http::admin(Routes::new(Arc::clone(app), Entrance::Admin)));
    let handler = move |connection| door.clone().serve(connection);
    running.spawn(serve_tls(sockets.admin, secured(admin_tls), limits(OTHER_PARTS), stop.clone(), handler));
    let door = https(app, settings, http::status::routes(Routes::new(Arc::clone(app), Entrance::Status)));
    let handler = move |connection| door.clone().serve(connection);
    running.spawn(serve_plain(sockets.status, doors.clone(), limits(OTHER_PARTS), stop.clone(), handler));
    let stopped = || {
        let stop = stop.clone();
        async move { stop.asked().await }
    };
    let (gate, bus) = (gate_limits(settings), Arc::new(Bus::default()));
    running.spawn(Arc::clone(&bus).run(Arc::clone(app), stopped()));
    let observers = Arc::new(ObserverGate::new(bus, doors.clone(), gate));
    let gate = Arc::new(Gate::new(Arc::clone(app), doors.clone(), gate));
    let gate = move |connection: Connection<Secure>| {
        let (gate, observers) = (Arc::clone(&gate), Arc::clone(&observers));
        async move {
            match connection.peer.observer {
                // Boxed, so that a device's session does not carry the room of an observer's.
                Some(_) => Box::pin(observers.serve(connection)).await,
                None => gate.serve(connection).await,
            }
        }
    };
    running.spawn(serve_tls(sockets.mqtt, secured(mqtt_tls), limits(MQTT_PARTS), stop.clone(), gate));
    running.spawn(tasks::checkpoint(Arc::clone(app), fatal.clone(), stopped()));
    let show = move |issued: ServerCertificate| identity.replace(issued.chain, issued.key);
    running.spawn(tasks::server_certificate(Arc::clone(app), issued.life, show, stopped()));
    running.spawn(tasks::refusals(Arc::clone(app), refusals, stopped()));
    running.spawn(tasks::expire(Arc::clone(app), settings.posture.history_days, stopped()));
    running.spawn(tasks::sweep(Arc::clone(app), stopped()));
    let (registry, feed, asked) = (Arc::clone(&doors.registry), Arc::clone(app.event_feed()), stopped());
    running.spawn(async move {
        asked.await;
        feed.close();
        // Not among the fields of the event: those are evaluated only where somebody listens to it.
        let sessions = registry.close_sessions();
        tracing::debug!(sessions, "sessions ended for the stop");
    });
    Ok(())
}

fn gate_limits(settings: &Settings) -> gate::Limits {
    let (mqtt, second) = (&settings.mqtt, Duration::from_secs(1));
    let bytes = mqtt.kib_per_second.saturating_mul(1024);
    gate::Limits {
        connect_deadline: settings.limits.handshake,
        write: mqtt.write,
        keep_alive_cap_s: mqtt.keep_alive_cap_s,
        puback: mqtt.puback,
        look: mqtt.look,
        sessions: Rate::new(mqtt.connects_per_minute, Duration::from_secs(60), mqtt.connects_per_minute),
        rates: Rates {
            packets: Rate::new(mqtt.packets_per_second, second, mqtt.packets_per_second.saturating_mul(10)),
            bytes: Rate::new(bytes, second, bytes.saturating_mul(16)),
        },
        ..gate::Limits::default()
    }
}

fn https(app: &Arc<App>, settings: &Settings, routes: Routes) -> HttpDoor {
    let limits = HttpLimits {
        head_deadline: settings.limits.handshake,
        body_deadline: settings.limits.body,
        ..HttpLimits::default()
    };
    HttpDoor::new(routes.finish(), judge(app), limits).on_stranger(app.doors())
}

/// Judges a peer for each of its requests by the table status × door.
fn judge(app: &Arc<App>) -> Judge {
    let doors = app.doors().clone();
    Arc::new(move |peer| http::auth::judge(&doors, peer))
}

/// Connections that a listener with so many parts of this process's descriptors may hold.
fn connections(wanted: u32, parts: u32) -> u32 {
    match descriptors::raise_limit() {
        Ok(limit) => descriptors::share(limit, (parts, PARTS), wanted),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            wanted.min(200)
        }
    }
}

async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn write_endpoints(dir: &Path, app: &App) -> Result<(), ServeError> {
    let path = dir.join(ENDPOINTS);
    let text = serde_json::to_vec(app.local()).map_err(io::Error::other);
    text.and_then(|text| write_durably(&path, &text))
        .map_err(|source| ServeError::Io { doing: format!("write {}", path.display()), source })
}

fn remove_endpoints(dir: &Path) -> Result<(), ServeError> {
    let path = dir.join(ENDPOINTS);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ServeError::Io { doing: format!("remove {}", path.display()), source })
        }
        _ => Ok(()),
    }
}
