//! The table of processes: containers' inits and execs, from the first waiting client to the last.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use super::poll::Registration;
use super::protocol::ProcessState;
use super::stdio::Stdio;
use crate::cgroup::{Group, OomEvents};
use crate::process::{ContainerHandle, Spawning};

/// What a process is known by: a container's id, and an exec's within it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub id: String,
    pub exec_id: Option<String>,
}

impl Key {
    #[must_use]
    pub fn new(id: &str, exec_id: Option<&str>) -> Self {
        Self { id: id.to_owned(), exec_id: exec_id.map(str::to_owned) }
    }
}

/// Where an answer goes: the connection it was asked on, and the request's number.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub connection: u64,
    pub seq: u64,
}

/// One process.
#[derive(Debug)]
pub struct Record {
    pub key: Key,
    pub stdio: Stdio,
    pub phase: Phase,
}

/// How far a process is. The order is fixed: waiting, starting, running, draining, over.
#[derive(Debug)]
pub enum Phase {
    /// Clients wait for a start.
    Waiting,
    Starting(Box<Starting>),
    Running(Box<Running>),
    /// Ended and reaped; the rest of its output is being read.
    Draining(Box<Ended>),
    /// Its exit is published; clients still take what they have not taken yet.
    Over,
}

/// Between the clone and the execve.
#[derive(Debug)]
pub struct Starting {
    pub asked: Asked,
    pub spawning: Spawning,
    pub sync: Registration,
    /// The keeper's ends of the pipes; none with a tty.
    pub pipes: Option<(Option<OwnedFd>, [OwnedFd; 2])>,
    pub stdin_once: bool,
    pub user_namespace: bool,
    /// Nanoseconds; 0 for never.
    pub timeout_ns: u64,
    pub confinement: Confinement,
}

/// What the keeper made for a container besides its processes; none for an exec.
#[derive(Debug, Default)]
pub struct Confinement {
    pub group: Option<Group>,
    pub group_path: String,
    /// The mount of its root, held over its end: the janitor closes it. None after a hand-over.
    pub root: Option<OwnedFd>,
    /// Its processes do not die with its init: the pid namespace is somebody else's.
    pub shared_pids: bool,
}

#[derive(Debug)]
pub struct Running {
    pub handle: ContainerHandle,
    pub exit: Registration,
    pub started_at_ns: u64,
    /// Monotonic nanoseconds.
    pub deadline_ns: Option<u64>,
    pub timed_out: bool,
    pub confinement: Confinement,
    pub oom: Option<(OomEvents, Registration)>,
    /// Kills that were told of.
    pub oom_kills: u64,
}

#[derive(Debug)]
pub struct Ended {
    pub pid: u32,
    pub started_at_ns: u64,
    pub finished_at_ns: u64,
    pub status: Status,
    pub timed_out: bool,
    pub oom: bool,
    /// When the waiting for its output ends, monotonic nanoseconds.
    pub drain_until_ns: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Status {
    Exited(i32),
    Signaled(i32),
    /// It could not be waited for.
    Lost,
}

/// All processes. Numbers are not used twice, so a late event for an old one finds nothing.
#[derive(Debug, Default)]
pub struct Table {
    records: HashMap<u32, Record>,
    /// The current process of a key; one that is over is not found any more.
    index: HashMap<Key, u32>,
    last: u32,
}

impl Table {
    /// The number of a key's current process.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// The current process of a key.
    pub fn of_key(&mut self, key: &Key) -> Option<&mut Record> {
        self.records.get_mut(self.index.get(key)?)
    }

    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Record> {
        self.records.get(&number)
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut Record> {
        self.records.get_mut(&number)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Record)> {
        self.records.iter().map(|(number, record)| (*number, record))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Record)> {
        self.records.iter_mut().map(|(number, record)| (*number, record))
    }

    pub fn numbers(&self, phase: impl Fn(&Phase) -> bool) -> Vec<u32> {
        self.iter().filter(|(_, record)| phase(&record.phase)).map(|(number, _)| number).collect()
    }

    /// The key's current process, made as one that is waited for where there is none.
    pub fn find_or_insert(&mut self, key: &Key) -> u32 {
        if let Some(number) = self.find(key) {
            return number;
        }
        let number = self.unused();
        self.insert(number, Record { key: key.clone(), stdio: Stdio::new(number), phase: Phase::Waiting });
        number
    }

    /// Put in a record under its number.
    pub fn insert(&mut self, number: u32, record: Record) {
        if !matches!(record.phase, Phase::Over) {
            self.index.insert(record.key.clone(), number);
        }
        self.records.insert(number, record);
        self.last = self.last.max(number);
    }

    fn unused(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.records.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// The key is free again; the record stays.
    pub fn retire(&mut self, number: u32) {
        let Some(record) = self.records.get_mut(&number) else { return };
        record.phase = Phase::Over;
        if self.index.get(&record.key) == Some(&number) {
            self.index.remove(&record.key);
        }
    }

    pub fn remove(&mut self, number: u32) {
        self.retire(number);
        self.records.remove(&number);
    }

    /// The init of a container that runs.
    #[must_use]
    pub fn running(&self, id: &str) -> Option<&Running> {
        let number = self.index.get(&Key::new(id, None))?;
        match &self.records.get(number)?.phase {
            Phase::Running(running) => Some(running),
            _ => None,
        }
    }

    /// What `welcome` tells of the processes that have not ended.
    #[must_use]
    pub fn states(&self) -> Vec<ProcessState> {
        let state = |record: &Record| {
            let (pid, started_at_ns) = match &record.phase {
                Phase::Running(running) => (running.handle.pid as u32, running.started_at_ns),
                Phase::Draining(ended) => (ended.pid, ended.started_at_ns),
                _ => return None,
            };
            let Key { id, exec_id } = record.key.clone();
            Some(ProcessState { id, exec_id, pid, started_at_ns, exit: None })
        };
        self.records.values().filter_map(state).collect()
    }
}
