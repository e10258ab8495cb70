//! Who may do what: the authorisation table.
