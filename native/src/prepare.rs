//! From a plan to a script: everything decided, opened and allocated before the clone.
//!
//! Owns the order of the operations. Two rules make it: what can reveal or change the host comes before the
//! root is attached or through descriptors only, and privileges are given up last, the seccomp filter being
//! installed as late as the kernel allows (before the final capset where `no_new_privs` is off, after it otherwise).

use std::ffi::{c_int, CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::child;
use crate::confine::capability_names;
use crate::error::Error;
use crate::init::Kept;
use crate::keeper::protocol::Failure;
use crate::mount::Kind;
use crate::plan::{Namespace, Network, Plan, Process};
use crate::process::{ContainerHandle, Host, SpawnContext, Stdio};
use crate::script::{Operation as Op, Program, Script, Slot, Source, Target};
use crate::sys::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};

/// What an operation is called in a failure or a warning.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    pub step: &'static str,
    pub subject: String,
}

/// A start that only lacks its child.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub script: Script,
    pub labels: Vec<Label>,
    /// Descriptors that the script names; the child's until it has executed.
    pub kept: Vec<OwnedFd>,
    /// The root's mount, once more.
    pub root: Option<OwnedFd>,
    pub pty_master: Option<OwnedFd>,
    pub warnings: Vec<String>,
    /// `CLONE_NEW*` for the clone itself.
    pub namespaces: c_int,
    /// The caller joins these around the clone: (pidfd or namespace, kinds).
    pub borrowed: Vec<(RawFd, c_int)>,
    /// The child waits for the parent's byte.
    pub awaits: bool,
    /// The child is the leader of a process group, and goes on in a sibling.
    pub enters: bool,
    /// The caller's `oom_score_adj` is not for the child, and nothing else sets it.
    pub resets_oom_score: bool,
}

/// Failures of the parent's own part.
pub(crate) fn failure(step: &str, error: &Error) -> Failure {
    let subject = match error {
        Error::Os { operation, path, .. } => format!("{operation} {path}"),
        Error::Invalid(text) => text.clone(),
    };
    Failure { step: step.into(), subject, errno: error.errno() }
}

/// A new container.
pub(crate) fn start(plan: &Plan, context: &SpawnContext<'_, '_>) -> std::result::Result<Prepared, Failure> {
    let mut builder = Builder::new(context.host);
    builder.container(plan, context)?;
    Ok(builder.prepared)
}

/// One more process in a container that runs.
pub(crate) fn exec(
    init: &ContainerHandle,
    process: &Process,
    host: &Host,
    stdio: Stdio<'_>,
) -> std::result::Result<Prepared, Failure> {
    let mut builder = Builder::new(host);
    builder.guest(init, process, stdio)?;
    Ok(builder.prepared)
}

/// Collects the operations; the mounts' part is in `tree.rs`.
pub(crate) struct Builder<'a> {
    pub host: &'a Host,
    pub prepared: Prepared,
}

pub(crate) type Step = std::result::Result<(), Failure>;

impl<'a> Builder<'a> {
    fn new(host: &'a Host) -> Self {
        let script =
            Script { operations: Vec::with_capacity(96), sync: -1, kept: Kept::default(), own_memory: false };
        let prepared = Prepared {
            script,
            labels: Vec::with_capacity(96),
            kept: Vec::with_capacity(32),
            root: None,
            pty_master: None,
            warnings: Vec::new(),
            namespaces: libc::CLONE_NEWNS,
            borrowed: Vec::new(),
            awaits: false,
            enters: false,
            resets_oom_score: false,
        };
        Self { host, prepared }
    }

    pub fn push(&mut self, operation: Op, step: &'static str, subject: impl Into<String>) {
        self.prepared.script.operations.push(operation);
        self.prepared.labels.push(Label { step, subject: subject.into() });
    }

    pub fn hold(&mut self, fd: OwnedFd) -> RawFd {
        let raw = fd.as_raw_fd();
        self.prepared.kept.push(fd);
        raw
    }

    // ---- the whole ------------------------------------------------------------------------------

