//! The programs at both ends: an agent's reads what comes, a connector's service sends it back.

use std::net::SocketAddr;

use ztna_core::FlowId;
use ztna_core::quic::Wrote;
use ztna_core::role::Read;

use super::World;

impl World {
    pub(super) fn read(&mut self, at: SocketAddr, flow: FlowId) {
        if self.unread_flows.contains(&flow) {
            return;
        }
        let mut buf = [0u8; 16_384];
        while let Some(node) = self.nodes.get_mut(&at) {
            match node.machine().stream_read(flow, &mut buf) {
                Read::Bytes(n) => self.received.entry(flow).or_default().extend_from_slice(&buf[..n]),
                Read::Blocked => return,
                Read::Finished => {
                    self.finished.insert(flow);
                    return;
                }
            }
        }
    }

    pub(super) fn echo_back(&mut self, at: SocketAddr, flow: FlowId) {
        if self.deaf.contains(&(at, flow)) {
            return;
        }
        let mut buf = [0u8; 16_384];
        let Some(node) = self.nodes.get_mut(&at) else { return };
        let m = node.machine();
        let held = self.echo.entry((at, flow)).or_default();
        let mut fin = false;
        loop {
            match m.stream_read(flow, &mut buf) {
                Read::Bytes(n) => {
                    held.extend_from_slice(&buf[..n]);
                    if let Some((_, got)) = self.arrived.iter_mut().find(|(key, _)| *key == (at, flow)) {
                        got.extend_from_slice(&buf[..n]);
                    }
                }
                Read::Blocked => break,
                Read::Finished => {
                    fin = true;
                    break;
                }
            }
        }
        if (!held.is_empty() || fin)
            && let Wrote::Bytes(n) = m.stream_write(flow, held, fin)
        {
            held.drain(..n);
        }
    }
}
