//! Both ends of one inner connection, without a machine around them.

use std::net::SocketAddr;

use ztna_core::Role;
use ztna_core::quic::endpoint::random_cid;
use ztna_core::quic::{Connection, Event, Kind, TlsConfig};

use super::world::World;

const HERE: &str = "[100::1]:1";
const THERE: &str = "[100::2]:2";

pub struct End {
    pub conn: Connection,
    pub tls: TlsConfig,
    pub address: SocketAddr,
    pub events: Vec<Event>,
}

impl End {
    pub fn turn(&mut self, to: &mut End) -> bool {
        self.conn.on_timeout();
        self.conn.process(&mut self.tls);
        while let Some(event) = self.conn.poll_event() {
            self.events.push(event);
        }
        let mut packet = Vec::new();
        let mut busy = false;
        while self.conn.send_burst(&mut packet, 1).is_some() {
            busy = true;
            to.conn.recv(&mut packet, self.address);
            packet.clear();
        }
        busy
    }
}

pub struct Pair {
    pub client: End,
    pub server: End,
}

impl Pair {
    /// Alice's connection to c1, established.
    pub fn new() -> Pair {
        let w = World::new(1, &["c1"]);
        let mut pair = Pair::between(&w, &w);
        pair.settle();
        assert!(pair.client.conn.is_ready() && pair.server.conn.is_ready());
        pair
    }

    /// Alice, as one world knows her, is about to connect to the c1 of another.
    pub fn between(alice: &World, c1: &World) -> Pair {
        let (here, there) = (HERE.parse().unwrap(), THERE.parse().unwrap());
        let mut tls = TlsConfig::new(Kind::InnerClient, &alice.snapshot(Role::Agent, "alice")).unwrap();
        let name = "c1.connector.example.test";
        let conn = Connection::connect(&mut tls, random_cid(None), name, here, there).unwrap();
        let client = End { conn, tls, address: here, events: Vec::new() };
        let mut tls = TlsConfig::new(Kind::InnerServer, &c1.snapshot(Role::Connector, "c1")).unwrap();
        let conn = Connection::accept(&mut tls, random_cid(None), None, None, there, here).unwrap();
        let server = End { conn, tls, address: there, events: Vec::new() };
        Pair { client, server }
    }

    /// Hands packets over until there are none.
    pub fn settle(&mut self) {
        while self.client.turn(&mut self.server) | self.server.turn(&mut self.client) {}
        self.client.events.clear();
        self.server.events.clear();
    }
}
