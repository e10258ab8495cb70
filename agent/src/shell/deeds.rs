//! What takes its time or ends a life: phases of a wipe, hooks, and the end of the identity.
//!
//! A phase may overwrite a whole disk, so it runs on a thread of its own while the session stays open. A process that ends
//! meanwhile is a kill like any other: the next start goes on with the phase.

use std::path::{Path, PathBuf};

use muster_wire::id::OrderId;
use muster_wire::receipt::{ItemFate, ReceiptPhase};
use tokio::sync::mpsc;

use super::failure::Failure;
use super::files::{FileError, Operation};
use super::place::Place;
use crate::apply;
use crate::core::session::Event;
use crate::core::wiping::{Hook, ManagedFile, WipeTask};
use crate::wipe::{self, Ledger};

/// Deeds that nobody has looked at yet; there is one phase and few hooks at a time.
const DONE: usize = 16;

/// Deeds on threads of their own, and what came of them.
#[derive(Debug)]
pub struct Deeds {
    tell: mpsc::Sender<Result<Event, Failure>>,
    done: mpsc::Receiver<Result<Event, Failure>>,
}

impl Default for Deeds {
    fn default() -> Self {
        let (tell, done) = mpsc::channel(DONE);
        Self { tell, done }
    }
}

impl Deeds {
    /// Begins a phase of a wipe in the tree at `root` with the roots `declared`.
    pub fn wipe(&self, engine: wipe::Engine, state_dir: PathBuf, task: WipeTask, phase: ReceiptPhase) {
        self.begin(move || {
            let report = engine.phase(&task, phase, &Applied(state_dir))?;
            Ok(Event::Wiped(task.order, Box::new(report)))
        });
    }

    /// Begins to run a hook of the device at `root`.
    pub fn hook(&self, root: PathBuf, order: OrderId, hook: Hook) {
        self.begin(move || Ok(Event::HookRan(order, wipe::run_hook(&root, hook))));
    }

    /// Begins to run a hook of the device at `root` for its lease.
    pub fn lapse_hook(&self, root: PathBuf, hook: Hook) {
        self.begin(move || Ok(Event::LapseHookRan(hook, wipe::run_hook(&root, hook))));
    }

    /// What came of the next deed to end.
    ///
    /// # Errors
    /// [`Failure`] when the deed could not even be recorded.
    pub async fn next(&mut self) -> Result<Option<Event>, Failure> {
        self.done.recv().await.transpose()
    }

    fn begin(&self, deed: impl FnOnce() -> Result<Event, Failure> + Send + 'static) {
        let tell = self.tell.clone();
        // An agent that is gone needs no answer.
        tokio::task::spawn_blocking(move || drop(tell.blocking_send(deed())));
    }
}

/// The applier's memory in this state directory.
#[derive(Debug)]
struct Applied(PathBuf);

impl Ledger for Applied {
    fn managed(&self) -> Result<Vec<ManagedFile>, String> {
        apply::managed(&self.0).map_err(|error| error.to_string())
    }

    fn forget(&self) -> Result<ItemFate, String> {
        // What a kill left there goes first, before something else takes its name.
        let mut gone = self.shred_aside()?;
        apply::put_aside(&self.0).map_err(|error| error.to_string())?;
        gone.extend(self.shred_aside()?);
        Ok(match gone[..] {
            [] => ItemFate::Kept,
            _ if gone.iter().all(|is_cleared| *is_cleared) => ItemFate::Cleared,
            _ => ItemFate::Deleted,
        })
    }
}

impl Applied {
    /// Destroys what the applier knew; answers of each thing that was there whether every block was overwritten.
    fn shred_aside(&self) -> Result<Vec<bool>, String> {
        let shredded = apply::ASIDE.iter().map(|name| wipe::shred(&self.0.join(name)));
        let shredded = shredded.filter_map(Result::transpose).collect::<Result<_, _>>();
        shredded.map_err(|error| format!("what the agent remembers cannot be destroyed: {error}"))
    }
}

/// What the agent keeps of a life and destroys at its end: keys first.
pub fn own_files(place: &Place) -> Vec<PathBuf> {
    let dir = place.keys().dir().to_owned();
    let keys =
        ["key.pem", "next-key.pem", "certificate.pem", "next-certificate.pem"].map(|name| dir.join(name));
    let documents = ["trust", "authority", "applied", "lease"].map(|name| place.state_dir.join(name));
    let aside = apply::ASIDE.map(|name| place.state_dir.join(name));
    keys.into_iter().chain(documents).chain(aside).collect()
}

/// Destroys what is left of a life that is over: keys first, then everything else but the journal, which says so.
///
/// # Errors
/// [`Failure::File`]; doing it again finishes it.
pub fn end_life(place: &Place) -> Result<(), Failure> {
    for path in own_files(place) {
        wipe::shred(&path).map_err(|source| failed(&path, source))?;
    }
    for name in ["outbox", "wipe"] {
        let path = place.state_dir.join(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&path, error)),
            _ => {}
        }
    }
    Ok(super::files::sync_dir(&place.state_dir)?)
}

fn failed(path: &Path, source: std::io::Error) -> Failure {
    FileError { operation: Operation::Remove, path: path.to_owned(), source }.into()
}
