//! Project quotas: what bounds a directory on ext4 and xfs.
//!
//! Source: <https://man7.org/linux/man-pages/man2/quotactl.2.html>, `FS_IOC_FSSETXATTR` of `linux/fs.h`.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;

use super::{check, syscall};

const PRJQUOTA: usize = 2;
const Q_SETQUOTA: usize = 0x0080_0008;
const Q_XGETQSTAT: usize = 0x5805;
/// `FS_QUOTA_PDQ_ENFD`: limits of projects are enforced, not only counted.
const PROJECTS_ENFORCED: u16 = 1 << 5;
const QIF_BLIMITS: u32 = 1;
/// Bytes of a block as limits count them.
const BLOCK: u64 = 1024;

const FS_IOC_FSGETXATTR: usize = 0x801c_581f;
const FS_IOC_FSSETXATTR: usize = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct FileAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Limits {
    hard: u64,
    soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// `struct fs_quota_stat`, its beginning; the rest only takes the room that the kernel writes.
#[repr(C)]
struct Status {
    version: i8,
    flags: u16,
    rest: [u64; 16],
}

fn control(fd: BorrowedFd<'_>, command: usize, id: u32, data: usize) -> Result<usize> {
    let command = command << 8 | PRJQUOTA;
    // SAFETY: callers pass a structure of the command's own kind.
    check(unsafe {
        syscall(libc::SYS_quotactl_fd, fd.as_raw_fd() as usize, command, id as usize, data, 0, 0)
    })
}

/// Whether the file system of a directory holds projects to their limits.
#[must_use]
pub fn enforces_projects(fd: BorrowedFd<'_>) -> bool {
    let mut status = Status { version: 1, flags: 0, rest: [0; 16] };
    control(fd, Q_XGETQSTAT, 0, &raw mut status as usize).is_ok() && status.flags & PROJECTS_ENFORCED != 0
}

/// Bounds what the project `id` has on the file system of `fd`, in bytes, rounded up; 0 lifts the limit.
pub fn limit_project(fd: BorrowedFd<'_>, id: u32, bytes: u64) -> Result<()> {
    let blocks = bytes.div_ceil(BLOCK);
    let limits = Limits { hard: blocks, soft: blocks, valid: QIF_BLIMITS, ..Limits::default() };
    control(fd, Q_SETQUOTA, id, &raw const limits as usize).map(drop)
}

/// Puts a directory, and what is made in it from now on, into the project `id`.
pub fn set_project(fd: BorrowedFd<'_>, id: u32) -> Result<()> {
    let mut attributes = FileAttributes::default();
    let number = fd.as_raw_fd() as usize;
    // SAFETY: reads into a whole struct fsxattr.
    check(unsafe {
        syscall(libc::SYS_ioctl, number, FS_IOC_FSGETXATTR, &raw mut attributes as usize, 0, 0, 0)
    })?;
    attributes.project = id;
    attributes.flags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: a whole struct fsxattr.
    check(unsafe {
        syscall(libc::SYS_ioctl, number, FS_IOC_FSSETXATTR, &raw const attributes as usize, 0, 0, 0)
    })
    .map(drop)
}
