//! `muster`: server, operator CLI and demo in one binary.

fn main() {}
