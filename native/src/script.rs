//! What a child is told to do between clone3 and execve, and what it tells of it: a flat list of operations, and
//! records.
//!
//! `prepare.rs` writes the list, `child.rs` carries it out, `process.rs` reads the records. Whatever an operation
//! needs is in it: the child has nothing else, and may not allocate.

use std::ffi::{c_int, CStr, CString};
use std::os::fd::RawFd;

use crate::init::Kept;
use crate::mount::Kind;

/// One operation. Descriptors are the parent's numbers, which the child has, too.
#[derive(Debug)]
pub enum Operation {
    /// Default dispositions for the signals of a mask; the clone reset those that have handlers.
    ResetSignals {
        ignored: u64,
    },
    /// SIGKILL when the parent goes.
    DeathSignal,
    /// Lead a process group: whoever comes of this process is found by it.
    OwnGroup,
    /// Wait for the parent's byte.
    AwaitGo,
    /// Be uid and gid 0 of the new user namespace.
    UserRoot,
    Join {
        fd: RawFd,
        kinds: c_int,
    },
    Unshare {
        kinds: c_int,
    },
    LoopbackUp,
    HostName(Vec<u8>),
    DomainName(Vec<u8>),
    /// Nothing mounted from here on is seen outside.
    PrivateMounts,
    /// Attach the root filesystem and resolve targets in it from here on.
    AttachRoot {
        mount: RawFd,
    },
    /// Resolve in the root that the child is in already (exec).
    CurrentRoot,
    /// A filesystem that depends on the namespaces: proc, sysfs, mqueue.
    Make {
        filesystem: &'static CStr,
        attributes: u64,
        slot: Slot,
    },
    /// Write below the procfs made before, which no one else has.
    WriteProc {
        path: CString,
        value: Vec<u8>,
    },
    Attach {
        mount: Source,
        target: Target,
    },
    /// Attach below a directory that the engine made itself and holds.
    AttachBelow {
        mount: Source,
        directory: RawFd,
        name: CString,
    },
    /// Attach a copy of what `fd` refers to.
    AttachCopy {
        fd: RawFd,
        directory: RawFd,
        name: CString,
    },
    /// Hide a path, if it is there: the null device over files, the empty read-only `tmpfs` over directories.
    Mask {
        path: CString,
        tmpfs: RawFd,
    },
    ReadOnlyPath {
        path: CString,
    },
    ReadOnlyMount {
        mount: RawFd,
    },
    /// Find the working directory, made if missing and `create`.
    FindWorkingDirectory {
        target: Target,
        create: bool,
    },
    PivotRoot,
    RootAttributes {
        attributes: u64,
        propagation: u64,
        recursive: bool,
    },
    NewSession,
    /// A new pty of the container's devpts, its master sent to the parent, its other end in a slot.
    OpenTerminal {
        rows: u16,
        columns: u16,
    },
    ControllingTerminal {
        terminal: Source,
    },
    Stdio([Source; 3]),
    Limit {
        resource: u32,
        soft: u64,
        hard: u64,
    },
    Umask(u32),
    EnterWorkingDirectory,
    /// Out of reach of ptrace and /proc for those without privileges over it.
    Undumpable,
    NoNewPrivileges,
    /// Drop every capability up to `last` that is not in `keep` from the bounding set.
    BoundCapabilities {
        keep: u64,
        last: u32,
    },
    Identity {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
    /// Tell the parent that the rest is execve.
    Ready,
    Seccomp {
        program: Vec<u8>,
    },
    /// Effective capabilities back after a change of user, to install a filter.
    RegainCapabilities,
    Capabilities {
        effective: u64,
        permitted: u64,
        ambient: u64,
    },
    CloseRest,
    UnblockSignals,
    /// Close all but the standard streams and the socket to the parent.
    CloseOthers,
    /// Go on in a sibling, which is in the pid namespace joined before; the parent is told of it.
    Enter,
    /// Become init: fork, and go on with the rest in the child.
    Init,
    Execute(Program),
}

/// A mount to attach, or a descriptor to use.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    Fd(RawFd),
    Slot(Slot),
}

/// Descriptors that the child makes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    Root,
    Proc,
    Sysfs,
    Mqueue,
    Terminal,
    WorkingDirectory,
    Null,
    /// The empty directory mount, once it is attached and can be copied.
    Empty,
}

/// How many there are.
pub const SLOTS: usize = 8;

/// A place in the root.
#[derive(Debug)]
pub struct Target {
    /// Relative to the root.
    pub path: CString,
    /// Every prefix of `path`, itself last, with its last component: what is made if missing.
    pub prefixes: Vec<(CString, CString)>,
    pub kind: Kind,
    /// Refuse symbolic links: for the engine's own mounts (/proc, /sys, /dev).
    pub no_symlinks: bool,
    /// It may lie on a procfs.
    pub on_proc: bool,
}

/// What is executed. The pointer arrays point into `strings` and end with null.
#[derive(Debug)]
pub struct Program {
    /// Absolute paths in the order of PATH, or the one that was asked for.
    pub candidates: Vec<CString>,
    pub argv: Vec<*const i8>,
    pub envp: Vec<*const i8>,
    #[allow(dead_code)] // owns what the arrays point to
    pub strings: Vec<CString>,
}

/// What the child is given.
#[derive(Debug)]
pub struct Script {
    pub operations: Vec<Operation>,
    /// The child's end of the socket.
    pub sync: RawFd,
    /// What a forked init keeps of its memory.
    pub kept: Kept,
    /// The child has its memory to itself.
    pub own_memory: bool,
}

/// One record to the parent; native byte order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub kind: RecordKind,
    /// Index of the operation.
    pub operation: u32,
    pub errno: i32,
}

#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    Warning = 1,
    Terminal = 2,
    Ready = 3,
    Failed = 4,
    /// The rest is done by another process, whose pid stands in place of the operation.
    Entered = 5,
}

impl Record {
    pub const SIZE: usize = 12;

    /// As the parent reads it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let words = [self.kind as u32, self.operation, self.errno as u32];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// `None` for what no child sends.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let kind = match word(0)? {
            1 => RecordKind::Warning,
            2 => RecordKind::Terminal,
            3 => RecordKind::Ready,
            4 => RecordKind::Failed,
            5 => RecordKind::Entered,
            _ => return None,
        };
        Some(Self { kind, operation: word(4)?, errno: word(8)? as i32 })
    }
}
