//! What runs on a timer or from the outbox.
