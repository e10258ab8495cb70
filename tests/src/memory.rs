//! How much memory a program needed at its peak.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Launch;

/// Runs `program` to its end and answers its exit code with the highest resident size seen, in KiB.
///
/// Reads the kernel's own high-water mark (`VmHWM`) of the running process again and again until it is gone, so that
/// no other process is counted with it; growth in the last few microseconds of a run may be missed.
///
/// # Panics
/// When the program cannot be started.
pub fn peak_of(program: &Path, arguments: &[&str], input: &[u8]) -> (Option<i32>, u64) {
    let mut command: Command = Launch::plain().command(program, arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
    if let Some(mut stdin) = child.stdin.take() {
        // A program that refuses early closes its end first; its exit code tells.
        let _ = stdin.write_all(input);
    }
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        peak =
            peak.max(std::fs::read_to_string(&status).ok().and_then(|text| high_water(&text)).unwrap_or(0));
        if let Some(ended) = child.try_wait().expect("a child can be waited for") {
            return (ended.code(), peak);
        }
        std::thread::yield_now();
    }
}

fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_takes_more_memory_is_seen_to_take_more() {
        let copy = |block: &str| {
            peak_of(Path::new("dd"), &["if=/dev/zero", "of=/dev/null", "count=10", block], b"").1
        };
        let (small, large) = (copy("bs=1M"), copy("bs=64M"));
        assert!(large > small + 60 * 1024, "{small} KiB, {large} KiB");
        assert_eq!(high_water("VmPeak:\t 1 kB\nVmHWM:\t    2048 kB\n"), Some(2048));
    }

    #[test]
    fn the_exit_code_comes_with_the_peak() {
        let (code, peak) = peak_of(Path::new("/bin/sh"), &["-c", "read word; exit $word"], b"7\n");
        assert_eq!(code, Some(7));
        assert!(peak > 0);
    }
}
