//! Where the programs are that the tests drive.
//!
//! `cargo xtask test` names each in a variable. Under plain `cargo test` they are looked for beside the test program,
//! where a build of the workspace leaves them.

use std::path::{Path, PathBuf};

/// The server and command line, `muster`.
pub fn server_program() -> PathBuf {
    program("MUSTER_BIN", "muster")
}

/// The agent, `muster-agent`.
pub fn agent_program() -> PathBuf {
    program("MUSTER_AGENT_BIN", "muster-agent")
}

/// One of pkilint's programs, such as `lint_pkix_cert`.
pub fn pkilint_program(name: &str) -> PathBuf {
    match std::env::var_os("MUSTER_PKILINT_BIN") {
        Some(directory) => PathBuf::from(directory).join(name),
        None => existing(repository().join("target/pkilint/bin").join(name)),
    }
}

/// Python with `cryptography`, `cbor2` and `paho-mqtt`.
pub fn python_program() -> PathBuf {
    match std::env::var_os("MUSTER_PYTHON") {
        Some(program) => program.into(),
        None => existing(repository().join("target/pkilint/bin/python3")),
    }
}

/// The root of the repository, for files that a test runs verbatim.
pub fn repository() -> PathBuf {
    match std::env::var_os("MUSTER_REPOSITORY") {
        Some(directory) => directory.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned(),
    }
}

fn program(variable: &str, name: &str) -> PathBuf {
    if let Some(named) = std::env::var_os(variable) {
        return named.into();
    }
    let test = std::env::current_exe().expect("a test program knows where it is");
    // target/<profile>/deps/stories-0123 → target/<profile>/muster; target/<profile>/soak → the same
    let places = test.ancestors().skip(1).take(2).map(|place| place.join(name));
    let beside = places.into_iter().find(|place| place.exists());
    beside.unwrap_or_else(|| existing(test.with_file_name(name)))
}

fn existing(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run the tests with `cargo xtask test`, which builds it",
        path.display()
    );
    path
}
