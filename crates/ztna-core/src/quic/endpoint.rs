//! Connection IDs and who they belong to. One table serves inner and outer connections on a shared socket.

use std::collections::HashMap;

use crate::wire::cid::Cid;

/// A connection's place in its role's slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnKey(pub usize);

/// Destination connection ID → owner. Holds the IDs we chose and, while a handshake runs, the one the client chose.
#[derive(Debug)]
pub struct Router<K> {
    table: HashMap<Vec<u8>, K>,
    short: HashMap<Cid, K>,
}

impl<K> Default for Router<K> {
    fn default() -> Self {
        Router { table: HashMap::new(), short: HashMap::new() }
    }
}

impl<K: Copy + PartialEq> Router<K> {
    pub fn insert(&mut self, cid: Cid, owner: K) {
        self.short.insert(cid, owner);
    }
    /// A client's first destination connection ID, of its own length (RFC 9000 §7.2).
    pub fn insert_initial(&mut self, dcid: &[u8], owner: K) {
        self.table.insert(dcid.to_vec(), owner);
    }
    pub fn get(&self, cid: &Cid) -> Option<K> {
        self.short.get(cid).copied()
    }
    /// Looks up a long header's destination connection ID of any length.
    pub fn get_long(&self, dcid: &[u8]) -> Option<K> {
        Cid::from_slice(dcid).and_then(|c| self.get(&c)).or_else(|| self.table.get(dcid).copied())
    }
    pub fn remove(&mut self, cid: &Cid) {
        self.short.remove(cid);
    }
    pub fn remove_initial(&mut self, dcid: &[u8]) {
        self.table.remove(dcid);
    }
}

/// A random connection ID; `first` fixes its first byte, which at a relay names the owning loop.
pub fn random_cid(first: Option<u8>) -> Cid {
    let mut b = [0u8; 8];
    // BoringSSL's generator aborts the process rather than fail.
    let _ = boring::rand::rand_bytes(&mut b);
    if let Some(f) = first {
        b[0] = f;
    }
    Cid(b)
}
