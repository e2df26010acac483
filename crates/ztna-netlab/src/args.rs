//! The command line.

use std::path::PathBuf;

use crate::impairment::{Impairment, SETTINGS};
use crate::verdict::Question;
use crate::{Error, Result};

/// Text of `--help`.
pub const HELP: &str = "\
Joins two network namespaces by a wire of two TUN devices, and spoils what passes.

usage: ztna-netlab net --config FILE      (routers between several namespaces: see ztna-netlab net --help)
       ztna-netlab verdict PAIR...         (which path two places can have: see ztna-netlab verdict --help)
       ztna-netlab wire --a-netns NAME --a-if NAME --a-addr IP/LEN --b-netns NAME --b-if NAME --b-addr IP/LEN [setting]...

ends, for a and for b:
  --a-netns NAME     namespace of `ip netns`, a path such as /proc/1/ns/net, or `-` for this process's own
  --a-if NAME        interface to create there, removed at the end (default eth0)
  --a-addr IP/LEN    its address; give it once for IPv4 and once for IPv6
  --if-mtu BYTES     MTU of both interfaces (default 1500)

settings, for both directions, or for one with --a-to-b-SETTING or --b-to-a-SETTING:
  --delay 50ms       one-way delay, added to every packet
  --jitter 5ms       uniform variation of the delay, packets stay in order
  --loss 2%          random loss
  --burst 4          packets lost in a row, on average; the share stays that of --loss (default 1: independent losses)
  --reorder 1%       share held back and overtaken
  --reorder-by 5ms   for how long (default 5ms)
  --rate 200mbit     link rate, or off (default)
  --queue 1MB        bytes that may wait for the link, drop-tail (default 1MB)
  --mtu 1280         larger packets vanish, or off (default)
  --mtu-signal on    answer them with ICMP \"too big\" instead (default off)
  --seed 7           seed of loss, reorder and jitter (default 1)

prints `ready` when both interfaces are up, then reads commands from standard input, one JSON line of answer for each:
  set both delay 100ms | set a-to-b loss 10% | down | up | stats
ends at end of input, SIGTERM or SIGINT.

example:
  ztna-netlab wire --a-netns lab-a --a-addr 10.0.0.1/24 --b-netns lab-b --b-addr 10.0.0.2/24 --delay 50ms --loss 2%
";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Print [`HELP`].
    Help,
    /// Print [`crate::lab::HELP`].
    NetHelp,
    /// Print [`crate::verdict::HELP`].
    VerdictHelp,
    /// Ask the oracle.
    Verdict(Vec<Question>),
    /// Run a wire.
    Wire(Box<WireArgs>),
    /// Run the network that this file describes.
    Net(PathBuf),
}

/// Everything a wire needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireArgs {
    /// End A.
    pub a: End,
    /// End B.
    pub b: End,
    /// MTU of both interfaces, in bytes.
    pub if_mtu: u16,
    /// From A to B.
    pub a_to_b: Impairment,
    /// From B to A.
    pub b_to_a: Impairment,
    /// Seed of every random decision.
    pub seed: u64,
}

/// One end of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// `ip netns` name, path, or `-`.
    pub netns: String,
    /// Interface name, at most 15 bytes.
    pub interface: String,
    /// Its addresses; of a wire at most one of each family.
    pub addresses: Vec<Address>,
}

/// An interface address with its prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: std::net::IpAddr,
    /// Prefix length.
    pub prefix: u8,
}

