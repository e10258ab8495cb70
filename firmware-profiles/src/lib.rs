//! What a device of a kind should look like.
