//! A process's standard streams: its pipes or pty, its log, its attached clients.
//!
//! Output goes to the log first and to every client then. A client that does not keep up stops the
//! reading of the streams it wants (never those of another process), so that the process blocks as it
//! would at a slow terminal. Input is read from a client only while the process takes it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::termios::{tcsetwinsize, Winsize};

use super::client::{Client, ClientState, Typed};
use super::json_line::Stream;
use super::log::{Log, LogState, ShippedState};
use super::log_reader::{LogReader, Query};
use super::poll::{Flags, Part, Poll, Source, Watched};
use crate::error::{Error, Result};
use crate::sys::supervise::adopt;

/// Bytes read from a pipe at a time.
pub const READ_SIZE: usize = 64 * 1024;
/// Reads of one stream before other fds get their turn.
const READS: usize = 4;
/// Reads of one stream at a time once the process has ended: a pipe holds at most 1 MiB.
const FINAL_READS: usize = 32;

/// Buffers shared by all processes.
#[derive(Debug)]
pub struct Scratch {
    pub read: Vec<u8>,
    /// Encoded log lines; empty between uses.
    pub encode: Vec<u8>,
}

impl Scratch {
    #[must_use]
    pub fn new() -> Self {
        Self { read: vec![0; READ_SIZE], encode: Vec::new() }
    }
}

/// How the process reads and writes.
#[derive(Debug)]
enum Channel {
    /// Not started yet.
    None,
    Pipes {
        stdin: Option<Watched>,
        outputs: [Option<Watched>; 2],
    },
    /// `None` once it has hung up.
    Tty(Option<Watched>),
}

/// What a hand-over carries of a process's streams; descriptors by number.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct StdioState {
    channel: ChannelState,
    stdin_once: bool,
    input: serde_bytes::ByteBuf,
    input_ends: bool,
    log: Option<(i32, LogState)>,
    /// None of a keeper that shipped nothing.
    #[serde(default)]
    ship: Option<(Option<i32>, ShippedState)>,
    clients: Vec<(i32, ClientState)>,
    next_client: u32,
    size: Option<(u16, u16)>,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum ChannelState {
    None,
    Pipes { stdin: Option<i32>, outputs: [Option<i32>; 2] },
    Tty(Option<i32>),
}

#[derive(Debug)]
pub struct Stdio {
    /// The process's number, for the epoll set.
    process: u32,
    channel: Channel,
    stdin_once: bool,
    /// Input that the process has not taken yet.
    input: Vec<u8>,
    /// Close stdin when `input` is written.
    input_ends: bool,
    log: Option<Log>,
    clients: Vec<Client>,
    next_client: u32,
    /// Rows and columns asked for before there was a tty.
    size: Option<(u16, u16)>,
}

impl Stdio {
    /// Streams of a process that has not started: clients may wait for it.
    #[must_use]
    pub fn new(process: u32) -> Self {
        Self {
            process,
            channel: Channel::None,
            stdin_once: false,
            input: Vec::new(),
            input_ends: false,
            log: None,
            clients: Vec::new(),
            next_client: 0,
            size: None,
        }
    }

    /// The log is open: what the process will write goes there.
    pub fn set_log(&mut self, log: Option<Log>) {
        self.log = log;
    }

    /// The process runs with pipes (the child's ends are closed already).
    pub fn open_pipes(
        &mut self,
        poll: &Poll,
        stdin: Option<OwnedFd>,
        outputs: [OwnedFd; 2],
        stdin_once: bool,
    ) {
        let watch = |fd, part| poll.watch(fd, Source::Process(self.process, part));
        let [stdout, stderr] = outputs;
        self.channel = Channel::Pipes {
            stdin: stdin.map(|fd| watch(fd, Part::Stdin)),
            outputs: [Some(watch(stdout, Part::Stdout)), Some(watch(stderr, Part::Stderr))],
        };
        self.stdin_once = stdin_once;
        self.connect_waiting();
    }

    /// The process runs with a terminal.
    pub fn open_tty(&mut self, poll: &Poll, master: OwnedFd, stdin_once: bool) -> Result<()> {
        rustix::io::ioctl_fionbio(&master, true).map_err(|error| Error::os("set up", "pty", error))?;
        self.channel = Channel::Tty(Some(poll.watch(master, Source::Process(self.process, Part::Tty))));
        self.stdin_once = stdin_once;
        if let Some((rows, columns)) = self.size {
            self.resize(rows, columns)?;
        }
        self.connect_waiting();
        Ok(())
    }

