//! Who gets in: shared by every TLS listener.

pub mod accept;
pub mod registry;
pub mod status_index;
pub mod tls;
