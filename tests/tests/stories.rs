//! Stories named for who lives them.