    /// The process runs: it is not waited for any more.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.channel, Channel::None)
    }

    /// Clients are served, or the log of what has ended is on its way yet.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        !self.clients.is_empty() || self.is_shipping()
    }

    /// The process has ended, and its log is on its way yet.
    #[must_use]
    pub fn is_shipping(&self) -> bool {
        !self.is_open() && self.log.is_some()
    }

    /// All output has been read to its end.
    #[must_use]
    pub fn outputs_ended(&self) -> bool {
        match &self.channel {
            Channel::None => true,
            Channel::Pipes { outputs, .. } => outputs.iter().all(Option::is_none),
            Channel::Tty(master) => master.is_none(),
        }
    }

    /// A number for a new client of this process.
    pub fn client_number(&mut self) -> u32 {
        self.next_client = (self.next_client + 1) & 0xff_ffff;
        self.next_client
    }

    /// Serve `client`, now or once the process runs.
    pub fn attach(&mut self, mut client: Client) {
        if self.is_open() {
            self.connect(&mut client);
        }
        self.clients.push(client);
        self.settle();
    }

    fn connect_waiting(&mut self) {
        let mut clients = std::mem::take(&mut self.clients);
        for client in &mut clients {
            self.connect(client);
        }
        self.clients = clients;
        self.settle();
    }

    /// Start the log's replay and hand on the input that came with the request.
    fn connect(&mut self, client: &mut Client) {
        if client.options().logs {
            self.start_replay(client);
        } else if !client.options().stream {
            client.finish();
        }
        let initial = client.take_initial_input();
        if client.reads() && !initial.is_empty() {
            let typed = client.filter(&initial);
            self.take_input(client, typed);
        }
    }

    fn start_replay(&self, client: &mut Client) {
        let Some((log, path)) = self.log.as_ref().and_then(|log| Some((log, log.path()?))) else { return };
        let options = client.options();
        let [stdout, stderr] = options.outputs;
        match LogReader::open(path, Query::all(stdout, stderr, options.multiplexed)) {
            Ok(reader) => client.replay(reader),
            Err(error) => report!("replay: {error}"),
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            // Output that is not in the file yet.
            if !log.unfinished(stream).is_empty() {
                client.write(stream, log.unfinished(stream));
            }
        }
        client.flush();
    }

    /// A stream of the process is ready.
    pub fn on_ready(&mut self, part: Part, flags: Flags, now_ns: u64, scratch: &mut Scratch) {
        if part == Part::Stdin || flags.contains(Flags::OUT) {
            self.write_input();
        }
        if flags.intersects(Flags::IN | Flags::HUP | Flags::ERR) {
            let turn = self.shipped_turn().unwrap_or((READS, READ_SIZE));
            let stream = match part {
                Part::Stdout | Part::Tty => Some(Stream::Stdout),
                Part::Stderr => Some(Stream::Stderr),
                _ => None,
            };
            if let Some(stream) = stream {
                self.read_output(stream, turn, now_ns, scratch);
            }
        }
        self.settle();
    }

    /// Reads of one stream and their size where each line is a message to be packed and sent.
    fn shipped_turn(&self) -> Option<(usize, usize)> {
        Some((1, self.log.as_ref()?.shipped_read_size()?))
    }

    /// The process has ended: read what its pipes still hold, whether clients keep up or not. Where it is shipped,
    /// one turn's part of it; true while there is more.
    pub fn drain(&mut self, now_ns: u64, scratch: &mut Scratch) -> bool {
        let turn = self.shipped_turn();
        let mut more = false;
        for stream in [Stream::Stdout, Stream::Stderr] {
            more |= self.read_output(stream, turn.unwrap_or((FINAL_READS, READ_SIZE)), now_ns, scratch);
        }
        self.settle();
        more && turn.is_some()
    }

    /// The turns of [`Stdio::drain`] have taken too long: read the rest, for the log's file alone.
    pub fn drain_unshipped(&mut self, now_ns: u64, scratch: &mut Scratch) {
        if let Some(log) = &mut self.log {
            log.end_shipping();
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.read_output(stream, (FINAL_READS, READ_SIZE), now_ns, scratch);
        }
    }

    /// The last output is read: end the log and the clients, close everything.
    pub fn finish(&mut self, now_ns: u64, scratch: &mut Scratch) {
        if let Some(mut log) = self.log.take() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                log.finish(stream, now_ns, &mut scratch.encode);
            }
            self.log = log.end();
        }
        self.channel = Channel::None;
        self.input = Vec::new();
        for client in &mut self.clients {
            client.finish();
        }
        self.settle();
    }

    fn output(&self, stream: Stream) -> Option<&Watched> {
        match &self.channel {
            Channel::None => None,
            Channel::Pipes { outputs, .. } => outputs[stream.index()].as_ref(),
            Channel::Tty(master) => master.as_ref().filter(|_| stream == Stream::Stdout),
        }
    }

    /// False once there is nothing to read.
    fn read_output(
        &mut self,
        stream: Stream,
        (reads, size): (usize, usize),
        now_ns: u64,
        scratch: &mut Scratch,
    ) -> bool {
        for _ in 0..reads {
            let Some(fd) = self.output(stream) else { return false };
            match rustix::io::read(fd, &mut scratch.read[..size]) {
                Ok(count @ 1..) => self.pass_on(stream, count, now_ns, scratch),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                // A pty's EIO: no process has it open any more.
                Ok(0) | Err(_) => {
                    self.output_ended(stream, now_ns, scratch);
                    return false;
                }
            }
            if reads != FINAL_READS && self.congested(stream) {
                return true;
            }
        }
        true
    }

    fn pass_on(&mut self, stream: Stream, count: usize, now_ns: u64, scratch: &mut Scratch) {
        let Scratch { read, encode } = scratch;
        if let Some(log) = &mut self.log {
            log.append(stream, &read[..count], now_ns, encode);
        }
        for client in &mut self.clients {
            client.write(stream, &read[..count]);
        }
    }

    fn output_ended(&mut self, stream: Stream, now_ns: u64, scratch: &mut Scratch) {
        if let Some(log) = &mut self.log {
            log.finish(stream, now_ns, &mut scratch.encode);
        }
        match &mut self.channel {
            Channel::None => {}
            Channel::Pipes { outputs, .. } => outputs[stream.index()] = None,
            Channel::Tty(master) => *master = None,
        }
    }

    /// The log takes no more before some of it was sent.
    #[must_use]
    pub fn log_congested(&self) -> bool {
        self.log.as_ref().is_some_and(Log::congested)
    }

    fn congested(&self, stream: Stream) -> bool {
        self.log_congested() || self.clients.iter().any(|client| client.congests(stream))
    }

    /// Where the log is shipped to is ready; without flags, a time has come that [`Stdio::due`] has told of.
    pub fn on_ship(&mut self, flags: Option<Flags>) {
        let Some(log) = &mut self.log else { return };
        match flags {
            Some(flags) => log.on_ready(flags),
            None => log.wake(),
        }
        if self.is_open() {
            self.settle();
        } else {
            self.log = self.log.take().and_then(Log::rest);
        }
    }

    /// When to be woken for the log, in monotonic nanoseconds.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.log.as_ref()?.due()
    }

    /// A client's socket is ready.
    pub fn on_client(&mut self, number: u32, flags: Flags, scratch: &mut Scratch) {
        let takes_input = self.takes_input();
        let Some(at) = self.clients.iter().position(|client| client.number() == number) else { return };
        let mut client = self.clients.swap_remove(at);
        client.on_ready(flags, &mut scratch.read);
        if takes_input && client.reads() && flags.intersects(Flags::IN | Flags::HUP | Flags::ERR) {
            let typed = client.read(&mut scratch.read);
            self.take_input(&mut client, typed);
        }
        self.clients.push(client);
        self.settle();
    }

    fn take_input(&mut self, client: &mut Client, typed: Typed) {
        match typed {
            Typed::Bytes(bytes) => self.push_input(&bytes),
            Typed::Detach(bytes) => {
                self.push_input(&bytes);
                client.close_input();
                client.finish();
            }
            Typed::End if self.stdin_once && !matches!(self.channel, Channel::Tty(_)) => self.close_stdin(),
            // Half-closed: the output still goes there. (dockerd ends the client here, and loses it.)
            Typed::Nothing | Typed::End => {}
        }
    }

    /// The process has room for input (or none is asked for, when it is of no use).
    fn takes_input(&self) -> bool {
        self.input.is_empty() && self.stdin().is_some()
    }

    fn stdin(&self) -> Option<&Watched> {
        match &self.channel {
            Channel::None => None,
            Channel::Pipes { stdin, .. } => stdin.as_ref(),
            Channel::Tty(master) => master.as_ref(),
        }
    }

    fn push_input(&mut self, bytes: &[u8]) {
        if self.stdin().is_some() && !self.input_ends {
            self.input.extend_from_slice(bytes);
            self.write_input();
        }
    }

    fn write_input(&mut self) {
        let mut written = 0;
        while written < self.input.len() {
            let Some(fd) = self.stdin() else { break };
            match rustix::io::write(fd, &self.input[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The process has closed its stdin; what is typed from now on is of no use.
                Err(_) => return self.drop_stdin(),
            }
        }
        self.input.drain(..written);
        if self.input.is_empty() {
            self.input = Vec::new();
            if self.input_ends {
                self.drop_stdin();
            }
        }
    }

    /// Close the process's stdin once all input is written. A tty has no end of input.
    pub fn close_stdin(&mut self) {
        if matches!(self.channel, Channel::Tty(_)) {
            return;
        }
        self.input_ends = true;
        self.write_input();
        self.settle();
    }

    fn drop_stdin(&mut self) {
        self.input = Vec::new();
        if let Channel::Pipes { stdin, .. } = &mut self.channel {
            *stdin = None;
        }
    }

    /// Set the tty's size, at once or when there is one.
    pub fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        self.size = Some((rows, columns));
        let Channel::Tty(Some(master)) = &self.channel else { return Ok(()) };
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(master, size).map_err(|error| Error::os("resize", "tty", error))
    }

    /// Clients that only wait for the other side to close are not waited for any longer; a log that is late neither.
    pub fn drop_lingering(&mut self) {
        self.clients.retain(|client| !client.lingers());
        self.log = self.log.take().filter(|log| !log.is_late());
    }

    /// All of it for a hand-over; `lend` makes a descriptor survive the execve and answers its number.
    pub fn state(&mut self, lend: &mut dyn FnMut(BorrowedFd<'_>) -> i32) -> StdioState {
        let mut number = |fd: &Option<Watched>| fd.as_ref().map(|fd| lend(fd.as_fd()));
        let channel = match &self.channel {
            Channel::None => ChannelState::None,
            Channel::Pipes { stdin, outputs: [stdout, stderr] } => {
                ChannelState::Pipes { stdin: number(stdin), outputs: [number(stdout), number(stderr)] }
            }
            Channel::Tty(master) => ChannelState::Tty(number(master)),
        };
        let (log, ship) = self.log.as_ref().map_or((None, None), |log| log.state(lend));
        let clients = self.clients.iter_mut().map(Client::state);
        let clients = clients.map(|(socket, state)| (lend(socket), state)).collect();
        StdioState {
            channel,
            stdin_once: self.stdin_once,
            input: self.input.clone().into(),
            input_ends: self.input_ends,
            log,
            ship,
            clients,
            next_client: self.next_client,
            size: self.size,
        }
    }

    /// The streams of an older keeper's process. What is not open any more is taken for ended.
    #[must_use]
    pub fn restore(poll: &Poll, process: u32, state: StdioState) -> Self {
        let watch = |fd: Option<i32>, part| Some(poll.watch(adopt(fd?)?, Source::Process(process, part)));
        let channel = match state.channel {
            ChannelState::None => Channel::None,
            ChannelState::Pipes { stdin, outputs: [stdout, stderr] } => Channel::Pipes {
                stdin: watch(stdin, Part::Stdin),
                outputs: [watch(stdout, Part::Stdout), watch(stderr, Part::Stderr)],
            },
            ChannelState::Tty(master) => Channel::Tty(watch(master, Part::Tty)),
        };
        let clients = state.clients.into_iter();
        let clients = clients
            .filter_map(|(fd, state)| Some(Client::restore(poll, process, adopt(fd)?, state)))
            .collect();
        let mut stdio = Self {
            process,
            channel,
            stdin_once: state.stdin_once,
            input: state.input.into_vec(),
            input_ends: state.input_ends,
            log: Log::restore(
                (state.log, state.ship),
                poll.registration(Source::Process(process, Part::Ship)),
            ),
            clients,
            next_client: state.next_client,
            size: state.size,
        };
        stdio.settle();
        stdio
    }

    /// Drop the clients that are gone, and wait for exactly what can be done next.
    fn settle(&mut self) {
        if self.is_open() && self.stdin().is_none() {
            self.clients.iter_mut().for_each(Client::close_input);
        }
        self.clients.retain(|client| !client.gone());
        let takes_input = self.takes_input();
        for client in &mut self.clients {
            client.update(takes_input);
        }
        let reads = [Stream::Stdout, Stream::Stderr].map(|stream| !self.congested(stream));
        let writes = !self.input.is_empty();
        match &mut self.channel {
            Channel::None | Channel::Tty(None) => {}
            Channel::Pipes { stdin, outputs } => {
                for (output, reads) in outputs.iter_mut().zip(reads) {
                    if let Some(output) = output {
                        output.want(reads.then_some(Flags::IN));
                    }
                }
                if let Some(stdin) = stdin {
                    stdin.want(writes.then_some(Flags::OUT));
                }
            }
            Channel::Tty(Some(master)) => {
                let mut flags = Flags::empty();
                flags.set(Flags::IN, reads[0]);
                flags.set(Flags::OUT, writes);
                master.want((!flags.is_empty()).then_some(flags));
            }
        }
    }
}

#[cfg(test)]
#[path = "stdio_tests.rs"]
mod tests;
