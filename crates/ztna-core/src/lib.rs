//! The data plane: agent → (relay) → connector → service, two nested MASQUE hops (docs/architecture.md).
//!
//! `io` feeds bytes to a role (`agent`, `connector`, `relay`); the role asks `quic`, `path`, `flow` and `trust`, and hands
//! back what to send. Only `io` touches sockets, files, threads and the clock.

pub mod agent;
pub mod connector;
pub mod error;
pub mod flow;
pub mod id;
pub mod io;
pub mod metrics;
pub mod node;
pub mod path;
pub mod quic;
pub mod relay;
pub mod role;
pub mod trust;
pub mod wire;

pub use error::{DeniedBy, Error, Result};
pub use id::{FlowId, Role, SpiffeId};
