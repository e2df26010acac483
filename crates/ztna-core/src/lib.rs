//! The data plane: agent → (relay) → connector → service, two nested MASQUE hops (docs/architecture.md).
//!
//! `io` feeds bytes to a role (`agent`, `connector`, `relay`); the role asks `quic`, `path` and `trust`, and hands
//! back what to send. Only `io` touches sockets, files, threads and the clock.
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        reason = "a test is its own clock and makes what it needs on its host"
    )
)]

pub mod agent;
pub mod bucket;
pub mod connector;
pub mod error;
pub mod id;
pub mod interface;
pub mod io;
pub mod metrics;
pub mod node;
pub mod path;
pub mod port_mapping;
pub mod quic;
pub mod relay;
pub mod role;
pub mod trust;
pub mod wire;

pub use error::{DeniedBy, Error, Result};
pub use id::{FlowId, Role, SpiffeId};
