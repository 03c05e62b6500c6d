//! Questions on their way through a container's servers, and who waits for each answer.
//!
//! | happens                          | then                                                        |
//! |----------------------------------|-------------------------------------------------------------|
//! | a response that is believed      | kept if it says so, given to all who wait                   |
//! | one that was cut off             | the same server is asked over TCP; failing that, passed on  |
//! | "server failure", "refused", or nobody listens | the next server is asked; when all have, failure |
//! | nothing, for a while             | the next server is asked, the last one may still answer     |
//! | nothing at all                   | failure, before the C library asks again                    |
//!
//! Equal questions that come meanwhile wait for the same answer. What a container can have under way is bounded,
//! and so is what all of them have.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::rc::Rc;

use rustix::io::Errno;

use super::cache::{Key, Scope};
use super::message::{
    reply_code, word, Query, A, AAAA, HEADER, NO_ERROR, REFUSED, SERVER_FAILURE, TRUNCATED,
};
use super::numbered::Numbered;
use super::response::{fit, Response};
use super::server::{Due, Server};
use super::stream::Progress;
use super::table::Upstream;
use super::upstream::{Ticket, LIFE_NS};
use crate::sys::datagrams::Arrival;
use crate::timers::monotonic_ns;

/// How long each question to a server is waited for; when all have been, the client is told of failure.
const PATIENCE_NS: [u64; 4] = [1_000_000_000, 1_000_000_000, 1_000_000_000, 1_500_000_000];
/// Questions of one container that wait for servers.
const MOST_OF_ONE: usize = 256;
const MOST_FLIGHTS: usize = 2048;
/// Servers that may answer one question at a time.
const MOST_ATTEMPTS: usize = 2;

/// Where a query came from, and its answer goes.
#[derive(Debug, Clone, Copy)]
pub enum From {
    Udp(SocketAddrV4),
    /// The client's number.
    Tcp(u32),
}

/// A query that waits for an answer.
#[derive(Debug)]
pub struct Waiter {
    pub sandbox: u32,
    pub from: From,
    pub query: Rc<[u8]>,
}

/// How a server was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Udp(Ticket),
    /// The connection's number.
    Tcp(u32),
}

/// A question to one server, which may still answer.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    server: usize,
    way: Way,
}

/// One question on its way.
#[derive(Debug)]
pub struct Flight {
    scope: Scope,
    /// None for one that nobody else may share: its options are between client and server.
    key: Option<Key>,
    /// The container whose servers are asked, from its namespace.
    asker: u32,
    servers: Rc<[Upstream]>,
    /// The server that is asked first.
    first: usize,
    /// Questions to servers so far.
    asked: u8,
    /// Of them, those that failed at once.
    failed: usize,
    tcp: bool,
    attempts: Vec<Attempt>,
    deadline_ns: u64,
    /// A response that was cut off.
    fallback: Option<(Vec<u8>, Response)>,
    query: Rc<[u8]>,
    /// Where the question ends in the query.
    question_end: usize,
    pub waiters: Vec<Waiter>,
}

impl Flight {
    fn question(&self) -> &[u8] {
        &self.query[HEADER..self.question_end]
    }
}

/// All that is on its way.
#[derive(Debug, Default)]
pub struct Flights {
    of_number: Numbered<Flight>,
    of_key: HashMap<(Scope, Key), u32>,
    /// Deadlines and flights, for each length of patience the next one first; also of flights that have landed.
    deadlines: [VecDeque<(u64, u32)>; 2],
    last: u32,
}

impl Flights {
    pub fn drain(&mut self) -> impl Iterator<Item = Flight> + '_ {
        self.of_key.clear();
        self.of_number.drain().map(|(_, flight)| flight)
    }

    /// When the next server has had its time to answer.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.iter().filter_map(|deadlines| deadlines.front()).map(|(at_ns, _)| *at_ns).min()
    }

    /// A flight whose server has had its time by now.
    pub fn overdue(&mut self, now_ns: u64) -> Option<u32> {
        for deadlines in &mut self.deadlines {
            while let Some((at_ns, number)) = deadlines.front().copied().filter(|(at_ns, _)| *at_ns <= now_ns)
            {
                deadlines.pop_front();
                if self.of_number.get(&number).is_some_and(|flight| flight.deadline_ns == at_ns) {
                    return Some(number);
                }
            }
        }
        None
    }

    fn expect_by(&mut self, number: u32, patience_ns: u64, now_ns: u64) {
        let Some(flight) = self.of_number.get_mut(&number) else { return };
        flight.deadline_ns = now_ns + patience_ns;
        let longer = usize::from(patience_ns > PATIENCE_NS[0]);
        self.deadlines[longer].push_back((flight.deadline_ns, number));
    }

    fn remove(&mut self, number: u32) -> Option<Flight> {
        let flight = self.of_number.remove(&number)?;
        let flights = &self.of_number;
        let over = |(at_ns, number): &(u64, u32)| {
            flights.get(number).map_or(true, |flight| flight.deadline_ns != *at_ns)
        };
        for deadlines in &mut self.deadlines {
            while deadlines.front().is_some_and(over) {
                deadlines.pop_front();
            }
        }
        if let Some(key) = &flight.key {
            self.of_key.remove(&(flight.scope, Rc::clone(key)));
        }
        Some(flight)
    }

    fn asked_by(&self, sandbox: u32) -> Vec<u32> {
        let of = |flight: &Flight| flight.asker == sandbox;
        self.of_number.iter().filter(|(_, flight)| of(flight)).map(|(number, _)| *number).collect()
    }
}

