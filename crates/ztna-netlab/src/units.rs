//! Quantities as an operator writes them: `50ms`, `2%`, `200mbit`, `1MB`.

use std::time::Duration;

use crate::{Error, Result};

/// A time: a decimal number with `ns`, `us`, `ms` or `s`; a bare `0` is allowed. At most one hour.
pub fn duration(what: &str, text: &str) -> Result<Duration> {
    const ACCEPTED: &str = "a time from 0 to 3600s with a unit, as 50ms, 1.5s or 200us";
    let (number, unit) = split(text);
    let scale = match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "" if number == "0" => 1.0,
        _ => return Err(Error::invalid(what, text, ACCEPTED)),
    };
    match number.parse::<f64>() {
        Ok(n) if (0.0..=3600.0).contains(&(n * scale)) => Ok(Duration::from_secs_f64(n * scale)),
        _ => Err(Error::invalid(what, text, ACCEPTED)),
    }
}

/// A share in parts per million, written as a percentage: `2%`, `0.1%`, or the bare number of percent.
pub fn percent(what: &str, text: &str) -> Result<u32> {
    const ACCEPTED: &str = "a percentage from 0 to 100, as 2% or 0.1%";
    let number = text.strip_suffix('%').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(n) if (0.0..=100.0).contains(&n) => Ok((n * 10_000.0).round() as u32),
        _ => Err(Error::invalid(what, text, ACCEPTED)),
    }
}

/// A rate in bits per second: `200mbit`, `1.5gbit`, `64kbit`, `9600bit`; `off` for no limit.
pub fn rate(what: &str, text: &str) -> Result<Option<u64>> {
    const ACCEPTED: &str = "a rate as 200mbit, 1gbit or 64kbit, or off";
    if text == "off" {
        return Ok(None);
    }
    let (number, unit) = split(text);
    let scale = match unit {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return Err(Error::invalid(what, text, ACCEPTED)),
    };
    match number.parse::<f64>() {
        Ok(n) if (1.0..=1e12).contains(&(n * scale)) => Ok(Some((n * scale) as u64)),
        _ => Err(Error::invalid(what, text, ACCEPTED)),
    }
}

/// A size in bytes: `1500`, `64KB`, `1MB` (powers of 1,000). At most 1 GB.
pub fn bytes(what: &str, text: &str) -> Result<u64> {
    const ACCEPTED: &str = "a size up to 1GB, as 1500, 64KB or 1MB";
    let (number, unit) = split(text);
    let scale = match unit {
        "" | "B" => 1.0,
        "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return Err(Error::invalid(what, text, ACCEPTED)),
    };
    match number.parse::<f64>() {
        Ok(n) if (0.0..=1e9).contains(&(n * scale)) => Ok((n * scale) as u64),
        _ => Err(Error::invalid(what, text, ACCEPTED)),
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_a_unit_unless_it_is_zero() {
        assert_eq!(duration("delay", "50ms").unwrap(), Duration::from_millis(50));
        assert_eq!(duration("delay", "1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("delay", "200us").unwrap(), Duration::from_micros(200));
        assert_eq!(duration("delay", "0").unwrap(), Duration::ZERO);
        assert!(duration("delay", "50").is_err());
    }

    #[test]
    fn a_time_out_of_range_or_negative_is_refused_with_what_is_accepted() {
        for text in ["-1ms", "4000s", "", "ms", "1..2ms", "nan"] {
            let error = duration("delay", text).unwrap_err().to_string();
            assert!(error.contains("delay") && error.contains("50ms"), "{error}");
        }
    }

    #[test]
    fn a_percentage_becomes_parts_per_million() {
        assert_eq!(percent("loss", "2%").unwrap(), 20_000);
        assert_eq!(percent("loss", "0.1").unwrap(), 1_000);
        assert_eq!(percent("loss", "100%").unwrap(), 1_000_000);
        assert!(percent("loss", "101%").is_err());
        assert!(percent("loss", "-1%").is_err());
    }

    #[test]
    fn a_rate_is_in_bits_and_can_be_off() {
        assert_eq!(rate("rate", "200mbit").unwrap(), Some(200_000_000));
        assert_eq!(rate("rate", "off").unwrap(), None);
        assert!(rate("rate", "200").is_err());
        assert!(rate("rate", "0mbit").is_err());
    }

    #[test]
    fn a_size_is_in_bytes() {
        assert_eq!(bytes("queue", "1MB").unwrap(), 1_000_000);
        assert_eq!(bytes("queue", "1500").unwrap(), 1_500);
        assert!(bytes("queue", "1mib").is_err());
    }
}
