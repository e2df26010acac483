//! Bytes to values and back: every message on a socket is read and written here and nowhere else.
//!
//! No state beyond a partly received capsule, no I/O, no clock. A decoder takes what a stranger sent: it returns
//! `Option` where the only question is "is it all there?", `Result<_, DecodeError>` where the answer can be "this is wrong".
//! None of them indexes or panics; [`fuzz`] holds the entry functions that prove it.

pub mod authority;
pub mod capsule;
pub mod check;
pub mod cid;
pub mod connect_ip;
pub mod connect_udp;
pub mod decision;
pub mod fuzz;
pub mod host;
pub mod http_connect;
pub mod icmp;
pub mod igd;
pub mod nat_pmp;
pub mod password;
pub mod path_signal;
pub mod pcp;
pub mod proxy_status;
pub mod quic_header;
pub mod replay;
pub mod socks5;
pub mod stun;
pub mod traceparent;
pub mod varint;

mod address;
mod base64;
mod error;
mod percent;
mod reader;
mod structured;

pub use cid::{CID_LEN, Cid};
pub use error::DecodeError;
pub use password::Password;
