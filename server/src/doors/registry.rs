//! Who is connected, and the kick.
