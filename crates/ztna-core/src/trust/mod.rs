//! Who a peer is and what it may do: certificates, the network snapshot, policy, revocation.
//!
//! Everything here is a pure function of its inputs: bytes and the time go in, a decision comes out. Reading a folder
//! is `io::folder`, writing one is `io::pki_folder`.

mod anchors;
mod credentials;
pub mod identity;
mod key;
pub mod network;
mod network_file;
pub mod pki;
pub mod policy;
mod policy_load;
pub mod revocation;
mod schema;
pub mod snapshot;
mod text;

pub use anchors::TrustAnchors;
pub use credentials::{Credentials, Secret};
pub use identity::{Expect, PeerIdentity, Refusal, RoleSet, Usage};
pub use network::{Network, PortRange, RelayMode, RelayUrl};
pub(crate) use network_file::parse_relay_url;
pub use policy::{Decision, FlowContext, PathClass, Policy, Protocol};
pub use revocation::Revocations;
pub use schema::SCHEMA;
pub use snapshot::{NodeFiles, Snapshot};
pub(crate) use text::{line_of, plain_hex, rfc3339, system_time, unix_seconds};
