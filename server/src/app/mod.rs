//! One file per verb: load, decide, commit, then act.
