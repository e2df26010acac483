//! STUN Binding on the relay's ports (RFC 8489, RFC 5780): which address a node is seen from, without a connection.

use super::machine::Relay;
use crate::role::{Arrival, Transmit};
use crate::wire::stun;

impl Relay {
    /// Answers a Binding request from the socket it came to; an answer is never longer than its request.
    pub(super) fn on_stun(&mut self, arrival: Arrival, message: &[u8]) {
        let Some(tid) = stun::parse_binding_request(message) else {
            self.shared.counters.drops.stray.add(1);
            return;
        };
        let v4 = arrival.from.ip().to_canonical().is_ipv4();
        let config = &self.shared.config;
        let other = match config.stun_alt {
            Some((alt, _)) if alt == arrival.socket => config.public_addrs.iter().copied().find(|a| a.is_ipv4() == v4),
            Some((_, address)) => Some(address).filter(|a| a.is_ipv4() == v4),
            None => None,
        };
        let mut reply = Vec::with_capacity(stun::REQUEST_LEN);
        if stun::write_binding_success(tid, arrival.from, other, message.len(), &mut reply) {
            self.shared.counters.stun.add(1);
            let transmit =
                Transmit { socket: Some(arrival.socket), to: arrival.from, from: arrival.to, segment: reply.len() };
            self.reply(reply, transmit);
        }
    }
}