    fn container(&mut self, plan: &Plan, context: &SpawnContext<'_, '_>) -> Step {
        self.beginning();
        self.namespaces(plan, context)?;
        if let (Some(bare), None) = (&self.host.bare, &plan.namespaces.user) {
            self.prepared.borrowed.push((bare.empty.as_raw_fd(), libc::CLONE_NEWNS));
        }
        let terminal = self.tree(plan, context)?;
        let process = &plan.process;
        self.push(Op::PivotRoot, "mount", "pivot_root");
        self.root_attributes(plan);
        self.names(plan)?;
        if context.group.is_some() && plan.namespaces.user.is_none() {
            self.await_go();
        }
        if plan.namespaces.cgroup == Namespace::New {
            self.push(Op::Unshare { kinds: libc::CLONE_NEWCGROUP }, "namespace", "cgroup");
        }
        self.streams(process, terminal.map(Source::Fd), context.stdio);
        if self.prepared.enters {
            // The container whose pid namespace it is may trace what comes in, and make it do anything: so that is
            // confined already. A profile that refuses clone refuses this start.
            self.confine(process);
            self.push(Op::CloseOthers, "stdio", "close_range");
            self.seal(process);
            self.enter();
            self.session(process);
            self.push(Op::Ready, "sync", "");
        } else {
            self.session(process);
            self.confine(process);
            self.push(Op::Ready, "sync", "");
            self.seal(process);
        }
        self.prepared.script.own_memory = self.prepared.enters || plan.init;
        if plan.init {
            self.push(Op::Init, "init", "fork");
        }
        self.execute(process)
    }

    fn guest(&mut self, init: &ContainerHandle, process: &Process, stdio: Stdio<'_>) -> Step {
        self.beginning();
        self.will_enter();
        self.prepared.namespaces = 0;
        self.prepared.script.own_memory = true;
        let pidfd = init.pidfd.as_raw_fd();
        // Before the join: the caller moves the child to the container's groups meanwhile.
        self.await_go();
        if let Some(score) = process.oom_score_adj {
            self.make(c"proc", false, Slot::Proc);
            self.oom_score(score);
        }
        let mut kinds = libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
        if init.user_namespace {
            kinds |= libc::CLONE_NEWUSER;
        }
        self.push(Op::Join { fd: pidfd, kinds }, "namespace", "join the container");
        if init.user_namespace {
            self.push(Op::UserRoot, "user", "root of the user namespace");
        }
        self.push(Op::CurrentRoot, "mount", "/");
        let cwd = target(&process.cwd, Kind::Directory)?;
        let find = Op::FindWorkingDirectory { target: cwd, create: false };
        self.push(find, "cwd", process.cwd.as_str());
        let mut terminal = None;
        if process.tty {
            let (rows, columns) = process.console_size;
            self.push(Op::OpenTerminal { rows, columns }, "terminal", "/dev/pts/ptmx");
            terminal = Some(Source::Slot(Slot::Terminal));
        }
        self.streams(process, terminal, stdio);
        self.push(Op::CloseOthers, "stdio", "close_range");
        self.enter();
        self.session(process);
        self.confine(process);
        self.push(Op::Ready, "sync", "");
        self.seal(process);
        self.execute(process)
    }

    fn will_enter(&mut self) {
        self.prepared.enters = true;
        self.push(Op::OwnGroup, "clone", "process group");
    }

    /// From here on the container sees the process. Its own may be privileged to look into others (`SYS_PTRACE`): what
    /// enters has nothing of the host's but its memory any more, no root, no directory and no descriptor.
    fn enter(&mut self) {
        self.push(Op::Undumpable, "signals", "dumpable");
        self.push(Op::Enter, "clone", "pid namespace");
        self.push(Op::AwaitGo, "sync", ""); // until the parent knows of it
        self.push(Op::DeathSignal, "signals", "parent death");
    }

    /// A filesystem that the child makes in its own namespaces, safe for anyone to see.
    pub fn make(&mut self, filesystem: &'static CStr, read_only: bool, slot: Slot) {
        let attributes = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC | if read_only { ATTR_RDONLY } else { 0 };
        let name = filesystem.to_string_lossy();
        self.push(Op::Make { filesystem, attributes, slot }, "mount", name);
    }

