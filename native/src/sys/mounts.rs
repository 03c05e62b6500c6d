//! Attributes of mounts, by descriptor.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;

use super::{check, syscall};

/// `MOUNT_ATTR_*`, <https://man7.org/linux/man-pages/man2/mount_setattr.2.html>.
pub const ATTR_RDONLY: u64 = 0x1;
pub const ATTR_NOSUID: u64 = 0x2;
pub const ATTR_NODEV: u64 = 0x4;
pub const ATTR_NOEXEC: u64 = 0x8;
const ATTR_IDMAP: u64 = 0x0010_0000;

/// What [`mount_setattr`] changes, a `struct mount_attr`; zeros leave things.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

impl MountAttributes {
    /// `ATTR_*` to set, and one of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, or 0.
    #[must_use]
    pub const fn new(set: u64, propagation: u64) -> Self {
        Self { set, clear: 0, propagation, user_namespace: 0 }
    }
}

/// Changes the mount that `fd` refers to; with `recursive` those below it, too, all or none.
/// <https://man7.org/linux/man-pages/man2/mount_setattr.2.html>
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attributes: &MountAttributes) -> Result<()> {
    const AT_RECURSIVE: usize = 0x8000;
    let flags = libc::AT_EMPTY_PATH as usize | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: a whole struct mount_attr and an empty C string.
    check(unsafe {
        syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd() as usize,
            c"".as_ptr() as usize,
            flags,
            std::ptr::from_ref(attributes) as usize,
            size_of::<MountAttributes>(),
            0,
        )
    })
    .map(drop)
}

/// Shows a detached mount's owners through the id maps of a user namespace.
/// <https://man7.org/linux/man-pages/man2/mount_setattr.2.html>
pub fn mount_idmap(fd: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> Result<()> {
    let user_namespace = user_namespace.as_raw_fd() as u64;
    mount_setattr(fd, false, &MountAttributes { user_namespace, ..MountAttributes::new(ATTR_IDMAP, 0) })
}
