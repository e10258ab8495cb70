//! How the demo is told: to a person step by step, to a program a line of JSON for each step and one at the end.

use super::Ending;
use super::scene::{Chapter, Scene};
use super::stage::Broken;
use crate::cli::table::plain;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest line of a command's output, in characters; what is longer is broken.
const WIDTH: usize = 118;

/// Tells the story and remembers what held.
#[derive(Debug)]
pub(super) struct Teller {
    json: bool,
    styled: bool,
    started: Instant,
    steps: Vec<Value>,
    /// How many steps of each chapter held, how many did not, and how long they took.
    chapters: Vec<(Chapter, Tally)>,
}

/// What a chapter came to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    held: usize,
    broken: usize,
    took: Duration,
}

impl Teller {
    /// A teller on this process's standard output.
    pub(super) fn of_process(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let styled = std::io::stdout().is_terminal() && !plain;
        Self { json, styled, started: Instant::now(), steps: Vec::new(), chapters: Vec::new() }
    }

    /// Before the first step.
    pub(super) fn opening(&mut self, directory: &Path) {
        self.say(&self.style("1", "The life of one device, on this machine."));
        self.say(&format!(
            "Each step is a command, run in {}; what you see is what came back.\n",
            directory.display()
        ));
    }

    /// A step begins.
    pub(super) fn scene(&mut self, scene: Scene) {
        let number = self.steps.len() + 1;
        self.say(&self.style("1", &format!("{number:>2}. {}", scene.title())));
    }

    /// A command is run.
    pub(super) fn command(&mut self, line: &str) {
        self.say(&format!("    {} {}", self.style("36", "$"), plain(line)));
    }

    /// Something that came back, long lines broken.
    pub(super) fn output(&mut self, text: &str) {
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            for part in broken(&plain(line)) {
                self.say(&format!("      {}", self.style("2", &part)));
            }
        }
    }

    /// A step is over.
    pub(super) fn verdict(&mut self, scene: Scene, outcome: Result<Value, Broken>, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let ok = outcome.is_ok();
        self.count(scene.chapter(), ok, took);
        let (mark, words) = match &outcome {
            Ok(_) => (self.style("32", "✓"), scene.claim().to_owned()),
            Err(broken) => (self.style("31", "✗"), plain(&broken.in_words())),
        };
        self.say(&format!("    {mark} {words} {}\n", self.style("2", &format!("({ms} ms)"))));
        let evidence = outcome.unwrap_or_else(|broken| json!({"failed": broken.in_words()}));
        let step = json!({"name": scene.name(), "ok": ok, "ms": ms, "evidence": evidence});
        if self.json {
            print(&step.to_string());
        }
        self.steps.push(step);
    }

    fn count(&mut self, chapter: Chapter, ok: bool, took: Duration) {
        if self.chapters.last().is_none_or(|(last, _)| *last != chapter) {
            self.chapters.push((chapter, Tally::default()));
        }
        if let Some((_, tally)) = self.chapters.last_mut() {
            tally.held += usize::from(ok);
            tally.broken += usize::from(!ok);
            tally.took += took;
        }
    }

    /// All of it on one screen: a line for each chapter, with its steps and its time.
    fn summary(&self) {
        for chapter in Chapter::ALL {
            let of =
                |chapter: Chapter| Scene::ALL.iter().filter(move |scene| scene.chapter() == chapter).count();
            let told = self.chapters.iter().find(|(told, _)| told == chapter);
            let Tally { held, broken, took } = told.map_or(Tally::default(), |(_, tally)| *tally);
            let all = of(*chapter);
            let mark = match (held, broken) {
                (held, _) if held == all => self.style("32", "✓"),
                (_, 1..) => self.style("31", "✗"),
                _ => self.style("33", "–"),
            };
            let counted = format!("{held} of {all}");
            self.say(&format!("  {mark} {:<64} {counted:>6} {:>6.1} s", chapter.claim(), took.as_secs_f64()));
        }
    }

    /// Something that helps to understand a failure.
    pub(super) fn aside(&mut self, what: &str, text: &str) {
        if !text.is_empty() {
            self.say(&format!("    {what}:"));
            self.output(text);
        }
    }

    /// Something is wrong before or beside the story.
    pub(super) fn trouble(&mut self, what: &str) {
        crate::cli::output::say(&format!("error: {}", plain(what)));
    }

    /// After the last step.
    pub(super) fn farewell(&mut self, ending: Ending, kept: Option<&Path>) {
        let ok = ending == Ending::Held;
        let elapsed_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.json {
            print(&json!({"ok": ok, "elapsed_ms": elapsed_ms, "steps": self.steps}).to_string());
            return;
        }
        let held = self.steps.iter().filter(|step| step.get("ok") == Some(&Value::Bool(true))).count();
        let all = Scene::ALL.len();
        let verdict = match ending {
            Ending::Held => self.style("32", "Everything held"),
            Ending::Broken => self.style("31", "It did not hold"),
            Ending::Interrupted => self.style("33", "Interrupted"),
        };
        self.summary();
        self.say(&format!(
            "\n{verdict}: {held} of {all} steps in {:.1} s.",
            self.started.elapsed().as_secs_f64()
        ));
        match kept {
            Some(directory) => self.say(&after_keeping(directory)),
            None => self.say("Everything it made is gone again; `muster demo --keep` leaves it to look at."),
        }
        if ok {
            self.say(
                "Next, for real: `muster operator keygen you.key` on your own machine, `muster init`, `muster serve`;\n\
                 the README's five-minute start goes through it.",
            );
        }
    }

    fn say(&self, text: &str) {
        if !self.json {
            print(text);
        }
    }

    fn style(&self, code: &str, text: &str) -> String {
        if self.styled { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

fn after_keeping(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "Kept in {directory}. Look around:\n  muster serve --data-dir {directory}/server &\n  \
         muster --data-dir {directory}/server device list\n  \
         muster --data-dir {directory}/server audit tail\n  \
         muster audit verify {directory}/audit-copy"
    )
}

/// `line` in parts of at most [`WIDTH`] characters, broken between words where there are any.
fn broken(line: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    for word in line.split_inclusive(' ') {
        if !part.is_empty() && part.chars().count() + word.trim_end().chars().count() > WIDTH {
            parts.push(std::mem::take(&mut part).trim_end().to_owned());
        }
        part.push_str(word);
    }
    parts.push(part);
    parts
}

/// Prints a line; a reader that went away does not stop the story, whose children have to be ended in order.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words_and_lose_nothing() {
        let line = "word ".repeat(60).trim_end().to_owned();
        let parts = broken(&line);
        assert!(parts.len() > 1 && parts.iter().all(|part| part.chars().count() <= WIDTH));
        assert_eq!(parts.join(" "), line);
        assert_eq!(broken("  indented"), ["  indented"]);
        assert_eq!(broken(&"x".repeat(300)), ["x".repeat(300)]);
    }
}
