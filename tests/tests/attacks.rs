//! The attacks of every release (design page "Security", A01 to A31), as far as what they attack exists.
//!
//! Each fails closed, leaves an audit entry, leaks no reason beyond a stable code, and finds the server serving
//! afterwards; [`siege`] asserts all four.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "an attack that is not repelled ends in a panic"
)]

mod attack {
    mod der;
    mod forge;
    mod impostor;
    mod packets;
    mod request;
    mod siege;

    mod a01;
    mod a02;
    mod a03;
    mod a04;
    mod a05;
    mod a06;
    mod a07;
    mod a09;
    mod a10;
    mod a12;
    mod a13;
    mod a16;
    mod a17;
    mod a18;
    mod a19;
    mod a22;
    mod a25;
    mod a26;
    mod a27;
    mod a30;
    mod a31;
    mod every_endpoint_is_guarded;
    mod poison;
}
