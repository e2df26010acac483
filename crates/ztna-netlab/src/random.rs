//! A seeded generator, so that the same packets at the same times fare the same.

/// SplitMix64 (Steele, Lea, Flood 2014): enough for coin tosses, and one line to repeat elsewhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator whose whole sequence follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator of its own for another part, so that what this one deals out does not depend on how often that one asks.
    pub fn split(&mut self) -> Self {
        Self(self.next())
    }

    /// 64 random bits.
    #[expect(clippy::should_implement_trait, reason = "endless: an iterator's Option would have to be unwrapped")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..`bound`, and 0 for a bound of 0. The bias of the remainder is below 2^-32 for bounds of 32 bits.
    pub fn below(&mut self, bound: u32) -> u32 {
        let value = self.next();
        if bound == 0 { 0 } else { (value % u64::from(bound)) as u32 }
    }

    /// Uniform in 0..1,000,000.
    pub fn per_million(&mut self) -> u32 {
        self.below(1_000_000)
    }

    /// Uniform in [-1, 1).
    pub fn signed_unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}
