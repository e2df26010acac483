//! Spoofed Initials at a steady rate.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::raw::{BATCH, RawSocket};
use crate::args::Flood;
use crate::initial::{PACKET, Spoofer};
use crate::{Error, Result};

/// Pause when nothing is due: a batch of 64 lasts 0.64 ms at 100,000 a second.
const TICK: Duration = Duration::from_micros(500);
/// What a sender that fell behind makes up for at most, in time at the full rate; the rest is not sent and shows in the rate reached.
const MAKE_UP: Duration = Duration::from_millis(100);

/// Sends for the given time: packets sent and refused by this system, seconds, and the rate reached.
pub fn flood(args: &Flood) -> Result<serde_json::Value> {
    let mut socket = RawSocket::new(args.to).map_err(|e| Error::io("raw socket", e))?;
    let mut spoofer = Spoofer::new(args.to, args.sources, args.token, args.seed);
    let mut packets: Vec<[u8; PACKET]> = (0..BATCH).map(|_| spoofer.packet()).collect();
    let rate = f64::from(args.rate);
    let (mut sent, mut refused, mut forgiven) = (0u64, 0u64, 0.0);
    let begun = Instant::now();
    loop {
        let passed = begun.elapsed();
        if passed >= args.time {
            break;
        }
        let due = passed.as_secs_f64() * rate - forgiven - (sent + refused) as f64;
        let late = due - rate * MAKE_UP.as_secs_f64();
        if late > 0.0 {
            forgiven += late;
        }
        if due < 1.0 {
            sleep(TICK);
            continue;
        }
        let count = (due as usize).min(BATCH);
        let Some(batch) = packets.get_mut(..count) else { break };
        batch.iter_mut().for_each(|packet| spoofer.renew(packet));
        match socket.send(batch) {
            Ok(n) => sent += n as u64,
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Err(Error::io("send", e)),
            // Such as a full queue: the packet is lost, as on a link.
            Err(_) => refused += 1,
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(json!({ "sent": sent, "refused": refused, "seconds": seconds, "perSecond": sent as f64 / seconds }))
}
