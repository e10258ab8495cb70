//! What happens between token and certificate.
