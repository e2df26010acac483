//! The N-API bridge: thin handles and JSON DTOs (docs/decisions/0002). Nothing here decides anything.

mod datagram;
mod dto;
mod events;
mod host;
mod log;
mod lost;
mod options;
mod promise;
mod role;
mod running;
mod test_network;
