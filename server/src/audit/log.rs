//! Append, Merkle tree, checkpoints.
