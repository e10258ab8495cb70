//! Reading a secret from a terminal without showing it.

use std::io::{self, BufRead as _, BufReader, Read};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// A terminal that shows nothing that is typed, until this value is dropped. A kill leaves it so: `stty echo`.
struct Silenced<T: AsFd> {
    terminal: T,
    former: Termios,
}

impl<T: AsFd> Silenced<T> {
    fn new(terminal: T) -> io::Result<Self> {
        let former = tcgetattr(&terminal)?;
        let mut silent = former.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, former })
    }
}

impl<T: AsFd> Drop for Silenced<T> {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.former);
    }
}

/// Reads one line of at most `cap` bytes, unseen.
///
/// # Errors
/// What the terminal answers, and [`io::ErrorKind::FileTooLarge`] beyond `cap`.
pub(super) fn read_unseen(terminal: impl AsFd + Read, cap: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let descriptor = terminal.as_fd().try_clone_to_owned()?;
    let _silenced = Silenced::new(descriptor)?;
    let mut line = Zeroizing::new(Vec::with_capacity(cap));
    let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    BufReader::new(terminal).take(limit).read_until(b'\n', &mut line)?;
    if line.len() > cap { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write as _;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    fn terminal() -> (File, File) {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap().into_string().unwrap();
        (File::from(person), OpenOptions::new().read(true).write(true).open(name).unwrap())
    }

    #[test]
    fn what_is_typed_is_read_and_never_shown_and_the_terminal_is_as_before() {
        let (mut person, program) = terminal();
        let silenced = Silenced::new(program.try_clone().unwrap()).unwrap();
        person.write_all(b"muster://secret\n").unwrap();
        let mut read = BufReader::new(program.try_clone().unwrap());
        let mut line = String::new();
        read.read_line(&mut line).unwrap();
        assert_eq!(line, "muster://secret\n");
        drop(silenced);
        assert!(tcgetattr(&program).unwrap().local_modes.contains(LocalModes::ECHO));
        (&program).write_all(b"done").unwrap();
        let mut shown = [0; 64];
        let count = person.read(&mut shown).unwrap();
        let shown = String::from_utf8_lossy(&shown[..count]).into_owned();
        assert!(shown.ends_with("done") && !shown.contains("secret"), "{shown:?}");
    }
}
