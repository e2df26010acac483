//! The command line.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::prefix::Prefix;
use crate::{Error, Result};

/// Text of `--help`.
pub const HELP: &str = "\
Puts load on a relay, and prints what came of it as one line of JSON.

usage: ztna-load handshakes --network DIR --relay IP:PORT --sources PREFIX [--in-flight N] [--seconds S]
       ztna-load nodes      --network DIR --relay IP:PORT --sources PREFIX [--count N] [--in-flight N]
       ztna-load flood      --to IP:PORT --sources PREFIX [--rate N] [--seconds S] [--token N] [--seed N]

handshakes opens connections with an agent's certificate, closes each once the relay has answered with its SETTINGS, and begins the
next. nodes holds connections open with an agent's keep-alive, prints {\"ready\":N} once all are up, and ends at the end of its
input. flood sends QUIC Initials of 1,200 bytes from random addresses (needs CAP_NET_RAW).

  --network DIR      an agent's published folder
  --relay IP:PORT    the relay's address; its name is the folder's first relay's
  --sources PREFIX   IPv4 prefix of at most 24 bits to send from. Clients take one address of each /24 network before a second of
                     any, and must be able to bind it: `ip route add local PREFIX dev lo`
  --in-flight N      handshakes that run at once (default 64)
  --count N          connections to hold (default 1000)
  --rate N           packets a second (default 100000)
  --seconds S        for how long (default 10)
  --token N          bytes of an invented Retry token in each Initial, 0 to 63 (default 0: first Initials)
  --seed N           of addresses and bytes (default 1)

example:
  ip route add local 10.64.0.0/16 dev lo
  ztna-load handshakes --network out/alice --relay 198.51.100.1:4433 --sources 10.64.0.0/16
";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Print [`HELP`].
    Help,
    Handshakes(Clients),
    Nodes(Clients),
    Flood(Flood),
}

/// Clients of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    pub network: PathBuf,
    pub relay: SocketAddrV4,
    pub sources: Prefix,
    /// Handshakes that run at once.
    pub in_flight: u32,
    /// Connections that `nodes` holds.
    pub count: u32,
    /// How long `handshakes` runs.
    pub time: Duration,
}

/// A flood of spoofed Initials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flood {
    pub to: SocketAddrV4,
    pub sources: Prefix,
    /// Packets a second.
    pub rate: u32,
    pub time: Duration,
    /// Bytes of an invented Retry token.
    pub token: u8,
    pub seed: u64,
}

/// Reads the arguments after the program's name.
pub fn parse(args: &[String]) -> Result<Invocation> {
    let mut args = args.iter().map(String::as_str);
    let command = match args.next() {
        None | Some("--help" | "-h" | "help") => return Ok(Invocation::Help),
        Some(command @ ("handshakes" | "nodes" | "flood")) => command,
        Some(other) => return Err(Error::invalid("command", other, "handshakes, nodes, flood or --help")),
    };
    let mut given = Options::default();
    while let Some(option) = args.next() {
        if matches!(option, "--help" | "-h") {
            return Ok(Invocation::Help);
        }
        let value = args.next().ok_or_else(|| Error::invalid(option, "", "a value after the option"))?;
        given.set(command, option, value)?;
    }
    match command {
        "flood" => given.flood().map(Invocation::Flood),
        "nodes" => given.clients().map(Invocation::Nodes),
        _ => given.clients().map(Invocation::Handshakes),
    }
}

#[derive(Default)]
struct Options {
    network: Option<PathBuf>,
    relay: Option<SocketAddrV4>,
    to: Option<SocketAddrV4>,
    sources: Option<Prefix>,
    in_flight: Option<u32>,
    count: Option<u32>,
    rate: Option<u32>,
    seconds: Option<u32>,
    token: Option<u32>,
    seed: Option<u64>,
}

