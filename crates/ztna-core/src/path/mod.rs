//! Paths below QUIC: one inner connection, several ways to carry its packets (architecture.md). Sans-IO, time is an argument.
//!
//! ```text
//!  agent: which path the next datagram takes, and when one has died
//!    ├── incoming: whether a peer that was sending has gone silent
//!    ├── relayed paths: tunnel and forwarded, through each session with a relay
//!    └── direct: what is offered, when it is checked, which pair is used
//!          ├── candidate: which addresses are offered, which are sent to
//!          ├── checklist: the pairs, their checks and answers
//!          ├── burst: how an end behind a hard NAT and one behind an easy one meet all the same
//!          ├── demand: who leaves a flow one kind of path only
//!          ├── explain: why it is not direct, and what to do about it
//!          └── budget: what a node sends to addresses that have not answered
//!  reflexive: a node's own addresses, as its interfaces and its relays have them
//!    └── nat: what that says of the NAT in front of it
//! ```

pub mod agent;
pub mod budget;
pub mod burst;
pub mod candidate;
pub mod checklist;
pub mod demand;
pub mod direct;
pub mod explain;
mod incoming;
pub mod nat;
pub mod reflexive;
pub mod way;

pub use agent::{PathAgent, PathEvent, Reason};
pub use checklist::{Local, Outgoing, PairId};
pub use direct::Direct;
pub use way::{Kinds, PathId, RelayPath};
