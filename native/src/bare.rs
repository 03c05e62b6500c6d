//! A mount namespace with nothing in it, which containers' own are copied from.
//!
//! A new mount namespace is a copy of the one that its first process is cloned in, and what is in there is taken down
//! again once the container has its root: with a host's mounts, each costs a start two turns. The caller goes to the
//! empty namespace for the moment of the clone (`launch.rs`); what a container is made of comes by descriptors.
//!
//! Not where the container has a user namespace: the kernel shows a procfs in there only to who sees one already.
//! Source: <https://man7.org/linux/man-pages/man7/mount_namespaces.7.html>.

use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{mount_change, move_mount, unmount, MountPropagationFlags, MoveMountFlags, UnmountFlags};
use rustix::process::{fchdir, pivot_root};

use crate::error::{Error, Result};
use crate::mount::filesystem;
use crate::process::open_namespace;
use crate::sys::supervise::unshare_mounts;
use crate::sys::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/mnt";

/// The empty namespace, and the way back from it.
#[derive(Debug)]
pub struct Bare {
    pub empty: OwnedFd,
    /// The caller's own.
    pub own: OwnedFd,
}

impl Bare {
    /// For a caller that has its working directory to itself (it is no other thread's).
    pub fn make() -> Result<Self> {
        let own = open_namespace(OWN_NAMESPACE)?;
        let thread = std::thread::Builder::new().name("proa-mounts".into()).spawn(empty);
        let thread = thread.map_err(|error| Error::os("start", "thread", error))?;
        let empty = thread.join().unwrap_or_else(|_| Err(Error::Invalid("a thread has panicked".into())))?;
        Ok(Self { empty, own })
    }
}

/// Turns the calling thread's view of mounts into an empty one; it lives on in the descriptor.
fn empty() -> Result<OwnedFd> {
    let fail = |error: Errno| Error::os("make", "an empty mount namespace", error);
    unshare_mounts().map_err(fail)?;
    let namespace = open_namespace(OWN_NAMESPACE)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(fail)?;
    let attributes = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    let root = filesystem("tmpfs", ["mode=555", "size=0k"], attributes)?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(fail)?;
    fchdir(&root).map_err(fail)?;
    // EINVAL where the host runs from its initramfs, which nothing can be put in the place of.
    pivot_root(".", ".").map_err(fail)?;
    unmount(".", UnmountFlags::DETACH).map_err(fail)?;
    Ok(namespace)
}