impl Server {
    /// Answer a query that the table does not, now or later.
    pub(super) fn forward(&mut self, sandbox: u32, bytes: &[u8], query: &Query<'_>, from: From) {
        let Some(served) = self.served.get(&sandbox) else { return };
        let told_apart = served.ndots && matches!(query.kind, A | AAAA) && query.name.has_one_label();
        if told_apart || served.upstreams.is_empty() {
            // Without a dot and with ndots: the client goes on with its search list.
            let code = if told_apart { NO_ERROR } else { SERVER_FAILURE };
            reply_code(query, code, &mut self.out);
            return self.send(sandbox, from);
        }
        let scope = served.scope;
        let own = query.edns.is_some_and(|edns| edns.options);
        let key = (!own).then(|| key_of(query));
        if let Some(key) = &key {
            let now_ns = monotonic_ns();
            if let Some(entry) = self.cache.get(scope, key, now_ns) {
                let limit = from.limit(query);
                fit(&entry.message, query, limit, &entry.ttls, entry.age(now_ns), &mut self.out);
                return self.send(sandbox, from);
            }
        }
        let waiter = Waiter { sandbox, from, query: bytes.into() };
        let question_end = HEADER + query.question.len();
        if served.waiting >= MOST_OF_ONE || !self.take_off(scope, key, question_end, waiter) {
            reply_code(query, REFUSED, &mut self.out);
            self.send(sandbox, from);
        }
    }

    /// Let a query wait for its question's answer, asking it if nobody has. False where too much is on its way.
    fn take_off(&mut self, scope: Scope, key: Option<Key>, question_end: usize, waiter: Waiter) -> bool {
        let flights = &mut self.flights;
        let under_way = key.as_ref().and_then(|key| flights.of_key.get(&(scope, Rc::clone(key))).copied());
        let Some(served) = self.served.get_mut(&waiter.sandbox) else { return true };
        if let Some(flight) = under_way.and_then(|number| flights.of_number.get_mut(&number)) {
            served.waiting += 1;
            flight.waiters.push(waiter);
            return true;
        }
        if flights.of_number.len() >= MOST_FLIGHTS {
            return false;
        }
        served.waiting += 1;
        flights.last = flights.last.wrapping_add(1);
        let number = flights.last;
        if let Some(key) = &key {
            flights.of_key.insert((scope, Rc::clone(key)), number);
        }
        let flight = Flight {
            scope,
            key,
            asker: waiter.sandbox,
            servers: Rc::clone(&served.upstreams),
            first: served.first_upstream,
            asked: 0,
            failed: 0,
            tcp: matches!(waiter.from, From::Tcp(_)),
            attempts: Vec::new(),
            deadline_ns: 0,
            fallback: None,
            query: Rc::clone(&waiter.query),
            question_end,
            waiters: vec![waiter],
        };
        flights.of_number.insert(number, flight);
        self.ask_next(number);
        true
    }

    /// Ask the next server, or give up.
    fn ask_next(&mut self, number: u32) {
        loop {
            let Some(flight) = self.flights.of_number.get_mut(&number) else { return };
            let count = flight.servers.len();
            if usize::from(flight.asked) >= PATIENCE_NS.len() || flight.failed >= count {
                return self.give_up(number);
            }
            let server = (flight.first + usize::from(flight.asked)) % count;
            let tcp = flight.tcp;
            if self.ask(number, server, tcp) {
                return;
            }
        }
    }

