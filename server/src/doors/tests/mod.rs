//! The doors over real sockets, with rustls and OpenSSL as clients.

mod handshake;
mod openssl;
mod serving;
