//! The relay's machine against real QUIC clients, over a network in memory.

mod admission;
mod forward;
mod lifecycle;
mod net;
mod tunnel;
