//! The operator's commands: thin clients of the REST API.
