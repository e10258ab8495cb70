//! `muster-agent`: everything on the device.

fn main() {}
