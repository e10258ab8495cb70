//! In memory, with faults on demand.
