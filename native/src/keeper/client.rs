//! One attached client: a socket that output goes to and input comes from.
//!
//! Sends directly while the socket takes it and keeps the rest, a bounded amount: past
//! [`CONGESTED`] the process's streams are not read any further until the client has caught up.
//! It never touches the process's own fds; `stdio` does.
//!
//! Output does not come together with the answer that announced it: some clients (docker-py) read that through a
//! buffer, and what else is in there is lost to them. The first output waits until the answer is read, which shows
//! in a send buffer so small that nothing is writable before.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_send_buffer_size};
use rustix::net::{recv, sendmsg, shutdown, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use super::detach_keys::DetachKeys;
use super::json_line::{frame_header, Stream};
use super::log_reader::LogReader;
use super::poll::{Flags, Poll, Source, Watched};
use super::protocol::Attach;
use crate::sys::supervise::unread;

/// Bytes that a client may lag behind before its process has to wait.
pub const CONGESTED: usize = 256 * 1024;
/// Bytes of an old log that are read at a time.
const REPLAY_CHUNK: usize = 64 * 1024;

/// The least that a socket's send buffer can be set to.
const NARROW: usize = 1;

/// Whether the client has the answer that announces its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    Sent,
    /// Sent and not read when the first output came; the size of the send buffer as it was.
    Awaited(usize),
    Read,
}

/// What a client wants; the part of an attach request that outlives it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Options {
    pub stdin: bool,
    pub outputs: [bool; 2],
    pub logs: bool,
    pub stream: bool,
    pub multiplexed: bool,
}

/// How far the input side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Input {
    /// Not asked for, ended, or of no use any more.
    Closed,
    Open,
}

/// How far the output side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Output {
    Open,
    /// Nothing will be added; what is queued still goes out.
    Ending,
    /// The other side has been told the end, and is waited for to close.
    Ended,
    /// The other side is gone.
    Dead,
}

/// What one read of the client gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// So many bytes of the buffer, for the process.
    Bytes(Vec<u8>),
    /// The detach sequence, after these bytes.
    Detach(Vec<u8>),
    /// The end of input: half-closed or gone.
    End,
    Nothing,
}

#[derive(Debug)]
pub struct Client {
    number: u32,
    socket: Watched,
    options: Options,
    keys: DetachKeys,
    input: Input,
    output: Output,
    /// The socket has hung up: polling it further would spin.
    hung_up: bool,
    announced: Announced,
    /// Bytes to send before any other, and how many of them are sent.
    pending: Vec<u8>,
    sent: usize,
    /// An old log that goes out first, and the live output that waits behind it.
    replay: Option<LogReader>,
    behind: Vec<u8>,
    /// Input that came with the request.
    initial_input: Vec<u8>,
}

/// What a hand-over carries of a client besides its socket.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct ClientState {
    number: u32,
    options: Options,
    keys: serde_bytes::ByteBuf,
    matched: usize,
    input: Input,
    output: Output,
    pending: serde_bytes::ByteBuf,
    initial_input: serde_bytes::ByteBuf,
}

impl Client {
    /// Take over `socket` and send the request's preface.
    #[must_use]
    pub fn new(poll: &Poll, process: u32, number: u32, socket: OwnedFd, request: Attach) -> Self {
        let options = Options {
            stdin: request.stdin,
            outputs: [request.stdout, request.stderr],
            logs: request.logs,
            stream: request.stream,
            multiplexed: request.multiplexed,
        };
        let mut client = Self {
            number,
            socket: poll.watch(socket, Source::Client(process, number)),
            input: if options.stdin { Input::Open } else { Input::Closed },
            output: Output::Open,
            options,
            keys: DetachKeys::new(request.detach_keys.into_vec()),
            hung_up: false,
            announced: Announced::Read,
            pending: Vec::new(),
            sent: 0,
            replay: None,
            behind: Vec::new(),
            initial_input: request.initial_input.into_vec(),
        };
        client.push(&[&request.preface]);
        client.announced = Announced::Sent;
        client
    }

    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Replay a log: it goes out before any output written from now on.
    pub fn replay(&mut self, log: LogReader) {
        self.waits_for_reader();
        self.replay = Some(log);
    }

