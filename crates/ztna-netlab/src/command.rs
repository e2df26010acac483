//! Commands to a running wire: one line in, one JSON line out.

use serde_json::{Value, json};

use crate::wire::{Direction, Stats, Wire};
use crate::{Error, Result};

/// Carries out one line and returns the answer, without a line end: `{"ok":true,…}` or `{"ok":false,"error":"…"}`.
pub fn answer(wire: &mut Wire, line: &str) -> String {
    json_line(execute(wire, line))
}

/// An outcome as one line.
pub(crate) fn json_line(outcome: Result<Value>) -> String {
    match outcome {
        Ok(value) => value.to_string(),
        Err(error) => json!({ "ok": false, "error": error.to_string() }).to_string(),
    }
}

fn execute(wire: &mut Wire, line: &str) -> Result<Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["down"] => {
            wire.set_up(false);
            Ok(json!({ "ok": true, "up": false }))
        }
        ["up"] => {
            wire.set_up(true);
            Ok(json!({ "ok": true, "up": true }))
        }
        ["stats"] => Ok(json!({
            "ok": true,
            "up": wire.is_up(),
            "aToB": stats(wire.stats(Direction::AToB)),
            "bToA": stats(wire.stats(Direction::BToA)),
        })),
        ["set", direction, name, value] => {
            let directions = directions(direction)?;
            // All or none: both are tried before either is stored.
            let mut changed = Vec::with_capacity(2);
            for direction in directions {
                let mut impairment = wire.impairment(*direction);
                impairment.set(name, value)?;
                changed.push((*direction, impairment));
            }
            for (direction, impairment) in changed {
                wire.set_impairment(direction, impairment);
            }
            Ok(json!({ "ok": true, "set": name, "direction": direction, "value": value }))
        }
        _ => Err(Error::invalid("command", line, "set both|a-to-b|b-to-a SETTING VALUE, down, up or stats")),
    }
}

fn directions(text: &str) -> Result<&'static [Direction]> {
    match text {
        "both" => Ok(&Direction::BOTH),
        "a-to-b" => Ok(&[Direction::AToB]),
        "b-to-a" => Ok(&[Direction::BToA]),
        _ => Err(Error::invalid("direction", text, "both, a-to-b or b-to-a")),
    }
}

/// Counters of one way, in the order in which things happen.
pub(crate) fn stats(s: Stats) -> Value {
    json!({
        "packetsIn": s.packets_in,
        "bytesIn": s.bytes_in,
        "packetsOut": s.packets_out,
        "bytesOut": s.bytes_out,
        "reordered": s.reordered,
        "lost": {
            "random": s.lost_random,
            "queue": s.lost_queue,
            "mtu": s.lost_mtu,
            "down": s.lost_down,
            "overflow": s.lost_overflow,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::impairment::Impairment;
    use std::time::Duration;

    #[test]
    fn set_changes_the_named_direction_only() {
        let mut wire = wire();
        assert_eq!(ask(&mut wire, "set a-to-b loss 10%")["ok"], true);
        assert_eq!(wire.impairment(Direction::AToB).loss, 100_000);
        assert_eq!(wire.impairment(Direction::BToA).loss, 0);
        assert_eq!(ask(&mut wire, "set both delay 100ms")["ok"], true);
        assert_eq!(wire.impairment(Direction::BToA).delay, Duration::from_millis(100));
    }

    #[test]
    fn down_up_and_stats_tell_the_state() {
        let mut wire = wire();
        assert_eq!(ask(&mut wire, "down")["up"], false);
        wire.handle_packet(Duration::ZERO, Direction::AToB, vec![0; 10]);
        let stats = ask(&mut wire, "stats");
        assert_eq!((&stats["up"], &stats["aToB"]["lost"]["down"]), (&json!(false), &json!(1)));
        assert_eq!(ask(&mut wire, "up")["up"], true);
    }

    #[test]
    fn a_bad_command_is_answered_with_what_is_accepted() {
        for line in ["", "set", "set both", "set left loss 1%", "set both loss x", "sats", "down now", "\"\\\u{7f}"] {
            let answer = ask(&mut wire(), line);
            assert_eq!(answer["ok"], false, "{line}");
            assert!(answer["error"].as_str().is_some_and(|text| text.contains("expected")), "{answer}");
        }
    }

    fn wire() -> Wire {
        Wire::new(1, Impairment::default(), Impairment::default())
    }

    fn ask(wire: &mut Wire, line: &str) -> Value {
        serde_json::from_str(&answer(wire, line)).unwrap()
    }
}