    pub fn oom_score(&mut self, score: i32) {
        let write = Op::WriteProc { path: child::OOM_SCORE.into(), value: score.to_string().into_bytes() };
        self.push(write, "oom_score_adj", score.to_string());
    }

    fn beginning(&mut self) {
        let ignored = self.host.ignored_signals();
        self.push(Op::ResetSignals { ignored }, "signals", "");
        self.push(Op::DeathSignal, "signals", "parent death");
    }

    fn await_go(&mut self) {
        self.prepared.awaits = true;
        self.push(Op::AwaitGo, "sync", "");
    }

    // ---- namespaces -----------------------------------------------------------------------------

    fn namespaces(&mut self, plan: &Plan, context: &SpawnContext<'_, '_>) -> Step {
        let spaces = &plan.namespaces;
        let mut joins: Vec<(RawFd, String, c_int)> = Vec::new();
        for (space, kind) in [
            (&spaces.pid, libc::CLONE_NEWPID),
            (&spaces.ipc, libc::CLONE_NEWIPC),
            (&spaces.uts, libc::CLONE_NEWUTS),
            (&spaces.cgroup, libc::CLONE_NEWCGROUP),
        ] {
            match space {
                Namespace::New if kind == libc::CLONE_NEWCGROUP => {} // once it is in its group
                Namespace::New => self.prepared.namespaces |= kind,
                Namespace::Host => {}
                Namespace::Container { id } => joins.push((handle(context, id)?, id.clone(), kind)),
            }
        }
        match (&spaces.net, context.netns) {
            (Network::Host, _) => {}
            (Network::Container { id }, _) => {
                joins.push((handle(context, id)?, id.clone(), libc::CLONE_NEWNET));
            }
            (_, Some(netns)) => {
                joins.push((netns.as_raw_fd(), "prepared network".into(), libc::CLONE_NEWNET));
            }
            (Network::None, None) => self.prepared.namespaces |= libc::CLONE_NEWNET,
            (Network::Prepared { key }, None) => {
                return Err(invalid(format!("network namespace {key} is not there")));
            }
        }
        if spaces.user.is_some() {
            self.prepared.namespaces |= libc::CLONE_NEWUSER;
            self.await_go();
            self.push(Op::UserRoot, "user", "root of the user namespace");
        }
        for (fd, subject, kinds) in joins {
            // A namespace that belongs to the host's users cannot be joined from within a new user namespace.
            if spaces.user.is_some() && kinds != libc::CLONE_NEWNET {
                return Err(invalid(
                    "a container with a user namespace shares no pid, ipc, uts or cgroup namespace",
                ));
            }
            if spaces.user.is_some() {
                self.prepared.borrowed.push((fd, kinds));
                continue;
            }
            if kinds == libc::CLONE_NEWPID {
                self.will_enter(); // a pid namespace takes children only
            }
            self.push(Op::Join { fd, kinds }, "namespace", subject);
        }
        if self.prepared.namespaces & libc::CLONE_NEWNET != 0 {
            self.push(Op::LoopbackUp, "network", "lo");
        }
        Ok(())
    }

    fn names(&mut self, plan: &Plan) -> Step {
        if plan.namespaces.uts != Namespace::New {
            return Ok(());
        }
        for (name, is_host) in [(&plan.hostname, true), (&plan.domainname, false)] {
            if name.len() > 64 {
                return Err(invalid(format!("host name {name} is longer than 64 bytes")));
            }
            let bytes = name.clone().into_bytes();
            if is_host && !name.is_empty() {
                self.push(Op::HostName(bytes), "hostname", name.as_str());
            } else if !name.is_empty() {
                self.push(Op::DomainName(bytes), "domainname", name.as_str());
            }
        }
        Ok(())
    }

    // ---- the process ----------------------------------------------------------------------------

    /// The standard streams, and the working directory: what needs descriptors of the caller's.
    fn streams(&mut self, process: &Process, terminal: Option<Source>, stdio: Stdio<'_>) {
        let streams = match terminal {
            Some(terminal) => [terminal; 3],
            None => [stdio.stdin, stdio.stdout, stdio.stderr].map(|fd| Source::Fd(fd.as_raw_fd())),
        };
        self.push(Op::Stdio(streams), "stdio", "");
        self.push(Op::EnterWorkingDirectory, "cwd", process.cwd.as_str());
    }

