//! Load for a relay, for tests and the bench.
//!
//! `handshakes` opens outer connections as fast as one core can, `nodes` holds many idle ones as agents do, and `flood` sends
//! Initials from addresses that are not its own. The first two are honest clients with an agent's certificate and run on
//! `ztna-core`'s own client configuration; the last knows nothing of QUIC but a header. Clients take their addresses from many
//! /24 networks, because a relay gives each of them a budget of its own.

pub mod args;
pub mod initial;
pub mod io;
pub mod prefix;

/// What can go wrong, by who is at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line holds something that is not accepted.
    #[error("{what}: {got:?} is not accepted, expected {accepted}")]
    Invalid {
        /// Option or argument.
        what: String,
        /// The text that was given.
        got: String,
        /// What would have been accepted.
        accepted: &'static str,
    },
    /// A required option is absent.
    #[error("{0} is missing; see ztna-load --help")]
    Missing(&'static str),
    /// The node's folder, or what is in it.
    #[error(transparent)]
    Folder(#[from] ztna_core::Error),
    /// Clients did not come up, so that nothing can be measured.
    #[error("{0}")]
    Failed(String),
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// The call and its object.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn invalid(what: impl Into<String>, got: impl Into<String>, accepted: &'static str) -> Self {
        Self::Invalid { what: what.into(), got: got.into(), accepted }
    }

    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