/// Reads the arguments after the program's name.
pub fn parse(args: &[String]) -> Result<Invocation> {
    let mut args = args.iter().map(String::as_str);
    match args.next() {
        None | Some("--help" | "-h" | "help") => return Ok(Invocation::Help),
        Some("wire") => {}
        Some("net") => return net(args),
        Some("verdict") => return verdict(args),
        Some(other) => return Err(Error::invalid("command", other, "wire, net, verdict or --help")),
    }
    let mut wire = WireArgs {
        a: End { netns: String::new(), interface: "eth0".into(), addresses: Vec::new() },
        b: End { netns: String::new(), interface: "eth0".into(), addresses: Vec::new() },
        if_mtu: 1500,
        a_to_b: Impairment::default(),
        b_to_a: Impairment::default(),
        seed: 1,
    };
    while let Some(option) = args.next() {
        if matches!(option, "--help" | "-h") {
            return Ok(Invocation::Help);
        }
        let value = args.next().ok_or_else(|| Error::invalid(option, "", "a value after the option"))?;
        apply(&mut wire, option, value)?;
    }
    for (end, netns, addr) in [(&wire.a, "--a-netns", "--a-addr"), (&wire.b, "--b-netns", "--b-addr")] {
        if end.netns.is_empty() {
            return Err(Error::Missing(netns));
        }
        if end.addresses.is_empty() {
            return Err(Error::Missing(addr));
        }
    }
    if wire.a.netns == wire.b.netns && wire.a.interface == wire.b.interface {
        return Err(Error::invalid("--b-if", &wire.b.interface, "another name than --a-if in the same namespace"));
    }
    Ok(Invocation::Wire(Box::new(wire)))
}

fn net<'a>(mut args: impl Iterator<Item = &'a str>) -> Result<Invocation> {
    let mut config = None;
    while let Some(option) = args.next() {
        match option {
            "--help" | "-h" => return Ok(Invocation::NetHelp),
            "--config" => match args.next() {
                Some(file) if !file.is_empty() => config = Some(PathBuf::from(file)),
                Some(_) | None => return Err(Error::invalid(option, "", "the name of a file")),
            },
            _ => return Err(Error::invalid("option", option, "--config FILE or --help")),
        }
    }
    config.map(Invocation::Net).ok_or(Error::Missing("--config"))
}

fn verdict<'a>(args: impl Iterator<Item = &'a str>) -> Result<Invocation> {
    let pairs: Vec<&str> = args.collect();
    if pairs.iter().any(|word| matches!(*word, "--help" | "-h")) {
        return Ok(Invocation::VerdictHelp);
    }
    if pairs.is_empty() {
        return Err(Error::Missing("PAIR"));
    }
    pairs.into_iter().map(Question::parse).collect::<Result<_>>().map(Invocation::Verdict)
}

fn apply(wire: &mut WireArgs, option: &str, value: &str) -> Result<()> {
    match option {
        "--a-netns" => wire.a.netns = netns(option, value)?,
        "--b-netns" => wire.b.netns = netns(option, value)?,
        "--a-if" => wire.a.interface = interface(option, value)?,
        "--b-if" => wire.b.interface = interface(option, value)?,
        "--a-addr" => add_address(&mut wire.a, option, value)?,
        "--b-addr" => add_address(&mut wire.b, option, value)?,
        "--if-mtu" => wire.if_mtu = if_mtu(option, value)?,
        "--seed" => {
            wire.seed =
                value.parse().map_err(|_| Error::invalid(option, value, "a whole number of at most 64 bits"))?;
        }
        _ => {
            let name = option.strip_prefix("--").unwrap_or("");
            let (a_to_b, b_to_a, name) = match (name.strip_prefix("a-to-b-"), name.strip_prefix("b-to-a-")) {
                (Some(name), _) => (true, false, name),
                (_, Some(name)) => (false, true, name),
                (None, None) => (true, true, name),
            };
            if !SETTINGS.contains(&name) {
                return Err(Error::invalid("option", option, "one of those of ztna-netlab --help"));
            }
            if a_to_b {
                wire.a_to_b.set(name, value)?;
            }
            if b_to_a {
                wire.b_to_a.set(name, value)?;
            }
        }
    }
    Ok(())
}

/// The MTU of an interface, in bytes.
pub(crate) fn if_mtu(option: &str, value: &str) -> Result<u16> {
    match value.parse() {
        Ok(n @ 68..=65_521) => Ok(n),
        _ => Err(Error::invalid(option, value, "68 to 65521")),
    }
}

/// The name of a namespace.
pub(crate) fn netns(option: &str, value: &str) -> Result<String> {
    let plain = !value.is_empty() && !value.contains('/') && value != "." && value != "..";
    if plain || value.starts_with('/') {
        return Ok(value.into());
    }
    Err(Error::invalid(option, value, "a name of `ip netns list`, an absolute path, or -"))
}

