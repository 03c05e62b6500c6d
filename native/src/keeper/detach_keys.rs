//! Finds the detach sequence (ctrl-p ctrl-q) in what a terminal's user types.

/// Matches across reads. Held-back keys that turn out not to be the sequence are passed on.
#[derive(Debug, Clone, Default)]
pub struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// An empty sequence never matches.
    #[must_use]
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// The sequence and how much of it has been typed.
    #[must_use]
    pub fn state(&self) -> (&[u8], usize) {
        (&self.keys, self.matched)
    }

    /// Go on where [`Self::state`] was taken.
    #[must_use]
    pub fn restore(keys: Vec<u8>, matched: usize) -> Self {
        let matched = matched.min(keys.len().saturating_sub(1));
        Self { keys, matched }
    }

    /// What of `input` goes to the terminal; true when the sequence is complete (the rest is dropped).
    pub fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(input.len());
        if self.keys.is_empty() {
            passed.extend_from_slice(input);
            return (passed, false);
        }
        for &byte in input {
            if byte != self.keys[self.matched] {
                passed.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
                if byte != self.keys[0] {
                    passed.push(byte);
                    continue;
                }
            }
            self.matched += 1;
            if self.matched == self.keys.len() {
                self.matched = 0;
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(inputs: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = DetachKeys::new(vec![16, 17]);
        let mut all = Vec::new();
        for input in inputs {
            let (passed, detached) = keys.filter(input);
            all.extend(passed);
            if detached {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn the_sequence_detaches_also_across_reads() {
        assert_eq!(run(&[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(run(&[b"ab\x10", b"\x11"]), (b"ab".to_vec(), true));
    }

    #[test]
    fn a_broken_sequence_is_passed_on() {
        assert_eq!(run(&[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(run(&[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(run(&[b"\x11\x11"]), (b"\x11\x11".to_vec(), false));
    }

    #[test]
    fn no_keys_never_match() {
        assert_eq!(DetachKeys::default().filter(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
