//! A request's body, read straight from its client's socket while it flows.
//!
//! The daemon's HTTP connection owns the socket and the framing (http/_connection.pyx). In the middle of a large
//! body it lends both: the plain part of that framing is read here, a fixed number of bytes or chunk after
//! chunk, and never passes the interpreter. Whatever is not plain (the last chunk, a size line with an
//! extension or a fault, a pause, the socket's end) stays unparsed and goes back with the framing's state:
//! the connection judges it as if nobody else had read.
//!
//! Source: RFC 9112, 7.1.

use std::os::fd::OwnedFd;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;

use super::stream::CHUNK;

/// How long a client may pause before its socket goes back: what waits in `poll` cannot be told to stop.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// A longer size line is the connection's to refuse.
const SIZE_LINE: usize = 64;
const SIZE_DIGITS: usize = 15;

/// What comes next, as the connection's states say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The rest of a body whose length was told.
    Fixed,
    ChunkSize,
    ChunkData,
    /// The line's end after a chunk's bytes.
    ChunkEnd,
}

/// A socket in the middle of a body.
#[derive(Debug)]
pub struct Body {
    socket: OwnedFd,
    phase: Phase,
    /// Bytes left of the body, or of the chunk.
    remaining: u64,
    unparsed: Vec<u8>,
    /// What is unparsed is not plain.
    odd: bool,
}

impl Body {
    /// The socket is read without waiting in `recv`, whether or not it blocks otherwise.
    #[must_use]
    pub fn new(socket: OwnedFd, phase: Phase, remaining: u64, unparsed: Vec<u8>) -> Self {
        Self { socket, phase, remaining, unparsed, odd: false }
    }

    /// Where the framing stands: phase, bytes left, bytes read but not parsed.
    #[must_use]
    pub fn state(self) -> (Phase, u64, Vec<u8>) {
        (self.phase, self.remaining, self.unparsed)
    }

    /// The next bytes, never empty; waits. `None` when the socket is to go back.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let piece = self.unframe();
            if !piece.is_empty() {
                return Some(piece);
            }
            if self.odd || !self.receive() {
                return None;
            }
        }
    }

    /// Read what there is behind what is unparsed; false where nothing comes.
    fn receive(&mut self) -> bool {
        let wanted = match self.phase {
            Phase::Fixed => usize::try_from(self.remaining).unwrap_or(CHUNK).min(CHUNK),
            _ => CHUNK,
        };
        self.unparsed.reserve_exact(wanted);
        loop {
            let room = rustix::buffer::spare_capacity(&mut self.unparsed);
            match rustix::net::recv(&self.socket, room, RecvFlags::DONTWAIT) {
                Ok((count, _)) => return count > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
                    match poll(&mut ready, Some(&PATIENCE)) {
                        Ok(1..) | Err(rustix::io::Errno::INTR) => {}
                        _ => return false,
                    }
                }
                // The connection meets it again.
                Err(_) => return false,
            }
        }
    }

    /// The body's bytes among those unparsed, which are closed up where they lie.
    fn unframe(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.unparsed);
        let (mut from, mut to) = (0, 0);
        while let Some(used) = self.step(&buffer[from..]) {
            let data = matches!(used, Part::Data(_));
            let (Part::Data(count) | Part::Frame(count)) = used;
            if data {
                buffer.copy_within(from..from + count, to);
                to += count;
            }
            from += count;
        }
        self.unparsed = buffer[from..].to_vec();
        buffer.truncate(to);
        buffer
    }

    /// The next part of the framing at the start of `bytes`; `None` where that is not plain, or not whole.
    fn step(&mut self, bytes: &[u8]) -> Option<Part> {
        match self.phase {
            Phase::Fixed | Phase::ChunkData => {
                let count = bytes.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
                self.remaining -= count as u64;
                self.odd = self.phase == Phase::Fixed && self.remaining == 0;
                if self.phase == Phase::ChunkData && self.remaining == 0 {
                    self.phase = Phase::ChunkEnd;
                }
                (count > 0).then_some(Part::Data(count))
            }
            Phase::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.phase = Phase::ChunkSize;
                    Some(Part::Frame(2))
                }
                [] | [b'\r'] => None,
                _ => self.not_plain(),
            },
            Phase::ChunkSize => {
                let Some(end) = bytes.iter().take(SIZE_LINE).position(|byte| *byte == b'\r') else {
                    return if bytes.len() < SIZE_LINE { None } else { self.not_plain() };
                };
                match (chunk_size(&bytes[..end]), bytes.get(end + 1)) {
                    (_, None) => None,
                    (Some(size), Some(b'\n')) => {
                        self.remaining = size;
                        self.phase = Phase::ChunkData;
                        Some(Part::Frame(end + 2))
                    }
                    _ => self.not_plain(),
                }
            }
        }
    }

    fn not_plain(&mut self) -> Option<Part> {
        self.odd = true;
        None
    }
}

