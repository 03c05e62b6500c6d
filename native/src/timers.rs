//! What is due when, in nanoseconds of the monotonic clock.

use std::collections::BTreeSet;

use rustix::time::{clock_gettime, ClockId};

#[derive(Debug)]
pub struct Timers<D> {
    due: BTreeSet<(u64, D)>,
}

impl<D> Default for Timers<D> {
    fn default() -> Self {
        Self { due: BTreeSet::new() }
    }
}

impl<D: Copy + Ord> Timers<D> {
    pub fn add(&mut self, at_ns: u64, due: D) {
        self.due.insert((at_ns, due));
    }

    pub fn remove(&mut self, at_ns: u64, due: D) {
        self.due.remove(&(at_ns, due));
    }

    /// Nanoseconds until the next one, `None` where there is none.
    #[must_use]
    pub fn next_in(&self, now_ns: u64) -> Option<u64> {
        self.due.first().map(|(at_ns, _)| at_ns.saturating_sub(now_ns))
    }

    /// The next one that is due by now.
    pub fn pop(&mut self, now_ns: u64) -> Option<D> {
        let first = *self.due.first().filter(|(at_ns, _)| *at_ns <= now_ns)?;
        self.due.remove(&first);
        Some(first.1)
    }
}

/// The monotonic clock, suspended time included: a run time is wall-clock time.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// Unix time.
#[must_use]
pub fn realtime_ns() -> u64 {
    nanoseconds(ClockId::Realtime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_due_comes_in_order() {
        let mut timers = Timers::default();
        timers.add(30, 'd');
        timers.add(10, 'a');
        timers.add(20, 'b');
        timers.add(5, 'c');
        timers.remove(5, 'c');
        assert_eq!(timers.next_in(4), Some(6));
        assert_eq!(timers.pop(9), None);
        assert_eq!([timers.pop(25), timers.pop(25), timers.pop(25)], [Some('a'), Some('b'), None]);
        assert_eq!(timers.next_in(100), Some(0));
    }
}
