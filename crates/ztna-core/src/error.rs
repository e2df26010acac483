//! One error type, by who is at fault. The codes are those of the command line and the SDK.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, named after the side that has to act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, flag or option is wrong: the operator mends it. `at` names file and line where known.
    #[error("{at}: {message}")]
    Config { at: String, message: String },
    /// Our own identity, or the one a peer showed, can't be used.
    #[error("{0}")]
    Identity(String),
    /// Policy said no, or could not be asked.
    #[error("denied by {by}: {reason}")]
    Denied { by: DeniedBy, reason: String, decision: Option<String>, policy: Option<String> },
    /// The service answered that it does not want this connection.
    #[error("refused: {0}")]
    Refused(String),
    /// Nothing answered: no relay, no connector, or the service's host is gone. `tried` is one line an attempt.
    #[error("unreachable: {message}")]
    Unreachable { message: String, reason: Option<&'static str>, tried: Vec<String> },
    /// It took longer than the caller allowed.
    #[error("timed out: {0}")]
    Timeout(String),
    /// The caller gave up.
    #[error("aborted")]
    Aborted,
    /// The other end reset the stream.
    #[error("stream reset by {by} (code {code:#x})")]
    StreamReset { by: DeniedBy, code: u64 },
    /// This role is closed or closing.
    #[error("closed: {0}")]
    Closed(String),
    /// The operating system did not let us.
    #[error("not permitted: {0}")]
    Permission(String),
    /// A named limit was reached.
    #[error("limit reached: {0}")]
    Limit(String),
    /// A peer broke the protocol.
    #[error("protocol violation by peer: {0}")]
    Peer(String),
    /// Something of ours failed that nobody can mend by configuration.
    #[error("internal: {0}")]
    Internal(String),
}

/// The end of the tunnel that spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeniedBy {
    Agent,
    Relay,
    Connector,
}

impl DeniedBy {
    pub fn as_str(self) -> &'static str {
        match self {
            DeniedBy::Agent => "agent",
            DeniedBy::Relay => "relay",
            DeniedBy::Connector => "connector",
        }
    }
}

impl fmt::Display for DeniedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error {
    /// Shorthand for [`Error::Config`].
    pub fn config(at: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Config { at: at.into(), message: message.into() }
    }

    /// Shorthand for [`Error::Unreachable`] without a reason.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Error::Unreachable { message: message.into(), reason: None, tried: Vec::new() }
    }

    /// The text without the kind in front: for the wire, where the status tells the kind, and inside other texts.
    pub fn detail(&self) -> String {
        match self {
            Error::Refused(text) | Error::Timeout(text) | Error::Limit(text) | Error::Closed(text) => text.clone(),
            Error::Unreachable { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }

    /// Names who said it, where the text does not.
    #[must_use]
    pub fn said_by(self, who: &str) -> Self {
        let named = |text: String| format!("{who}: {text}");
        match self {
            Error::Refused(text) => Error::Refused(named(text)),
            Error::Timeout(text) => Error::Timeout(named(text)),
            Error::Limit(text) => Error::Limit(named(text)),
            Error::Unreachable { message, reason, tried } => {
                Error::Unreachable { message: named(message), reason, tried }
            }
            other => other,
        }
    }

    /// The stable code of the SDK (api.d.ts `ZtnaErrorCode`).
    pub fn code(&self) -> &'static str {
        match self {
            Error::Config { .. } => "ERR_ZTNA_CONFIG",
            Error::Identity(_) => "ERR_ZTNA_IDENTITY",
            Error::Denied { .. } => "ERR_ZTNA_DENIED",
            Error::Refused(_) => "ERR_ZTNA_REFUSED",
            Error::Unreachable { .. } => "ERR_ZTNA_UNREACHABLE",
            Error::Timeout(_) => "ERR_ZTNA_TIMEOUT",
            Error::Aborted => "ERR_ZTNA_ABORTED",
            Error::StreamReset { .. } => "ERR_ZTNA_STREAM_RESET",
            Error::Closed(_) => "ERR_ZTNA_CLOSED",
            Error::Permission(_) => "ERR_ZTNA_PERMISSION",
            Error::Limit(_) => "ERR_ZTNA_LIMIT",
            Error::Peer(_) | Error::Internal(_) => "ERR_ZTNA_NATIVE",
        }
    }

    /// Whether the same call may succeed later with nothing mended.
    pub fn is_retryable(&self) -> bool {
        match self {
            // No direct path is there to come.
            Error::Unreachable { reason, .. } => *reason != Some("no-candidates"),
            Error::Refused(_) | Error::Timeout(_) | Error::Limit(_) => true,
            Error::Config { .. }
            | Error::Identity(_)
            | Error::Denied { .. }
            | Error::Aborted
            | Error::StreamReset { .. }
            | Error::Closed(_)
            | Error::Permission(_)
            | Error::Peer(_)
            | Error::Internal(_) => false,
        }
    }
}
