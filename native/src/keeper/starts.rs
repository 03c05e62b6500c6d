//! Starts and execs: from the request to the running process, or back to nothing.
//!
//! What a start makes is held in the record from the moment it exists; [`Keeper::abandon`] and
//! [`Keeper::start_failed`] undo all of it. Nothing here waits for the child.

use std::os::fd::{AsFd, OwnedFd};

use super::connection::Connection;
use super::log::Log;
use super::log_writer::LogWriter;
use super::pipes::Pipes;
use super::poll::{Flags, Part, Source};
use super::protocol::{Failure, Reply};
use super::record::{Asked, Confinement, Key, Phase, Running, Starting};
use super::ship::{Ship, Shipping};
use super::supervisor::{failure, refusal, Cleanup, Deferred, Keeper, SHORT_LIFE_NS};
use super::timers::{monotonic_ns, realtime_ns, Due};
use crate::cgroup::{Group, FAREWELL};
use crate::netns::Prepared;
use crate::plan::{self, IdMap, Namespace, Network, Plan};
use crate::process::{self, ContainerHandle, Progress, SpawnContext, Spawning, Stdio};

impl Keeper {
    /// `shipping`: where its log lines go, and the connection if there is one already.
    pub(super) fn start(&mut self, asked: Asked, plan: &Plan, shipping: Option<(Shipping, Option<OwnedFd>)>) {
        let key = Key::new(&plan.id, None);
        let number = match self.claim(&key) {
            Ok(number) => number,
            Err(error) => return self.refuse(asked, error),
        };
        if let Err(error) = self.try_start(asked, plan, number, shipping) {
            self.table.remove(number);
            self.forget_names(&key);
            self.refuse(asked, error);
        }
    }

    pub(super) fn exec(
        &mut self,
        asked: Asked,
        key: &Key,
        process: &plan::Process,
        stdio: &plan::Stdio,
        timeout_ns: u64,
    ) {
        let number = match self.claim(key) {
            Ok(number) => number,
            Err(error) => return self.refuse(asked, error),
        };
        if let Err(error) = self.try_exec(asked, key, process, stdio, number, timeout_ns) {
            self.table.remove(number);
            self.refuse(asked, error);
        }
    }

    /// The record of a process that is about to start; clients may wait in it already.
    fn claim(&mut self, key: &Key) -> Result<u32, Failure> {
        let number = self.table.find_or_insert(key);
        match self.table.get(number).map(|record| &record.phase) {
            Some(Phase::Waiting) => Ok(number),
            _ => Err(refusal("conflict", format!("{} is running already", key.id))),
        }
    }

    fn try_start(
        &mut self,
        asked: Asked,
        plan: &Plan,
        number: u32,
        shipping: Option<(Shipping, Option<OwnedFd>)>,
    ) -> Result<(), Failure> {
        let prepared = self.take_network(plan)?;
        let owner = plan
            .namespaces
            .user
            .as_ref()
            .map_or(plan.process.uid, |user| host_id(&user.uid_map, plan.process.uid));
        let pipes = make_pipes(&plan.process, &plan.stdio, owner)?;
        self.finish_cleanup(&plan.cgroup.path);
        let group = self.hierarchies.create(&plan.cgroup.path, &plan.cgroup.resources);
        let group = group.map_err(|error| failure("cgroup", &error))?;
        let container = |id: &str| self.table.running(id).map(|running| &running.handle);
        let context = SpawnContext {
            host: &self.host,
            stdio: child_streams(pipes.as_ref(), &self.null),
            netns: prepared.as_ref().map(|prepared| prepared.netns.as_fd()),
            container: &container,
            caller: self.connection.as_ref().and_then(Connection::mounts),
            group: Some(&group),
        };
        let spawned = process::spawn(plan, &context);
        let confinement = Confinement {
            group: Some(group),
            group_path: plan.cgroup.path.clone(),
            root: None,
            shared_pids: plan.namespaces.pid != Namespace::New,
        };
        match spawned {
            Ok(spawning) => {
                let user_namespace = plan.namespaces.user.is_some();
                let timeout_ns = plan.timeout_ns;
                let start = Start { asked, number, user_namespace, timeout_ns, confinement, shipping };
                self.await_start(start, spawning, pipes, &plan.stdio)
            }
            Err(error) => {
                self.clean_later(confinement);
                Err(error)
            }
        }
    }

