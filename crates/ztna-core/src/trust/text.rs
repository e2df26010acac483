//! Small conversions shared by this room: hexadecimal, dates, line numbers.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Lower-case hexadecimal of a DER integer's content: the padding zero byte is dropped.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len().saturating_sub(1));
    plain_hex(bytes.get(start..).unwrap_or_default())
}

/// Lower-case hexadecimal of all bytes.
pub(crate) fn plain_hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|d| DIGITS.get(usize::from(d))).collect()
}

/// Seconds since 1970 as a `SystemTime`; what that can't hold becomes 1970, which nothing valid uses.
pub(crate) fn system_time(unix: i64) -> SystemTime {
    let span = Duration::from_secs(unix.unsigned_abs());
    let at = if unix < 0 { SystemTime::UNIX_EPOCH.checked_sub(span) } else { SystemTime::UNIX_EPOCH.checked_add(span) };
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Whole seconds since 1970, rounded down.
pub(crate) fn unix_seconds(at: SystemTime) -> i64 {
    let floor = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => floor(after),
        Err(before) => -floor(before.duration()) - i64::from(before.duration().subsec_nanos() > 0),
    }
}

/// `2026-11-22T20:15:34Z`; what has no such form is shown as seconds.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let seconds = unix_seconds(at);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("@{seconds}"))
}

/// Line (from 1) of a byte offset.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

/// Finds the lines of many offsets of one text, counting its lines once.
pub(crate) struct Lines(Vec<usize>);

impl Lines {
    pub fn new(text: &str) -> Lines {
        Lines(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(offset, _)| offset).collect())
    }
    /// Line (from 1) of a byte offset.
    pub fn of(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_written_without_its_padding_byte() {
        assert_eq!(hex(&[0, 0x8f, 0x01]), "8f01");
        assert_eq!(hex(&[0]), "00");
        assert_eq!(hex(&[]), "");
    }

    #[test]
    fn lines_of_many_offsets_are_those_of_each() {
        let text = "\na\n\nbc\nd";
        let lines = Lines::new(text);
        for offset in 0..=text.len() + 1 {
            assert_eq!(lines.of(offset), line_of(text, offset), "{offset}");
        }
    }

    #[test]
    fn seconds_before_1970_round_down_and_back() {
        for s in [-2, -1, 0, 1, 1_800_000_000] {
            assert_eq!(unix_seconds(system_time(s)), s);
        }
        assert_eq!(unix_seconds(SystemTime::UNIX_EPOCH - Duration::from_millis(1)), -1);
        assert_eq!(rfc3339(system_time(0)), "1970-01-01T00:00:00Z");
    }
}
