//! The mounts of a plan, as operations: the root filesystem and everything below it.
//!
//! Sources are made here, in the parent; targets are resolved by the child, in the root, after what
//! is mounted before them.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{open_tree, OpenTreeFlags};
use rustix::pty::OpenptFlags;

use crate::cgroup;
use crate::child::set_size;
use crate::dev::{self, Dev, Owners, Wanted};
use crate::error::{Error, Result};
use crate::idmap::to_host;
use crate::keeper::protocol::Failure;
use crate::mount::{self, BindContext, Kind};
use crate::overlay::{self, Overlay};
use crate::plan::{Mount, Namespace, Network, Plan, Propagation, Rootfs};
use crate::prepare::{c_string, failure, invalid, peer, target, Builder, Step};
use crate::process::SpawnContext;
use crate::script::{Operation as Op, Slot, Source};
use crate::sys::{self, MountAttributes, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};

/// Files below /proc that a bind may cover: what lxcfs serves, as runc has it.
const PROC_FILES: [&str; 11] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/loadavg",
    "proc/slabinfo",
    "proc/sys/kernel/ns_last_pid",
    "proc/net/dev",
    "proc/sys/crypto/fips_enabled",
];

/// Id maps, and who root is outside.
type OwnedMap = (Arc<OwnedFd>, (u32, u32));

/// Symbolic links in one path, as the kernel has it.
const MAX_LINKS: usize = 40;

/// The /dev/shm of the container `id`, whose IPC namespace is joined.
fn shared_memory(context: &SpawnContext<'_, '_>, id: &str) -> std::result::Result<OwnedFd, Failure> {
    let donor = peer(context, id)?;
    mount::shared_memory_of(donor.pidfd.as_fd()).map_err(|e| failure("mount", &e))
}

/// The procfs for a container that joins the pid namespace of the container `id`.
fn processes(context: &SpawnContext<'_, '_>, id: &str) -> std::result::Result<OwnedFd, Failure> {
    let donor = peer(context, id)?;
    mount::processes_of(donor.pid, donor.pidfd.as_fd()).map_err(|e| failure("mount", &e))
}

