//! Serial number to status, in memory.
