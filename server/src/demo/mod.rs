//! The story told with commands against child processes.
//!
//! `muster demo` lives through the life of one device on this machine. Every step is a command a person could type,
//! run as a child process in a directory of its own; what is shown is what came back. The judge is not ours: where a
//! certificate or a revocation list is judged, `openssl` does it, and without it the step fails. Children
//! end with the demo, also when it is interrupted or a step panics (not when it is killed with SIGKILL), and the
//! directory goes with them unless it is to be kept.

mod call;
mod company;
mod false_server;
mod farewell;
mod line;
mod proof;
mod robbery;
mod scene;
mod stage;
mod story;
mod teller;
mod thief;

use crate::cli::DemoArgs;
use muster_wire::problem::Exit;
use scene::Scene;
use stage::{Broken, Stage};
use std::time::Instant;
use story::Story;
use teller::Teller;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs the demo and says whether every step held.
pub fn run(args: &DemoArgs, json: bool) -> Exit {
    let mut teller = Teller::of_process(json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => {
            teller.trouble(&format!("No task can be run: {cause}"));
            return Exit::Failed;
        }
    };
    runtime.block_on(play(args, &mut teller))
}

async fn play(args: &DemoArgs, teller: &mut Teller) -> Exit {
    let stage = match Stage::set() {
        Ok(stage) => stage,
        Err(broken) => {
            teller.trouble(&broken.in_words());
            return Exit::Failed;
        }
    };
    let mut story = Story::on(stage);
    let ending = match stop_signals() {
        Ok([mut interrupt, mut terminate, mut hangup]) => tokio::select! {
            ending = tell(&mut story, teller) => ending,
            _ = interrupt.recv() => Ending::Interrupted,
            _ = terminate.recv() => Ending::Interrupted,
            _ = hangup.recv() => Ending::Interrupted,
        },
        Err(cause) => {
            teller.trouble(&format!("Signals cannot be watched: {cause}"));
            Ending::Broken
        }
    };
    let kept = story.end(args.keep).await;
    teller.farewell(ending, kept.as_deref());
    if ending == Ending::Held { Exit::Done } else { Exit::Failed }
}

/// How the story ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Every step held.
    Held,
    /// A step did not hold.
    Broken,
    /// Somebody wanted no more of it.
    Interrupted,
}

fn stop_signals() -> std::io::Result<[Signal; 3]> {
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
}

/// Plays every scene until one does not hold.
async fn tell(story: &mut Story, teller: &mut Teller) -> Ending {
    teller.opening(story.directory());
    for scene in Scene::ALL {
        let started = Instant::now();
        teller.scene(*scene);
        let outcome = story.play(*scene, teller).await;
        let log = match &outcome {
            Ok(_) => None,
            // The server has nothing to say about that.
            Err(Broken::Missing { .. }) => Some(String::new()),
            Err(_) => Some(story.last_words()),
        };
        teller.verdict(*scene, outcome, started.elapsed());
        if let Some(log) = log {
            teller.aside("the server's last words", &log);
            return Ending::Broken;
        }
    }
    Ending::Held
}