    /// The namespace out of the pool: whatever comes of the start, nobody else gets it.
    fn take_network(&mut self, plan: &Plan) -> Result<Option<Prepared>, Failure> {
        match plan.namespaces.net {
            Network::Prepared { key } => {
                let missing = || refusal("not_found", format!("network {key} is not prepared"));
                self.pool.take(key).map(Some).ok_or_else(missing)
            }
            // One of the host's would not belong to the container's own users.
            Network::None if plan.namespaces.user.is_none() => {
                let spare = self.pool.take_spare();
                if self.pool.wants_spare()
                    && !self.deferred.iter().any(|work| matches!(work, Deferred::SpareNetworks))
                {
                    self.deferred.push_back(Deferred::SpareNetworks);
                }
                Ok(spare)
            }
            _ => Ok(None),
        }
    }

    fn try_exec(
        &mut self,
        asked: Asked,
        key: &Key,
        process: &plan::Process,
        stdio: &plan::Stdio,
        number: u32,
        timeout_ns: u64,
    ) -> Result<(), Failure> {
        let Some(init) = self.table.running(&key.id) else {
            return Err(refusal("conflict", format!("container {} is not running", key.id)));
        };
        let pipes = make_pipes(process, stdio, process.uid)?;
        let streams = child_streams(pipes.as_ref(), &self.null);
        let group = init.confinement.group.as_ref();
        let spawning = process::exec_into(&init.handle, process, &self.host, streams, group)?;
        let confinement = Confinement::default();
        let start = Start { asked, number, user_namespace: false, timeout_ns, confinement, shipping: None };
        self.await_start(start, spawning, pipes, stdio)
    }

    /// The child is on its way: keep what it needs, open its log meanwhile.
    fn await_start(
        &mut self,
        start: Start,
        spawning: Spawning,
        pipes: Option<Pipes>,
        stdio: &plan::Stdio,
    ) -> Result<(), Failure> {
        let Start { asked, number, user_namespace, timeout_ns, confinement, shipping } = start;
        let ship = shipping.map(|(shipping, socket)| {
            let registration = self.poll.registration(Source::Process(number, Part::Ship));
            Ship::new(shipping, socket, registration, monotonic_ns())
        });
        let log = match stdio.log.clone().map(LogWriter::open).transpose() {
            Ok(file) => Log::new(file, ship),
            Err(error) => {
                spawning.abandon();
                self.clean_later(confinement);
                return Err(failure("log", &error));
            }
        };
        let mut sync = self.poll.registration(Source::Process(number, Part::Sync));
        sync.want(spawning.as_fd(), Some(Flags::IN));
        let Some(record) = self.table.get_mut(number) else { return Ok(()) };
        self.starting += 1;
        record.stdio.set_log(log);
        record.phase = Phase::Starting(Box::new(Starting {
            asked,
            spawning,
            sync,
            pipes: pipes.map(|pipes| (pipes.stdin, [pipes.stdout, pipes.stderr])),
            stdin_once: stdio.stdin_once,
            user_namespace,
            timeout_ns,
            confinement,
        }));
        Ok(())
    }

    /// The child has said something.
    pub(super) fn drive(&mut self, number: u32) {
        let Some(record) = self.table.get_mut(number) else { return };
        let Phase::Starting(starting) = &mut record.phase else { return };
        match starting.spawning.on_readable() {
            Progress::Pending => {}
            Progress::Started { warnings, pty_master } => self.started(number, warnings, pty_master),
            Progress::Failed(error) => self.start_failed(number, error),
        }
    }

    /// The program runs: answer at once, connect its streams, wait for its end.
    fn started(&mut self, number: u32, warnings: Vec<String>, pty_master: Option<OwnedFd>) {
        let started_at_ns = realtime_ns();
        let Some(record) = self.table.get_mut(number) else { return };
        let Phase::Starting(starting) = std::mem::replace(&mut record.phase, Phase::Waiting) else { return };
        self.starting -= 1;
        self.fresh = Some((number, monotonic_ns() + SHORT_LIFE_NS));
        let Starting {
            asked,
            spawning,
            mut sync,
            pipes,
            stdin_once,
            user_namespace,
            timeout_ns,
            mut confinement,
        } = *starting;
        sync.want(&spawning, None);
        confinement.root = spawning.root;
        let mut all_warnings =
            confinement.group.as_ref().map_or_else(Vec::new, |group| group.warnings().to_vec());
        all_warnings.extend(warnings);
        let (pid, pidfd) = (spawning.pid, spawning.pidfd);
        let mut exit = self.poll.registration(Source::Process(number, Part::Pidfd));
        exit.want(&pidfd, Some(Flags::IN));
        let deadline_ns = (timeout_ns > 0).then(|| monotonic_ns().saturating_add(timeout_ns));
        if let Some(deadline_ns) = deadline_ns {
            self.timers.add(deadline_ns, Due::Timeout(number));
        }
        if confinement.group.is_some() {
            self.deferred.push_back(Deferred::WatchMemory(number));
        }
        record.phase = Phase::Running(Box::new(Running {
            handle: ContainerHandle { pid, pidfd, user_namespace },
            exit,
            started_at_ns,
            deadline_ns,
            timed_out: false,
            confinement,
            oom: None,
            oom_kills: 0,
        }));
        match (pipes, pty_master) {
            (Some((stdin, outputs)), _) => record.stdio.open_pipes(&self.poll, stdin, outputs, stdin_once),
            (None, Some(master)) => {
                if let Err(error) = record.stdio.open_tty(&self.poll, master, stdin_once) {
                    report!("{error}");
                }
            }
            (None, None) => report!("{}: a tty was asked for and none came", record.key.id),
        }
        let warnings = all_warnings;
        self.answer(asked, &Reply::Started { seq: asked.seq, pid: pid as u32, started_at_ns, warnings });
    }

