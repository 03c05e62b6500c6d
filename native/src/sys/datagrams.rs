//! Many datagrams with one call, each way. This one allocates: it is nothing for a child.
//!
//! Source: <https://man7.org/linux/man-pages/man2/recvmmsg.2.html>,
//! <https://man7.org/linux/man-pages/man2/sendmmsg.2.html>, <https://man7.org/linux/man-pages/man7/udp.7.html>.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{null, null_mut};

use rustix::io::Result;

use super::{check, syscall};

/// Datagrams that one call takes or sends at most.
pub const MOST: usize = 32;

const FLAGS: usize = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as usize;

/// `struct mmsghdr`.
#[repr(C)]
struct Message {
    header: Header,
    /// Written by the kernel: bytes that have come.
    length: u32,
}

/// `struct msghdr`.
#[repr(C)]
struct Header {
    name: *mut Name,
    name_length: u32,
    pieces: *const libc::iovec,
    piece_count: usize,
    control: *const Segment,
    control_length: usize,
    /// Written by the kernel: what is to be said of one that has come.
    flags: i32,
}

/// `struct sockaddr_in`, in network order.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Name {
    family: u16,
    port: [u8; 2],
    address: [u8; 4],
    zero: [u8; 8],
}

/// `struct cmsghdr` with `UDP_SEGMENT`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Segment {
    length: usize,
    level: i32,
    kind: i32,
    size: u16,
}

/// One datagram that has come.
#[derive(Debug)]
pub struct Arrival<'a> {
    pub bytes: &'a mut [u8],
    /// `None` for one that came over IPv6.
    pub from: Option<SocketAddrV4>,
    /// It was longer; this is its beginning.
    pub cut: bool,
}

/// Room for the datagrams of one call.
#[derive(Debug, Default)]
pub struct Arrivals {
    bytes: Vec<u8>,
    longest: usize,
    told: Vec<(Name, usize, i32)>,
}

impl Arrivals {
    /// Room for `MOST` of at most `longest` bytes.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        Self { bytes: vec![0; MOST * longest], longest, told: Vec::with_capacity(MOST) }
    }

    /// Take what has come, without waiting; answers how many. What was there before is gone.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<usize> {
        self.told.clear();
        let mut names = [Name::default(); MOST];
        let slots = self.bytes.chunks_exact_mut(self.longest.max(1));
        let pieces: [libc::iovec; MOST] = {
            let mut pieces = [libc::iovec { iov_base: null_mut(), iov_len: 0 }; MOST];
            for (piece, slot) in pieces.iter_mut().zip(slots) {
                *piece = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
            }
            pieces
        };
        let mut messages: [Message; MOST] = std::array::from_fn(|at| Message {
            header: Header {
                name: &raw mut names[at],
                name_length: size_of::<Name>() as u32,
                pieces: &raw const pieces[at],
                piece_count: 1,
                control: null(),
                control_length: 0,
                flags: 0,
            },
            length: 0,
        });
        let (fd, first) = (socket.as_raw_fd() as usize, messages.as_mut_ptr() as usize);
        // SAFETY: as many messages as are said, each with a name and a piece that live until the call is over.
        let count = check(unsafe { syscall(libc::SYS_recvmmsg, fd, first, MOST, FLAGS, 0, 0) })?;
        let told = messages.iter().zip(names).take(count);
        self.told.extend(told.map(|(message, name)| (name, message.length as usize, message.header.flags)));
        Ok(count)
    }

    /// The datagram at a place below what `receive` has answered.
    pub fn get(&mut self, at: usize) -> Option<Arrival<'_>> {
        let (name, length, flags) = *self.told.get(at)?;
        let start = at * self.longest;
        let bytes = self.bytes.get_mut(start..start + length.min(self.longest))?;
        let from = (i32::from(name.family) == libc::AF_INET)
            .then(|| SocketAddrV4::new(Ipv4Addr::from(name.address), u16::from_be_bytes(name.port)));
        Some(Arrival { bytes, from, cut: flags & libc::MSG_TRUNC != 0 })
    }
}

/// What is sent to one receiver.
#[derive(Debug, Clone, Copy)]
pub struct Departure<'a> {
    /// `None` over a connected socket.
    pub to: Option<SocketAddrV4>,
    /// More than one: datagrams of the same length, which go through the kernel as one and are cut apart at
    /// its end (`UDP_SEGMENT`, since 4.18).
    pub datagrams: &'a [IoSlice<'a>],
}

