//! Why no relay serves a node, in words for whoever has to mend it.

use std::borrow::Cow;

use super::Node;
use crate::error::Error;

/// Relays named in the message itself; all are in `tried`.
const NAMED: usize = 3;
/// Of an [`Error::Unreachable`]: nothing comes back from a relay.
pub const UDP_BLOCKED: &str = "udp-blocked";
/// What to do about that.
pub const CHECK_UDP: &str = "check that the relay runs and that no firewall drops UDP to it";

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
            advice.into_owned()
        } else {
            let said: Vec<&str> = tried.iter().take(NAMED).map(String::as_str).collect();
            format!("no relay answers: {}; {advice}", said.join("; "))
        };
        Some(Error::Unreachable { message, reason, tried })
    }

    fn relay_advice(&self) -> (Option<&'static str>, Cow<'static, str>) {
        if self.legs.is_empty() {
            (None, "network.toml names no relay".into())
        } else if self.legs.iter().all(|(_, l)| l.addresses.is_empty()) {
            (Some("dns"), "check the relay's URL in network.toml, and this host's resolver".into())
        } else if self.legs.iter().any(|(_, l)| l.heard) {
            (None, "see the relay's log, and `ztna status` for our certificate".into())
        } else {
            let ever = self.legs.iter().any(|(_, l)| l.ever_ready);
            let nothing = if ever { "nothing comes back any more" } else { "nothing ever came back" };
            (Some(UDP_BLOCKED), format!("{nothing} ({UDP_BLOCKED}): {CHECK_UDP}").into())
        }
    }
}
