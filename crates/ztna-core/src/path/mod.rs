//! Paths below QUIC: one inner connection, several ways to carry its packets (architecture.md). Sans-IO, time is an argument.
//!
//! This release has two kinds, both through a relay; direct paths will be more candidates of the same agent.

pub mod agent;

pub use agent::{PathAgent, PathEvent, PathId, Reason};
