//! The ways that a datagram of an inner connection can take.

use super::checklist::PairId;

/// One way through a relay session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayPath {
    pub session: usize,
    pub forwarded: bool,
}

impl RelayPath {
    pub fn tunnel(session: usize) -> Self {
        RelayPath { session, forwarded: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathId {
    Relay(RelayPath),
    Direct(PairId),
}

impl PathId {
    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            PathId::Relay(RelayPath { forwarded: false, .. }) => "tunnel",
            PathId::Relay(RelayPath { forwarded: true, .. }) => "forwarded",
            PathId::Direct(_) => "direct",
        }
    }
}

/// Which kinds of path are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    pub direct: bool,
    pub relay: bool,
}

impl Kinds {
    pub fn is_only_direct(self) -> bool {
        self.direct && !self.relay
    }
}
