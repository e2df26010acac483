//! Flows that carry known bytes to an echo and back, and what must hold of them whatever happens on the way.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use ztna_core::quic::Wrote;
use ztna_core::trust::Protocol;
use ztna_core::{Error, FlowId};

use super::io;
use super::rng::Rng;
use super::world::{Outcome, World};

/// One TCP flow to service `web`: its bytes are unlike those of any other.
pub struct Load {
    pub at: SocketAddr,
    pub flow: FlowId,
    pub data: Vec<u8>,
    sent: usize,
    ended: bool,
}

impl Load {
    pub fn open(w: &mut World, at: SocketAddr, seed: u64, bytes: usize, timeout: Duration) -> Load {
        let flow = w.open(at, "web", Protocol::Tcp, timeout);
        Load { at, flow, data: Rng::new(seed ^ flow.0.rotate_left(32)).bytes(bytes), sent: 0, ended: false }
    }

    /// Writes what the flow takes.
    pub fn pump(&mut self, w: &mut World) {
        if self.ended || w.outcomes.get(&self.flow) != Some(&Outcome::Opened) {
            return;
        }
        match w.try_write(self.at, self.flow, &self.data[self.sent..], true) {
            Wrote::Bytes(n) => self.sent += n,
            Wrote::Blocked => return,
            Wrote::Stopped(_) | Wrote::Gone => self.ended = true,
        }
        self.ended |= self.sent == self.data.len();
    }

    /// What has become of it: `Ok` once all came back and the stream has ended, the error that its owner saw, or nothing yet.
    /// Panics where a byte is wrong, or the end came early.
    pub fn verdict(&self, w: &World) -> Option<Result<(), Error>> {
        let got = w.received.get(&self.flow).map_or(&[][..], Vec::as_slice);
        assert!(self.data.starts_with(got), "flow {}: a wrong byte within the first {}", self.flow, got.len());
        match w.outcomes.get(&self.flow) {
            Some(Outcome::Failed(e) | Outcome::Reset(e)) => Some(Err(e.clone())),
            Some(Outcome::Opened) if w.finished.contains(&self.flow) => {
                assert_eq!(got.len(), self.data.len(), "flow {}: a clean end before all bytes", self.flow);
                Some(Ok(()))
            }
            Some(Outcome::Opened) | None => None,
        }
    }
}

/// Every connector's flow received a prefix of what one of the agents' flows sent.
pub fn assert_arrived<'a>(w: &World, loads: impl Iterator<Item = &'a Load> + Clone) {
    for (_, got) in &w.arrived {
        assert!(loads.clone().any(|l| l.data.starts_with(got)), "a connector received {} bytes nobody sent", got.len());
    }
}

/// Runs one case a seed, each on virtual time. `step` tells whether anything moved, and whether the case is over; while nothing
/// moves, time jumps to what `next` names.
pub fn each_on_virtual_time<T>(
    seeds: Range<u64>,
    start: impl Fn(u64) -> T,
    mut step: impl FnMut(&mut T) -> (bool, bool),
    mut next: impl FnMut(&mut T) -> Option<Instant>,
) {
    /// What a turn in which packets moved takes: a round trip is a few of them.
    const TURN: Duration = Duration::from_micros(100);
    /// The longest jump: something may be due that nobody named.
    const JUMP: Duration = Duration::from_millis(20);
    for seed in seeds {
        let named = Named(seed);
        io::on_virtual_time(|| {
            let mut case = start(seed);
            loop {
                let (moved, over) = step(&mut case);
                if over {
                    break;
                }
                let wait = if moved {
                    TURN
                } else {
                    let now = Instant::now();
                    next(&mut case).map_or(JUMP, |t| t.saturating_duration_since(now)).clamp(TURN, JUMP)
                };
                io::advance(wait);
            }
        });
        std::mem::forget(named);
    }
}

/// Names the seed when its case panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("seed {}", self.0);
    }
}