/// Bytes of a body, or of what frames them.
enum Part {
    Data(usize),
    Frame(usize),
}

/// A size line's number; `None` for the last chunk's and for any that is not just digits.
fn chunk_size(line: &[u8]) -> Option<u64> {
    if line.len() > SIZE_DIGITS || !line.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let size = u64::from_str_radix(std::str::from_utf8(line).ok()?, 16).ok()?;
    (size > 0).then_some(size)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// All that is read of what a client sent before it closed, and the state that goes back, with what is
    /// still in the socket.
    fn read(sent: &[u8], pieces: usize, phase: Phase, remaining: u64) -> (Vec<u8>, (Phase, u64, Vec<u8>)) {
        let (ours, mut theirs) = UnixStream::pair().expect("socket pair");
        let (first, rest) = sent.split_at(sent.len().min(pieces));
        let mut left = ours.try_clone().expect("duplicate");
        let mut body = Body::new(ours.into(), phase, remaining, first.to_vec());
        theirs.write_all(rest).expect("send");
        drop(theirs);
        let mut data = Vec::new();
        while let Some(piece) = body.next() {
            data.extend(piece);
        }
        let (phase, remaining, mut unparsed) = body.state();
        left.read_to_end(&mut unparsed).expect("read");
        (data, (phase, remaining, unparsed))
    }

    #[test]
    fn what_is_not_plain_goes_back_unparsed() {
        let size = Phase::ChunkSize;
        for (sent, data, rest) in [
            (&b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET"[..], &b"abcde"[..], (size, 0, &b"0\r\n\r\nGET"[..])),
            (b"3\r\nabc\r\n2;a=b\r\nde", b"abc", (size, 0, b"2;a=b\r\nde")),
            (b"3\r\nabc\r\nxyz\r\n", b"abc", (size, 0, b"xyz\r\n")),
            (b"3\r\nabcd\r\n", b"abc", (Phase::ChunkEnd, 0, b"d\r\n")),
            (b"3\r\nabc\r", b"abc", (Phase::ChunkEnd, 0, b"\r")),
            (b"5\r\nabc", b"abc", (Phase::ChunkData, 2, b"")),
            (b"3\r\nabc\r\n1", b"abc", (size, 0, b"1")),
            (b"1000000000000000\r\n", b"", (size, 0, b"1000000000000000\r\n")),
            (b"\r\n", b"", (size, 0, b"\r\n")),
        ] {
            for pieces in 0..=sent.len() {
                let (found, (phase, remaining, unparsed)) = read(sent, pieces, size, 0);
                assert_eq!(found, data, "{sent:?} at {pieces}");
                assert_eq!((phase, remaining, unparsed.as_slice()), rest, "{sent:?} at {pieces}");
            }
        }
    }

    #[test]
    fn a_long_size_line_is_not_waited_for() {
        let (data, (phase, _, unparsed)) = read(&[b'1'; 100], 0, Phase::ChunkSize, 0);
        assert_eq!((data, phase, unparsed.len()), (Vec::new(), Phase::ChunkSize, 100));
    }

    #[test]
    fn a_body_of_known_length_ends_where_it_ends() {
        for pieces in [0, 2, 4, 6] {
            let (data, (phase, remaining, unparsed)) = read(b"abcdef", pieces, Phase::Fixed, 4);
            assert_eq!((data.as_slice(), phase, remaining), (&b"abcd"[..], Phase::Fixed, 0));
            assert_eq!(unparsed, b"ef");
        }
        assert_eq!(read(b"ab", 0, Phase::Fixed, 4), (b"ab".to_vec(), (Phase::Fixed, 2, Vec::new())));
    }

    #[test]
    fn a_pause_gives_the_socket_back() {
        let (ours, mut theirs) = UnixStream::pair().expect("socket pair");
        let mut body = Body::new(ours.into(), Phase::Fixed, 10, Vec::new());
        theirs.write_all(b"abc").expect("send");
        assert_eq!(body.next().as_deref(), Some(&b"abc"[..]));
        assert_eq!(body.next(), None);
        assert_eq!(body.state(), (Phase::Fixed, 7, Vec::new()));
    }
}