    /// Ask one server; false where that fails at once.
    fn ask(&mut self, number: u32, server: usize, tcp: bool) -> bool {
        let Some(flight) = self.flights.of_number.get_mut(&number) else { return true };
        let Some(origin) = self.served.get(&flight.asker) else { return false };
        let patience_ns = PATIENCE_NS[usize::from(flight.asked).min(PATIENCE_NS.len() - 1)];
        let now_ns = monotonic_ns();
        flight.asked += 1;
        let (from, upstream) = ((&self.poll, &mut self.place), &flight.servers[server]);
        let container = (flight.asker, &origin.netns);
        let way = if tcp {
            let id = self.lines.ids.next();
            let asked =
                id.and_then(|id| self.streams.ask(from, container, upstream, (number, id, &flight.query)));
            asked.map(Way::Tcp)
        } else {
            self.lines.ask(from, container, upstream, (number, &flight.query), now_ns).map(Way::Udp)
        };
        let Ok(way) = way else {
            flight.failed += 1;
            return false;
        };
        let oldest = (flight.attempts.len() >= MOST_ATTEMPTS).then(|| flight.attempts.remove(0));
        flight.attempts.push(Attempt { server, way });
        self.flights.expect_by(number, patience_ns, now_ns);
        if let Some(oldest) = oldest {
            self.give_back(oldest.way);
        }
        if !tcp && self.sweep_ns.is_none() {
            self.sweep_ns = Some(now_ns + LIFE_NS);
            self.timers.add(now_ns + LIFE_NS, Due::Lines);
        }
        true
    }

    /// Nothing is waited for any more.
    fn give_back(&mut self, way: Way) {
        match way {
            Way::Udp(ticket) => self.lines.forget(ticket),
            Way::Tcp(number) => self.streams.close(number),
        }
    }

    /// Send the questions of this turn. A socket that was in use may have learnt of an earlier question's failure:
    /// then the server is asked again over another one.
    pub(super) fn send_questions(&mut self) {
        for (ticket, number, was_in_use) in self.lines.send() {
            let attempt = self.land_attempt(number, Way::Udp(ticket));
            if !attempt.is_some_and(|attempt| was_in_use && self.ask(number, attempt.server, false)) {
                self.on_failure(number);
            }
        }
    }

    /// A server has not answered in time.
    pub(super) fn on_silence(&mut self, number: u32) {
        if let Some(flight) = self.flights.of_number.get_mut(&number) {
            if let Some(served) = self.served.get_mut(&flight.asker) {
                // Others start with another server, until that one is silent.
                if served.first_upstream == flight.first {
                    served.first_upstream = (flight.first + 1) % flight.servers.len();
                }
            }
            self.ask_next(number);
        }
    }

