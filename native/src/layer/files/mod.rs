//! A container's files as an archive, both ways: what `docker cp` and `docker export` need.
//!
//! ```text
//! container -> Files (one root fd) -> find -> send    -> tar
//!                                  -> find -> receive <- tar
//! ```
//! A running container is seen as its processes see it, volumes and tmpfs included; one that does not run is put
//! together for the occasion. Every name is resolved from the root's descriptor with `RESOLVE_IN_ROOT`, while
//! the container may change any of it at any moment: nothing is opened before it is known to be a regular file or
//! directory, nothing is created through the last component of a name, and the file systems of the kernel
//! (procfs, sysfs, ...) are neither read nor written. No program of the container runs.
//!
//! Source: openat2(2); CVE-2018-15664, CVE-2019-14271, CVE-2026-41567, CVE-2026-41568.

mod find;
mod receive;
mod send;
#[cfg(test)]
mod tests;
mod view;

use std::os::fd::OwnedFd;

pub use find::{PathStat, Place};
pub use receive::Wish;

use crate::idmap::{from_host, to_host};
use crate::plan::UserNamespace;

/// What the kernel maps ids without a place in a user namespace to.
const OVERFLOW_ID: u32 = 65534;

/// The files of one container, for as long as this lives.
#[derive(Debug)]
pub struct Files {
    /// The root with everything that is mounted in it.
    root: OwnedFd,
    /// The root file system alone.
    rootfs: OwnedFd,
    /// The mount namespace that both are in, or a process of it; keeps a view of our own together.
    namespace: OwnedFd,
    user: Option<UserNamespace>,
}

impl Files {
    /// Owner of a file as the container has it.
    fn owner_inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        match &self.user {
            None => (uid, gid),
            Some(user) => (
                from_host(&user.uid_map, uid).unwrap_or(OVERFLOW_ID),
                from_host(&user.gid_map, gid).unwrap_or(OVERFLOW_ID),
            ),
        }
    }

    /// Owner of a file as the host has it; `None` where the container has no such ids.
    fn owner_outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        match &self.user {
            None => Some((uid, gid)),
            Some(user) => Some((to_host(&user.uid_map, uid)?, to_host(&user.gid_map, gid)?)),
        }
    }
}
