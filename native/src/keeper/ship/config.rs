//! What proad tells of a driver: where to, in which encoding, how long and how often. Names and values are decided.
//!
//! Mirror of `python/proa/schema/shipping.py`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::fluentd::Fluentd;
use super::gelf::Gelf;
use super::journald::Journald;
use super::syslog::Syslog;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shipping {
    /// Of the container, for complaints.
    pub id: String,
    pub to: Remote,
    pub format: Format,
    /// A full queue stops the process's output; otherwise what does not fit is dropped.
    pub blocking: bool,
    /// Bytes that may wait.
    pub buffer: usize,
    /// Failed attempts to connect after which all that waits is dropped.
    pub attempts: u32,
    /// Nanoseconds between attempts; each further wait is half as long again, up to `longest_wait_ns`.
    pub wait_ns: u64,
    pub longest_wait_ns: u64,
    /// Nanoseconds after which a connection that takes or answers nothing is given up; 0 for never.
    pub stall_ns: u64,
    /// Nanoseconds after which a connection is made anew; 0 for never.
    pub renew_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Remote {
    Unix {
        path: String,
    },
    Unixgram {
        path: String,
    },
    /// An address or a name.
    Tcp {
        host: String,
        port: u16,
    },
    Udp {
        host: String,
        port: u16,
    },
}

impl Remote {
    /// One send is one message.
    #[must_use]
    pub fn keeps_boundaries(&self) -> bool {
        matches!(self, Self::Unixgram { .. } | Self::Udp { .. })
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path } => write!(out, "unix://{path}"),
            Self::Unixgram { path } => write!(out, "unixgram://{path}"),
            Self::Tcp { host, port } => write!(out, "tcp://{host}:{port}"),
            Self::Udp { host, port } => write!(out, "udp://{host}:{port}"),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Format {
    Syslog(Syslog),
    Journald(Journald),
    Fluentd(Fluentd),
    Gelf(Gelf),
}

impl Format {
    /// Bytes of the attributes that each message has besides its line.
    #[must_use]
    pub fn attributes(&self) -> usize {
        let all = |pairs: &[(String, String)]| pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        match self {
            Self::Syslog(syslog) => syslog.hostname.len() + 2 * syslog.tag.len(),
            Self::Journald(journald) => all(&journald.fields),
            Self::Fluentd(fluentd) => fluentd.tag.len() + all(&fluentd.record),
            Self::Gelf(gelf) => gelf.extra.len(),
        }
    }

    /// Each message is answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self, Self::Fluentd(fluentd) if fluentd.acknowledged)
    }
}
