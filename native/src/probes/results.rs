//! What probes found, until somebody takes it.
//!
//! A success after a success changes nothing but the log, so nobody is told: the last [`KEPT`] of them wait. Anything
//! else is told at once, by a descriptor that becomes readable.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{eventfd, EventfdFlags};

use crate::error::{Error, Result};

/// As many as Docker keeps.
const KEPT: usize = 5;
/// The most that wait where nobody takes what was told.
const MOST: usize = 64;

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Unix time in nanoseconds.
    pub start_ns: u64,
    pub end_ns: u64,
    /// 0 for success; -1 where the probe could not be carried out or took too long.
    pub code: i32,
    pub output: String,
}

#[derive(Debug, Default)]
struct Log {
    waiting: VecDeque<Outcome>,
    /// The last one was a success.
    good: bool,
    /// Something that was told waits.
    told: bool,
}

#[derive(Debug, Default)]
struct Logs {
    logs: HashMap<u32, Log>,
    news: Vec<u32>,
}

#[derive(Debug)]
pub struct Results {
    logs: Mutex<Logs>,
    readable: OwnedFd,
}

impl Results {
    pub fn new() -> Result<Self> {
        let readable = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::os("make", "eventfd", error))?;
        Ok(Self { logs: Mutex::default(), readable })
    }

    /// Readable when there is something to take that was told.
    pub fn notifier(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }

    pub fn open(&self, number: u32) {
        self.lock().logs.insert(number, Log::default());
    }

    /// What still comes of this one goes nowhere.
    pub fn close(&self, number: u32) {
        self.lock().logs.remove(&number);
    }

    pub(super) fn add(&self, number: u32, outcome: Outcome) {
        let mut logs = self.lock();
        let Some(log) = logs.logs.get_mut(&number) else { return };
        let (quiet, was_told) = (log.good && outcome.code == 0, log.told);
        log.good = outcome.code == 0;
        log.told |= !quiet;
        log.waiting.push_back(outcome);
        if log.waiting.len() > if log.told { MOST } else { KEPT } {
            log.waiting.pop_front();
        }
        if log.told && !was_told {
            logs.news.push(number);
            // Ignored: it fails only where it is readable already.
            let _ = rustix::io::write(&self.readable, &1u64.to_ne_bytes());
        }
    }

    /// The results since the last call, oldest first.
    pub fn take(&self, number: u32) -> Vec<Outcome> {
        let mut logs = self.lock();
        let Some(log) = logs.logs.get_mut(&number) else { return Vec::new() };
        log.told = false;
        log.waiting.drain(..).collect()
    }

    /// Whose results are to be taken now.
    pub fn news(&self) -> Vec<u32> {
        let mut logs = self.lock();
        // Ignored: there may be nothing to read.
        let _ = rustix::io::read(&self.readable, &mut [0u8; 8]);
        std::mem::take(&mut logs.news)
    }

    fn lock(&self) -> MutexGuard<'_, Logs> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(code: i32, output: usize) -> Outcome {
        Outcome { start_ns: 1, end_ns: 2, code, output: output.to_string() }
    }

    fn results_of_one() -> Results {
        let results = Results::new().expect("an eventfd");
        results.open(7);
        results
    }

    #[test]
    fn only_what_changes_something_is_told() {
        let results = results_of_one();
        let mut told = Vec::new();
        for code in [0, 0, 1, 1, 0, 0] {
            results.add(7, outcome(code, 0));
            told.push(!results.news().is_empty());
            if told.last() == Some(&true) {
                results.take(7);
            }
        }
        assert_eq!(told, [true, false, true, true, true, false]);
    }

    #[test]
    fn the_last_five_successes_wait() {
        let results = results_of_one();
        results.add(7, outcome(0, 100));
        assert_eq!(results.take(7).len(), 1);
        for number in 0..9 {
            results.add(7, outcome(0, number));
        }
        let outputs: Vec<_> = results.take(7).into_iter().map(|outcome| outcome.output).collect();
        assert_eq!(outputs, ["4", "5", "6", "7", "8"]);
        assert!(results.take(7).is_empty());
    }

    #[test]
    fn what_was_told_is_bounded_too_and_told_once() {
        let results = results_of_one();
        for number in 0..200 {
            results.add(7, outcome(1, number));
        }
        assert_eq!(results.news(), [7]);
        assert_eq!(results.take(7).len(), MOST);
    }

    #[test]
    fn nobody_hears_of_one_that_is_closed() {
        let results = results_of_one();
        results.close(7);
        results.add(7, outcome(1, 0));
        assert!(results.news().is_empty() && results.take(7).is_empty());
    }
}
