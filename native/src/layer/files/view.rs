//! How a container's root is got hold of: by the mount namespace of its process, or by mounting its layers.
//!
//! Both happen on a thread of their own, which has a working directory, root and mount namespace apart from the
//! rest of the process, does nothing in there but to open a directory, and ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{move_mount, open_tree, MoveMountFlags, OpenTreeFlags};
use rustix::process::{pidfd_open, Pid, PidfdFlags};

use super::Files;
use crate::error::{Error, Result};
use crate::idmap;
use crate::layer::tree::failed;
use crate::mount::{self, BindContext, Kind};
use crate::overlay::{self, Overlay};
use crate::plan::{Mount, Plan, Propagation, Rootfs, UserNamespace};
use crate::sys::{self, MountAttributes, ATTR_RDONLY};
use crate::tree::without_links;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Files {
    /// As the process `pid` of a running container sees them; `user` is its user namespace, if it has one.
    pub fn running(pid: i32, user: Option<UserNamespace>) -> Result<Self> {
        let process = Pid::from_raw(pid)
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|errno| Error::os("open", format!("process {pid}"), errno))?;
        let namespace = process.as_fd();
        let (root, rootfs) = apart(|| {
            // The namespace's root, not the process's, which may have called chroot(2).
            sys::setns(namespace, libc::CLONE_NEWNS).map_err(|errno| {
                Error::os("enter the mount namespace of", format!("process {pid}"), errno)
            })?;
            let root = open("/")?;
            let rootfs = alone(root.as_fd())?;
            Ok((root, rootfs))
        })?;
        Ok(Self { root, rootfs, namespace: process, user })
    }

    /// Of one that does not run: its root file system with its binds and volumes, in a mount namespace of
    /// their own. The caller sees to it that nobody starts it before they are open, nor while they are written.
    pub fn stopped(plan: Plan) -> Result<Self> {
        let user = plan.namespaces.user.clone();
        let (root, rootfs, namespace) = apart(move || {
            sys::unshare(libc::CLONE_NEWNS).map_err(|errno| Error::os("unshare", "mounts", errno))?;
            let whole = open("/")?;
            // What the host unmounts meanwhile goes here, too.
            sys::mount_setattr(whole.as_fd(), true, &MountAttributes::new(0, libc::MS_SLAVE))
                .map_err(|errno| Error::os("make slave", "/", errno))?;
            let root = assemble(&plan)?;
            let rootfs = alone(root.as_fd())?;
            Ok((root, rootfs, open("/proc/thread-self/ns/mnt")?))
        })?;
        Ok(Self { root, rootfs, namespace, user })
    }

    /// Run `work` in the mount namespace of the files, where the kernel knows what is mounted on and lets nobody
    /// remove that. `work` names nothing but by descriptor: the root and /proc are the container's there.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        apart(|| {
            sys::setns(self.namespace.as_fd(), libc::CLONE_NEWNS)
                .map_err(|errno| Error::os("enter the mount namespace of", "the container", errno))?;
            work()
        })
    }
}

/// Run `work` on a thread that has its working directory and root for itself.
fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let ready = || {
        sys::unshare(libc::CLONE_FS).map_err(|errno| Error::os("unshare", "working directory", errno))?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("proa-visit".into())
            .spawn_scoped(scope, ready)
            .map_err(|error| Error::os("start a thread for", "container's files", error))?;
        thread.join().unwrap_or_else(|_| Err(Error::Invalid("a visit to a container's files failed".into())))
    })
}

fn open(path: &str) -> Result<OwnedFd> {
    let flags = if path == "/" { DIRECTORY } else { OFlags::RDONLY | OFlags::CLOEXEC };
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| Error::os("open", path, errno))
}

/// A copy of a mount without those below it.
fn alone(mount: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(mount, c"", flags | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(|errno| Error::os("copy mount", "/", errno))
}

/// The root file system, attached in this thread's mount namespace, with its binds below.
fn assemble(plan: &Plan) -> Result<OwnedFd> {
    let Rootfs::Overlay { lower, upper, work, volatile, .. } = &plan.rootfs;
    let user = plan.namespaces.user.as_ref();
    let map = user.map(idmap::make).transpose()?;
    let owner = |ids: &UserNamespace| {
        (idmap::to_host(&ids.uid_map, 0).unwrap_or(0), idmap::to_host(&ids.gid_map, 0).unwrap_or(0))
    };
    let idmap = map.as_ref().zip(user).map(|(fd, ids)| (fd.as_fd(), owner(ids)));
    let writable = Some((upper.as_str(), work.as_str()));
    let root = Overlay { lower, writable, volatile: *volatile, idmap, userxattr: false }.mount()?;
    let place = rustix::fs::open(work.as_str(), DIRECTORY, Mode::empty())
        .map_err(|errno| Error::os("open", work.as_str(), errno))?;
    attach(root.as_fd(), place.as_fd()).map_err(|errno| Error::os("attach overlay", work.as_str(), errno))?;
    for mount in &plan.mounts {
        match mount {
            Mount::Bind { source, target, .. } if std::fs::symlink_metadata(source).is_ok() => {
                let context = BindContext { idmap: idmap.map(|(fd, _)| fd), caller: None };
                bind(root.as_fd(), mount, target, context)?;
            }
            Mount::Layers { target, .. } => {
                let (tree, kind) = overlay::layers(mount, idmap, false)?;
                attach_in_root(root.as_fd(), tree.as_fd(), kind, target)?;
            }
            _ => {}
        }
    }
    if plan.readonly_rootfs {
        sys::mount_setattr(root.as_fd(), false, &MountAttributes::new(ATTR_RDONLY, 0))
            .map_err(|errno| Error::os("make read-only", "/", errno))?;
    }
    Ok(root)
}

fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// One bind of the plan, at the same place that the next start will use.
fn bind(root: BorrowedFd<'_>, wanted: &Mount, target: &str, context: BindContext<'_>) -> Result<()> {
    let mut wanted = wanted.clone();
    if let Mount::Bind { propagation, .. } = &mut wanted {
        *propagation = Propagation::Rprivate;
    }
    let (mount, kind) = mount::bind(&wanted, context)?;
    attach_in_root(root, mount.as_fd(), kind, target)
}

fn attach_in_root(root: BorrowedFd<'_>, mount: BorrowedFd<'_>, kind: Kind, target: &str) -> Result<()> {
    let path = without_links(root, target).unwrap_or_else(|| target.to_owned());
    let place = match in_root(root, &path) {
        Err(Errno::NOENT) => make_target(root, &path, kind).and_then(|()| in_root(root, &path)),
        other => other,
    };
    let fail = |errno| failed("mount at", target.as_bytes(), errno);
    let place = place.map_err(fail)?;
    match attach(mount, place.as_fd()) {
        // A file over a directory or the reverse: the start will say so, too.
        Err(Errno::NOTDIR) => Ok(()),
        other => other.map_err(fail),
    }
}

/// What is missing of a mount's target, as the start makes it.
fn make_target(root: BorrowedFd<'_>, path: &str, kind: Kind) -> rustix::io::Result<()> {
    let path = path.trim_matches('/');
    let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).chain([path.len()]).collect();
    for end in ends {
        let (above, name) = path[..end].rsplit_once('/').unwrap_or(("", &path[..end]));
        let parent = in_root(root, above)?;
        let made = if end == path.len() && kind == Kind::File {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn in_root(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    sys::open_resolved(root, path, OFlags::PATH, how)
}
