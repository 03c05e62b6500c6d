//! Datagrams passed on: each client of a port has a socket of its own towards the container, so that answers find
//! their way back. One that is silent for a while is forgotten, and so is the oldest where there are very many.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::net::{
    connect, recv, recvfrom, send, sendto, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};

use super::server::{Poll, Source, Watched};
use crate::epoll::Flags;

/// Clients of one port.
const MOST: usize = 1024;
/// How long a client may be silent.
const PATIENCE_NS: u64 = 90_000_000_000;
/// Datagrams taken before others have their turn.
const BURST: usize = 64;

#[derive(Debug)]
struct Flow {
    client: SocketAddr,
    socket: Watched,
    used_ns: u64,
}

/// The clients of one port.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    flows: HashMap<u32, Flow>,
    numbers: HashMap<SocketAddr, u32>,
}

impl Datagrams {
    /// Pass on what has come at the port's socket. `new` numbers a client that was not seen before.
    pub(super) fn inwards(
        &mut self,
        socket: impl AsFd,
        target: SocketAddr,
        poll: &Poll,
        now_ns: u64,
        buffer: &mut [u8],
        mut new: impl FnMut() -> u32,
    ) {
        for _ in 0..BURST {
            let Ok((length, _, Some(client))) = recvfrom(&socket, &mut *buffer, RecvFlags::DONTWAIT) else {
                return;
            };
            let Ok(client) = SocketAddr::try_from(client) else { continue };
            let number = match self.numbers.get(&client) {
                Some(number) => *number,
                None => match self.begin(client, target, poll, now_ns, &mut new) {
                    Some(number) => number,
                    None => continue,
                },
            };
            if let Some(flow) = self.flows.get_mut(&number) {
                flow.used_ns = now_ns;
                // Ignored: datagrams may be lost.
                let _ = send(&flow.socket, &buffer[..length], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            }
        }
    }

    /// Pass back what the container has sent to a client.
    pub(super) fn outwards(&mut self, socket: impl AsFd, number: u32, now_ns: u64, buffer: &mut [u8]) {
        let Some(flow) = self.flows.get_mut(&number) else { return };
        flow.used_ns = now_ns;
        for _ in 0..BURST {
            // An error (the container's port is closed) is taken from the socket by this, too.
            let Ok((length, _)) = recv(&flow.socket, &mut *buffer, RecvFlags::DONTWAIT) else { return };
            let _ = sendto(&socket, &buffer[..length], SendFlags::DONTWAIT, &flow.client);
        }
    }

    /// Forget who has been silent; the numbers of those.
    pub(super) fn sweep(&mut self, now_ns: u64) -> Vec<u32> {
        let silent = |flow: &Flow| flow.used_ns + PATIENCE_NS <= now_ns;
        let gone: Vec<u32> =
            self.flows.iter().filter(|(_, flow)| silent(flow)).map(|(number, _)| *number).collect();
        for number in &gone {
            self.end(*number);
        }
        gone
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    fn begin(
        &mut self,
        client: SocketAddr,
        target: SocketAddr,
        poll: &Poll,
        now_ns: u64,
        new: &mut impl FnMut() -> u32,
    ) -> Option<u32> {
        if self.flows.len() >= MOST {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used_ns).map(|(number, _)| *number);
            self.end(oldest?);
        }
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, None).ok()?;
        connect(&socket, &target).ok()?;
        let number = new();
        let mut socket = poll.watch(socket, Source::Flow(number));
        socket.want(Some(Flags::IN));
        self.flows.insert(number, Flow { client, socket, used_ns: now_ns });
        self.numbers.insert(client, number);
        Some(number)
    }

    fn end(&mut self, number: u32) {
        if let Some(flow) = self.flows.remove(&number) {
            self.numbers.remove(&flow.client);
        }
    }
}
