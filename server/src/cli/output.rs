//! What a command prints: tables for people, JSON for machines, progress only where somebody watches.

use super::error::Error;
use super::table::{self, Column, Look};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::io::{self, IsTerminal as _, Write as _};

/// Who reads the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A person.
    Person,
    /// A program: `--json`.
    Program,
}

/// Standard output and error as a command sees them.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Who reads it.
    pub reader: Reader,
    /// How tables look.
    pub look: Look,
}

impl Output {
    /// The process's own output. `NO_COLOR` (any value but an empty one) takes the attributes away.
    pub fn of_process(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let columns = comfy_table::Table::new().width();
        Self {
            reader: if json { Reader::Program } else { Reader::Person },
            look: Look {
                width: columns.filter(|columns| terminal && *columns >= 40),
                styled: terminal && !plain,
            },
        }
    }

    /// Whether `--json` was given.
    pub fn is_json(&self) -> bool {
        self.reader == Reader::Program
    }

    /// Prints `text` and a line end.
    ///
    /// # Errors
    /// [`Error::Output`] when standard output cannot be written.
    pub fn line(&self, text: &str) -> Result<(), Error> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// [`Error::Output`] when standard output cannot be written.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(Error::Output)
    }

    /// Prints `value` as JSON, indented.
    ///
    /// # Errors
    /// [`Error::Output`] when standard output cannot be written.
    pub fn json(&self, value: &Value) -> Result<(), Error> {
        self.line(&format!("{value:#}"))
    }

    /// Prints items: as a JSON array, or as a listing, or `nothing` in words.
    ///
    /// # Errors
    /// [`Error::Output`] when standard output cannot be written.
    pub fn items(&self, items: Vec<Value>, columns: &[Column], nothing: &str) -> Result<(), Error> {
        match self.reader {
            Reader::Program => self.json(&Value::Array(items)),
            Reader::Person => {
                let text = table::listing(&items, columns, self.look);
                self.line(text.as_deref().unwrap_or(nothing))
            }
        }
    }

    /// Prints one thing: as JSON, or as rows.
    ///
    /// # Errors
    /// [`Error::Output`] when standard output cannot be written.
    pub fn item(&self, item: &Value, rows: &[Column]) -> Result<(), Error> {
        match self.reader {
            Reader::Program => self.json(item),
            Reader::Person => self.line(&table::record(item, rows, self.look)),
        }
    }

    /// Says something to a person on standard error; programs do not hear it.
    pub fn notice(&self, text: &str) {
        if self.reader == Reader::Person {
            say(text);
        }
    }

    /// Says on standard error what has to be said whoever reads the output: what is about to be signed.
    pub fn tell(&self, text: &str) {
        say(text);
    }
}

/// A line on standard error. When nobody reads that any more, it is no reason to fail, nor to stop half-way.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A bar on standard error while many things are done; nothing at all unless that is a terminal.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar for `total` things, called `what` in the plural.
    pub fn of(total: u64, what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Self(bar)
    }

    /// `count` more are done.
    pub fn advance(&self, count: u64) {
        self.0.inc(count);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
