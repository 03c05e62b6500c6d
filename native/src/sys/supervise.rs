//! What the keeper needs of the kernel and safe crates do not offer: any signal by number, signals ignored
//! for good, and descriptors that are known by number across an execve.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// What libc's 0 and -1 stand for; the errno is the calling thread's last one.
fn succeeded(result: i32) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

/// Ignore a signal for good. <https://man7.org/linux/man-pages/man2/sigaction.2.html>
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN installs no handler, so no code runs in a signal context.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Send any signal, real-time ones too. <https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html>
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let no_info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed; nothing else is a pointer.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) };
    succeeded(i32::from(result != 0))
}

/// Own a descriptor that was handed to this process by number; `None` where it is not open.
///
/// Each number may be adopted once, by whoever was told of it: a second owner would close it twice.
#[must_use]
pub fn adopt(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD touches no memory.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and by the contract above nothing else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Bytes, as the kernel counts them, that the other side of a unix socket has not read; none where that is not known.
/// <https://man7.org/linux/man-pages/man7/unix.7.html>
#[must_use]
pub fn unread(socket: BorrowedFd<'_>) -> i32 {
    let mut count = 0;
    // SAFETY: SIOCOUTQ (TIOCOUTQ) stores one int, at the address of one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 {
        count
    } else {
        0
    }
}

/// A mount namespace of this process's own. <https://man7.org/linux/man-pages/man2/unshare.2.html>
pub fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: only the view of mounts changes; no memory or descriptor is unshared. CLONE_NEWNS takes
    // the fs context (cwd, umask) apart from other threads, of which the keeper has none.
    succeeded(unsafe { libc::unshare(libc::CLONE_NEWNS) })
}

/// Close a descriptor known by number at the next execve.
/// <https://man7.org/linux/man-pages/man2/fcntl.2.html>
pub fn close_on_exec(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: F_SETFD changes one flag of a descriptor and touches no memory.
    succeeded(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })
}

/// Leave a mapping out of every later fork: a child that touches it is killed.
/// <https://man7.org/linux/man-pages/man2/madvise.2.html>
pub fn keep_from_children(address: usize, length: usize) -> Result<(), Errno> {
    // SAFETY: MADV_DONTFORK changes no byte of this process; the address is only a number to the kernel.
    succeeded(unsafe { libc::madvise(address as *mut libc::c_void, length, libc::MADV_DONTFORK) })
}

/// A working directory, root and umask of the calling thread's own.
/// <https://man7.org/linux/man-pages/man2/unshare.2.html>
pub fn own_working_directory() -> Result<(), Errno> {
    // SAFETY: CLONE_FS takes only the fs context apart; no memory or descriptor is unshared.
    succeeded(unsafe { libc::unshare(libc::CLONE_FS) })
}

/// A table of descriptors of the calling thread's own, with nothing in it but the standard streams and `kept`, which
/// are the thread's there, in the same order; whoever owns them in the other table closes them in that one. What the
/// thread opens no later clone of another thread copies, so that its close is the last one.
///
/// Called first thing in a thread that owns no other descriptor, and is given none later but by messages.
/// <https://man7.org/linux/man-pages/man2/close_range.2.html>
pub fn own_descriptors<const N: usize>(kept: [RawFd; N]) -> Result<[OwnedFd; N], Errno> {
    let mut sorted = kept.map(|number| number as u32);
    sorted.sort_unstable();
    // The highest range first: what it closes is not even copied.
    close_range(sorted.last().map_or(3, |last| last + 1), u32::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    let mut first = 3;
    for number in sorted {
        if first < number {
            close_range(first, number - 1, 0)?;
        }
        first = number + 1;
    }
    // SAFETY: they are open in this table, which is new, so that nothing else can own them in it.
    Ok(kept.map(|number| unsafe { OwnedFd::from_raw_fd(number) }))
}

fn close_range(first: u32, last: u32, flags: u32) -> Result<(), Errno> {
    // SAFETY: no pointers; by the contract above nothing in this thread owns one of these.
    succeeded(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } as i32)
}
