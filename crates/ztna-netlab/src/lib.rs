//! A network laboratory in user space, for tests on machines whose kernel has no netem.
//!
//! ```text
//!  namespace A                    this process                     namespace B
//!  ┌─────────┐      ┌──────────────────────────────────────┐      ┌─────────┐
//!  │ TUN eth0├─────►│ mtu ► rate + queue ► loss ► delay ...├─────►│ TUN eth0│
//!  │         │◄─────┤ ... and the same for the way back    │◄─────┤         │
//!  └─────────┘      └──────────────────────────────────────┘      └─────────┘
//! ```
//!
//! [`nat`] is what routers do to flows, [`link`] what a line does to packets. [`sim`] puts both together to a network in memory,
//! on virtual time, for machines that do no I/O.
//!
//! [`homes`] names the parts of such a network as an application sees them, [`io::live`] runs one on the real clock for programs of
//! the same process: what the SDK's `createTestNetwork` is made of.
//!
//! [`lab`] does the same between network namespaces, with a description and commands.
//!
//! [`wire`] decides what happens to each packet; it has no sockets, no clock and a seeded generator, so the same packets at
//! the same times fare the same. [`io`] owns the two TUN devices, the terminal and the clock.
//!
//! Packets travel one by one, without segmentation offload: an impairment is a matter of a single packet, and the kernel
//! cuts super-packets before it hands them to a TUN device that asks for none.

pub mod args;
pub mod checksum;
pub mod command;
pub mod homes;
pub mod icmp;
pub mod impairment;
#[cfg(unix)]
pub mod io;
pub mod ip;
pub mod lab;
pub mod link;
pub mod nat;
pub mod random;
pub mod sim;
pub mod units;
pub mod verdict;
pub mod wire;

/// What can go wrong, by who is at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a runtime command holds something that is not accepted.
    #[error("{what}: {got:?} is not accepted, expected {accepted}")]
    Invalid {
        /// Option or setting.
        what: String,
        /// The text that was given.
        got: String,
        /// What would have been accepted.
        accepted: &'static str,
    },
    /// The description of a network is not one.
    #[error("{0}")]
    Config(String),
    /// A required option is absent.
    #[error("{0} is missing; see ztna-netlab --help")]
    Missing(&'static str),
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

    /// The same, said of one part.
    pub(crate) fn within(self, part: &str) -> Self {
        Self::Config(format!("{part}: {self}"))
    }

    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
