//! Where the demo plays: a directory of its own, the programs, the children.

use super::call::{Call, text};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// How long any one command may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// The server's listeners, as its settings name them.
const LISTENERS: [&str; 4] = ["device", "mqtt", "status", "admin"];

/// How often a condition is looked at again.
const LOOK: Duration = Duration::from_millis(20);

/// Why a step does not hold.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// A program that the step needs is not on this machine.
    #[error("{program} is not on this machine")]
    Missing { program: String, remedy: &'static str },
    /// The directory or a child could not be made.
    #[error("cannot {verb} {what}")]
    System {
        verb: &'static str,
        what: String,
        #[source]
        source: std::io::Error,
    },
    /// A command ended otherwise than it should.
    #[error("`{command}` ended with {code}, not with {expected}")]
    Ended { command: String, code: String, expected: i32, said: String },
    /// A command or a condition took too long.
    #[error("{what} did not happen within {} s", DEADLINE.as_secs())]
    Late { what: String },
    /// It ran, and what came back is not what has to come back.
    #[error("{what}")]
    Unexpected { what: String },
}

impl Broken {
    /// It ran, and what came back is not what has to come back.
    pub(super) fn unexpected(what: impl Into<String>) -> Self {
        Self::Unexpected { what: what.into() }
    }

    pub(super) fn system(verb: &'static str, what: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.display().to_string();
        move |source| Self::System { verb, what, source }
    }

    /// Everything there is to say, for a person.
    pub(super) fn in_words(&self) -> String {
        match self {
            Self::Missing { remedy, .. } => format!("{self}. {remedy}"),
            Self::System { source, .. } => format!("{self}: {source}"),
            Self::Ended { said, .. } if !said.is_empty() => format!("{self}: {said}"),
            Self::Ended { .. } | Self::Late { .. } | Self::Unexpected { .. } => self.to_string(),
        }
    }
}

/// A program of the story, by the name it is shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// This very program.
    Muster,
    /// The agent beside it, or in PATH.
    Agent,
    /// The judge.
    Openssl,
    /// Somebody else's MQTT client.
    Mosquitto,
    /// What a stranger's checker runs on.
    Python,
    /// What a thief copies with.
    Copy,
}

impl Program {
    /// The name it is shown and looked for with.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Muster => "muster",
            Self::Agent => "muster-agent",
            Self::Openssl => "openssl",
            Self::Mosquitto => "mosquitto_sub",
            Self::Python => "python3",
            Self::Copy => "cp",
        }
    }
}

/// What a command came to.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// The directory and the programs.
#[derive(Debug)]
pub(super) struct Stage {
    directory: TempDir,
    muster: PathBuf,
    /// Ports of the listeners; 0 until a server has chosen.
    ports: [u16; 4],
}

impl Stage {
    /// Makes the directory.
    pub(super) fn set() -> Result<Self, Broken> {
        let muster = std::env::current_exe().map_err(Broken::system("find", Path::new("muster")))?;
        let directory = tempfile::Builder::new()
            .prefix("muster-demo-")
            .tempdir()
            .map_err(Broken::system("make a directory in", &std::env::temp_dir()))?;
        Ok(Self { directory, muster, ports: [0; 4] })
    }

    /// The directory in which every command runs.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path in the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Every server from now on listens where the one with these `endpoints` did.
    pub(super) fn settle(&mut self, endpoints: &Value) -> Result<(), Broken> {
        for (listener, port) in LISTENERS.into_iter().zip(&mut self.ports) {
            *port = port_of(text(endpoints, &format!("/{listener}"))?)?;
        }
        Ok(())
    }

    /// Removes the directory, or leaves it and says where it is.
    pub(super) fn strike(self, keep: bool) -> Option<PathBuf> {
        keep.then(|| self.directory.keep())
    }

