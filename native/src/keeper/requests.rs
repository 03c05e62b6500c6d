//! Requests of proad, one function each. Every one is answered exactly once, now or later.

use std::os::fd::{AsFd, OwnedFd};

use super::client::Client;
use super::protocol::{Attach, Failure, Reply, Request, VERSION};
use super::protocol::{Exit, ProcessState};
use super::record::{Asked, Key, Phase};
use super::supervisor::{failure, refusal, Deferred, Ending, Keeper};
use crate::sys::supervise::send_signal;

impl Keeper {
    pub(super) fn handle(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let asked = |keeper: &Self, seq| Asked { connection: keeper.connections, seq };
        match request {
            Request::Hello { seq, version: _ } => self.welcome(asked(self, seq)),
            Request::Start { seq, plan, ship } => {
                let ship = ship.map(|ship| (*ship, fds.into_iter().next()));
                self.start(asked(self, seq), &plan, ship);
            }
            Request::Exec { seq, id, exec_id, process, stdio, timeout_ns } => {
                let key = Key { id, exec_id: Some(exec_id) };
                self.exec(asked(self, seq), &key, &process, &stdio, timeout_ns);
            }
            Request::Attach(attach) => self.attach(asked(self, attach.seq), *attach, fds),
            Request::Signal { seq, id, exec_id, signal } => {
                let result = self.signal(&Key { id, exec_id }, signal);
                self.conclude(asked(self, seq), result);
            }
            Request::Resize { seq, id, exec_id, rows, columns } => {
                let result = self.resize(&Key { id, exec_id }, rows, columns);
                self.conclude(asked(self, seq), result);
            }
            Request::CloseStdin { seq, id, exec_id } => {
                if let Some(record) = self.table.of_key(&Key { id, exec_id }) {
                    record.stdio.close_stdin();
                }
                self.done(asked(self, seq));
            }
            Request::Forget { seq, id, exec_id } => {
                self.forget(&Key { id, exec_id });
                self.done(asked(self, seq));
            }
            Request::Acknowledge { seq, id, exec_id } => {
                self.ledger.acknowledge(&id, exec_id.as_deref());
                self.done(asked(self, seq));
            }
            Request::NetPrepare { seq, key, endpoint, more } => {
                let endpoints = std::iter::once(*endpoint).chain(more).collect();
                self.deferred.push_back(Deferred::PrepareNetwork(asked(self, seq), key, endpoints));
            }
            Request::NetAttach { seq, id, endpoint, routes } => {
                self.attach_network(asked(self, seq), &id, &endpoint, &routes);
            }
            Request::NetDetach { seq, id, interface, routes } => {
                let result = self.detach_network(&id, &interface, &routes);
                self.conclude(asked(self, seq), result);
            }
            Request::NetRelease { seq, key } => {
                let waiting =
                    |work: &Deferred| matches!(work, Deferred::PrepareNetwork(_, of, _) if *of == key);
                self.deferred.retain(|work| !waiting(work));
                drop(self.pool.take(key));
                self.done(asked(self, seq));
            }
            Request::DnsSet { seq, sandbox } => self.serve_names(asked(self, seq), *sandbox),
            Request::DnsDrop { seq, id } => {
                self.resolver.drop(&id);
                self.done(asked(self, seq));
            }
            Request::PortsHold { seq, id, ports } => self.hold_ports(asked(self, seq), &id, ports),
            Request::HandOver { seq, argv } => self.hand_over(asked(self, seq), argv),
            Request::Shutdown { seq, kill } => self.shut_down(asked(self, seq), kill),
        }
    }

    pub(super) fn conclude(&mut self, asked: Asked, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.done(asked),
            Err(error) => self.refuse(asked, error),
        }
    }

    /// Tell of every process that runs and every exit that is not acknowledged.
    fn welcome(&mut self, asked: Asked) {
        self.retain_names();
        let ended = self.ledger.entries().map(|entry| {
            let Exit { id, exec_id, .. } = entry.exit.clone();
            let exit = Some(entry.exit.clone());
            ProcessState { id, exec_id, pid: entry.pid, started_at_ns: entry.started_at_ns, exit }
        });
        let mut processes: Vec<ProcessState> = ended.collect();
        processes.extend(self.table.states());
        let prepared = self.pool.iter().map(|(key, _)| key).collect();
        let pid = std::process::id();
        self.answer(asked, &Reply::Welcome { seq: asked.seq, version: VERSION, pid, processes, prepared });
    }

    fn attach(&mut self, asked: Asked, request: Attach, mut fds: Vec<OwnedFd>) {
        let Some(socket) = fds.pop().filter(|_| fds.is_empty()) else {
            return self.refuse(asked, refusal("invalid", "attach comes with exactly one descriptor"));
        };
        let number = self.table.find_or_insert(&Key::new(&request.id, request.exec_id.as_deref()));
        let Some(record) = self.table.get_mut(number) else { return };
        let client = record.stdio.client_number();
        let client = Client::new(&self.poll, number, client, socket, request);
        record.stdio.attach(client);
        self.done(asked);
    }

    fn signal(&mut self, key: &Key, number: i32) -> Result<(), Failure> {
        let Some(Phase::Running(running)) = self.table.of_key(key).map(|record| &record.phase) else {
            return Err(refusal("not_found", format!("No such process: {} is not running", key.id)));
        };
        send_signal(running.handle.pidfd.as_fd(), number).map_err(|error| Failure {
            step: "signal".into(),
            subject: number.to_string(),
            errno: error.raw_os_error(),
        })
    }

    fn resize(&mut self, key: &Key, rows: u16, columns: u16) -> Result<(), Failure> {
        let Some(record) = self.table.of_key(key) else {
            return Err(refusal("not_found", format!("No such process: {} is not running", key.id)));
        };
        record.stdio.resize(rows, columns).map_err(|error| failure("resize", &error))
    }

    /// Drop the clients of a process that will not start. One that runs is not touched.
    fn forget(&mut self, key: &Key) {
        let Some(number) = self.table.find(key) else { return };
        if self.table.get(number).is_some_and(|record| matches!(record.phase, Phase::Waiting)) {
            self.table.remove(number);
        }
    }

    fn shut_down(&mut self, asked: Asked, kill: bool) {
        let live = self.table.numbers(|phase| !matches!(phase, Phase::Waiting | Phase::Over));
        if !kill && !live.is_empty() {
            return self.refuse(asked, refusal("conflict", format!("{} processes are running", live.len())));
        }
        for number in live {
            self.kill(number);
        }
        self.ending = Ending::Shutdown(asked);
    }
}
