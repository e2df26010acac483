//! What one connection holds of the heap, whatever its peer made it keep: streams, gaps, handshake data, queued bytes.
//!
//! Each call into the connection is charged with what it allocated and did not release. What passes through the boundary by
//! value is carried over by its size, so that nothing drifts however long a connection lives.

use super::h3::Fields;
use crate::io::heap;

/// Bytes of a connection. BoringSSL's own are not in it: its handshake messages are bounded (16 KB each).
#[derive(Debug, Default)]
pub(super) struct Account(i64);

impl Account {
    /// Runs a call into the connection.
    pub(super) fn charge<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let before = heap::held();
        let out = call();
        self.0 += heap::held() - before;
        out
    }

    /// The caller now owns this much of it.
    pub(super) fn give(&mut self, bytes: usize) {
        self.0 -= bytes as i64;
    }

    /// It now owns this much that the caller had allocated.
    pub(super) fn take(&mut self, bytes: usize) {
        self.0 += bytes as i64;
    }

    pub(super) fn held(&self) -> u64 {
        self.0.max(0) as u64
    }
}

/// What a header section has allocated, bytes.
pub(super) fn size_of_fields(fields: &Fields) -> usize {
    let texts: usize = fields.iter().map(|(n, v)| n.capacity() + v.capacity()).sum();
    fields.capacity() * size_of::<(String, String)>() + texts
}
