//! One client of a relay: its socket and its outer connection.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use ztna_core::node::leg::KEEP_ALIVE;
use ztna_core::quic::connection::{H3_NO_ERROR, HANDSHAKE};
use ztna_core::quic::endpoint::random_cid;
use ztna_core::quic::{Connection, Event, TlsConfig};

use crate::{Error, Result};

/// Larger than any packet on a link without jumbo frames.
const ROOM: usize = 2_048;
/// Packets of one burst.
const SEGMENTS: usize = 16;

/// What a client has come to since it was last asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    None,
    /// The relay's SETTINGS are here: it has accepted the certificate. After this long.
    Up(Duration),
    Failed(String),
}

pub(super) struct Client {
    pub(super) socket: UdpSocket,
    relay: SocketAddr,
    local: SocketAddr,
    conn: Option<Connection>,
    begun: Instant,
    up: bool,
    last_sent: Instant,
}

impl Client {
    /// Binds `source`, connects nothing yet.
    pub(super) fn new(source: Ipv4Addr, relay: SocketAddr, now: Instant) -> Result<Self> {
        let bind = || {
            let socket = std::net::UdpSocket::bind((source, 0))?;
            socket.connect(relay)?;
            socket.set_nonblocking(true)?;
            Ok((socket.local_addr()?, UdpSocket::from_std(socket)))
        };
        let (local, socket) = bind().map_err(|e| Error::io(format!("bind {source}"), e))?;
        Ok(Client { socket, relay, local, conn: None, begun: now, up: false, last_sent: now })
    }

    pub(super) fn connect(&mut self, tls: &mut TlsConfig, server_name: &str, now: Instant) -> Result<()> {
        let conn = Connection::connect(tls, random_cid(None), server_name, self.local, self.relay)?;
        (self.conn, self.begun, self.up, self.last_sent) = (Some(conn), now, false, now);
        self.send();
        Ok(())
    }

    /// Reads all that has arrived.
    pub(super) fn receive(&mut self, tls: &mut TlsConfig, now: Instant) -> Progress {
        let mut room = [0; ROOM];
        loop {
            match self.socket.recv(&mut room) {
                Ok(n) => {
                    if let (Some(conn), Some(packet)) = (self.conn.as_mut(), room.get_mut(..n)) {
                        conn.recv(packet, self.relay);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // An ICMP error of an earlier packet; QUIC's timers judge whether the relay is gone.
                Err(_) => {}
            }
        }
        self.settle(tls, now)
    }

    /// Fires what is due, the agent's keep-alive among it.
    pub(super) fn tick(&mut self, tls: &mut TlsConfig, now: Instant) -> Progress {
        let Some(conn) = self.conn.as_mut() else { return Progress::None };
        if !self.up && now >= self.begun + HANDSHAKE {
            self.conn = None;
            return Progress::Failed("the handshake took longer than 10 s".into());
        }
        let keep_alive = self.up && now >= self.last_sent + KEEP_ALIVE;
        if !keep_alive && conn.timeout_instant().is_none_or(|at| at > now) {
            return Progress::None;
        }
        if keep_alive {
            conn.ping();
            self.last_sent = now;
        }
        conn.on_timeout();
        self.settle(tls, now)
    }

    /// Closes the connection without waiting for anything.
    pub(super) fn close(&mut self) {
        if let Some(conn) = self.conn.as_mut() {
            conn.close(H3_NO_ERROR, "");
        }
        self.send();
        self.conn = None;
    }

    fn settle(&mut self, tls: &mut TlsConfig, now: Instant) -> Progress {
        let Some(conn) = self.conn.as_mut() else { return Progress::None };
        conn.process(tls);
        let mut progress = Progress::None;
        while let Some(event) = conn.poll_event() {
            match event {
                Event::Ready => {
                    self.up = true;
                    progress = Progress::Up(now.saturating_duration_since(self.begun));
                }
                Event::Closed(why) => progress = Progress::Failed(format!("{why:?}")),
                Event::Established(_)
                | Event::Headers { .. }
                | Event::Malformed { .. }
                | Event::Data { .. }
                | Event::Finished { .. }
                | Event::Reset { .. }
                | Event::Writable { .. }
                | Event::GoAway
                | Event::Migrated(_) => {}
            }
        }
        if let Progress::Failed(_) = progress {
            self.conn = None;
        } else {
            self.send();
        }
        progress
    }

    fn send(&mut self) {
        let Some(conn) = self.conn.as_mut() else { return };
        let mut burst = Vec::new();
        while let Some((_, segment)) = conn.send_burst(&mut burst, SEGMENTS) {
            for packet in burst.chunks(segment.max(1)) {
                // What the system does not take is lost, as on a link.
                let _ = self.socket.send(packet);
            }
            burst.clear();
        }
    }
}