    /// Input that came with the request; once.
    pub fn take_initial_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.initial_input)
    }

    /// The process's output has to wait for this client.
    #[must_use]
    pub fn congests(&self, stream: Stream) -> bool {
        self.output == Output::Open
            && self.options.outputs[stream.index()]
            && self.pending.len() - self.sent + self.behind.len() > CONGESTED
    }

    /// Nothing more can happen here.
    #[must_use]
    pub fn gone(&self) -> bool {
        self.output == Output::Dead && self.input == Input::Closed
    }

    /// It waits only for the other side to close.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.output == Output::Ended
    }

    /// Input is still to be read.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.input == Input::Open
    }

    /// Pass on output of the process.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.output != Output::Open || !self.options.outputs[stream.index()] {
            return;
        }
        let header = frame_header(stream, bytes.len());
        let header: &[u8] = if self.options.multiplexed { &header } else { &[] };
        if self.replay.is_some() {
            self.behind.extend_from_slice(header);
            self.behind.extend_from_slice(bytes);
        } else {
            self.push(&[header, bytes]);
        }
    }

    /// No more output will come, nor is input of use: send what is queued, then the end.
    pub fn finish(&mut self) {
        self.close_input();
        if self.output == Output::Open {
            self.output = Output::Ending;
            if self.sent == self.pending.len() || !self.waits_for_reader() {
                self.flush();
            }
        }
    }

    /// Whether output has to wait: the answer before it is not read. The socket is writable when it is.
    fn waits_for_reader(&mut self) -> bool {
        if self.announced == Announced::Sent && unread(self.socket.as_fd()) > 0 {
            let size = socket_send_buffer_size(&self.socket).unwrap_or(0);
            if set_socket_send_buffer_size(&self.socket, NARROW).is_ok() {
                self.announced = Announced::Awaited(size);
            }
        }
        if self.announced == Announced::Sent {
            self.announced = Announced::Read;
        }
        self.announced != Announced::Read
    }

    /// The answer is read, or as good as that.
    fn widen(&mut self) {
        if let Announced::Awaited(size) = self.announced {
            // Ignored: it goes on in small pieces. The kernel doubles what it is told.
            let _ = set_socket_send_buffer_size(&self.socket, size / 2);
        }
        self.announced = Announced::Read;
    }

    /// No more input is read.
    pub fn close_input(&mut self) {
        self.input = Input::Closed;
        self.initial_input = Vec::new();
        if self.hung_up {
            self.output = Output::Dead;
        }
    }

    /// Send what is queued, as far as the socket takes it.
    pub fn flush(&mut self) {
        self.widen();
        loop {
            while self.sent < self.pending.len() {
                match self.send(&[IoSlice::new(&self.pending[self.sent..])]) {
                    Some(0) => return,
                    Some(count) => self.sent += count,
                    None => return self.die(),
                }
            }
            self.pending = Vec::new();
            self.sent = 0;
            if !self.refill() {
                break;
            }
        }
        if self.output == Output::Ending {
            self.output = Output::Ended;
            // Ignored: not connected any more is as good.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// Queue the next piece of the replayed log, or what waits behind it.
    fn refill(&mut self) -> bool {
        let Some(log) = &mut self.replay else { return false };
        match log.read(REPLAY_CHUNK) {
            Ok(chunk) if !chunk.is_empty() => self.pending = chunk,
            result => {
                if let Err(error) = result {
                    report!("replay: {error}");
                }
                self.replay = None;
                self.pending = std::mem::take(&mut self.behind);
                if !self.options.stream && self.output == Output::Open {
                    self.output = Output::Ending;
                }
            }
        }
        true
    }

    /// Read what the client has typed.
    pub fn read(&mut self, buffer: &mut [u8]) -> Typed {
        match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => Typed::Nothing,
            Ok((0, _)) | Err(_) => {
                self.close_input();
                Typed::End
            }
            Ok((count, _)) => match self.keys.filter(&buffer[..count]) {
                (passed, false) => Typed::Bytes(passed),
                (passed, true) => Typed::Detach(passed),
            },
        }
    }

    /// Keys of a request's initial input count, too.
    pub fn filter(&mut self, input: &[u8]) -> Typed {
        match self.keys.filter(input) {
            (passed, false) => Typed::Bytes(passed),
            (passed, true) => Typed::Detach(passed),
        }
    }

    /// The socket reported `flags`.
    pub fn on_ready(&mut self, flags: Flags, buffer: &mut [u8]) {
        if flags.contains(Flags::OUT) {
            self.flush();
        }
        // Once ended: read to the end, since closing with input unread would reset the connection
        // under the last output.
        while self.output == Output::Ended {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Ok((count, _)) if count > 0 => {}
                _ => self.die(),
            }
        }
        if flags.intersects(Flags::HUP | Flags::ERR) {
            self.die();
        }
    }

    /// The other side is gone; input that it sent before may still be there.
    fn die(&mut self) {
        self.hung_up = true;
        self.output = Output::Dead;
        self.pending = Vec::new();
        self.sent = 0;
        self.behind = Vec::new();
        self.replay = None;
    }

    /// Wait for what can be done next; `takes_input`: the process has room for input.
    pub fn update(&mut self, takes_input: bool) {
        let mut flags = Flags::empty();
        if self.output == Output::Ended || (takes_input && self.reads()) {
            flags |= Flags::IN;
        }
        if self.sent < self.pending.len() || self.replay.is_some() {
            flags |= Flags::OUT;
        }
        let idle = flags.is_empty() && self.hung_up;
        self.socket.want((!idle).then_some(flags));
    }

    /// Send now, or queue.
    fn push(&mut self, parts: &[&[u8]]) {
        let mut skip = 0;
        if self.sent == self.pending.len() && self.replay.is_none() && !self.waits_for_reader() {
            let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
            match self.send(&slices) {
                Some(count) => skip = count,
                None => return self.die(),
            }
        }
        for part in parts {
            let from = skip.min(part.len());
            skip -= from;
            self.pending.extend_from_slice(&part[from..]);
        }
    }

    /// Bytes taken by the socket; `None` when the other side is gone.
    fn send(&self, slices: &[IoSlice<'_>]) -> Option<usize> {
        let mut control = SendAncillaryBuffer::default();
        match sendmsg(&self.socket, slices, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => Some(count),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => Some(0),
            Err(_) => None,
        }
    }

    /// The socket and the rest of the state, for a hand-over. What is left of a replay is read at once.
    pub fn state(&mut self) -> (BorrowedFd<'_>, ClientState) {
        let mut pending = self.pending[self.sent..].to_vec();
        while self.replay.is_some() {
            self.refill();
            pending.append(&mut self.pending);
        }
        self.pending.clone_from(&pending);
        self.sent = 0;
        let (keys, matched) = self.keys.state();
        let state = ClientState {
            number: self.number,
            options: self.options.clone(),
            keys: keys.to_vec().into(),
            matched,
            input: self.input,
            output: self.output,
            pending: pending.into(),
            initial_input: self.initial_input.clone().into(),
        };
        (self.socket.as_fd(), state)
    }

    /// The client of an older keeper.
    #[must_use]
    pub fn restore(poll: &Poll, process: u32, socket: OwnedFd, state: ClientState) -> Self {
        Self {
            number: state.number,
            socket: poll.watch(socket, Source::Client(process, state.number)),
            options: state.options,
            keys: DetachKeys::restore(state.keys.into_vec(), state.matched),
            input: state.input,
            output: state.output,
            hung_up: false,
            announced: Announced::Read,
            pending: state.pending.into_vec(),
            sent: 0,
            replay: None,
            behind: Vec::new(),
            initial_input: state.initial_input.into_vec(),
        }
    }
}