    /// Once it is in its pid namespace, which the session is numbered in.
    fn session(&mut self, process: &Process) {
        self.push(Op::NewSession, "terminal", "setsid");
        if process.tty {
            let terminal = Source::Fd(0);
            self.push(Op::ControllingTerminal { terminal }, "terminal", "controlling terminal");
        }
    }

    /// Gives up privileges: everything that needs them comes before, the last capabilities and execve alone after.
    fn confine(&mut self, process: &Process) {
        for limit in &process.rlimits {
            let operation = Op::Limit { resource: limit.resource, soft: limit.soft, hard: limit.hard };
            self.push(operation, "rlimit", rlimit_name(limit.resource));
        }
        self.push(Op::Umask(process.umask.unwrap_or(0o022)), "umask", "");
        // From here on the container's processes may match its privileges, and it still holds what the caller
        // has open (CVE-2016-9962): no one may look into it. execve makes the program dumpable again.
        self.prepared.resets_oom_score = process.oom_score_adj.is_none() && self.host.resists_oom();
        self.push(Op::Undumpable, "signals", "dumpable");
        if process.no_new_privileges {
            self.push(Op::NoNewPrivileges, "no_new_privs", "");
        }
        let bound =
            Op::BoundCapabilities { keep: process.capabilities.bounding, last: self.host.last_capability };
        self.push(bound, "capabilities", "bounding set");
        let (uid, gid, groups) = (process.uid, process.gid, process.groups.clone());
        self.push(Op::Identity { uid, gid, groups }, "user", format!("{uid}:{gid}"));
        self.push(Op::DeathSignal, "signals", "parent death"); // a change of user cleared it
        self.push(Op::CloseRest, "stdio", "close_range");
        self.push(Op::UnblockSignals, "signals", "");
    }

    /// The last of it: what is refused from here on, the program is refused as well.
    fn seal(&mut self, process: &Process) {
        let mut sets = process.capabilities;
        let missing = sets.permitted & !self.host.capabilities;
        if missing != 0 {
            self.prepared.warnings.push(format!(
                "Your host lacks these capabilities, which were dropped: {}",
                capability_names(missing).join(", ")
            ));
            for set in [&mut sets.permitted, &mut sets.effective, &mut sets.ambient] {
                *set &= self.host.capabilities;
            }
        }
        let capabilities = Op::Capabilities {
            effective: sets.effective & sets.permitted,
            permitted: sets.permitted,
            ambient: sets.ambient,
        };
        match &process.seccomp {
            // Without no_new_privs the filter needs CAP_SYS_ADMIN, which the final sets may lack.
            Some(program) if !process.no_new_privileges => {
                self.push(Op::RegainCapabilities, "capabilities", "for seccomp");
                self.push(Op::Seccomp { program: program.to_vec() }, "seccomp", "");
                self.push(capabilities, "capabilities", "");
            }
            Some(program) => {
                self.push(capabilities, "capabilities", "");
                self.push(Op::Seccomp { program: program.to_vec() }, "seccomp", "");
            }
            None => self.push(capabilities, "capabilities", ""),
        }
    }

    fn execute(&mut self, process: &Process) -> Step {
        let Some(name) = process.args.first() else {
            return Err(invalid("no command specified"));
        };
        let candidates = candidates(name, &process.env)?;
        let program = program(&process.args, &process.env, candidates)?;
        self.push(Op::Execute(program), "exec", name.as_str());
        Ok(())
    }
}

// ---- words for the child ------------------------------------------------------------------------

pub(crate) fn invalid(text: impl Into<String>) -> Failure {
    Failure { step: "invalid".into(), subject: text.into(), errno: 0 }
}

pub(crate) fn c_string(text: &str) -> std::result::Result<CString, Failure> {
    CString::new(text).map_err(|_| invalid(format!("{text:?} contains a NUL byte")))
}

/// A running container whose namespace is shared.
pub(crate) fn peer<'c>(
    context: &SpawnContext<'_, 'c>,
    id: &str,
) -> std::result::Result<&'c ContainerHandle, Failure> {
    let missing = || Failure { step: "not_found".into(), subject: id.into(), errno: 0 };
    (context.container)(id).ok_or_else(missing)
}

