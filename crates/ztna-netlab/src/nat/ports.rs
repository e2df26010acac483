//! The choice of an external port.

use std::ops::RangeInclusive;

use super::Ports;
use crate::random::Random;

/// Random draws before the search goes on in order: a quarter-full table fails all of them once in 10^19.
const DRAWS: u32 = 32;

#[derive(Debug)]
pub(super) struct PortSource {
    ports: Ports,
    range: RangeInclusive<u16>,
    random: Random,
    /// [`Ports::Sequential`]: the next one, counted from the start of the range.
    next: u32,
    /// [`Ports::Preserve`]: added to the inside port, so that a rebinding gives new ports.
    shift: u32,
}

impl PortSource {
    pub(super) fn new(ports: Ports, range: RangeInclusive<u16>, mut random: Random) -> Self {
        let next = random.below(len(&range));
        Self { ports, range, random, next, shift: 0 }
    }

    /// From here on other ports than before.
    pub(super) fn reshuffle(&mut self) {
        let len = len(&self.range);
        // Never a whole turn: a shift of 0 would give the old ports again.
        self.shift = (self.shift + 1 + self.random.below(len.saturating_sub(1))) % len.max(1);
        self.next = self.random.below(len);
    }

    /// A port for `inside`, which `is_free` says is free; `None` when there is none.
    pub(super) fn pick(&mut self, inside: u16, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        let len = len(&self.range);
        if len == 0 {
            return None;
        }
        let start = match self.ports {
            Ports::Preserve => {
                let wanted = u32::from(inside.max(*self.range.start()) - *self.range.start());
                wanted + self.shift
            }
            Ports::Sequential => self.next,
            Ports::Random => {
                for _ in 0..DRAWS {
                    let offset = self.random.below(len);
                    let port = self.port(offset);
                    if is_free(port) {
                        return Some(port);
                    }
                }
                self.random.below(len)
            }
        };
        let offset = (0..len).map(|step| start.wrapping_add(step) % len).find(|offset| is_free(self.port(*offset)))?;
        self.next = (offset + 1) % len;
        Some(self.port(offset))
    }

    /// The port at `offset` in the range.
    fn port(&self, offset: u32) -> u16 {
        // The offset is below the range's length.
        (u32::from(*self.range.start()) + offset) as u16
    }
}

fn len(range: &RangeInclusive<u16>) -> u32 {
    (u32::from(*range.end()) + 1).saturating_sub(u32::from(*range.start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preserved_port_goes_on_to_the_next_free_one_and_wraps() {
        let mut source = source(Ports::Preserve);
        assert_eq!(source.pick(1005, |_| true), Some(1005));
        assert_eq!(source.pick(1008, |port| port != 1008 && port != 1009), Some(1000));
        assert_eq!(source.pick(1008, |_| false), None);
    }

    #[test]
    fn sequential_ports_follow_one_another() {
        let mut source = source(Ports::Sequential);
        let ports: Vec<u16> = (0..12).filter_map(|_| source.pick(5, |_| true)).collect();
        assert!(ports.windows(2).all(|pair| pair[1] == pair[0] + 1 || (pair[0], pair[1]) == (1009, 1000)), "{ports:?}");
    }

    #[test]
    fn random_ports_reach_the_whole_range_and_find_the_last_free_one() {
        let mut source = source(Ports::Random);
        let mut ports: Vec<u16> = (0..400).filter_map(|_| source.pick(5, |_| true)).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports, (1000..1010).collect::<Vec<_>>());
        assert_eq!(source.pick(5, |port| port == 1007), Some(1007));
    }

    #[test]
    fn after_a_reshuffle_a_preserving_source_gives_another_port() {
        for seed in 0..50 {
            let mut source = PortSource::new(Ports::Preserve, 1000..=1009, Random::new(seed));
            for _ in 0..3 {
                let before = source.pick(1005, |_| true);
                source.reshuffle();
                assert_ne!(source.pick(1005, |_| true), before);
            }
        }
    }

    fn source(ports: Ports) -> PortSource {
        PortSource::new(ports, 1000..=1009, Random::new(7))
    }
}
