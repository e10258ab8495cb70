//! The one place where private keys are used.
