//! Paths below QUIC: one inner connection, several ways to carry its packets (architecture.md). Sans-IO, time is an argument.
//!
//! ```text
//!  agent: which path the next datagram takes, and when one has died
//!    ├── relayed paths: tunnel and forwarded, through each session with a relay
//!    └── direct: what is offered, when it is checked, which pair is used
//!          ├── candidate: which addresses are offered, which are sent to
//!          ├── checklist: the pairs, their checks and answers
//!          ├── nat: what a NAT does to our addresses
//!          └── budget: what a node sends to addresses that have not answered
//! ```

pub mod agent;
pub mod budget;
pub mod candidate;
pub mod checklist;
pub mod direct;
pub mod nat;

pub use agent::{PathAgent, PathEvent, PathId, Reason, RelayPath};
pub use checklist::{Local, Outgoing, PairId};
pub use direct::Direct;
