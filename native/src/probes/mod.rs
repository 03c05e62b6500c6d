//! Healthchecks that need no process: a connection into the container's network namespace, and perhaps one request.
//!
//! One thread for all of them, which steps into a container's namespace for as long as it takes to make a socket and
//! stays outside otherwise. It keeps the clock too: what is as it was (a success after a success) wakes nobody and
//! waits, as the last few results, until somebody looks. For the daemon alone.
//!
//! The other side is the container, and hostile: of an answer no more than [`head::LIMIT`] bytes are kept and
//! [`attempt::DRAINED`] read, all of it within the probe's timeout; nothing in it is followed.
//!
//! | file       | decision it hides                                |
//! |------------|--------------------------------------------------|
//! | handle.rs  | the thread, and what it is told                  |
//! | server.rs  | the clock and the loop                           |
//! | attempt.rs | one connection                                   |
//! | head.rs    | the first line of an answer (RFC 9112, section 4)|
//! | results.rs | what is told at once and what is not             |

mod attempt;
mod handle;
mod head;
mod results;
mod server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use handle::Handle;
pub use results::Outcome;

/// Whom to ask what.
#[derive(Debug, Clone)]
pub struct Target {
    /// Tried in this order until one takes the connection.
    pub addresses: Vec<SocketAddr>,
    /// An HTTP request; empty where a connection is all that is asked for.
    pub request: Vec<u8>,
}

/// When to ask. Nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// From the end of one probe to the start of the next; before the first, too.
    pub interval: u64,
    /// The same until the first success, as long as the start period lasts.
    pub start_interval: u64,
    /// Unix time at which the start period ends.
    pub start_ends: u64,
    pub timeout: u64,
}

/// A container that is asked again and again.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Its init. Whoever watches ends the watch with it.
    pub pid: i32,
    pub target: Target,
    pub rhythm: Rhythm,
    /// There was no success yet.
    pub starting: bool,
    /// The output of a probe that took too long.
    pub late: String,
}
