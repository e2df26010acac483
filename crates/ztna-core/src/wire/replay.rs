//! Which counters of one sender have come before.

/// A sliding window over the counters of one key (the manner of RFC 4303 §3.4.3). Ask it only of what is authentic.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplayWindow {
    /// The highest counter so far.
    highest: Option<u64>,
    /// Bit n: `highest - n` has come.
    seen: u64,
}

impl ReplayWindow {
    /// How far a counter may lie behind the highest, that one included.
    pub const LEN: u64 = 64;

    /// Takes note of `counter`. `false`: it has come before, or lies so far behind that nobody remembers.
    #[must_use]
    pub fn accept(&mut self, counter: u64) -> bool {
        let Some(highest) = self.highest else {
            (self.highest, self.seen) = (Some(counter), 1);
            return true;
        };
        if let Some(ahead) = counter.checked_sub(highest).filter(|n| *n > 0) {
            self.seen = if ahead < Self::LEN { self.seen << ahead } else { 0 } | 1;
            self.highest = Some(counter);
            return true;
        }
        let behind = highest - counter;
        if behind >= Self::LEN || self.seen & (1 << behind) != 0 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_counter_is_taken_once_in_any_order_within_the_window() {
        let mut w = ReplayWindow::default();
        let order: Vec<u64> = (0..64).map(|i| i * 37 % 64).collect();
        assert!(order.iter().all(|n| w.accept(*n)));
        assert!(!order.iter().any(|n| w.accept(*n)));
    }

    #[test]
    fn what_lies_behind_the_window_is_refused_even_when_new() {
        let mut w = ReplayWindow::default();
        assert!(w.accept(100));
        assert!(w.accept(100 - 63));
        assert!(!w.accept(100 - 64));
        assert!(w.accept(u64::MAX));
        assert!(!w.accept(100));
        assert!(w.accept(u64::MAX - 63));
        assert!(!w.accept(u64::MAX));
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_list_of_all_that_came(counters in proptest::collection::vec(0u64..200, 0..400)) {
            let (mut w, mut all) = (ReplayWindow::default(), BTreeSet::new());
            for n in counters {
                let in_reach = all.last().is_none_or(|top| n + ReplayWindow::LEN > *top);
                prop_assert_eq!(w.accept(n), in_reach && !all.contains(&n));
                if in_reach {
                    all.insert(n);
                }
            }
        }
    }
}
