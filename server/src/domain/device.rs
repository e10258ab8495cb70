//! A device: one life, one id, one chain of certificates.
