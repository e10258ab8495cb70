//! Stories named for who lives them: the real programs, over real TLS, onto a real disk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a story fails by panicking"
)]

mod stories {
    mod agent_killed;
    mod approved_baseline;
    mod approver_leaves;
    mod bad_baseline;
    mod broker_blocked;
    mod demo;
    mod device_off_for_a_year;
    mod drift;
    mod est_curl;
    mod factory_line;
    mod faults;
    mod forged_proof;
    mod imaging_laptops;
    mod key_replacement;
    mod lease;
    mod leaver;
    mod lost_reply;
    mod mistakes;
    mod mqtt_clients;
    mod new_issuing_ca;
    mod observer;
    mod offboarding;
    mod openapi;
    mod pkilint;
    mod power_loss;
    mod quarantine_and_back;
    mod rails;
    mod refusal;
    mod revocation;
    mod rotation;
    mod server_restart;
    mod stolen_laptop;
    mod superseding;
}