    /// The child has failed and is reaped: undo the start.
    fn start_failed(&mut self, number: u32, error: Failure) {
        let Some(record) = self.table.get_mut(number) else { return };
        let Phase::Starting(starting) = std::mem::replace(&mut record.phase, Phase::Waiting) else { return };
        self.starting -= 1;
        let key = record.key.clone();
        self.forget_names(&key);
        let Starting { asked, spawning, mut sync, confinement, .. } = *starting;
        sync.want(&spawning, None);
        self.clean_later(confinement);
        self.table.remove(number);
        self.refuse(asked, error);
    }

    /// Give up a start that nobody waits for any more.
    pub(super) fn abandon(&mut self, number: u32) {
        let Some(record) = self.table.get_mut(number) else { return };
        let Phase::Starting(starting) = std::mem::replace(&mut record.phase, Phase::Waiting) else { return };
        self.starting -= 1;
        let key = record.key.clone();
        self.forget_names(&key);
        let Starting { spawning, mut sync, confinement, .. } = *starting;
        sync.want(&spawning, None);
        spawning.abandon();
        self.clean_later(confinement);
        self.table.remove(number);
    }

    /// A cgroup of this path may still wait for its removal; after this it does not.
    fn finish_cleanup(&mut self, path: &str) {
        let mut old: Vec<Group> = Vec::new();
        for work in std::mem::take(&mut self.deferred) {
            match work {
                Deferred::Clean(Cleanup { group, path: of, .. }) if of == path => old.push(group),
                other => self.deferred.push_back(other),
            }
        }
        for cleanup in std::mem::take(&mut self.cleanups) {
            if cleanup.path == path {
                old.push(cleanup.group);
            } else {
                self.cleanups.push(cleanup);
            }
        }
        for group in old {
            if let Err(error) = group.remove(FAREWELL) {
                report!("{error}");
            }
        }
    }
}

/// A start between the spawn and its record.
struct Start {
    asked: Asked,
    number: u32,
    user_namespace: bool,
    timeout_ns: u64,
    confinement: Confinement,
    shipping: Option<(Shipping, Option<OwnedFd>)>,
}

fn make_pipes(process: &plan::Process, stdio: &plan::Stdio, owner: u32) -> Result<Option<Pipes>, Failure> {
    if process.tty {
        return Ok(None);
    }
    Pipes::new(stdio.open_stdin, owner).map(Some).map_err(|error| failure("stdio", &error))
}

fn child_streams<'a>(pipes: Option<&'a Pipes>, null: &'a OwnedFd) -> Stdio<'a> {
    match pipes {
        Some(pipes) => Stdio {
            stdin: pipes.child_stdin.as_fd(),
            stdout: pipes.child_stdout.as_fd(),
            stderr: pipes.child_stderr.as_fd(),
        },
        None => Stdio { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() },
    }
}

/// The id on the host of a container's id; itself where the maps do not have it.
fn host_id(maps: &[IdMap], id: u32) -> u32 {
    let within = |map: &&IdMap| id >= map.container_id && id - map.container_id < map.size;
    maps.iter().find(within).map_or(id, |map| map.host_id + (id - map.container_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_to_the_host() {
        let maps = [
            IdMap { container_id: 0, host_id: 1000, size: 1 },
            IdMap { container_id: 1, host_id: 100_000, size: 65_535 },
        ];
        assert_eq!([host_id(&maps, 0), host_id(&maps, 33), host_id(&maps, 70_000)], [1000, 100_032, 70_000]);
    }
}
