//! `muster-agent`: everything on the device.

fn main() -> std::process::ExitCode {
    muster_agent::shell::main()
}
