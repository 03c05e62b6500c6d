//! What is due when, in nanoseconds of the monotonic clock.

use std::collections::BTreeSet;

use rustix::time::{clock_gettime, ClockId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// The run time of a process is over.
    Timeout(u32),
    /// An ended process's output has been waited for long enough.
    Drain(u32),
    /// A process's clients that were told the end have had their time to close.
    Linger(u32),
    /// A cgroup had memory trouble: look again whether a process was killed, for the n-th time.
    Memory(u32, u32),
    /// The new program has had its time to answer.
    Successor,
    /// Try again to remove cgroups.
    Cleanup,
}

#[derive(Debug, Default)]
pub struct Timers {
    due: BTreeSet<(u64, Due)>,
}

impl Timers {
    pub fn add(&mut self, at_ns: u64, due: Due) {
        self.due.insert((at_ns, due));
    }

    pub fn remove(&mut self, at_ns: u64, due: Due) {
        self.due.remove(&(at_ns, due));
    }

    /// Nanoseconds until the next one, `None` where there is none.
    #[must_use]
    pub fn next_in(&self, now_ns: u64) -> Option<u64> {
        self.due.first().map(|(at_ns, _)| at_ns.saturating_sub(now_ns))
    }

    /// The next one that is due by now.
    pub fn pop(&mut self, now_ns: u64) -> Option<Due> {
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
        timers.add(30, Due::Cleanup);
        timers.add(10, Due::Timeout(1));
        timers.add(20, Due::Drain(2));
        timers.add(5, Due::Linger(3));
        timers.remove(5, Due::Linger(3));
        assert_eq!(timers.next_in(4), Some(6));
        assert_eq!(timers.pop(9), None);
        assert_eq!(
            [timers.pop(25), timers.pop(25), timers.pop(25)],
            [Some(Due::Timeout(1)), Some(Due::Drain(2)), None]
        );
        assert_eq!(timers.next_in(100), Some(0));
    }
}
