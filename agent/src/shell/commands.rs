//! The commands, from their words to their end.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read};

use muster_wire::digest::Sha256Digest;
use muster_wire::enrollment::EnrollmentString;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::boottime;
use super::cli;
use super::deeds;
use super::failure::Failure;
use super::files;
use super::http::Server;
use super::journal::Journal;
use super::keystore;
use super::lock;
use super::output::{self, Manner};
use super::place::Place;
use super::run::Hands;
use super::session::{self, Runner};
use super::terminal;
use crate::apply;
use crate::clock::Clock;
use crate::core::not_taken::NotTaken;
use crate::core::record::{Accepted, Past};
use crate::core::session::Shown;
use crate::core::status::LeaseStatus;
use crate::core::{Agent, Done, Door, EnrollOrder, Event, Refusal, RenewOrder, status};
use crate::posture;
use crate::wipe;

/// More than this is no enrolment string, whatever stands in the file.
const STRING_CAP: usize = 4096;

/// `muster-agent enroll`.
///
/// # Errors
/// [`Failure`], each with its remedy.
pub fn enroll(place: &Place, args: &cli::Enroll, manner: Manner) -> Result<(), Failure> {
    let string = read_string(args)?;
    let insisted = args.auth.as_deref().map(read_digest).transpose()?;
    keystore::subject(args.serial.as_deref())?;
    place.prepare()?;
    let _lock = lock::take(&place.state_dir)?;
    let (journal, records) = Journal::open(&place.journal())?;
    let past = Past::of(&records);
    place.agree_on_root(&past)?;
    if past.retired.is_some() {
        // A new life begins with nothing of the former.
        deeds::end_life(place)?;
    }
    let server = Server { host: string.host.clone(), port: string.port, root_spki: string.ca };
    let order = EnrollOrder {
        string,
        insisted,
        serial: args.serial.clone(),
        root: place.root_for(&past),
        patience: args.patience(),
    };
    let done = perform(place, journal, past, server, Event::Enroll(Box::new(order)))?;
    output::done(manner, &done, &current_status(place)?);
    Ok(())
}

/// `muster-agent renew`.
///
/// # Errors
/// [`Failure`], each with its remedy.
pub fn renew(place: &Place, args: &cli::Renew, manner: Manner) -> Result<(), Failure> {
    let not_enrolled = || Failure::from(Box::new(Refusal::NotEnrolled));
    match fs::metadata(&place.state_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_enrolled()),
        Ok(found) if !found.is_dir() => return Err(not_enrolled()),
        // Whatever else is wrong with it, taking the lock will say.
        _ => {}
    }
    let _lock = lock::take(&place.state_dir)?;
    let (journal, records) = Journal::open(&place.journal())?;
    let past = Past::of(&records);
    place.agree_on_root(&past)?;
    let server = past.accepted.as_ref().map(server_of).ok_or_else(not_enrolled)?;
    let order = RenewOrder { patience: args.patience(), door: Door::Est };
    let done = perform(place, journal, past, server, Event::Renew(order))?;
    output::done(manner, &done, &current_status(place)?);
    Ok(())
}

/// `muster-agent run`.
///
/// # Errors
/// [`Failure`] when the device is not enrolled, or cannot go on.
pub fn run(place: &Place, manner: Manner) -> Result<(), Failure> {
    let not_enrolled = || Failure::from(Box::new(Refusal::NotEnrolled));
    if !place.state_dir.is_dir() {
        return Err(not_enrolled());
    }
    let _lock = lock::take_to_run(&place.state_dir)?;
    let (journal, records) = Journal::open(&place.journal())?;
    let past = Past::of(&records);
    place.agree_on_root(&past)?;
    if past.retired.is_some() {
        // Perhaps a kill has left some of it.
        deeds::end_life(place)?;
        output::retired(manner);
        return Ok(());
    }
    let server = past.accepted.as_ref().map(server_of).ok_or_else(not_enrolled)?;
    let hands = Hands::new(place.clone(), journal, server, Clock::system());
    block_on(async {
        let (wish, stop) = watch::channel(false);
        let mut ended = Ended::listen().map_err(Failure::Runtime)?;
        let mut runner = Runner::begin(place.clone(), hands, past).await?;
        output::running(manner);
        let listening = async {
            ended.come().await;
            wish.send_replace(true);
            // The channel stays open until the runner is done.
            std::future::pending::<()>().await;
        };
        let telling = tell_of_baselines(runner.watch(), manner);
        tokio::select! {
            ran = runner.run(stop) => ran?,
            () = listening => {}
            () = telling => {}
        }
        if runner.has_retired() {
            output::retired(manner);
        }
        Ok(())
    })?
}

