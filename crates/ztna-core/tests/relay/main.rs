//! The relay's machine against real QUIC clients, over a network in memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test says what it expects, and is its own host and clock"
)]

mod admission;
mod forward;
mod lifecycle;
mod net;
mod rate;
mod reset;
mod share;
mod tunnel;
