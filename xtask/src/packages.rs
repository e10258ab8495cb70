//! What the tests use from the machine: Debian's packages, and a Python environment for the certificate linter.
//!
//! On Debian 12 or newer, missing packages are installed, as root or through sudo that asks no password. Anywhere
//! else the programs must be there already; the first missing one is named.

use crate::task::{Failure, Workspace};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Debian packages, and the file by which their presence is known elsewhere.
const PACKAGES: &[(&str, &str)] = &[
    ("ca-certificates", "/etc/ssl/certs"),
    ("cryptsetup-bin", "cryptsetup"),
    ("curl", "curl"),
    ("faketime", "faketime"),
    ("gcc", "gcc"),
    ("iproute2", "ip"),
    ("mosquitto-clients", "mosquitto_pub"),
    ("nftables", "nft"),
    ("openssl", "openssl"),
    ("python3-venv", "python3"),
    ("strace", "strace"),
];

/// What `cargo xtask bench` needs on top of them, and whom it has beside its rows.
const PEERS: &[(&str, &str)] = &[("iproute2", "ss"), ("mosquitto", "mosquitto")];

/// Makes sure that every package is there.
pub(crate) fn ensure() -> Result<(), Failure> {
    ensure_all(PACKAGES)
}

/// Makes sure that what is measured against is there.
pub(crate) fn ensure_peers() -> Result<(), Failure> {
    ensure_all(PEERS)
}

fn ensure_all(packages: &[(&str, &str)]) -> Result<(), Failure> {
    if !on_path("dpkg-query") {
        return match packages.iter().find(|(_, proof)| !present(proof)) {
            None => Ok(()),
            Some((package, proof)) => Err(Failure::red(
                format!("{proof} is missing, and this is no Debian that could install it"),
                format!("install what Debian calls {package}"),
            )),
        };
    }
    let missing: Vec<&str> =
        packages.iter().map(|(package, _)| *package).filter(|package| !installed(package)).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn install(missing: &[&str]) -> Result<(), Failure> {
    let list = missing.join(" ");
    println!("installing from Debian: {list}");
    let root = is_root();
    if !root && !quiet("sudo", &["-n", "true"]) {
        return Err(Failure::red(
            format!("Debian packages are missing and this user may not install them: {list}"),
            format!("sudo apt-get install -y --no-install-recommends {list}"),
        ));
    }
    let apt = |arguments: &[&str]| {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if !root {
            command.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        }
        let status =
            command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(missing);
    // The index of a fresh machine is empty, that of an old one is stale: fetched only when needed.
    if apt(&install) || (apt(&["update"]) && apt(&install)) {
        return Ok(());
    }
    let first = missing.iter().find(|package| !installed(package)).unwrap_or(&"nothing");
    Err(Failure::red(
        format!("apt-get could not install {first}"),
        format!("apt-get install -y --no-install-recommends {list}, and read what it says"),
    ))
}

/// Makes sure that `target/pkilint` holds what `tests/requirements.txt` pins; answers its directory of programs.
pub(crate) fn python(workspace: &Workspace) -> Result<PathBuf, Failure> {
    let pinned = workspace.root.join("tests/requirements.txt");
    let wanted = std::fs::read_to_string(&pinned).map_err(Failure::file(&pinned))?;
    let home = workspace.target.join("pkilint");
    let marker = home.join("installed.txt");
    if std::fs::read_to_string(&marker).is_ok_and(|have| have == wanted) {
        return Ok(home.join("bin"));
    }
    println!("making a Python environment in {}", home.display());
    // Debian's own interpreter is the one that python3-venv belongs to.
    let debian = PathBuf::from("/usr/bin/python3");
    let python = if debian.exists() { debian } else { "python3".into() };
    let remedy = "apt-get install python3-venv, and look whether pip reaches its index";
    let mut make = Command::new(python);
    make.args(["-m", "venv", "--clear"]).arg(&home);
    let mut fill = Command::new(home.join("bin/pip"));
    fill.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&pinned);
    for mut step in [make, fill] {
        if !step.status().is_ok_and(|status| status.success()) {
            return Err(Failure::red(format!("{step:?} failed"), remedy));
        }
    }
    std::fs::write(&marker, wanted).map_err(Failure::file(&marker))?;
    Ok(home.join("bin"))
}

fn installed(package: &str) -> bool {
    let asked = Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output();
    asked.is_ok_and(|answer| answer.stdout == b"installed")
}

fn present(proof: &str) -> bool {
    if proof.starts_with('/') { std::path::Path::new(proof).exists() } else { on_path(proof) }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|answer| answer.stdout.trim_ascii() == b"0")
}

fn quiet(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
