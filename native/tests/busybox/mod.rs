//! A container to start: busybox in a directory, and Docker's default plan for it.

#![allow(dead_code)] // each test file uses its part

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use proa_native::cgroup::Group;
use proa_native::keeper::protocol::Failure;
use proa_native::plan::{
    Capabilities, Cgroup, Mount, Namespace, Namespaces, Network, Plan, Process, Propagation, Resources,
    Rootfs, Stdio as PlanStdio,
};
use proa_native::process::{spawn, ContainerHandle, Host, Progress, SpawnContext, Spawning, Stdio};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::process::{waitid, WaitId, WaitIdOptions};
use tempfile::TempDir;

/// Docker's default capabilities.
pub const DEFAULT_CAPABILITIES: u64 = 0x0000_0000_a804_25fb;

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 24] = [
    "sh", "cat", "ls", "id", "hostname", "mount", "umount", "touch", "true", "false", "sleep", "stat", "ps",
    "kill", "test", "grep", "readlink", "pwd", "env", "mkdir", "tty", "stty", "wc", "ip",
];

/// True where containers can be started; otherwise says why not.
pub fn can_start() -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "needs root"
    } else if !Path::new(BUSYBOX).exists() {
        "needs /bin/busybox, statically linked"
    } else {
        return true;
    };
    eprintln!("skipped: {reason}");
    false
}

/// The directories of one container; gone with the value.
pub struct Bundle {
    pub directory: TempDir,
}

