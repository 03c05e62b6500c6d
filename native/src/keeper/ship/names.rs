//! Names of remotes, asked for on a thread each: the system's resolver waits, and knows the host's files and services.
//!
//! The answer comes through a pipe, as addresses with blanks between them. A few names at a time: another attempt
//! asks again.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::io::Errno;
use rustix::pipe::{pipe_with, PipeFlags};

/// Threads at a time.
const MOST: usize = 16;
/// The resolver's own needs; glibc reads whole answers onto it.
const STACK: usize = 256 << 10;
/// Bytes of an answer, far below a pipe's room.
const LONGEST: usize = 2048;

static ASKING: AtomicUsize = AtomicUsize::new(0);

/// Ask; the descriptor is readable once there is an answer.
pub fn look_up(host: &str, port: u16) -> Result<OwnedFd, Errno> {
    if ASKING.fetch_add(1, Ordering::Relaxed) >= MOST {
        ASKING.fetch_sub(1, Ordering::Relaxed);
        return Err(Errno::AGAIN);
    }
    let asked = ask(host.to_owned(), port);
    if asked.is_err() {
        ASKING.fetch_sub(1, Ordering::Relaxed);
    }
    asked
}

fn ask(host: String, port: u16) -> Result<OwnedFd, Errno> {
    let (answer, told) = pipe_with(PipeFlags::CLOEXEC)?;
    let run = move || {
        let found = (host.as_str(), port)
            .to_socket_addrs()
            .map_or_else(|_| String::new(), |found| found.map(|address| address.to_string() + " ").collect());
        // Ignored: nobody waits for it any more.
        let _ = std::fs::File::from(told).write_all(&found.as_bytes()[..found.len().min(LONGEST)]);
        ASKING.fetch_sub(1, Ordering::Relaxed);
    };
    let thread = thread::Builder::new().name("proa-log-names".into()).stack_size(STACK).spawn(run);
    thread.map(|_| answer).map_err(|_| Errno::AGAIN)
}

/// The addresses of an answer that has come; none where there is no such name.
pub fn answer(answer: &OwnedFd) -> VecDeque<SocketAddr> {
    let mut buffer = [0; LONGEST];
    let length = rustix::io::read(answer, &mut buffer).unwrap_or(0);
    let text = String::from_utf8_lossy(&buffer[..length]);
    text.split(' ').filter_map(|address| address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_answered() {
        let told = look_up("localhost", 7).expect("a thread");
        assert!(answer(&told).iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }
}
