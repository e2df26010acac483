//! QUIC and HTTP/3 as the roles see them. `connection` is the only file that names `quiche::Connection`, `h3` the only one
//! that names `quiche::h3`. quiche reads the clock itself; nothing else in this room does, but for certificate dates in `tls`.
#![allow(
    clippy::disallowed_methods,
    reason = "quiche reads the clock itself, and certificates are checked at the same time"
)]

mod account;
pub mod black_hole;
mod bursts;
pub mod connection;
pub mod endpoint;
mod event;
pub mod h3;
pub mod reset;
pub mod retry;
pub mod tls;

pub use connection::{Connection, Event, StreamId, Wrote};
pub use endpoint::{ConnKey, Router};
pub use h3::{Fields, field};
pub use tls::{Kind, TlsConfig};
