//! What the calling process does to itself and to others: namespaces, signals, memory, descriptors, its end.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::io::Result;

use super::{capabilities, check, set_capabilities, syscall};

/// <https://man7.org/linux/man-pages/man2/setns.2.html>
pub fn setns(fd: BorrowedFd<'_>, kinds: c_int) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { syscall(libc::SYS_setns, fd.as_raw_fd() as usize, kinds as usize, 0, 0, 0, 0) }).map(drop)
}

/// <https://man7.org/linux/man-pages/man2/unshare.2.html>
pub fn unshare(kinds: c_int) -> Result<()> {
    // SAFETY: namespaces only; no memory of this process is unshared.
    check(unsafe { syscall(libc::SYS_unshare, kinds as usize, 0, 0, 0, 0, 0) }).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec.
/// <https://man7.org/linux/man-pages/man2/close_range.2.html>
pub fn cloexec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    // SAFETY: no pointers; descriptors stay open until execve.
    check(unsafe {
        syscall(libc::SYS_close_range, first as usize, u32::MAX as usize, CLOSE_RANGE_CLOEXEC, 0, 0, 0)
    })
    .map(drop)
}

/// Closes every descriptor from `first` to `last`, if there are such numbers.
/// <https://man7.org/linux/man-pages/man2/close_range.2.html>
///
/// # Safety
/// No owner of one of them runs in this process any more.
pub unsafe fn close_between(first: RawFd, last: RawFd) -> Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: as the caller vouches.
    check(unsafe { syscall(libc::SYS_close_range, first as usize, last as usize, 0, 0, 0, 0) }).map(drop)
}

/// The signals that are ignored, bit n - 1 for signal n.
/// <https://man7.org/linux/man-pages/man2/rt_sigaction.2.html>
#[must_use]
pub fn ignored_signals() -> u64 {
    let mut mask = 0;
    for signal in 1..=64usize {
        let mut action = [0u64; 4];
        // SAFETY: a kernel sigaction is at most 32 bytes.
        unsafe { syscall(libc::SYS_rt_sigaction, signal, 0, action.as_mut_ptr() as usize, 8, 0, 0) };
        if action[0] == libc::SIG_IGN as u64 {
            mask |= 1 << (signal - 1);
        }
    }
    mask
}

/// Default dispositions for the signals of a mask.
/// <https://man7.org/linux/man-pages/man2/rt_sigaction.2.html>
pub fn reset_signals(mask: u64) {
    let action = [0u64; 4]; // SIG_DFL, no flags, empty mask
    for signal in (1..=64usize).filter(|signal| mask & (1 << (signal - 1)) != 0) {
        // SAFETY: a zeroed kernel sigaction is at most 32 bytes.
        unsafe { syscall(libc::SYS_rt_sigaction, signal, action.as_ptr() as usize, 0, 8, 0, 0) };
    }
}

/// Blocks the signals of `mask` and no others (bit n - 1 is signal n); returns the mask before.
/// <https://man7.org/linux/man-pages/man2/rt_sigprocmask.2.html>
#[allow(clippy::must_use_candidate)]
pub fn set_signal_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: both point to the eight bytes of a kernel signal set.
    unsafe {
        syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK as usize,
            &raw const mask as usize,
            &raw mut before as usize,
            8,
            0,
            0,
        )
    };
    before
}

/// Waits for a blocked signal of `mask`; EINTR and EAGAIN come back as errors.
/// <https://man7.org/linux/man-pages/man2/rt_sigtimedwait.2.html>
pub fn wait_signal(mask: u64) -> Result<i32> {
    // SAFETY: the set is eight bytes; no siginfo, no timeout.
    check(unsafe { syscall(libc::SYS_rt_sigtimedwait, &raw const mask as usize, 0, 0, 8, 0, 0) })
        .map(|signal| signal as i32)
}