fn handle(context: &SpawnContext<'_, '_>, id: &str) -> std::result::Result<RawFd, Failure> {
    peer(context, id).map(|found| found.pidfd.as_raw_fd())
}

/// A path of the container, made relative to its root, with what is to be made where it is missing.
pub(crate) fn target(path: &str, kind: Kind) -> std::result::Result<Target, Failure> {
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    let mut prefixes = Vec::with_capacity(names.len());
    let mut so_far = String::with_capacity(path.len());
    for name in &names {
        if !so_far.is_empty() {
            so_far.push('/');
        }
        so_far.push_str(name);
        prefixes.push((c_string(&so_far)?, c_string(name)?));
    }
    let whole = if so_far.is_empty() { "." } else { so_far.as_str() };
    Ok(Target { path: c_string(whole)?, prefixes, kind, no_symlinks: false, on_proc: false })
}

/// Where execve looks, in order: the name itself if it has a slash, else below each directory of PATH.
fn candidates(name: &str, env: &[String]) -> std::result::Result<Vec<CString>, Failure> {
    if name.contains('/') {
        return Ok(vec![c_string(name)?]);
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("");
    let in_directory = |directory: &str| match directory {
        "" => c_string(&format!("./{name}")),
        _ => c_string(&format!("{}/{name}", directory.trim_end_matches('/'))),
    };
    if name.is_empty() {
        return Ok(Vec::new());
    }
    path.split(':').map(in_directory).collect()
}

fn program(
    args: &[String],
    env: &[String],
    candidates: Vec<CString>,
) -> std::result::Result<Program, Failure> {
    let strings: Vec<CString> =
        args.iter().chain(env).map(|text| c_string(text)).collect::<std::result::Result<_, _>>()?;
    let pointers = |part: &[CString]| {
        part.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    // The strings live on the heap: moving the vector below does not move them.
    let (of_args, of_env) = strings.split_at(args.len());
    Ok(Program { candidates, argv: pointers(of_args), envp: pointers(of_env), strings })
}

const RLIMITS: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

fn rlimit_name(resource: u32) -> &'static str {
    RLIMITS.get(resource as usize).copied().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(strings: &[CString]) -> Vec<&str> {
        strings.iter().map(|s| s.to_str().expect("utf-8")).collect()
    }

    #[test]
    fn a_target_lists_its_prefixes() {
        let target = target("/var//lib/./x/", Kind::File).expect("valid");
        assert_eq!(target.path.as_c_str(), c"var/lib/x");
        let prefixes: Vec<_> = target.prefixes.iter().map(|(prefix, name)| (&**prefix, &**name)).collect();
        assert_eq!(prefixes, [(c"var", c"var"), (c"var/lib", c"lib"), (c"var/lib/x", c"x")]);
    }

    #[test]
    fn the_root_is_a_target() {
        assert_eq!(target("/", Kind::Directory).expect("valid").path.as_c_str(), c".");
    }

    #[test]
    fn a_name_is_looked_up_in_path_and_a_path_is_not() {
        let env = ["A=b".to_owned(), "PATH=/bin:/usr/bin/:".to_owned()];
        assert_eq!(texts(&candidates("sh", &env).expect("valid")), ["/bin/sh", "/usr/bin/sh", "./sh"]);
        assert_eq!(texts(&candidates("./sh", &env).expect("valid")), ["./sh"]);
        assert!(candidates("", &env).expect("valid").is_empty());
    }

    #[test]
    fn arguments_end_with_null_and_keep_their_place() {
        let (args, env) = (["a".to_owned(), "b".to_owned()], ["X=1".to_owned()]);
        let program = program(&args, &env, Vec::new()).expect("valid");
        assert_eq!((program.argv.len(), program.envp.len()), (3, 2));
        assert!(program.argv[2].is_null() && program.envp[1].is_null());
        assert_eq!(program.argv[1], program.strings[1].as_ptr());
        assert_eq!(program.envp[0], program.strings[2].as_ptr());
    }

    #[test]
    fn a_nul_byte_is_refused() {
        assert_eq!(c_string("a\0b").expect_err("NUL").step, "invalid");
    }
}