    /// Something has come over a UDP socket to a server.
    pub(super) fn on_line(&mut self, line: u32) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        match self.lines.receive(line, &mut arrivals) {
            Ok(count) => {
                for at in 0..count {
                    if let Some(arrival) = arrivals.get(at) {
                        self.on_datagram(line, arrival);
                    }
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody listens there, the kernel was told.
            Err(_) => self.give_up_line(line),
        }
        self.arrivals = arrivals;
    }

    fn on_datagram(&mut self, line: u32, Arrival { bytes, cut, .. }: Arrival<'_>) {
        if let (true, Some(flags)) = (cut, bytes.get_mut(2)) {
            *flags |= (TRUNCATED >> 8) as u8;
        }
        let ticket = Ticket { line, id: word(bytes, 0).unwrap_or_default() };
        let flight = self.lines.flight(ticket);
        let flight = flight.and_then(|number| Some((number, self.flights.of_number.get(&number)?)));
        let read = flight.and_then(|(number, flight)| {
            Some((number, Response::read(bytes, ticket.id, flight.question())?))
        });
        match read {
            Some((number, response)) => self.on_response(number, Way::Udp(ticket), bytes, response),
            None if self.lines.suspect(line) => {}
            None => self.give_up_line(line),
        }
    }

    /// What waits on a UDP socket will not be answered over it.
    fn give_up_line(&mut self, line: u32) {
        for (id, number) in self.lines.close(line) {
            self.on_broken_way(number, Way::Udp(Ticket { line, id }));
        }
    }

    /// A TCP connection to a server is ready.
    pub(super) fn on_stream(&mut self, stream: u32) {
        let Some((number, id)) = self.streams.question(stream) else { return };
        let read = match self.streams.on_ready(stream, &mut self.packet) {
            Progress::Pending => return,
            Progress::Failed => None,
            Progress::Received(message) => {
                let flight = self.flights.of_number.get(&number);
                let response = flight.and_then(|flight| Response::read(&message, id, flight.question()));
                response.map(|response| (message, response))
            }
        };
        match read {
            Some((message, response)) => self.on_response(number, Way::Tcp(stream), &message, response),
            None => self.on_broken_way(number, Way::Tcp(stream)),
        }
    }

    /// A response that is to the question has come.
    fn on_response(&mut self, number: u32, way: Way, message: &[u8], response: Response) {
        if matches!(response.code, SERVER_FAILURE | REFUSED) {
            return self.on_broken_way(number, way);
        }
        let Some(attempt) = self.land_attempt(number, way) else { return };
        if response.truncated && matches!(way, Way::Udp(_)) {
            if let Some(flight) = self.flights.of_number.get_mut(&number) {
                flight.fallback = Some((message.to_vec(), response));
            }
            if !self.ask(number, attempt.server, true) {
                self.give_up(number);
            }
            return;
        }
        self.land(number, message, &response);
    }

    /// A server has failed: go on with the next, unless another one is still to answer.
    fn on_broken_way(&mut self, number: u32, way: Way) {
        let Some(flight) = self.flights.of_number.get(&number) else { return };
        let latest = flight.attempts.last().is_some_and(|attempt| attempt.way == way);
        if self.land_attempt(number, way).is_none() {
            return;
        }
        if latest {
            return self.on_failure(number);
        }
        if let Some(flight) = self.flights.of_number.get_mut(&number) {
            flight.failed += 1;
            if flight.fallback.is_some() {
                self.give_up(number);
            }
        }
    }

    /// The server that was asked last has failed.
    fn on_failure(&mut self, number: u32) {
        let Some(flight) = self.flights.of_number.get_mut(&number) else { return };
        flight.failed += 1;
        if flight.fallback.is_some() {
            self.give_up(number);
        } else {
            self.ask_next(number);
        }
    }

    /// Take a flight's attempt back.
    fn land_attempt(&mut self, number: u32, way: Way) -> Option<Attempt> {
        let flight = self.flights.of_number.get_mut(&number)?;
        let at = flight.attempts.iter().position(|attempt| attempt.way == way)?;
        let attempt = flight.attempts.remove(at);
        self.give_back(way);
        Some(attempt)
    }

    /// Give the answer to all who wait.
    fn land(&mut self, number: u32, message: &[u8], response: &Response) {
        let Some(flight) = self.remove_flight(number) else { return };
        if let (Some(key), Some(seconds)) = (&flight.key, response.keep) {
            // The servers may be others by now.
            if self.served.get(&flight.asker).is_some_and(|served| served.scope == flight.scope) {
                self.cache.put(flight.scope, key, message, &response.ttls, seconds, monotonic_ns());
            }
        }
        for waiter in flight.waiters {
            let Ok(query) = Query::parse(&waiter.query) else { continue };
            fit(message, &query, waiter.from.limit(&query), &[], 0, &mut self.out);
            self.send(waiter.sandbox, waiter.from);
        }
    }

    fn give_up(&mut self, number: u32) {
        let fallback = self.flights.of_number.get_mut(&number).and_then(|flight| flight.fallback.take());
        if let Some((message, response)) = fallback {
            return self.land(number, &message, &response);
        }
        let Some(flight) = self.remove_flight(number) else { return };
        for waiter in flight.waiters {
            let Ok(query) = Query::parse(&waiter.query) else { continue };
            reply_code(&query, SERVER_FAILURE, &mut self.out);
            self.send(waiter.sandbox, waiter.from);
        }
    }

    fn remove_flight(&mut self, number: u32) -> Option<Flight> {
        let mut flight = self.flights.remove(number)?;
        for attempt in flight.attempts.drain(..) {
            self.give_back(attempt.way);
        }
        for waiter in &flight.waiters {
            if let Some(served) = self.served.get_mut(&waiter.sandbox) {
                served.waiting -= 1;
            }
        }
        Some(flight)
    }

    /// A container is gone or has other servers: what was asked for it fails.
    pub(super) fn ground(&mut self, sandbox: u32) {
        for number in self.flights.asked_by(sandbox) {
            self.give_up(number);
        }
    }
}

impl From {
    pub fn limit(self, query: &Query<'_>) -> usize {
        match self {
            Self::Udp(_) => query.udp_limit(),
            Self::Tcp(_) => usize::from(u16::MAX),
        }
    }
}

fn key_of(query: &Query<'_>) -> Key {
    let mut key = Vec::with_capacity(query.name.as_bytes().len() + 5);
    key.extend(query.kind.to_be_bytes());
    key.extend(query.class.to_be_bytes());
    key.push(query.variant());
    key.extend(query.name.as_bytes());
    key.into()
}
