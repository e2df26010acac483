//! Sockets, the clock and standard input.

mod client;
mod fleet;
mod flood;
#[allow(unsafe_code, reason = "raw sockets and sendmmsg are system calls without a safe wrapper here")]
mod raw;

pub use fleet::{handshakes, nodes};
pub use flood::flood;
