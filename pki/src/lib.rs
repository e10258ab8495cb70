//! X.509 for Muster.