/// `muster-agent status`.
///
/// # Errors
/// [`Failure`] when the state directory cannot be read.
pub fn status(place: &Place, manner: Manner) -> Result<(), Failure> {
    let past = place.past()?;
    place.agree_on_root(&past)?;
    output::status(manner, &current_status(place)?);
    Ok(())
}

/// `muster-agent posture`, before and after enrolment.
///
/// # Errors
/// [`Failure`] when the state directory cannot be read.
pub fn posture(place: &Place, manner: Manner) -> Result<(), Failure> {
    let past = place.past()?;
    place.agree_on_root(&past)?;
    let now = Clock::system().now();
    let facts = posture::collect_with_state(&place.root_for(&past), &place.state_dir, now);
    output::posture(manner, &facts, now);
    Ok(())
}

/// `muster-agent plan`.
///
/// # Errors
/// [`Failure`] when the state directory cannot be read; [`Failure::Blocked`], after printing, when something that the
/// baseline enforces cannot be done.
pub fn plan(place: &Place, manner: Manner) -> Result<(), Failure> {
    let past = place.past()?;
    place.agree_on_root(&past)?;
    let accepted = past.accepted.as_ref().ok_or_else(|| Box::new(Refusal::NotEnrolled))?;
    let plan = apply::plan(&place.state_dir, &accepted.root, &accepted.declared)?;
    let not_taken = shown(place, &past).and_then(|shown| shown.not_taken);
    output::plan(manner, &plan, not_taken.as_ref());
    let blocked = plan.steps.iter().filter(|step| step.problem.is_some()).count();
    if blocked == 0 { Ok(()) } else { Err(Failure::Blocked { blocked, steps: plan.steps.len() }) }
}

/// `muster-agent wipe --rehearse`.
///
/// # Errors
/// [`Failure`] when the device is not enrolled, or cannot be looked at.
pub fn wipe(place: &Place, args: &cli::Wipe, manner: Manner) -> Result<(), Failure> {
    let past = place.past()?;
    place.agree_on_root(&past)?;
    let accepted = past.accepted.as_ref().ok_or_else(|| Box::new(Refusal::NotEnrolled))?;
    let engine = wipe::Engine::new(&place.state_dir, &accepted.root, &accepted.declared);
    let data_roots = if args.data_roots.is_empty() { &accepted.declared } else { &args.data_roots };
    let managed = apply::managed(&place.state_dir)?;
    let rehearsal = engine.rehearse(args.level, data_roots, &managed)?;
    output::rehearsal(manner, &rehearsal.with_own(&deeds::own_files(place)));
    Ok(())
}

/// The server that this device accepted.
pub(super) fn server_of(accepted: &Accepted) -> Server {
    Server { host: accepted.host.clone(), port: accepted.port, root_spki: accepted.root_spki }
}

/// Runs `future` to its end on this thread.
///
/// # Errors
/// [`Failure::Runtime`] when the runtime does not start.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let output = runtime.block_on(future);
    // A resolver that does not answer sits in a thread of its own; nobody waits for it.
    runtime.shutdown_background();
    Ok(output)
}

fn perform(
    place: &Place,
    journal: Journal,
    past: Past,
    server: Server,
    first: Event,
) -> Result<Done, Failure> {
    let held = place.held(&past)?;
    let clock = Clock::system();
    if let Some(leaf) = session::in_use(&held) {
        clock.never_before(leaf.not_before);
    }
    let mut agent = Agent::new(past, held);
    let mut hands = Hands::new(place.clone(), journal, server, clock);
    block_on(hands.drive(&mut agent, first))?
}

