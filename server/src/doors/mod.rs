//! Who gets in: shared by every TLS listener.

pub mod accept;
pub mod tls;
pub mod status_index;
pub mod registry;
