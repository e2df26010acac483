//! What one direction of the wire does to packets.

use std::time::Duration;

use crate::{Error, Result, units};

/// One way through the wire. Packets have already left an interface queue and arrive whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impairment {
    /// Time from the last bit sent to delivery. Default 0.
    pub delay: Duration,
    /// Uniform variation of `delay`, plus or minus; keeps packets in order, as one physical path does. Default 0.
    pub jitter: Duration,
    /// Share of packets lost, in parts per million. Default 0.
    pub loss: u32,
    /// Mean number of packets lost in a row; the share stays `loss`. Default 1: losses are independent of one another.
    pub burst: u32,
    /// Share of packets that are held back by `reorder_by` and overtaken, in parts per million. Default 0.
    pub reorder: u32,
    /// How long a reordered packet is held back. Default 5 ms, several packets' worth at any rate a test uses.
    pub reorder_by: Duration,
    /// Link rate in bits per second, `None` for no limit. Default `None`.
    pub rate: Option<u64>,
    /// Bytes that may wait for the link before more are dropped (drop-tail). Without a rate nothing waits. Default 1 MB.
    pub queue: u64,
    /// Largest IP packet in bytes; larger ones are dropped. Default `None`.
    pub mtu: Option<u16>,
    /// Whether a packet over `mtu` is answered with ICMP "too big". Default false: a black hole.
    pub mtu_signal: bool,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0,
            burst: 1,
            reorder: 0,
            reorder_by: Duration::from_millis(5),
            rate: None,
            queue: 1_000_000,
            mtu: None,
            mtu_signal: false,
        }
    }
}

/// Names that [`Impairment::set`] accepts.
pub const SETTINGS: &[&str] =
    &["delay", "jitter", "loss", "burst", "reorder", "reorder-by", "rate", "queue", "mtu", "mtu-signal"];

impl Impairment {
    /// Changes the setting called `name` to the value written as `text` (see [`units`]). On an error nothing changes.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        match name {
            "delay" => self.delay = units::duration(name, text)?,
            "jitter" => self.jitter = units::duration(name, text)?,
            "loss" => self.loss = units::percent(name, text)?,
            "burst" => {
                self.burst = match text.parse() {
                    Ok(n @ 1..=1_000) => n,
                    _ => return Err(Error::invalid(name, text, "1 to 1000 packets")),
                }
            }
            "reorder" => self.reorder = units::percent(name, text)?,
            "reorder-by" => self.reorder_by = units::duration(name, text)?,
            "rate" => self.rate = units::rate(name, text)?,
            "queue" => self.queue = units::bytes(name, text)?,
            "mtu" => self.mtu = mtu(text)?,
            "mtu-signal" => {
                self.mtu_signal = match text {
                    "on" => true,
                    "off" => false,
                    _ => return Err(Error::invalid(name, text, "on or off")),
                }
            }
            _ => {
                return Err(Error::invalid(
                    "setting",
                    name,
                    "delay, jitter, loss, burst, reorder, reorder-by, rate, queue, mtu or mtu-signal",
                ));
            }
        }
        Ok(())
    }
}

/// 68 is the least MTU of IPv4 (RFC 791).
fn mtu(text: &str) -> Result<Option<u16>> {
    if text == "off" {
        return Ok(None);
    }
    match text.parse::<u16>() {
        Ok(n) if n >= 68 => Ok(Some(n)),
        _ => Err(Error::invalid("mtu", text, "68 to 65535 or off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_setting_can_be_set() {
        let values = ["1ms", "1ms", "1%", "4", "1%", "1ms", "1mbit", "1KB", "1280", "on"];
        let mut impairment = Impairment::default();
        for (name, value) in SETTINGS.iter().zip(values) {
            let before = impairment;
            impairment.set(name, value).unwrap();
            assert_ne!(before, impairment, "{name}");
        }
    }

    #[test]
    fn an_unknown_setting_is_refused_with_the_list() {
        let error = Impairment::default().set("dealy", "1ms").unwrap_err().to_string();
        assert!(error.contains("dealy") && error.contains("jitter"), "{error}");
    }

    #[test]
    fn a_bad_value_changes_nothing() {
        let mut impairment = Impairment::default();
        assert!(impairment.set("mtu", "67").is_err());
        assert!(impairment.set("mtu-signal", "yes").is_err());
        assert_eq!(impairment, Impairment::default());
    }
}
