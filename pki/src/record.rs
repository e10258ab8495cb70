//! Records what rcgen would have signed.
