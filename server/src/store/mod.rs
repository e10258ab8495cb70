//! The store's contract, and the engines that keep it.

pub mod key;
pub mod writer;
pub mod embedded;
pub mod memory;
