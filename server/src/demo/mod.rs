//! The story told with commands against child processes.
//!
//! `muster demo` lives through the life of one device on this machine. Every step is a command a person could type,
//! run as a child process in a directory of its own; what is shown is what came back. The judge is not ours: where a
//! certificate or a revocation list is judged, `openssl` does it, and without it the step fails. Children never
//! outlive the demo, however it ends, and the directory goes with them unless it is to be kept.

mod call;
mod proof;
mod scene;
mod stage;
mod story;
mod teller;

use crate::cli::DemoArgs;
use muster_wire::problem::Exit;
use scene::Scene;
use stage::Stage;
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
    let ok = match stop_signals() {
        Ok((mut interrupt, mut terminate)) => tokio::select! {
            ok = tell(&mut story, teller) => ok,
            _ = interrupt.recv() => false,
            _ = terminate.recv() => false,
        },
        Err(cause) => {
            teller.trouble(&format!("Signals cannot be watched: {cause}"));
            false
        }
    };
    let kept = story.end(args.keep).await;
    teller.farewell(ok, kept.as_deref());
    if ok { Exit::Done } else { Exit::Failed }
}

fn stop_signals() -> std::io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
}

/// Plays every scene until one does not hold.
async fn tell(story: &mut Story, teller: &mut Teller) -> bool {
    teller.opening(story.directory());
    for scene in Scene::ALL {
        let started = Instant::now();
        teller.scene(*scene);
        let outcome = story.play(*scene, teller).await;
        let held = outcome.is_ok();
        teller.verdict(*scene, outcome, started.elapsed());
        if !held {
            teller.aside("the server's last words", &story.last_words());
            return false;
        }
    }
    true
}
