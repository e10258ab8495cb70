//! The live client verifier.
