//! Two path agents in a network in memory, on virtual time: NATs, firewalls and losses between them, and a relay.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: an origin for virtual time is read once"
)]

mod account;
mod bursts;
mod hostile;
mod lab;
mod matrix;
#[allow(dead_code, reason = "the other suite uses all of it")]
#[path = "../system/rng.rs"]
mod rng;
mod schedules;
mod sockets;
mod switching;