/// Sends a signal; `pid` as kill(2) has it (-1: all but the caller and pid 1).
/// <https://man7.org/linux/man-pages/man2/kill.2.html>
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { syscall(libc::SYS_kill, pid as isize as usize, signal as usize, 0, 0, 0, 0) }).map(drop)
}

/// Reaps a child, if one is dead: (pid, wait status). <https://man7.org/linux/man-pages/man2/wait4.2.html>
pub fn reap_any() -> Result<Option<(i32, i32)>> {
    let mut status: c_int = 0;
    // SAFETY: status is an int; no rusage.
    let pid = check(unsafe {
        syscall(libc::SYS_wait4, usize::MAX, &raw mut status as usize, libc::WNOHANG as usize, 0, 0, 0)
    })?;
    Ok((pid != 0).then_some((pid as i32, status)))
}

/// The pages around the calling thread's control block: the kernel goes on writing to the area that the C library
/// has registered in there, in a fork as well. <https://man7.org/linux/man-pages/man2/rseq.2.html>
#[must_use]
pub fn thread_pages() -> (usize, usize) {
    const AROUND: usize = 2 * 4096;
    let pointer: usize;
    // SAFETY: reads the thread pointer, in the way of each architecture's ABI.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, nomem, preserves_flags));
    }
    let page = pointer & !0xfff;
    (page.saturating_sub(AROUND), page + AROUND)
}

/// Sets the ids that files are accessed and made with, of the calling thread only; full effective
/// capabilities stay. <https://man7.org/linux/man-pages/man2/setfsuid.2.html>
pub fn set_file_ids(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no pointers; both calls return the id before and never fail.
    unsafe {
        syscall(libc::SYS_setfsgid, gid as usize, 0, 0, 0, 0, 0);
        syscall(libc::SYS_setfsuid, uid as usize, 0, 0, 0, 0, 0);
    }
    // Leaving id 0 has cost the effective capabilities that concern files.
    let (_, permitted) = capabilities()?;
    set_capabilities(permitted, permitted, 0)
}

/// Unmaps a range. <https://man7.org/linux/man-pages/man2/munmap.2.html>
///
/// # Safety
/// Nothing in the range is used any more by this process.
pub unsafe fn unmap(start: usize, end: usize) {
    // SAFETY: as the caller vouches.
    unsafe { syscall(libc::SYS_munmap, start, end.saturating_sub(start), 0, 0, 0, 0) };
}

/// Where the process is, as the kernel tells it: `(unreachable)/...` outside of its root.
/// <https://man7.org/linux/man-pages/man2/getcwd.2.html>
pub fn current_directory(buffer: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: pointer and length are of one slice; the kernel returns how much it wrote.
    let length =
        check(unsafe { syscall(libc::SYS_getcwd, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0, 0) })?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// Makes `number` a copy of `fd` that survives execve. <https://man7.org/linux/man-pages/man2/dup.2.html>
pub fn dup_to(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    let fd = fd.as_raw_fd() as usize;
    if fd == number as usize {
        // SAFETY: clears the flags of a descriptor; no pointers.
        return check(unsafe { syscall(libc::SYS_fcntl, fd, libc::F_SETFD as usize, 0, 0, 0, 0) }).map(drop);
    }
    // SAFETY: no pointers; what `number` was before is the caller's to give up.
    check(unsafe { syscall(libc::SYS_dup3, fd, number as usize, 0, 0, 0, 0) }).map(drop)
}

/// Closes every descriptor. <https://man7.org/linux/man-pages/man2/close_range.2.html>
///
/// # Safety
/// No owner of a descriptor runs in this process any more.
pub unsafe fn close_all() {
    // SAFETY: as the caller vouches.
    unsafe { syscall(libc::SYS_close_range, 0, u32::MAX as usize, 0, 0, 0, 0) };
}

/// Ends the process at once. <https://man7.org/linux/man-pages/man2/exit_group.2.html>
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: no pointers; does not return.
        unsafe { syscall(libc::SYS_exit_group, code as usize, 0, 0, 0, 0, 0) };
    }
}
