//! Published ports, held: sockets that keep the host's programs off them, and serve whom the firewall cannot.
//!
//! What comes by IPv4, or by IPv6 to a container that has it, the kernel translates before a socket is asked. What
//! is left is `::1` (IPv6 has no `route_localnet`), IPv6 to a container that has only IPv4, and a host without
//! proa's firewall: these arrive at the sockets here, and one thread passes their bytes on. No process per port,
//! and nothing of it depends on proad. A thread of its own, since the traffic is others' to choose.
//!
//! | file        | decision it hides                                      |
//! |-------------|--------------------------------------------------------|
//! | hold.rs     | how a port is bound, and what counts as free           |
//! | stream.rs   | a TCP connection passed on, each way with its end      |
//! | datagram.rs | who talks to whom over UDP, and for how long           |
//! | handle.rs   | whose the descriptors are, and what the thread is told |
//! | server.rs   | the loop                                               |
//!
//! Sources: moby's cmd/docker-proxy; ip(7), ipv6(7), tcp(7), udp(7).

mod datagram;
mod handle;
mod hold;
mod server;
mod stream;
#[cfg(test)]
mod tests;

pub use handle::{Handle, Left};
pub use hold::{Held, Port};