/// The name of an interface.
pub(crate) fn interface(option: &str, value: &str) -> Result<String> {
    // IFNAMSIZ is 16 with the closing zero; `%` would make the kernel pick a number.
    let fine = (1..=15).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && value != "."
        && value != "..";
    if fine { Ok(value.into()) } else { Err(Error::invalid(option, value, "1 to 15 letters, digits, '-', '_' or '.'")) }
}

fn add_address(end: &mut End, option: &str, value: &str) -> Result<()> {
    let address = address(option, value)?;
    if end.addresses.iter().any(|have| have.ip.is_ipv4() == address.ip.is_ipv4()) {
        return Err(Error::invalid(option, value, "at most one address of each family"));
    }
    end.addresses.push(address);
    Ok(())
}

/// An address with its prefix length.
pub(crate) fn address(option: &str, value: &str) -> Result<Address> {
    let invalid = || Error::invalid(option, value, "IP/LEN, as 10.0.0.1/24 or fd00::1/64");
    let (ip, prefix) = value.split_once('/').ok_or_else(invalid)?;
    let ip: std::net::IpAddr = ip.parse().map_err(|_| invalid())?;
    let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    if prefix <= longest { Ok(Address { ip, prefix }) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ENDS: &str = "wire --a-netns a --a-addr 10.0.0.1/24 --b-netns b --b-addr 10.0.0.2/24";

    #[test]
    fn a_setting_applies_to_both_directions_unless_one_is_named() {
        let wire = wire(&format!("{ENDS} --delay 50ms --b-to-a-loss 2% --seed 9")).unwrap();
        assert_eq!(wire.a_to_b.delay, Duration::from_millis(50));
        assert_eq!(wire.b_to_a.delay, Duration::from_millis(50));
        assert_eq!((wire.a_to_b.loss, wire.b_to_a.loss), (0, 20_000));
        assert_eq!(wire.seed, 9);
    }

    #[test]
    fn an_end_has_at_most_one_address_of_a_family() {
        let wire = wire(&format!("{ENDS} --a-addr fd00::1/64")).unwrap();
        assert_eq!(wire.a.addresses.len(), 2);
        assert!(super::tests::wire(&format!("{ENDS} --a-addr 10.0.0.3/24")).is_err());
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        for (text, named) in [
            ("wire --a-netns a --a-addr 10.0.0.1/24 --b-addr 10.0.0.2/24", "--b-netns"),
            ("wire --a-netns a --b-netns b --b-addr 10.0.0.2/24", "--a-addr"),
            (&format!("{ENDS} --dealy 5ms"), "--dealy"),
            (&format!("{ENDS} --delay"), "--delay"),
            (&format!("{ENDS} --a-if way-too-long-name"), "--a-if"),
            (&format!("{ENDS} --a-netns ../x"), "--a-netns"),
            ("tunnel", "tunnel"),
        ] {
            let error = wire(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_network_is_described_by_a_file() {
        assert_eq!(parse(&words("net --config x.json")).unwrap(), Invocation::Net("x.json".into()));
        for text in ["net", "net --config", "net --confg x.json"] {
            assert!(parse(&words(text)).unwrap_err().to_string().contains("conf"), "{text}");
        }
    }

    #[test]
    fn help_is_given_when_asked_or_without_arguments() {
        for text in ["", "--help", "wire --help"] {
            assert_eq!(parse(&words(text)).unwrap(), Invocation::Help);
        }
        assert_eq!(parse(&words("net --config x.json --help")).unwrap(), Invocation::NetHelp);
        assert_eq!(parse(&words("verdict --help")).unwrap(), Invocation::VerdictHelp);
        assert!(SETTINGS.iter().all(|name| HELP.contains(&format!("--{name} "))));
    }

    fn wire(text: &str) -> Result<WireArgs> {
        match parse(&words(text))? {
            Invocation::Wire(wire) => Ok(*wire),
            Invocation::Help
            | Invocation::NetHelp
            | Invocation::VerdictHelp
            | Invocation::Verdict(_)
            | Invocation::Net(_) => panic!("no wire"),
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }
}