impl Builder<'_> {
    /// Everything that is mounted; returns the terminal of a container that has one.
    pub fn tree(
        &mut self,
        plan: &Plan,
        context: &SpawnContext<'_, '_>,
    ) -> std::result::Result<Option<RawFd>, Failure> {
        let root = self.root(plan, context).map_err(|e| failure("rootfs", &e))?;
        dev::make_elsewhere(root.as_fd(), &plan.devices).map_err(|e| failure("device", &e))?;
        self.push(Op::PrivateMounts, "mount", "private propagation");
        self.push(Op::AttachRoot { mount: root.as_raw_fd() }, "mount", "root filesystem");
        self.proc_and_settings(plan);
        let mut terminal = None;
        for mount in &plan.mounts {
            if let Some(made) = self.mount(mount, plan, context, root.as_fd())? {
                terminal = Some(made);
            }
        }
        self.hide(plan)?;
        let cwd = target(&settled(root.as_fd(), plan, &plan.process.cwd), Kind::Directory)?;
        self.push(Op::FindWorkingDirectory { target: cwd, create: true }, "cwd", plan.process.cwd.as_str());
        if plan.process.tty && terminal.is_none() {
            return Err(invalid("a terminal needs the container's own /dev"));
        }
        self.prepared.root = root.try_clone().ok();
        self.hold(root);
        Ok(terminal)
    }

    fn root(&self, plan: &Plan, context: &SpawnContext<'_, '_>) -> Result<OwnedFd> {
        let Rootfs::Overlay { lower, upper, work, volatile, late } = &plan.rootfs;
        let idmap = self.id_map(plan)?;
        let overlay = Overlay {
            lower,
            writable: Some((upper, work)),
            volatile: *volatile,
            idmap: idmap.as_ref().map(|(fd, owner)| (fd.as_fd(), *owner)),
            userxattr: !self.host.initial_user_namespace,
        };
        match context.caller {
            Some(caller) if *late => mount::visiting(caller, || overlay.mount())
                .map_err(|e| Error::os("mount overlay", upper.as_str(), e))?,
            _ => overlay.mount(),
        }
    }

    /// The container's id maps, and who its root is outside.
    fn id_map(&self, plan: &Plan) -> Result<Option<OwnedMap>> {
        let owners = owners_of(plan);
        let user = plan.namespaces.user.as_ref();
        user.map(|user| Ok((self.host.id_map(user)?, (owners.uid, owners.gid)))).transpose()
    }

    /// A procfs of the child's pid namespace that no one else sees yet: settings are written through it. It becomes
    /// the container's, unless that joins another pid namespace, which the child is not in yet.
    fn proc_and_settings(&mut self, plan: &Plan) {
        let joins = matches!(plan.namespaces.pid, Namespace::Container { .. });
        let wanted = !joins && plan.mounts.iter().any(|mount| matches!(mount, Mount::Proc { .. }));
        if !wanted && plan.sysctls.is_empty() && plan.process.oom_score_adj.is_none() {
            return;
        }
        self.make(c"proc", false, Slot::Proc);
        for (key, value) in &plan.sysctls {
            // Keys are from an allow-list: no NUL, no dots that lead elsewhere. A slash is a dot of the name.
            let swap = |letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            };
            let name: String = key.chars().map(swap).collect();
            let path = CString::new(format!("sys/{name}")).unwrap_or_default();
            let write = Op::WriteProc { path, value: value.clone().into_bytes() };
            self.push(write, "sysctl", format!("{key}={value}"));
        }
        if let Some(score) = plan.process.oom_score_adj {
            self.oom_score(score);
        }
    }

    fn mount(
        &mut self,
        mount: &Mount,
        plan: &Plan,
        context: &SpawnContext<'_, '_>,
        root: BorrowedFd<'_>,
    ) -> std::result::Result<Option<RawFd>, Failure> {
        match mount {
            Mount::Bind { target, .. } => {
                let (fd, kind) = self.bind(mount, plan, context).map_err(|e| failure("mount", &e))?;
                let source = Source::Fd(self.hold(fd));
                self.attach_user(source, target, &settled(root, plan, target), kind)?;
            }
            Mount::Layers { target, .. } => {
                let (fd, kind) = self.layers(mount, plan).map_err(|e| failure("mount", &e))?;
                let source = Source::Fd(self.hold(fd));
                self.attach_user(source, target, &settled(root, plan, target), kind)?;
            }
            Mount::Tmpfs { target, .. } => {
                let fd = tmpfs(mount, root, self.host.initial_user_namespace, owners_of(plan))
                    .map_err(|e| failure("mount", &e))?;
                let source = Source::Fd(self.hold(fd));
                self.attach_user(source, target, &settled(root, plan, target), Kind::Directory)?;
            }
            Mount::Proc { target } => {
                let source = match &plan.namespaces.pid {
                    Namespace::Container { id } => Source::Fd(self.hold(processes(context, id)?)),
                    _ => Source::Slot(Slot::Proc),
                };
                self.attach_own(source, target)?;
            }
            Mount::Sysfs { target, readonly } => self.sysfs(target, *readonly, plan, context)?,
            Mount::Mqueue { target } => {
                self.make(c"mqueue", false, Slot::Mqueue);
                self.attach_own(Source::Slot(Slot::Mqueue), target)?;
            }
            Mount::Cgroup { target, readonly } => self.cgroup(target, *readonly, plan, context)?,
            Mount::Dev { shm_size, shm_source } => {
                return self.dev(*shm_size, shm_source.as_deref(), plan, context);
            }
        }
        Ok(None)
    }

    fn bind(&self, mount: &Mount, plan: &Plan, context: &SpawnContext<'_, '_>) -> Result<(OwnedFd, Kind)> {
        let idmap = self.id_map(plan)?;
        let idmap = idmap.as_ref().map(|(fd, _)| fd.as_fd());
        mount::bind(mount, BindContext { idmap, caller: context.caller })
    }

    fn layers(&self, mount: &Mount, plan: &Plan) -> Result<(OwnedFd, Kind)> {
        let idmap = self.id_map(plan)?;
        let idmap = idmap.as_ref().map(|(fd, owner)| (fd.as_fd(), *owner));
        overlay::layers(mount, idmap, !self.host.initial_user_namespace)
    }

    /// A mount that the user asked for: symbolic links of the image count, /proc is out of reach.
    fn attach_user(&mut self, mount: Source, path: &str, settled: &str, kind: Kind) -> Step {
        let mut target = target(settled, kind)?;
        target.on_proc = PROC_FILES.contains(&path.trim_start_matches('/'));
        self.push(Op::Attach { mount, target }, "mount", path);
        Ok(())
    }

    /// A mount of the engine's: the image's symbolic links must not redirect it.
    fn attach_own(&mut self, mount: Source, path: &str) -> Step {
        let mut target = target(path, Kind::Directory)?;
        target.no_symlinks = true;
        self.push(Op::Attach { mount, target }, "mount", path);
        Ok(())
    }

    fn sysfs(&mut self, path: &str, readonly: bool, plan: &Plan, context: &SpawnContext<'_, '_>) -> Step {
        let spaces = &plan.namespaces;
        let own_network = matches!(spaces.net, Network::None) && context.netns.is_none();
        if spaces.user.is_some() && !own_network {
            // sysfs shows a network namespace, and only its owner may mount it: bind the host's instead.
            let attributes = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
            let fd = mount::bind_plain("/sys", true, attributes).map_err(|e| failure("mount", &e))?;
            let source = Source::Fd(self.hold(fd));
            return self.attach_own(source, path);
        }
        self.make(c"sysfs", readonly, Slot::Sysfs);
        self.attach_own(Source::Slot(Slot::Sysfs), path)
    }

    // ---- cgroups --------------------------------------------------------------------------------

    /// The container's own group of every hierarchy.
    ///
    /// A bind of the group's directory is what a mount inside its cgroup namespace would show (the
    /// namespace makes it "/" in mountinfo), costs half as much, and does not wait for the namespace.
    fn cgroup(&mut self, path: &str, readonly: bool, plan: &Plan, context: &SpawnContext<'_, '_>) -> Step {
        let Some(group) = context.group else { return Ok(()) };
        let directories = group.directories().map_err(|e| failure("cgroup", &e))?;
        let attributes = mount::attributes([readonly, true, true, true]);
        if let [only] = &directories[..] {
            if only.place.directory.is_empty() {
                let fd = bind_group(only, attributes).map_err(|e| failure("cgroup", &e))?;
                let source = Source::Fd(self.hold(fd));
                return self.attach_own(source, path);
            }
        }
        let owners = owners_of(plan);
        let below = cgroup_directory(&directories, owners).map_err(|e| failure("cgroup", &e))?;
        self.attach_own(Source::Fd(below.as_raw_fd()), path)?;
        for directory in directories.iter().filter(|one| !one.place.directory.is_empty()) {
            let fd = bind_group(directory, attributes).map_err(|e| failure("cgroup", &e))?;
            let name = c_string(&directory.place.directory)?;
            let mount = Source::Fd(self.hold(fd));
            let attach = Op::AttachBelow { mount, directory: below.as_raw_fd(), name };
            self.push(attach, "cgroup", directory.place.directory.as_str());
        }
        if readonly {
            let directory = below.as_raw_fd();
            self.push(Op::ReadOnlyMount { mount: directory }, "cgroup", path);
        }
        self.hold(below);
        Ok(())
    }

    // ---- /dev -----------------------------------------------------------------------------------

    fn dev(
        &mut self,
        shm_size: u64,
        shm_source: Option<&str>,
        plan: &Plan,
        context: &SpawnContext<'_, '_>,
    ) -> std::result::Result<Option<RawFd>, Failure> {
        let mut owners = owners_of(plan);
        if !self.host.initial_user_namespace {
            owners.tty = None; // group 5 need not be mapped
        }
        let tty = plan.process.tty;
        let can_mknod = self.host.initial_user_namespace;
        let joined = match &plan.namespaces.ipc {
            Namespace::Container { id } => Some(shared_memory(context, id)?),
            _ => None,
        };
        let shm_size = if joined.is_some() { 0 } else { shm_size };
        let wanted = Wanted { devices: &plan.devices, shm_size, shm_source, console: tty, owners, can_mknod };
        let Dev { root, pts, shm, binds } = Dev::new(&wanted).map_err(|e| failure("device", &e))?;
        let shm = joined.or(shm);
        let directory = root.as_raw_fd();
        self.attach_own(Source::Fd(directory), "/dev")?;
        let terminal = if tty { Some(self.terminal(pts.as_fd(), plan)?) } else { None };
        for (mount, name) in binds {
            let mount = Source::Fd(self.hold(mount));
            let label = format!("/dev/{name}");
            self.push(Op::AttachBelow { mount, directory, name: c_string(&name)? }, "device", label);
        }
        for (mount, name, label) in [(Some(pts), c"pts", "/dev/pts"), (shm, c"shm", "/dev/shm")] {
            let Some(mount) = mount else { continue };
            let mount = Source::Fd(self.hold(mount));
            self.push(Op::AttachBelow { mount, directory, name: name.into() }, "mount", label);
        }
        if let Some(fd) = terminal {
            let copy = Op::AttachCopy { fd, directory, name: c"console".into() };
            self.push(copy, "terminal", "/dev/console");
        }
        self.hold(root);
        Ok(terminal)
    }

    /// A pty of the container's own devpts. Both ends are opened through the mount, never by name (CVE-2025-52565).
    fn terminal(&mut self, pts: BorrowedFd<'_>, plan: &Plan) -> std::result::Result<RawFd, Failure> {
        let (rows, columns) = plan.process.console_size;
        let owner = match &plan.namespaces.user {
            None => Some(plan.process.uid),
            Some(user) => to_host(&user.uid_map, plan.process.uid),
        };
        let open = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let master = rustix::fs::openat(pts, "ptmx", flags, Mode::empty())?;
            rustix::pty::unlockpt(&master)?;
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let terminal = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
            set_size(terminal.as_fd(), rows, columns)?;
            if let Some(uid) = owner.filter(|uid| *uid != 0) {
                rustix::fs::fchown(&terminal, Some(rustix::fs::Uid::from_raw(uid)), None)?;
            }
            Ok::<_, Errno>((master, terminal))
        };
        let (master, terminal) =
            open().map_err(|e| failure("terminal", &Error::os("open", "/dev/pts/ptmx", e)))?;
        self.prepared.pty_master = Some(master);
        Ok(self.hold(terminal))
    }

    // ---- what is hidden -------------------------------------------------------------------------

    fn hide(&mut self, plan: &Plan) -> Step {
        if !plan.masked_paths.is_empty() {
            let attributes = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
            let empty = mount::filesystem("tmpfs", ["mode=755", "size=0k"], attributes)
                .map_err(|e| failure("mount", &e))?;
            let tmpfs = self.hold(empty);
            for path in &plan.masked_paths {
                let relative = c_string(path.trim_start_matches('/'))?;
                self.push(Op::Mask { path: relative, tmpfs }, "mask", path.as_str());
            }
        }
        for path in &plan.readonly_paths {
            let relative = c_string(path.trim_start_matches('/'))?;
            self.push(Op::ReadOnlyPath { path: relative }, "read-only path", path.as_str());
        }
        Ok(())
    }

    pub fn root_attributes(&mut self, plan: &Plan) {
        if plan.readonly_rootfs {
            let attributes = Op::RootAttributes { attributes: ATTR_RDONLY, propagation: 0, recursive: false };
            self.push(attributes, "mount", "read-only root");
        }
        if !matches!(plan.rootfs_propagation, Propagation::Private | Propagation::Rprivate) {
            let (propagation, recursive) = mount::propagation_bits(plan.rootfs_propagation);
            let attributes = Op::RootAttributes { attributes: 0, propagation, recursive };
            self.push(attributes, "mount", "root propagation");
        }
    }
}