impl Options {
    fn set(&mut self, command: &str, option: &str, value: &str) -> Result<()> {
        const ADDRESS: &str = "IP:PORT of IPv4, as 198.51.100.1:4433";
        let number = |range: std::ops::RangeInclusive<u32>, accepted| {
            value.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| Error::invalid(option, value, accepted))
        };
        match (command, option) {
            ("handshakes" | "nodes", "--network") => self.network = Some(value.into()),
            ("handshakes" | "nodes", "--relay") => self.relay = Some(read(option, value, ADDRESS)?),
            ("flood", "--to") => self.to = Some(read(option, value, ADDRESS)?),
            (_, "--sources") => self.sources = Some(Prefix::parse(option, value)?),
            ("handshakes" | "nodes", "--in-flight") => self.in_flight = Some(number(1..=10_000, "1 to 10000")?),
            ("nodes", "--count") => self.count = Some(number(1..=100_000, "1 to 100000")?),
            ("flood", "--rate") => self.rate = Some(number(1..=10_000_000, "1 to 10000000")?),
            ("handshakes" | "flood", "--seconds") => self.seconds = Some(number(1..=86_400, "1 to 86400")?),
            ("flood", "--token") => self.token = Some(number(0..=63, "0 to 63")?),
            ("flood", "--seed") => self.seed = Some(read(option, value, "a whole number of at most 64 bits")?),
            _ => return Err(Error::invalid("option", option, "one of those of ztna-load --help for this command")),
        }
        Ok(())
    }

    fn clients(self) -> Result<Clients> {
        Ok(Clients {
            network: self.network.ok_or(Error::Missing("--network"))?,
            relay: self.relay.ok_or(Error::Missing("--relay"))?,
            sources: self.sources.ok_or(Error::Missing("--sources"))?,
            in_flight: self.in_flight.unwrap_or(64),
            count: self.count.unwrap_or(1_000),
            time: seconds(self.seconds),
        })
    }

    fn flood(self) -> Result<Flood> {
        Ok(Flood {
            to: self.to.ok_or(Error::Missing("--to"))?,
            sources: self.sources.ok_or(Error::Missing("--sources"))?,
            rate: self.rate.unwrap_or(100_000),
            time: seconds(self.seconds),
            token: self.token.unwrap_or(0) as u8,
            seed: self.seed.unwrap_or(1),
        })
    }
}

fn seconds(given: Option<u32>) -> Duration {
    Duration::from_secs(given.unwrap_or(10).into())
}

fn read<T: FromStr>(option: &str, value: &str, accepted: &'static str) -> Result<T> {
    value.parse().map_err(|_| Error::invalid(option, value, accepted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_the_defaults_that_help_names() {
        match parse(&words("nodes --network out/alice --relay 198.51.100.1:4433 --sources 10.64.0.0/16")).unwrap() {
            Invocation::Nodes(nodes) => assert_eq!((nodes.in_flight, nodes.count), (64, 1_000)),
            other => panic!("{other:?}"),
        }
        match parse(&words("flood --to 198.51.100.1:4433 --sources 172.16.0.0/12 --seconds 3")).unwrap() {
            Invocation::Flood(f) => assert_eq!((f.rate, f.time, f.seed), (100_000, Duration::from_secs(3), 1)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_missing_or_not_of_the_command_is_named() {
        for (text, named) in [
            ("handshakes --network d --sources 10.64.0.0/16", "--relay"),
            ("handshakes --network d --relay [::1]:4433", "[::1]:4433"),
            ("flood --to 198.51.100.1:4433", "--sources"),
            ("flood --network d", "--network"),
            ("nodes --count 0", "--count"),
            ("nodes --seconds 5", "--seconds"),
            ("flood --rate", "--rate"),
            ("storm", "storm"),
        ] {
            let error = parse(&words(text)).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn help_is_given_when_asked_or_without_arguments() {
        for text in ["", "--help", "flood --help"] {
            assert_eq!(parse(&words(text)).unwrap(), Invocation::Help);
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }
}
