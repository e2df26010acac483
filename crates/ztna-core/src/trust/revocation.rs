//! revoked.toml: certificates that are no longer believed although their dates and signature are good.

use std::collections::BTreeSet;

use serde::Deserialize;
use toml::Spanned;

use crate::error::Error;
use crate::id::{Role, check_name};
use crate::trust::identity::PeerIdentity;
use crate::trust::text::line_of;

/// What is revoked. The default is nothing.
///
/// A name stops every certificate of that node, known or not, until the node is issued again; serials stop single
/// certificates for good. `pki revoke` writes both, so that a node that comes back does so with a new certificate only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    serials: BTreeSet<String>,
    names: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    names: Vec<Spanned<String>>,
    #[serde(default)]
    serials: Vec<Spanned<String>>,
}

impl Revocations {
    /// Errors: [`Error::Config`] with `at` and the line for anything but `names = ["agent/alice"]` and
    /// `serials = ["<lower-case hexadecimal>"]`.
    pub fn parse(text: &str, at: &str) -> Result<Revocations, Error> {
        let wrong = |offset: usize, why: String| Error::config(format!("{at}:{}", line_of(text, offset)), why);
        let file: File =
            toml::from_str(text).map_err(|e| wrong(e.span().map_or(0, |s| s.start), e.message().to_owned()))?;
        let mut revoked = Revocations::default();
        for name in file.names {
            let ok = name
                .get_ref()
                .split_once('/')
                .is_some_and(|(r, n)| r.parse::<Role>().is_ok() && check_name("node", n).is_ok());
            if !ok {
                let why =
                    format!("`{}` is not a node's name: <agent|connector|relay>/<name>", name.get_ref().escape_debug());
                return Err(wrong(name.span().start, why));
            }
            revoked.names.insert(name.into_inner());
        }
        for serial in file.serials {
            // An unpadded, lower-case form is the only one, or a typing slip would silently revoke nothing.
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            let s = serial.get_ref();
            if s.is_empty()
                || s.len() % 2 != 0
                || s.len() > 64
                || !s.bytes().all(hex)
                || (s.starts_with("00") && s.len() > 2)
            {
                return Err(wrong(
                    serial.span().start,
                    format!(
                        "`{}` is not a serial: an even number of 0-9 and a-f, without leading 00",
                        s.escape_debug()
                    ),
                ));
            }
            revoked.serials.insert(serial.into_inner());
        }
        Ok(revoked)
    }

    /// Whether this certificate, by its serial or its node's name, is revoked.
    pub fn covers(&self, peer: &PeerIdentity) -> bool {
        self.serials.contains(&peer.serial) || (!self.names.is_empty() && self.names.contains(&peer.short_name()))
    }

    pub fn is_empty(&self) -> bool {
        self.serials.is_empty() && self.names.is_empty()
    }
    pub fn serials(&self) -> impl Iterator<Item = &str> {
        self.serials.iter().map(String::as_str)
    }
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_serials_are_read() {
        let revoked = Revocations::parse("names = [\"agent/alice\"]\nserials = [\"0a1b\"]\n", "revoked.toml").unwrap();
        assert_eq!(revoked.names().collect::<Vec<_>>(), ["agent/alice"]);
        assert_eq!(revoked.serials().collect::<Vec<_>>(), ["0a1b"]);
        assert!(Revocations::parse("", "revoked.toml").unwrap().is_empty());
    }

    #[test]
    fn an_entry_that_could_never_match_is_refused_with_its_line() {
        for (text, line) in [
            ("serials = [\n  \"0a\",\n  \"0A\",\n]", 3),
            ("names = [\n  \"alice\",\n]", 2),
            ("serials = [\"000a\"]", 1),
            ("names = []\nserial = []", 2),
            ("names = [\"agent/al", 1),
        ] {
            let error = Revocations::parse(text, "revoked.toml").unwrap_err().to_string();
            assert!(error.starts_with(&format!("revoked.toml:{line}: ")), "{error}");
        }
    }
}