/// Who root and the tty group of the container are outside.
fn owners_of(plan: &Plan) -> Owners {
    match &plan.namespaces.user {
        None => Owners { uid: 0, gid: 0, tty: Some(5) },
        Some(user) => Owners {
            uid: to_host(&user.uid_map, 0).unwrap_or(0),
            gid: to_host(&user.gid_map, 0).unwrap_or(0),
            tty: to_host(&user.gid_map, 5),
        },
    }
}

fn bind_group(directory: &cgroup::Directory<'_>, attributes: u64) -> Result<OwnedFd> {
    let fail = |e: Errno| Error::os("bind cgroup", directory.place.directory.as_str(), e);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let fd = open_tree(directory.parent, directory.name, flags).map_err(fail)?;
    let change = MountAttributes::new(attributes, libc::MS_PRIVATE);
    sys::mount_setattr(fd.as_fd(), false, &change).map_err(fail)?;
    Ok(fd)
}

/// The tmpfs that holds one directory per hierarchy, with the links beside co-mounted controllers.
fn cgroup_directory(directories: &[cgroup::Directory<'_>], owners: Owners) -> Result<OwnedFd> {
    let owner = [format!("uid={}", owners.uid), format!("gid={}", owners.gid)];
    let options = ["mode=755", &owner[0], &owner[1]];
    let below = mount::filesystem("tmpfs", options, ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)?;
    for directory in directories.iter().map(|one| &one.place).filter(|place| !place.directory.is_empty()) {
        let fail = |e: Errno| Error::os("make directory for cgroup", directory.directory.as_str(), e);
        rustix::fs::mkdirat(&below, directory.directory.as_str(), Mode::from_raw_mode(0o755))
            .map_err(fail)?;
        for link in &directory.links {
            rustix::fs::symlinkat(directory.directory.as_str(), &below, link.as_str()).map_err(fail)?;
        }
    }
    Ok(below)
}

/// A tmpfs that takes over the mode (and with copy-up the content) of what the image has at its target.
fn tmpfs(mount: &Mount, root: BorrowedFd<'_>, initial: bool, owners: Owners) -> Result<OwnedFd> {
    let Mount::Tmpfs { target, options, readonly, nosuid, nodev, noexec, copy_up } = mount else {
        return Err(Error::Invalid("not a tmpfs".into()));
    };
    let covered = open_in_root(root, target);
    let has = |key: &str| options.iter().any(|option| option.starts_with(key));
    let mut all = options.clone();
    if let Ok(covered) = &covered {
        let stat = rustix::fs::fstat(covered).map_err(|e| Error::os("stat", target.as_str(), e))?;
        if !has("mode=") {
            all.push(format!("mode={:o}", stat.st_mode & 0o7777));
        }
    }
    if initial && owners.uid != 0 && !has("uid=") {
        all.push(format!("uid={}", owners.uid));
        all.push(format!("gid={}", owners.gid));
    }
    let attributes = mount::attributes([false, *nosuid, *nodev, *noexec]);
    let fd = mount::filesystem("tmpfs", all.iter().map(String::as_str), attributes)?;
    if let (true, Ok(covered)) = (*copy_up, &covered) {
        mount::copy_tree(covered.as_fd(), fd.as_fd()).map_err(|e| Error::os("copy", target.as_str(), e))?;
    }
    if *readonly {
        let change = MountAttributes::new(ATTR_RDONLY, 0);
        sys::mount_setattr(fd.as_fd(), false, &change)
            .map_err(|e| Error::os("make read-only", target.as_str(), e))?;
    }
    Ok(fd)
}

/// `path` with the dangling symbolic links of the image in it replaced by what they say: it can then be made as it is,
/// where a link in its place would be in the way (images have such an /etc/resolv.conf). A path that is there, or lies
/// in another mount, stays; so it is resolved in the root once more, when it is used.
fn settled(root: BorrowedFd<'_>, plan: &Plan, path: &str) -> String {
    let within =
        |mount: &Mount| path.strip_prefix(target_of(mount)).is_some_and(|rest| rest.starts_with('/'));
    let missing = open_any(root, path, OFlags::empty()).err() == Some(Errno::NOENT);
    if !missing || plan.mounts.iter().any(within) {
        return path.to_owned();
    }
    without_links(root, path).unwrap_or_else(|| path.to_owned())
}

/// `None` where it takes too many links or one that is no text.
pub(crate) fn without_links(root: BorrowedFd<'_>, path: &str) -> Option<String> {
    let names = |text: &str| text.split('/').rev().map(str::to_owned).collect::<Vec<_>>();
    let (mut left, mut done) = (names(path), Vec::<String>::new());
    let mut links = 0;
    while let Some(name) = left.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => done.push(name),
        }
        let Ok(link) = open_any(root, &done.join("/"), OFlags::NOFOLLOW)
            .and_then(|fd| rustix::fs::readlinkat(fd, c"", Vec::new()))
        else {
            continue; // no link, or not there
        };
        links += 1;
        if links > MAX_LINKS {
            return None;
        }
        let link = link.into_string().ok()?;
        done.pop();
        if link.starts_with('/') {
            done.clear();
        }
        left.extend(names(&link));
    }
    Some(format!("/{}", done.join("/")))
}

fn target_of(mount: &Mount) -> &str {
    match mount {
        Mount::Bind { target, .. }
        | Mount::Layers { target, .. }
        | Mount::Tmpfs { target, .. }
        | Mount::Proc { target }
        | Mount::Sysfs { target, .. }
        | Mount::Cgroup { target, .. }
        | Mount::Mqueue { target } => target,
        Mount::Dev { .. } => "/dev",
    }
}

/// Anything at `path` in the root, opened for nothing.
fn open_any(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let relative = path.trim_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    sys::open_resolved(root, relative, flags | OFlags::PATH, how)
}

fn open_in_root(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    open_any(root, path, OFlags::DIRECTORY)
}
