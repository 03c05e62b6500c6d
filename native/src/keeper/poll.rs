//! What the keeper's loop waits for.

use crate::epoll;

pub use crate::epoll::Flags;

pub type Poll = epoll::Poll<Source>;
pub type Registration = epoll::Registration<Source>;
pub type Watched = epoll::Watched<Source>;

/// What a ready fd means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Listener,
    /// The connection to proad.
    Peer,
    /// The new program that is asked whether it can take over.
    Successor,
    /// What was asked of the thread that holds ports.
    Ports,
    /// A fd of process `number`.
    Process(u32, Part),
    /// Attached client of a process: (process number, client number).
    Client(u32, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The sync socket of a process that is being started.
    Sync,
    Pidfd,
    Stdin,
    Stdout,
    Stderr,
    Tty,
    /// The cgroup's out-of-memory notification.
    Oom,
    /// Where its log lines are shipped to.
    Ship,
}

const PARTS: [Part; 8] =
    [Part::Sync, Part::Pidfd, Part::Stdin, Part::Stdout, Part::Stderr, Part::Tty, Part::Oom, Part::Ship];

impl epoll::Token for Source {
    /// Kind in the low byte, a client's number in the next three, a process's in the upper four.
    fn token(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Peer => 1,
            Self::Successor => 255,
            Self::Ports => 254,
            Self::Client(process, client) => {
                u64::from(process) << 32 | u64::from(client & 0xff_ffff) << 8 | 2
            }
            Self::Process(process, part) => u64::from(process) << 32 | (part as u64 + 3),
        }
    }

    fn from_token(token: u64) -> Self {
        let process = (token >> 32) as u32;
        match token & 0xff {
            0 => Self::Listener,
            1 => Self::Peer,
            255 => Self::Successor,
            254 => Self::Ports,
            2 => Self::Client(process, (token >> 8) as u32 & 0xff_ffff),
            kind => Self::Process(process, PARTS[(kind as usize - 3).min(PARTS.len() - 1)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoll::Token;

    #[test]
    fn tokens_hold_every_source() {
        let mut sources = vec![Source::Listener, Source::Peer, Source::Successor, Source::Ports];
        sources.push(Source::Client(u32::MAX, 0xff_ffff));
        sources.extend(PARTS.map(|part| Source::Process(7, part)));
        for source in sources {
            assert_eq!(Source::from_token(source.token()), source);
        }
    }

    #[test]
    fn a_dropped_fd_is_silent_though_a_duplicate_lives() {
        let mut poll = Poll::new().expect("epoll");
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        let duplicate = read.try_clone().expect("a duplicate");
        let mut watched = poll.watch(read, Source::Process(1, Part::Stdout));
        watched.want(Some(Flags::IN));
        rustix::io::write(&write, b"x").expect("room in the pipe");
        let mut events = Vec::new();
        poll.wait(Some(0), &mut events);
        assert_eq!(events, [(Source::Process(1, Part::Stdout), Flags::IN)]);
        drop(watched);
        poll.wait(Some(0), &mut events);
        assert!(events.is_empty());
        drop(duplicate);
    }
}
