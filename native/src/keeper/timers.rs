//! What is due in the keeper.

use crate::timers;

pub use crate::timers::{monotonic_ns, realtime_ns};

pub type Timers = timers::Timers<Due>;

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
    /// A process's log has a connection to make, or has waited for long enough.
    Ship(u32),
    /// The new program has had its time to answer.
    Successor,
    /// Try again to remove cgroups.
    Cleanup,
}
