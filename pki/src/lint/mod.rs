//! A second opinion on every byte before it is signed.
