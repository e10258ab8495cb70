//! What ends a certificate.
