//! Things known by a number of our own: nobody else chooses it, so that the map needs no defence.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub type Numbered<V> = HashMap<u32, V, BuildHasherDefault<Spread>>;

/// Fibonacci hashing: the upper bits are as different as the numbers are.
#[derive(Debug, Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32((*byte).into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_order_are_spread_over_the_low_and_the_high_bits() {
        let mut seen = [[false; 128]; 2];
        for number in 0..1024u32 {
            let mut hasher = Spread::default();
            hasher.write_u32(number);
            let hash = hasher.finish();
            seen[0][(hash & 127) as usize] = true;
            seen[1][(hash >> 57) as usize] = true;
        }
        assert!(seen.iter().all(|bits| bits.iter().filter(|seen| **seen).count() > 100));
    }
}
