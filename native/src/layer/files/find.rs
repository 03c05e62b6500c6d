//! Names in a container's root: what is there, and what may be done to it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;

use super::Files;
use crate::error::Result;
use crate::layer::tree::{failed, open_with};
use crate::tree::without_links;

/// File systems that are the kernel's own words and ears: to read them waits or changes something, to write
/// them commands the host. `linux/magic.h`.
const KERNEL: [u64; 18] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
    0x4249_4e4d, // binfmt_misc
    0x6573_5543, // fusectl
    0xf97c_ff8c, // selinuxfs
    0x1980_0202, // mqueue
    0x6e73_6673, // nsfs
    0x1cd1,      // devpts
    0x6759_6969, // rpc_pipefs
];

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    pub size: u64,
    /// `st_mode`, type and all.
    pub mode: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Of a symbolic link: where it leads in the end, as far as there is anything.
    pub target: Vec<u8>,
}

/// A directory that something is to be put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its mount takes no writes.
    pub read_only: bool,
    /// It is in the root file system, not in something mounted there.
    pub in_rootfs: bool,
}

impl Files {
    /// Open `path` as the container would, never out of its root; EAGAIN is the kernel's wish to try again.
    pub(super) fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        open_with(&self.root, path, flags, resolve)
    }

    /// What is at `path`, a symbolic link at its end not followed. ENOENT where nothing is, or the kernel's.
    pub fn stat(&self, path: &[u8]) -> Result<PathStat> {
        let (fd, stat) = self.find(path)?;
        let target = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            std::str::from_utf8(path)
                .ok()
                .and_then(|path| without_links(self.root.as_fd(), path))
                .map(String::into_bytes)
                .or_else(|| Some(rustix::fs::readlinkat(fd, c"", Vec::new()).ok()?.into_bytes()))
                .unwrap_or_default()
        } else {
            Vec::new()
        };
        let mtime = (stat.st_mtime, stat.st_mtime_nsec as u32);
        Ok(PathStat { size: stat.st_size.unsigned_abs(), mode: stat.st_mode, mtime, target })
    }

    /// The directory at `path`, links followed. ENOENT, ENOTDIR; EPERM where it is the kernel's.
    pub fn place(&self, path: &[u8]) -> Result<Place> {
        let fail = |errno| failed("open", path, errno);
        let fd = self.directory(path).map_err(fail)?;
        let flags = rustix::fs::fstatvfs(&fd).map_err(fail)?.f_flag;
        let mount = |fd: &OwnedFd| {
            rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|found| found.stx_mnt_id)
        };
        let in_rootfs = mount(&fd).map_err(fail)? == mount(&self.root).map_err(fail)?;
        Ok(Place { read_only: flags.contains(StatVfsMountFlags::RDONLY), in_rootfs })
    }

    /// A directory to put things into.
    pub(super) fn directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let fd = self.open(path, OFlags::PATH | OFlags::DIRECTORY)?;
        if is_kernels(&fd)? {
            return Err(Errno::PERM);
        }
        Ok(fd)
    }

    /// An `O_PATH` descriptor of what is at `path`; of the kernel's file systems only the top is there.
    pub(super) fn find(&self, path: &[u8]) -> Result<(OwnedFd, Stat)> {
        let found = || {
            let fd = self.open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
            let stat = rustix::fs::fstat(&fd)?;
            if is_kernels(&fd)? && !is_mount_root(&fd)? {
                return Err(Errno::NOENT);
            }
            Ok((fd, stat))
        };
        found().map_err(|errno| failed("lstat", path, errno))
    }
}

/// Whether `fd` lies in one of the kernel's own file systems.
pub(super) fn is_kernels(fd: impl AsFd) -> rustix::io::Result<bool> {
    let kind = rustix::fs::fstatfs(fd)?.f_type as u64;
    Ok(KERNEL.contains(&(kind & 0xffff_ffff)))
}

fn is_mount_root(fd: &OwnedFd) -> rustix::io::Result<bool> {
    const MOUNT_ROOT: u64 = 0x2000;
    let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    let attributes: u64 = found.stx_attributes.bits();
    let directory = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
    Ok(directory && attributes & MOUNT_ROOT != 0)
}

/// Open for reading what `path` (an `O_PATH` descriptor) is known to be: a regular file or directory.
pub(super) fn reopen(path: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let name = format!("/proc/self/fd/{}", path.as_raw_fd());
    rustix::fs::open(name, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty())
}
