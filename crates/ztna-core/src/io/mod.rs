//! The only sockets, files, threads and clock of the product: the packet loop of a role and everything local to its host.
//!
//! [`Driver`] runs one [`Machine`](crate::role::Machine) on one thread. What a caller holds is a [`Handle`]; what it hears are
//! [`LocalEvent`]s. Bulk never passes through either: a TCP flow is a file descriptor, a UDP flow a [`NodeDatagram`] ring.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "io is the only room with sockets, files, threads and the clock"
)]

mod descriptors;
mod dial;
mod driver;
mod event;
pub mod folder;
mod handle;
#[allow(unsafe_code, reason = "an allocator is unsafe by its trait")]
pub mod heap;
mod host;
#[allow(unsafe_code, reason = "getifaddrs has no safe wrapper here")]
mod interfaces;
mod listener;
mod local;
mod moderation;
mod more_sockets;
mod node_flow;
pub mod pki_folder;
mod port_mapping;
mod ready;
mod resolve;
mod ring;
mod sieve;
mod socks;
mod socks_udp;
mod splice;
mod sys;
mod timers;
mod udp;
mod udp_flow;
mod udp_local;
mod waiters;

pub use driver::{Driver, Watch};
pub use event::{LocalEvent, Observer};
pub use handle::{Handle, Post};
pub use host::{Host, Received, VirtualHost, VirtualPort};
pub use interfaces::{addresses, interfaces};
pub use listener::{Destination, ForwardId, ForwardSpec, Listen, LocalAddress};
pub use node_flow::NodeStream;
pub use ring::NodeDatagram;
pub use udp::{Socket, UdpCounters};
pub use waiters::Waiter;
