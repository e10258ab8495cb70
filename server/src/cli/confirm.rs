//! Asking before something is destroyed.
//!
//! A person at a terminal types `yes`. Without a terminal nobody can answer, so the command is refused unless
//! `--yes` stands on the command line: a script says in advance that it means it.

use super::Context;
use super::error::Error;
use super::output::Reader;
use super::table;
use serde_json::{Value, json};
use std::io::{self, BufRead, IsTerminal as _, Write};

/// What is about to happen, for a person and for a program.
#[derive(Debug)]
pub struct Intent<'a> {
    /// The act, as the API spells it: `device.revoke`.
    pub action: &'static str,
    /// One sentence: what will be so afterwards, and whether there is a way back.
    pub consequence: String,
    /// What it happens to.
    pub target: &'a Value,
}

/// Whether the act shall be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carry it out.
    Go,
    /// It was a dry run; what would happen has been printed.
    OnlyShown,
}

/// Shows `intent` and asks for consent, unless it is a dry run or consent was given in advance.
///
/// # Errors
/// [`Error::Refused`] when nobody consents.
pub fn consent(context: &Context, intent: &Intent<'_>, dry_run: bool) -> Result<Verdict, Error> {
    consent_by(context, intent, dry_run, "yes")
}

/// As [`consent`], where the person types `word`: the number of what it happens to, for instance.
///
/// # Errors
/// As [`consent`].
pub fn consent_by(
    context: &Context,
    intent: &Intent<'_>,
    dry_run: bool,
    word: &str,
) -> Result<Verdict, Error> {
    if dry_run {
        show(context, intent)?;
        return Ok(Verdict::OnlyShown);
    }
    if context.global.yes {
        return Ok(Verdict::Go);
    }
    if !somebody_is_there() {
        return Err(Error::refused(
            format!("{} Nobody is there to confirm it", intent.consequence),
            "Add --yes to do it, or --dry-run to see what it would do.",
        ));
    }
    ask((&intent.consequence, word), &mut io::stdin().lock(), &mut io::stderr())
}

/// Whether a person at a terminal can read a question and answer it.
pub fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn show(context: &Context, intent: &Intent<'_>) -> Result<(), Error> {
    match context.out.reader {
        Reader::Program => context.out.json(&json!({
            "dry_run": true,
            "action": intent.action,
            "consequence": intent.consequence,
            "target": intent.target,
        })),
        Reader::Person => {
            context.out.line(&format!("Dry run, nothing is changed. {}", table::plain(&intent.consequence)))
        }
    }
}

fn ask(
    (consequence, word): (&str, &str),
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<Verdict, Error> {
    let mut answer = String::new();
    write!(output, "{}\nType {word} to go on: ", table::plain(consequence))
        .and_then(|()| output.flush())
        .and_then(|()| input.read_line(&mut answer))
        .map_err(|cause| Error::failed(format!("The answer cannot be read: {cause}"), "Add --yes."))?;
    if answer.trim() == word {
        return Ok(Verdict::Go);
    }
    let remedy = format!("Run it again and type {word}, or add --yes.");
    Err(Error::refused("Not confirmed; nothing was changed", remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Result<Verdict, Error> {
        ask(("It ends.", "yes"), &mut text.as_bytes(), &mut Vec::new())
    }

    #[test]
    fn only_the_word_yes_is_consent() {
        assert_eq!(answer("yes\n").unwrap(), Verdict::Go);
        for text in ["", "\n", "y\n", "no\n", "yes please\n", "YES\n"] {
            assert_eq!(answer(text).unwrap_err().exit() as u8, 3, "{text:?}");
        }
    }

    #[test]
    fn where_a_number_is_asked_for_yes_is_no_consent() {
        let by_number = |text: &str| ask(("It ends.", "12"), &mut text.as_bytes(), &mut Vec::new()).is_ok();
        assert!(by_number("12\n"));
        assert!(!by_number("yes\n") && !by_number("1\n"));
    }

    #[test]
    fn the_consequence_is_shown_before_the_question() {
        let mut shown = Vec::new();
        let _ = ask(("It ends.", "yes"), &mut "no\n".as_bytes(), &mut shown);
        assert!(String::from_utf8(shown).unwrap().starts_with("It ends.\n"));
    }
}
