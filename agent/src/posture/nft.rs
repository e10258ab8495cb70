//! The only program that a collector starts: `nft -j list ruleset`, on the machine itself and nowhere else.
//!
//! It gets no shell, no environment, no input, five seconds and a megabyte of answer. Beneath another root nothing
//! is started; a tree may carry the answer as a file.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::tree::Tree;

/// The answer of `nft -j list ruleset` in a tree that is not the machine.
pub(super) const CARRIED: &str = "/run/muster-agent/nft-ruleset.json";

const PROGRAMS: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
const LIMIT: Duration = Duration::from_secs(5);
const CAP: u64 = 1024 * 1024;

/// The rules in JSON, and where they are from.
pub(super) fn ruleset(tree: &Tree) -> (Result<Vec<u8>, String>, String) {
    if !tree.is_machine() {
        let carried = tree.bytes(CARRIED, CAP).map_err(|why| format!("{CARRIED} {why}"));
        return (carried, CARRIED.to_owned());
    }
    let source = "nft -j list ruleset".to_owned();
    match PROGRAMS.iter().find(|program| tree.surely_has(program)) {
        Some(program) => (ask(program, &["-j", "list", "ruleset"], LIMIT), source),
        None => (Err("nft is not installed, so the loaded rules cannot be listed".to_owned()), source),
    }
}

fn ask(program: &str, words: &[&str], limit: Duration) -> Result<Vec<u8>, String> {
    let mut command = Command::new(program);
    command.args(words).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("{program} does not start: {error}"))?;
    let answer = answer(&mut child, limit);
    if answer.is_err() {
        // Killing what has ended is no harm; waiting then returns at once.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| format!("{program} cannot be waited for: {error}"))?;
    match answer {
        Err(why) => Err(format!("{program} {why}")),
        Ok(_) if !status.success() => Err(format!("{program} refused ({status}); it needs CAP_NET_ADMIN")),
        Ok(bytes) if bytes.len() as u64 > CAP => Err(format!("{program} answered more than {CAP} bytes")),
        Ok(bytes) => Ok(bytes),
    }
}

/// What the child writes until it closes its end or the time is over.
fn answer(child: &mut Child, limit: Duration) -> Result<Vec<u8>, String> {
    let Some(output) = child.stdout.take() else { return Err("has no output".to_owned()) };
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.take(CAP.saturating_add(1)).read_to_end(&mut bytes);
        // Nobody listens any more when the time is over.
        let _ = tell.send(read.map(|_| bytes));
    });
    match told.recv_timeout(limit) {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(format!("broke off: {error}")),
        Err(_) => Err(format!("did not answer within {} s", limit.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let refused = ask("/bin/sleep", &["1000"], Duration::from_millis(50)).unwrap_err();
        assert!(refused.contains("did not answer"), "{refused}");
    }

    #[test]
    fn a_program_that_fails_or_says_too_much_answers_nothing() {
        assert!(ask("/bin/false", &[], LIMIT).unwrap_err().contains("refused"));
        assert!(ask("/bin/cat", &["/dev/zero"], LIMIT).is_err());
        assert!(ask("/nowhere/nft", &[], LIMIT).unwrap_err().contains("does not start"));
    }

    #[test]
    fn what_a_program_says_is_its_answer() {
        assert_eq!(ask("/bin/echo", &["{}"], LIMIT).unwrap(), b"{}\n");
    }
}