/// Send without waiting; answers how many of the first `MOST` have gone. An error is the first one's.
pub fn send(socket: BorrowedFd<'_>, departures: &[Departure<'_>]) -> Result<usize> {
    let departures = &departures[..departures.len().min(MOST)];
    let mut names: Vec<Name> = departures.iter().map(|departure| name_of(departure.to)).collect();
    let segments: Vec<Segment> = departures.iter().map(|departure| segment_of(departure.datagrams)).collect();
    let mut messages: Vec<Message> = Vec::with_capacity(departures.len());
    for (at, Departure { to, datagrams }) in departures.iter().enumerate() {
        let several = datagrams.len() > 1;
        let header = Header {
            name: if to.is_some() { &raw mut names[at] } else { null_mut() },
            name_length: if to.is_some() { size_of::<Name>() as u32 } else { 0 },
            // Source: IoSlice is promised to have the layout of struct iovec.
            pieces: datagrams.as_ptr().cast(),
            piece_count: datagrams.len(),
            control: if several { &raw const segments[at] } else { null() },
            control_length: if several { size_of::<Segment>() } else { 0 },
            flags: 0,
        };
        messages.push(Message { header, length: 0 });
    }
    let (fd, first) = (socket.as_raw_fd() as usize, messages.as_mut_ptr() as usize);
    // SAFETY: as many messages as are said, of names, pieces and controls that live until the call is over.
    check(unsafe { syscall(libc::SYS_sendmmsg, fd, first, messages.len(), FLAGS, 0, 0) })
}

fn name_of(to: Option<SocketAddrV4>) -> Name {
    let Some(to) = to else { return Name::default() };
    Name {
        family: libc::AF_INET as u16,
        port: to.port().to_be_bytes(),
        address: to.ip().octets(),
        zero: [0; 8],
    }
}

fn segment_of(datagrams: &[IoSlice<'_>]) -> Segment {
    Segment {
        // Without the padding behind it.
        length: std::mem::offset_of!(Segment, size) + size_of::<u16>(),
        level: libc::SOL_UDP,
        kind: libc::UDP_SEGMENT,
        size: datagrams.first().map_or(0, |first| first.len() as u16),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket, SocketAddrV4) {
        let bound = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let (one, two) = (bound(), bound());
        let SocketAddr::V4(address) = two.local_addr().expect("an address") else { panic!("IPv4") };
        (one, two, address)
    }

    fn received(socket: &UdpSocket, longest: usize) -> Vec<(Vec<u8>, bool)> {
        let mut arrivals = Arrivals::new(longest);
        let count = arrivals.receive(socket.as_fd()).expect("they have come");
        let mut all = Vec::new();
        for at in 0..count {
            let arrival = arrivals.get(at).expect("one of them");
            all.push((arrival.bytes.to_vec(), arrival.cut));
        }
        assert!(arrivals.get(count).is_none());
        all
    }

    #[test]
    fn what_goes_with_one_call_comes_apart() {
        let (one, two, to) = pair();
        let same = [IoSlice::new(b"first"), IoSlice::new(b"next1"), IoSlice::new(b"next2")];
        let last = [IoSlice::new(b"and another")];
        let departures =
            [Departure { to: Some(to), datagrams: &same }, Departure { to: Some(to), datagrams: &last }];
        assert_eq!(send(one.as_fd(), &departures), Ok(2));
        let texts: Vec<Vec<u8>> = received(&two, 100).into_iter().map(|(bytes, _)| bytes).collect();
        assert_eq!(texts, [&b"first"[..], b"next1", b"next2", b"and another"]);
    }

    #[test]
    fn the_sender_is_known_and_what_is_too_long_is_cut() {
        let (one, two, to) = pair();
        one.connect(to).expect("connected");
        let all = [IoSlice::new(b"12345678")];
        assert_eq!(send(one.as_fd(), &[Departure { to: None, datagrams: &all }; 2]), Ok(2));
        let (_, from) = two.peek_from(&mut [0; 8]).expect("it has come");
        let mut arrivals = Arrivals::new(4);
        assert_eq!(arrivals.receive(two.as_fd()), Ok(2));
        let arrival = arrivals.get(1).expect("the second");
        assert_eq!((&*arrival.bytes, arrival.cut), (&b"1234"[..], true));
        assert_eq!(arrival.from.map(SocketAddr::V4), Some(from));
        assert_eq!(Some(from.port()), one.local_addr().ok().map(|address| address.port()));
        assert_eq!(arrivals.receive(two.as_fd()), Err(rustix::io::Errno::AGAIN));
        assert!(arrivals.get(0).is_none());
    }

    #[test]
    fn one_call_takes_no_more_than_it_has_room_for() {
        let (one, two, to) = pair();
        let text = [IoSlice::new(b"x")];
        assert_eq!(send(one.as_fd(), &[Departure { to: Some(to), datagrams: &text }; MOST + 1]), Ok(MOST));
        assert_eq!(send(one.as_fd(), &[Departure { to: Some(to), datagrams: &text }]), Ok(1));
        assert_eq!(received(&two, 10).len(), MOST);
        assert_eq!(received(&two, 10), [(b"x".to_vec(), false)]);
    }
}