    /// Runs a command to its end, with its input.
    pub(super) async fn run(&self, call: &Call<'_>) -> Result<Ran, Broken> {
        let mut command = self.command(call)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = Path::new(call.program.name());
        let mut child = command.spawn().map_err(Broken::system("run", name))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that ends without reading says why on its own.
            let _ = stdin.write_all(call.input.as_bytes()).await;
        }
        let ended = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
        let late = |_| Broken::Late { what: format!("the end of `{}`", call.program.name()) };
        let output = ended.map_err(late)?.map_err(Broken::system("wait for", name))?;
        Ok(Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts a command that stays, its output in the file `log`.
    pub(super) fn start(&self, call: &Call<'_>, log: &str) -> Result<Child, Broken> {
        let path = self.path(log);
        let file = std::fs::File::create(&path).map_err(Broken::system("create", &path))?;
        let other = file.try_clone().map_err(Broken::system("create", &path))?;
        let mut command = self.command(call)?;
        for (listener, port) in LISTENERS.into_iter().zip(self.ports) {
            let setting = format!("MUSTER_LISTEN_{}", listener.to_ascii_uppercase());
            command.env(setting, format!("127.0.0.1:{port}"));
        }
        command.stdin(Stdio::null()).stdout(file).stderr(other);
        command.spawn().map_err(Broken::system("run", Path::new(call.program.name())))
    }

    /// A command in the directory that dies with us and sees no setting of the person who runs the demo.
    fn command(&self, call: &Call<'_>) -> Result<Command, Broken> {
        let program = self.find(call.program)?;
        let mut command = if call.program == Program::Mosquitto {
            // Line by line, although it writes to a file.
            let mut command = Command::new("stdbuf");
            command.arg("-oL").arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(&call.arguments).current_dir(self.directory.path()).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MUSTER_") {
                command.env_remove(name);
            }
        }
        Ok(command)
    }

    /// Whether a program is on this machine.
    pub(super) fn has(&self, program: Program) -> bool {
        self.find(program).is_ok()
    }

    /// Where a program is: beside this one, then in PATH.
    fn find(&self, program: Program) -> Result<PathBuf, Broken> {
        let missing = |remedy| Broken::Missing { program: program.name().to_owned(), remedy };
        match program {
            Program::Muster => Ok(self.muster.clone()),
            Program::Agent => {
                let beside = self.muster.with_file_name(program.name());
                let found =
                    if beside.is_file() { Some(beside) } else { in_path(program.name(), &path_variable()) };
                found.ok_or_else(|| missing("Build it beside muster: cargo build -p muster-agent."))
            }
            Program::Openssl => in_path(program.name(), &path_variable()).ok_or_else(|| {
                missing("Install it, for instance with `apt-get install openssl`; it is the judge.")
            }),
            Program::Python => in_path(program.name(), &path_variable())
                .ok_or_else(|| missing("Install it, for instance with `apt-get install python3`.")),
            Program::Copy => in_path(program.name(), &path_variable())
                .ok_or_else(|| missing("Install it, for instance with `apt-get install coreutils`.")),
            Program::Mosquitto => in_path(program.name(), &path_variable())
                .ok_or_else(|| missing("Install it, for instance with `apt-get install mosquitto-clients`.")),
        }
    }
}

fn path_variable() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

fn in_path(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

/// Looks at `condition` again and again until it answers something, or too long has passed.
pub(super) async fn until<T>(
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<Option<T>, Broken>,
) -> Result<T, Broken> {
    let mut look = tokio::time::interval(LOOK);
    let found = async {
        loop {
            look.tick().await;
            if let Some(found) = condition().await? {
                return Ok(found);
            }
        }
    };
    in_time(what, found).await?
}

/// What `happens` comes to, unless that takes too long.
pub(super) async fn in_time<T>(what: &str, happens: impl Future<Output = T>) -> Result<T, Broken> {
    let late = |_| Broken::Late { what: what.to_owned() };
    tokio::time::timeout(DEADLINE, happens).await.map_err(late)
}

/// The port in an address of the server's.
pub(super) fn port_of(url: &str) -> Result<u16, Broken> {
    let digits = url.trim_end_matches('/').rsplit(':').next().unwrap_or_default();
    digits.parse().map_err(|_| Broken::unexpected(format!("there is no port in {url}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_nowhere_is_missing_and_says_what_to_do() {
        assert!(in_path("muster-agent-that-is-nowhere", &path_variable()).is_none());
        let broken = Broken::Missing { program: "openssl".into(), remedy: "Install it." };
        assert_eq!(broken.in_words(), "openssl is not on this machine. Install it.");
    }

    #[test]
    fn the_directory_goes_unless_it_is_kept() {
        let stage = Stage::set().unwrap();
        let directory = stage.directory().to_owned();
        assert!(stage.strike(false).is_none() && !directory.exists());
        let kept = Stage::set().unwrap().strike(true).unwrap();
        assert!(kept.is_dir());
        std::fs::remove_dir_all(kept).unwrap();
    }

    #[tokio::test]
    async fn a_command_is_run_in_the_directory_with_its_input() {
        let stage = Stage::set().unwrap();
        let call = Call::of(Program::Openssl, &["dgst", "-sha256", "-r"]).reading("abc");
        let ran = stage.run(&call).await.unwrap();
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.starts_with("ba7816bf8f01cfea"), "{}", ran.stdout);
    }
}
