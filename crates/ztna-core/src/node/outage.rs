//! Why no relay serves a node, in words for whoever has to mend it.

use super::Node;
use crate::error::Error;

/// Relays named in the message itself; all are in `tried`.
const NAMED: usize = 3;
/// Of an [`Error::Unreachable`]: nothing comes back from a relay.
pub const UDP_BLOCKED: &str = "udp-blocked";

impl Node {
    /// [`Error::Unreachable`] with a line for each relay in `tried`, `reason` `udp-blocked` where nothing comes back and `dns` where no
    /// relay's name resolves. `None` while a relay serves us.
    pub fn outage(&self) -> Option<Error> {
        if self.ready_legs().next().is_some() {
            return None;
        }
        let tried: Vec<String> = self.legs.iter().map(|(_, l)| l.describe()).collect();
        let (reason, advice) = self.relay_advice();
        let message = if tried.is_empty() {
            advice.to_owned()
        } else {
            let said: Vec<&str> = tried.iter().take(NAMED).map(String::as_str).collect();
            format!("no relay answers: {}; {advice}", said.join("; "))
        };
        Some(Error::Unreachable { message, reason, tried })
    }

    fn relay_advice(&self) -> (Option<&'static str>, &'static str) {
        if self.legs.is_empty() {
            (None, "network.toml names no relay")
        } else if self.legs.iter().all(|(_, l)| l.addresses.is_empty()) {
            (Some("dns"), "check the relay's URL in network.toml, and this host's resolver")
        } else if self.legs.iter().any(|(_, l)| l.heard) {
            (None, "see the relay's log, and `ztna status` for our certificate")
        } else if self.legs.iter().any(|(_, l)| l.ever_ready) {
            (
                Some(UDP_BLOCKED),
                "nothing comes back any more (udp-blocked): check that the relay runs there and that no firewall drops UDP to it",
            )
        } else {
            (
                Some(UDP_BLOCKED),
                "nothing ever came back (udp-blocked): check that the relay runs there and that no firewall drops UDP to it",
            )
        }
    }
}
