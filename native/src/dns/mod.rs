//! The resolver at 127.0.0.11 of every container on a user-defined network: one thread and one loop for all.
//!
//! It answers the names, addresses and aliases of the networks that a container is on, and asks the container's
//! servers for the rest. What it is told, the keeper tells it (keeper/resolver.rs), so names live as long as the
//! containers do, whatever proad does. A thread of its own, since what containers ask is theirs to choose: a
//! flood of queries must not delay a start or an exit.
//!
//! The messages are our own code: a few hundred lines, where the well-kept crates for them bring dozens of others.
//!
//! | file        | decision it hides                                                             |
//! |-------------|-------------------------------------------------------------------------------|
//! | name.rs     | names on the wire: labels, compression, reverse names                         |
//! | message.rs  | what a query may look like, and how it is answered                            |
//! | response.rs | what is believed of a server's response, and how long                         |
//! | table.rs    | who is called what on which network                                           |
//! | answer.rs   | which question is answered from the table, and how                            |
//! | cache.rs    | responses kept, within bounds, and for whom                                   |
//! | forward.rs  | questions on their way through the servers, and who waits                     |
//! | upstream.rs | questions to servers over UDP: sockets, ids, and from which namespace         |
//! | stream.rs   | questions to servers over TCP                                                 |
//! | outbox.rs   | how many datagrams leave with few calls and few packets                       |
//! | sockets.rs  | how port 53 of 127.0.0.11 is had without being taken from the container       |
//! | client.rs   | queries over TCP                                                              |
//! | numbered.rs | maps by numbers of our own                                                    |
//! | server.rs   | the loop                                                                      |
//!
//! Sources: RFC 1035, 2308 (negative caching), 5452 (spoofing), 6891 (EDNS), 7766 (TCP); moby's
//! daemon/libnetwork/resolver.go for what is answered from where.

mod answer;
mod cache;
mod client;
mod forward;
#[cfg(test)]
mod fuzz_tests;
mod message;
mod name;
mod numbered;
mod outbox;
mod response;
pub mod server;
pub mod sockets;
mod stream;
pub mod table;
mod upstream;
