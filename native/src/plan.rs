//! The plan: everything the kernel must be told to start one container, decided beforehand.
//!
//! proad resolves a container to one immutable [`Plan`] at create; start hands it over as one
//! `MessagePack` map (field names as keys, `type`-tagged unions). Nothing in here is looked up again.
//! Mirror of `python/proa/schema/plan.py`; a contract test keeps the two equal.
//!
//! Source of the words: the OCI runtime specification, config.md and config-linux.md.

use serde::Deserialize;
use serde_bytes::ByteBuf;

/// One container, resolved.
#[derive(Debug, Clone, Deserialize)]
pub struct Plan {
    /// Container id, 64 hex digits.
    pub id: String,
    pub hostname: String,
    pub domainname: String,
    pub rootfs: Rootfs,
    pub readonly_rootfs: bool,
    /// Propagation of the root mount itself.
    pub rootfs_propagation: Propagation,
    pub namespaces: Namespaces,
    /// Applied in order, after the rootfs is attached and before `pivot_root`.
    pub mounts: Vec<Mount>,
    /// Nodes made in the fresh /dev besides the standard ones (null zero full random urandom tty).
    pub devices: Vec<Device>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    /// `net.ipv4.ip_forward` style keys, already checked against the allow-list; a slash stands for a dot
    /// of the name (`net.ipv4.conf.eth0/1.forwarding`).
    pub sysctls: Vec<(String, String)>,
    pub cgroup: Cgroup,
    pub process: Process,
    /// Run the built-in init as pid 1 and the process as its child.
    pub init: bool,
    pub stdio: Stdio,
    /// Nanoseconds of run time after which the container is killed; 0 for never.
    pub timeout_ns: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Rootfs {
    /// `lower`: absolute directories, top layer first. `upper` and `work` exist already.
    Overlay {
        lower: Vec<String>,
        upper: String,
        work: String,
        /// Mount with `volatile`: no sync, for `--rm` and builds.
        volatile: bool,
        /// `upper` and `work` are on a mount that proad made after the keeper had its own mount namespace:
        /// all is looked up in proad's.
        late: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    Private,
    Rprivate,
    Slave,
    Rslave,
    Shared,
    Rshared,
}

/// How each namespace comes about. The mount namespace is always new.
#[derive(Debug, Clone, Deserialize)]
pub struct Namespaces {
    pub pid: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    pub cgroup: Namespace,
    pub net: Network,
    /// A new user namespace with these maps, or none.
    pub user: Option<UserNamespace>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Namespace {
    New,
    Host,
    /// The namespace of another running container, by id.
    Container {
        id: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Network {
    /// A new namespace with only `lo`, up.
    None,
    Host,
    Container {
        id: String,
    },
    /// A namespace made ready before by `NetPrepare`, taken out of the pool by this start.
    Prepared {
        key: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct UserNamespace {
    pub uid_map: Vec<IdMap>,
    pub gid_map: Vec<IdMap>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct IdMap {
    pub container_id: u32,
    pub host_id: u32,
    pub size: u32,
}

/// One mount under the root. `target` is a path inside the container, resolved in-root by fd.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Mount {
    /// `source` is an absolute host path; the target is created as its kind (file or directory).
    Bind {
        source: String,
        target: String,
        readonly: bool,
        /// Bind what is mounted below the source, too.
        recursive: bool,
        /// Make the mounts below read-only as well (`mount_setattr` with `AT_RECURSIVE`).
        recursive_readonly: bool,
        /// With `recursive_readonly`: false lets a kernel without it fall back to a plain one.
        recursive_readonly_forced: bool,
        nosuid: bool,
        nodev: bool,
        noexec: bool,
        propagation: Propagation,
        /// Engine-made files (/etc/hosts, ...): a missing source is an engine error.
        engine_file: bool,
        /// Only what is at this path below the source, which no link leads out of (`RESOLVE_BENEATH`); empty for all.
        subpath: String,
        /// In a container with a user namespace, show the owners through its id maps, as the root does. A file
        /// system that has none (nfs) shows its owners as they are.
        idmap: bool,
        /// The source is on a mount that came after the keeper had its own mount namespace: it is looked up in proad's.
        late: bool,
    },
    /// The layers of an image as a tree of their own: an image that is mounted, a stage that a build looks into.
    Layers {
        /// Absolute directories, top layer first; one at least.
        lower: Vec<String>,
        /// A path inside the tree, resolved in it (`RESOLVE_IN_ROOT`): a directory or a file. Empty for all of it.
        subpath: String,
        /// Created as the kind of what is mounted.
        target: String,
        readonly: bool,
        /// Where writes go; with a work directory beside it on the same file system. Without, it is read-only.
        upper: Option<String>,
        work: Option<String>,
        /// With an upper directory: what is written need not survive the host.
        volatile: bool,
    },
    Tmpfs {
        target: String,
        /// `key=value` or bare options of tmpfs itself: size, mode, uid, gid, `nr_inodes`.
        options: Vec<String>,
        readonly: bool,
        nosuid: bool,
        nodev: bool,
        noexec: bool,
        /// Copy what the image has at the target into the tmpfs.
        copy_up: bool,
    },
    Proc {
        target: String,
    },
    /// sysfs; read-only unless privileged.
    Sysfs {
        target: String,
        readonly: bool,
    },
    /// The container's own cgroup view: cgroup2, or one v1 mount per controller below a tmpfs.
    Cgroup {
        target: String,
        readonly: bool,
    },
    Mqueue {
        target: String,
    },
    /// A fresh tmpfs at /dev with the standard nodes, symlinks, devpts, /dev/shm of `shm_size` bytes
    /// (0: none) and, with a tty, /dev/console. `shm_source`: bind this host directory at /dev/shm instead.
    /// Where another container's IPC namespace is joined, its /dev/shm comes along.
    Dev {
        shm_size: u64,
        shm_source: Option<String>,
    },
}

#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    /// Absolute path inside the container.
    pub path: String,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    Char,
    Block,
    Fifo,
}

/// The cgroup to make and its limits.
#[derive(Debug, Clone, Deserialize)]
pub struct Cgroup {
    /// Absolute path below every hierarchy's root: `/proa/<id>`.
    pub path: String,
    pub resources: Resources,
}

/// Limits; `None` leaves the kernel's default. Each is translated to v1 or v2 where it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes; -1 unlimited.
    pub memory_limit: Option<i64>,
    /// Bytes (v1 soft limit, v2 memory.low).
    pub memory_reservation: Option<i64>,
    /// Bytes of memory plus swap as Docker counts it; -1 unlimited.
    pub memory_swap: Option<i64>,
    /// 0 to 100; v1 only.
    pub memory_swappiness: Option<u64>,
    pub oom_kill_disable: Option<bool>,
    /// 2 to 262144, v1 scale; converted to cpu.weight on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// -1 unlimited.
    pub pids_limit: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: Option<u16>,
    pub blkio_weight_device: Vec<WeightDevice>,
    pub blkio_throttle_read_bps: Vec<ThrottleDevice>,
    pub blkio_throttle_write_bps: Vec<ThrottleDevice>,
    pub blkio_throttle_read_iops: Vec<ThrottleDevice>,
    pub blkio_throttle_write_iops: Vec<ThrottleDevice>,
    /// Device rules in order, the last match wins; empty leaves device access alone (update).
    pub devices: Vec<DeviceRule>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct WeightDevice {
    pub major: u32,
    pub minor: u32,
    pub weight: u16,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct ThrottleDevice {
    pub major: u32,
    pub minor: u32,
    pub rate: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct DeviceRule {
    pub allow: bool,
    /// `a`, `b` or `c`.
    pub kind: char,
    /// `None` is `*`.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Some of `rwm`.
    pub access: String,
}

/// What is executed, and as whom. Also the whole of an exec.
#[derive(Debug, Clone, Deserialize)]
pub struct Process {
    pub args: Vec<String>,
    /// `KEY=value`, complete: PATH and HOME are in it.
    pub env: Vec<String>,
    /// Absolute path inside the container; made if missing at start, an error if missing at exec.
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    /// The supplementary groups, all of them; set explicitly even when empty.
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    /// Bit n is capability n. Inheritable is always empty.
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    /// A compiled classic BPF program in host byte order (8 bytes an instruction), or none.
    pub seccomp: Option<ByteBuf>,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<i32>,
    pub tty: bool,
    /// Rows and columns of the tty at birth; zeros leave it.
    pub console_size: (u16, u16),
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub ambient: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_*` number of this architecture.
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// How the keeper holds the process's standard streams.
#[derive(Debug, Clone, Deserialize)]
pub struct Stdio {
    pub open_stdin: bool,
    /// Close stdin when the first attached client that had it goes.
    pub stdin_once: bool,
    pub log: Option<Log>,
}

/// A json-file log: `path`, then `path.1` (newest) to `path.<max_files - 1>`.
#[derive(Debug, Clone, Deserialize)]
pub struct Log {
    pub path: String,
    /// Bytes; 0 never rotates.
    pub max_size: u64,
    /// Files in all, the current one counted.
    pub max_files: u32,
}
