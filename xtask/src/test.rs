//! `cargo xtask test`: every test of the workspace, with what they need, and one closing line.
//!
//! Green means that every test ran and passed. A test that was ignored, or a run in which nothing ran, is red: a
//! skipped proof proves nothing.

use crate::packages;
use crate::task::{Failure, Workspace};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// How the task is spelled.
pub(crate) const USAGE: &str = "usage: cargo xtask test [--stories | --attacks] [--repeat N] [NAME]";

/// Which tests, and how often.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    /// `stories` or `attacks` alone; everything otherwise.
    only: Option<&'static str>,
    /// Rounds, at least one.
    repeat: usize,
    /// Only tests whose name contains this.
    name: Option<String>,
}

/// What the test programs said, summed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// Names of tests that failed or were ignored.
    named: Vec<String>,
}

/// Where the tests find the programs they drive.
#[derive(Debug)]
pub(crate) struct Programs {
    variables: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    /// Hands the programs to `command`.
    pub(crate) fn give_to(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, path)| (name, path)));
    }
}

/// Runs the tests that `arguments` ask for.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let options = parse(arguments)?;
    packages::ensure()?;
    let programs = build(workspace)?;
    let mut total = Tally::default();
    for round in 1..=options.repeat {
        if options.repeat > 1 {
            println!("round {round} of {}", options.repeat);
        }
        let (tally, success) = one_round(workspace, &options, &programs)?;
        total.add(&tally);
        if !success || tally.failed > 0 {
            break;
        }
        if tally.passed == 0 {
            return Err(Failure::red("no test ran", "name a test that exists"));
        }
    }
    for name in &total.named {
        println!("{name}");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    total.judge()
}

/// Builds the programs that the tests drive, with the features that the tests themselves are built with, so that
/// nothing is compiled twice.
pub(crate) fn build(workspace: &Workspace) -> Result<Programs, Failure> {
    let bin = packages::python(workspace)?;
    let status = workspace.cargo().args(["build", "--workspace", "--bins", "--tests", "--locked"]).status();
    if !status.map_err(|cause| Failure::Spawn { program: "cargo".into(), cause })?.success() {
        return Err(Failure::red("the workspace does not build", "read the first error above"));
    }
    let built = workspace.target.join("debug");
    Ok(Programs {
        variables: vec![
            ("MUSTER_BIN", built.join("muster")),
            ("MUSTER_AGENT_BIN", built.join("muster-agent")),
            ("MUSTER_PKILINT_BIN", bin.clone()),
            ("MUSTER_PYTHON", bin.join("python3")),
            ("MUSTER_REPOSITORY", workspace.root.clone()),
        ],
    })
}

fn one_round(
    workspace: &Workspace,
    options: &Options,
    programs: &Programs,
) -> Result<(Tally, bool), Failure> {
    let mut command = workspace.cargo();
    // `--workspace` even for one test program: another choice of packages unites other features and builds anew.
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    if let Some(only) = options.only {
        command.args(["--test", only]);
    }
    command.args(&options.name);
    programs.give_to(&mut command);
    // A proof compares snapshots; it does not propose new ones.
    command.env("INSTA_UPDATE", "no");
    let spawn = |cause| Failure::Spawn { program: "cargo".into(), cause };
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(spawn)?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.map_err(spawn)?;
            tally.read(&line);
            println!("{line}");
        }
    }
    let status = child.wait().map_err(spawn)?;
    Ok((tally, status.success()))
}

impl Tally {
    /// Takes in one line of a test program's output.
    fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            for part in counts.split(['.', ';']) {
                let mut words = part.split_whitespace();
                let (Some(count), Some(word)) =
                    (words.next().and_then(|count| count.parse::<usize>().ok()), words.next())
                else {
                    continue;
                };
                match word {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    "ignored" => self.ignored += count,
                    _ => {}
                }
            }
        } else if line.starts_with("test ") && (line.ends_with("... FAILED") || line.contains("... ignored"))
        {
            self.named.push(line.to_owned());
        }
    }

    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.named.extend(other.named.iter().cloned());
    }

    fn judge(&self) -> Result<(), Failure> {
        if self.failed > 0 {
            return Err(Failure::red(
                format!("{} tests failed", self.failed),
                "the names stand above; `cargo xtask test NAME` runs one again",
            ));
        }
        if self.ignored > 0 {
            return Err(Failure::red(
                format!("{} tests were ignored", self.ignored),
                "take `#[ignore]` off, or take the test out",
            ));
        }
        if self.passed == 0 {
            return Err(Failure::red("no test ran", "read what cargo said above"));
        }
        Ok(())
    }
}

fn parse(arguments: &[String]) -> Result<Options, Failure> {
    let usage = || Failure::Usage { text: USAGE.to_owned() };
    let mut options = Options { only: None, repeat: 1, name: None };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--stories" if options.only.is_none() => options.only = Some("stories"),
            "--attacks" if options.only.is_none() => options.only = Some("attacks"),
            "--repeat" => {
                let count = words.next().and_then(|count| count.parse().ok()).filter(|count| *count > 0);
                options.repeat = count.ok_or_else(usage)?;
            }
            name if !name.starts_with('-') && options.name.is_none() => options.name = Some(name.to_owned()),
            _ => return Err(usage()),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &str) -> Tally {
        let mut tally = Tally::default();
        lines.lines().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn counts_are_summed_over_test_programs_and_documentation() {
        let seen = tally(
            "test a ... ok\n\
             test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 8.97s\n\
             test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s\n",
        );
        assert_eq!((seen.passed, seen.failed, seen.ignored), (15, 1, 0));
    }

    #[test]
    fn a_failed_test_is_named_and_red() {
        let seen = tally(
            "test store::loses_nothing ... FAILED\ntest result: FAILED. 0 passed; 1 failed; 0 ignored;",
        );
        assert_eq!(seen.named, ["test store::loses_nothing ... FAILED"]);
        assert!(seen.judge().is_err());
    }

    #[test]
    fn an_ignored_test_is_red_though_all_others_passed() {
        let seen = tally("test slow ... ignored, too slow\ntest result: ok. 9 passed; 0 failed; 1 ignored;");
        assert_eq!((seen.passed, seen.named.len()), (9, 1));
        assert!(seen.judge().is_err());
    }

    #[test]
    fn a_run_without_tests_is_red() {
        assert!(tally("test result: ok. 0 passed; 0 failed; 0 ignored;").judge().is_err());
        assert!(tally("test result: ok. 1 passed; 0 failed; 0 ignored;").judge().is_ok());
    }

    #[test]
    fn options_are_read_and_nonsense_is_refused() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let parsed = parse(&words("--stories --repeat 10 factory")).unwrap();
        assert_eq!(parsed, Options { only: Some("stories"), repeat: 10, name: Some("factory".into()) });
        for nonsense in ["--repeat", "--repeat 0", "--repeat x", "--stories --attacks", "--fast", "a b"] {
            assert!(matches!(parse(&words(nonsense)), Err(Failure::Usage { .. })), "{nonsense}");
        }
    }
}