fn current_status(place: &Place) -> Result<status::Status, Failure> {
    let past = place.past()?;
    let is_running = lock::is_running(&place.state_dir);
    let boot = boottime::boot(&place.root_for(&past));
    let shown = shown(place, &past);
    let report = status::report(&past, &place.held(&past)?, shown.as_ref(), is_running);
    let lease = place.lease().filter(|lease| Some(lease.device) == report.device && past.is_enrolled());
    Ok(status::Status { lease: lease.map(|lease| LeaseStatus::of(&lease, &boot)), ..report })
}

/// What the agent of the life in hand said last.
fn shown(place: &Place, past: &Past) -> Option<Shown> {
    session::shown(place, past.proven.as_ref().map(|proven| proven.device))
}

/// Says what becomes of baselines, as it changes; never comes to an end.
async fn tell_of_baselines(mut shown: watch::Receiver<Shown>, manner: Manner) {
    let mut told: Option<NotTaken> = None;
    while shown.changed().await.is_ok() {
        let now = shown.borrow_and_update().clone();
        if now.not_taken != told {
            output::baseline(manner, now.not_taken.as_ref(), now.generation);
            told = now.not_taken;
        }
    }
    std::future::pending().await
}

/// The signals that end a running agent.
pub(super) struct Ended {
    terminate: Signal,
    interrupt: Signal,
}

impl Ended {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The enrolment string, from wherever the command line says. No message about it ever repeats any of it.
fn read_string(args: &cli::Enroll) -> Result<EnrollmentString, Failure> {
    let source = args.source.as_deref().unwrap_or("-");
    let bytes = if args.insecure_argv {
        Zeroizing::new(source.as_bytes().to_vec())
    } else if source.starts_with("muster:") {
        return Err(Failure::OnCommandLine);
    } else if source == "-" {
        let stdin = io::stdin().lock();
        if stdin.is_terminal() {
            output::aside("muster-agent: paste the enrolment string, which is not shown, then press Enter\n");
            terminal::read_unseen(stdin, STRING_CAP).map_err(Failure::Source)?
        } else {
            read_source(stdin)?
        }
    } else {
        match File::open(source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::NoSource { name: source.to_owned() });
            }
            opened => read_source(opened.map_err(Failure::Source)?)?,
        }
    };
    let not_text = |_| Failure::Source(io::ErrorKind::InvalidData.into());
    EnrollmentString::parse(std::str::from_utf8(&bytes).map_err(not_text)?).map_err(Failure::NotEnrolment)
}

/// The first `count` enrolment strings of a file or of standard input, one in a line.
pub(super) fn read_strings(source: &str, cap: usize, count: usize) -> Result<Vec<EnrollmentString>, Failure> {
    let bytes = match source {
        "-" => files::read_capped(io::stdin().lock(), cap),
        name => match File::open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::NoSource { name: name.to_owned() });
            }
            opened => files::read_capped(opened.map_err(Failure::Source)?, cap),
        },
    };
    let bytes = bytes.map(Zeroizing::new).map_err(Failure::Source)?;
    let not_text = |_| Failure::Source(io::ErrorKind::InvalidData.into());
    let lines = std::str::from_utf8(&bytes).map_err(not_text)?.lines();
    let lines = lines.map(str::trim).filter(|line| !line.is_empty()).take(count);
    let strings: Vec<_> =
        lines.map(EnrollmentString::parse).collect::<Result<_, _>>().map_err(Failure::NotEnrolment)?;
    if strings.len() < count {
        return Err(Failure::TooFewStrings { found: strings.len(), wanted: count });
    }
    Ok(strings)
}

fn read_source(source: impl Read) -> Result<Zeroizing<Vec<u8>>, Failure> {
    files::read_capped(source, STRING_CAP).map(Zeroizing::new).map_err(Failure::Source)
}

/// A digest as `muster init` prints it, in either spelling.
fn read_digest(text: &str) -> Result<Sha256Digest, Failure> {
    let lower = text.trim().to_ascii_lowercase();
    lower.parse().or_else(|_| Sha256Digest::from_base64url(text.trim())).map_err(|_| Failure::NotDigest)
}