impl Bundle {
    pub fn new() -> Self {
        let directory =
            tempfile::Builder::new().prefix("proa-start-").tempdir().expect("temporary directory");
        let path = directory.path();
        for name in
            ["lower/bin", "lower/etc", "lower/tmp", "lower/proc", "lower/sys", "lower/dev", "upper", "work"]
        {
            fs::create_dir_all(path.join(name)).expect("directory");
        }
        fs::copy(BUSYBOX, path.join("lower/bin/busybox")).expect("busybox");
        for applet in APPLETS {
            symlink("busybox", path.join("lower/bin").join(applet)).expect("link");
        }
        fs::write(path.join("lower/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("passwd");
        Self { directory }
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("utf-8").to_owned()
    }

    pub fn lower(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("lower").join(name)
    }

    /// The plan that `docker run busybox sh -c script` leads to, but for the network and seccomp.
    pub fn plan(&self, script: &str) -> Plan {
        let args = ["sh", "-c", script].map(String::from).to_vec();
        Plan {
            id: "f".repeat(64),
            hostname: "inside".into(),
            domainname: "example".into(),
            rootfs: Rootfs::Overlay {
                lower: vec![self.path("lower")],
                upper: self.path("upper"),
                work: self.path("work"),
                volatile: true,
                late: false,
            },
            readonly_rootfs: false,
            rootfs_propagation: Propagation::Rprivate,
            namespaces: Namespaces {
                pid: Namespace::New,
                ipc: Namespace::New,
                uts: Namespace::New,
                cgroup: Namespace::New,
                net: Network::None,
                user: None,
            },
            mounts: default_mounts(),
            devices: Vec::new(),
            masked_paths: MASKED.map(String::from).to_vec(),
            readonly_paths: READ_ONLY.map(String::from).to_vec(),
            sysctls: Vec::new(),
            cgroup: Cgroup { path: String::new(), resources: Resources::default() },
            process: process(args),
            init: false,
            stdio: PlanStdio { open_stdin: false, stdin_once: false, log: None },
            timeout_ns: 0,
        }
    }
}

pub fn process(args: Vec<String>) -> Process {
    Process {
        args,
        env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"].map(String::from).to_vec(),
        cwd: "/".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        umask: None,
        capabilities: Capabilities {
            bounding: DEFAULT_CAPABILITIES,
            effective: DEFAULT_CAPABILITIES,
            permitted: DEFAULT_CAPABILITIES,
            ambient: 0,
        },
        no_new_privileges: false,
        seccomp: None,
        rlimits: Vec::new(),
        oom_score_adj: None,
        tty: false,
        console_size: (0, 0),
    }
}

pub const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub fn default_mounts() -> Vec<Mount> {
    vec![
        Mount::Proc { target: "/proc".into() },
        Mount::Dev { shm_size: 64 << 20, shm_source: None },
        Mount::Mqueue { target: "/dev/mqueue".into() },
        Mount::Sysfs { target: "/sys".into(), readonly: true },
        Mount::Cgroup { target: "/sys/fs/cgroup".into(), readonly: true },
    ]
}

pub fn bind(source: &str, target: &str, readonly: bool) -> Mount {
    Mount::Bind {
        source: source.into(),
        target: target.into(),
        readonly,
        recursive: true,
        recursive_readonly: readonly,
        recursive_readonly_forced: false,
        nosuid: false,
        nodev: false,
        noexec: false,
        propagation: Propagation::Rprivate,
        engine_file: false,
        subpath: String::new(),
        idmap: false,
        late: false,
    }
}

pub fn tmpfs(target: &str, options: &[&str]) -> Mount {
    Mount::Tmpfs {
        target: target.into(),
        options: options.iter().map(ToString::to_string).collect(),
        readonly: false,
        nosuid: true,
        nodev: true,
        noexec: true,
        copy_up: false,
    }
}

/// What a container said and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub output: String,
    /// 128 + n for signal n.
    pub code: i32,
    pub warnings: Vec<String>,
}

/// A container that runs, its output unread.
pub struct Running {
    pub handle: ContainerHandle,
    pub output: std::fs::File,
    pub warnings: Vec<String>,
    pub terminal: Option<OwnedFd>,
}

pub fn no_container<'a>(_: &str) -> Option<&'a ContainerHandle> {
    None
}

/// Starts a plan and sees it through to execve.
pub fn start(host: &Host, plan: &Plan, group: Option<&Group>) -> Result<Running, Failure> {
    with_pipes(|stdio| {
        spawn(plan, &SpawnContext { host, stdio, netns: None, container: &no_container, caller: None, group })
    })
}

/// Runs `begin` with stdin from /dev/null and both outputs on one pipe, then drives it to execve.
pub fn with_pipes(begin: impl FnOnce(Stdio<'_>) -> Result<Spawning, Failure>) -> Result<Running, Failure> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    let null = fs::File::open("/dev/null").expect("/dev/null");
    let stdio = Stdio { stdin: null.as_fd(), stdout: write.as_fd(), stderr: write.as_fd() };
    let spawning = begin(stdio)?;
    drop(write);
    drive(spawning, read)
}

pub fn drive(mut spawning: Spawning, output: OwnedFd) -> Result<Running, Failure> {
    loop {
        let mut fds = [PollFd::new(&spawning, PollFlags::IN)];
        poll(&mut fds, None).expect("poll");
        match spawning.on_readable() {
            Progress::Pending => {}
            Progress::Failed(failure) => return Err(failure),
            Progress::Started { warnings, pty_master } => {
                let handle =
                    ContainerHandle { pid: spawning.pid, pidfd: spawning.pidfd, user_namespace: false };
                return Ok(Running { handle, output: output.into(), warnings, terminal: pty_master });
            }
        }
    }
}

impl Running {
    /// Reads to the end and reaps.
    pub fn finish(mut self) -> Outcome {
        let mut output = Vec::new();
        let _ = self.output.read_to_end(&mut output);
        let output = String::from_utf8_lossy(&output).into_owned();
        Outcome { output, code: self.reap(), warnings: self.warnings }
    }

    pub fn reap(&self) -> i32 {
        let status = waitid(WaitId::PidFd(self.handle.pidfd.as_fd()), WaitIdOptions::EXITED)
            .expect("wait")
            .expect("exited");
        status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).expect("code")
    }
}

/// The whole life of a container whose start succeeds.
pub fn run(plan: &Plan) -> Outcome {
    let host = Host::probe().expect("host");
    start(&host, plan, None).unwrap_or_else(|failure| panic!("{failure:?}")).finish()
}

/// The failure of a start that must fail.
pub fn fail(plan: &Plan) -> Failure {
    let host = Host::probe().expect("host");
    match start(&host, plan, None) {
        Ok(running) => panic!("started: {:?}", running.finish()),
        Err(failure) => failure,
    }
}

/// Runs `script` in the default container, changed by `change`; what it printed.
pub fn inside(script: &str, change: impl FnOnce(&Bundle, &mut Plan)) -> String {
    let bundle = Bundle::new();
    let mut plan = bundle.plan(script);
    change(&bundle, &mut plan);
    let outcome = run(&plan);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome.output
}
