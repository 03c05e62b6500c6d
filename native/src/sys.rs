//! System calls that rustix does not have, one thin function each.
//!
//! None of these allocates, locks or touches thread-local storage (errno included), so that the
//! child between clone3 and execve may call them while it shares the parent's memory. rustix's own
//! Linux backend has the same property on the two architectures known here.

#![allow(unsafe_code)]

pub mod bpf;
pub mod loop_device;
pub mod quota;
pub mod supervise;

use std::ffi::{c_int, c_void, CStr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};

/// One system call by number. Its arguments stay in registers: copying them could call memcpy, which the
/// built-in init has unmapped.
///
/// # Safety
/// The arguments must be what the call expects: pointers valid for what the kernel reads and writes.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::many_single_char_names)] // they are numbered by letters
unsafe fn syscall(number: i64, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers rax, rcx and r11 only; memory is as the caller vouches.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// One system call by number.
///
/// # Safety
/// The arguments must be what the call expects: pointers valid for what the kernel reads and writes.
#[cfg(target_arch = "aarch64")]
#[allow(clippy::many_single_char_names)] // they are numbered by letters
unsafe fn syscall(number: i64, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers x0 only; memory is as the caller vouches.
    unsafe {
        std::arch::asm!(
            "svc 0",
            inlateout("x0") a as isize => result,
            in("x8") number, in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    result
}

/// The kernel's return value as a result.
fn check(value: isize) -> Result<usize> {
    if (-4095..0).contains(&value) {
        Err(Errno::from_raw_os_error(-value as i32))
    } else {
        Ok(value as usize)
    }
}

fn check_fd(value: isize) -> Result<OwnedFd> {
    // SAFETY: only called with the result of a call that returns a new descriptor.
    check(value).map(|raw| unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

// ---- processes ----------------------------------------------------------------------------------

/// `struct clone_args`, <https://man7.org/linux/man-pages/man2/clone.2.html>.
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Memory for a child's stack, with an inaccessible page below it.
#[derive(Debug)]
pub struct Stack {
    base: *mut c_void,
}

impl Stack {
    const SIZE: usize = 96 * 1024;
    const GUARD: usize = 16 * 1024;

    /// <https://man7.org/linux/man-pages/man2/mmap.2.html>
    pub fn new() -> std::io::Result<Self> {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), Self::SIZE, prot, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let stack = Self { base };
        // SAFETY: the lowest pages of the mapping just made, which nothing uses yet.
        if unsafe { libc::mprotect(base, Self::GUARD, libc::PROT_NONE) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(stack)
    }

    /// First and last address, the latter exclusive.
    #[must_use]
    pub fn range(&self) -> (usize, usize) {
        (self.base as usize, self.base as usize + Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; its owner keeps it until no child runs on it.
        unsafe { libc::munmap(self.base, Self::SIZE) };
    }
}

/// How [`clone3`] makes the child.
#[derive(Debug)]
pub struct Clone<'a> {
    /// `CLONE_NEW*`.
    pub namespaces: c_int,
    /// Share the caller's memory instead of copying it.
    pub shared_memory: bool,
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Makes a child that runs `entry(data)` on `stack`; returns its pid and pidfd.
/// <https://man7.org/linux/man-pages/man2/clone.2.html>
///
/// # Safety
/// With `shared_memory` the child runs beside the caller: `entry` may use only `data`, what is read-only,
/// and calls that touch no thread-local storage; `data` and `stack` must live until the child has
/// executed a program or is gone.
pub unsafe fn clone3(
    how: &Clone<'_>,
    stack: &Stack,
    entry: extern "C" fn(*const c_void) -> !,
    data: *const c_void,
) -> Result<(i32, OwnedFd)> {
    let mut pidfd: c_int = -1;
    let mut args = CloneArgs {
        flags: how.namespaces as u64 | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.base as u64,
        stack_size: Stack::SIZE as u64,
        ..CloneArgs::default()
    };
    if how.shared_memory {
        args.flags |= libc::CLONE_VM as u64;
    }
    if let Some(fd) = how.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: args is a whole clone_args; the child goes on at `entry` on its own stack, as the caller vouches.
    let pid = check(unsafe { clone_to(&args, entry, data) })?;
    // SAFETY: CLONE_PIDFD stored a new descriptor there.
    Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

#[cfg(target_arch = "x86_64")]
unsafe fn clone_to(args: &CloneArgs, entry: extern "C" fn(*const c_void) -> !, data: *const c_void) -> isize {
    let result: isize;
    // SAFETY: in the parent the call clobbers rax, rcx and r11; the child never comes back here.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "and rsp, -16",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") std::ptr::from_ref(args), in("rsi") size_of::<CloneArgs>(),
            in("r12") data, in("r13") entry,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn clone_to(args: &CloneArgs, entry: extern "C" fn(*const c_void) -> !, data: *const c_void) -> isize {
    let result: isize;
    // SAFETY: in the parent the call clobbers x0; the child never comes back here.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk 1",
            "2:",
            inlateout("x0") std::ptr::from_ref(args) => result,
            in("x1") size_of::<CloneArgs>(), in("x8") libc::SYS_clone3,
            in("x20") data, in("x21") entry,
        );
    }
    result
}

/// Forks: 0 in the child. Plain `clone`, which seccomp profiles allow where they refuse clone3.
/// <https://man7.org/linux/man-pages/man2/clone.2.html>
///
/// # Safety
/// The caller must have its memory to itself, and the child may use nothing that another thread may hold locked.
pub unsafe fn fork() -> Result<i32> {
    // SAFETY: no pointers; both go on from here in memory of their own.
    check(unsafe { syscall(libc::SYS_clone, libc::SIGCHLD as usize, 0, 0, 0, 0, 0) }).map(|pid| pid as i32)
}

/// As [`fork`], the new process being the caller's sibling: a child of the caller's parent.
/// <https://man7.org/linux/man-pages/man2/clone.2.html>
///
/// # Safety
/// As for [`fork`].
pub unsafe fn fork_sibling() -> Result<i32> {
    let flags = (libc::CLONE_PARENT | libc::SIGCHLD) as usize;
    // SAFETY: no pointers; both go on from here in memory of their own.
    check(unsafe { syscall(libc::SYS_clone, flags, 0, 0, 0, 0, 0) }).map(|pid| pid as i32)
}

/// <https://man7.org/linux/man-pages/man2/execve.2.html>; returns only to fail.
///
/// # Safety
/// Both arrays end with a null pointer and point to C strings.
#[must_use]
pub unsafe fn execve(path: &CStr, argv: *const *const i8, envp: *const *const i8) -> Errno {
    // SAFETY: as the caller vouches.
    let value =
        unsafe { syscall(libc::SYS_execve, path.as_ptr() as usize, argv as usize, envp as usize, 0, 0, 0) };
    Errno::from_raw_os_error(-value as i32)
}

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

// ---- privileges ---------------------------------------------------------------------------------

/// <https://man7.org/linux/man-pages/man2/prctl.2.html>, for options that take plain numbers.
pub fn prctl(option: c_int, value: usize, third: usize) -> Result<usize> {
    // SAFETY: callers pass options without pointer arguments.
    check(unsafe { syscall(libc::SYS_prctl, option as usize, value, third, 0, 0, 0) })
}

/// Names the calling process, for `ps`. <https://man7.org/linux/man-pages/man2/PR_SET_NAME.2const.html>
pub fn set_name(name: &CStr) {
    // SAFETY: a C string that the kernel reads up to 16 bytes of.
    unsafe { syscall(libc::SYS_prctl, libc::PR_SET_NAME as usize, name.as_ptr() as usize, 0, 0, 0, 0) };
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The caller's (effective, permitted) sets. <https://man7.org/linux/man-pages/man2/capget.2.html>
pub fn capabilities() -> Result<(u64, u64)> {
    let header = [CAPABILITY_VERSION_3, 0];
    let mut data = [0u32; 6];
    // SAFETY: version 3 has a header of two words and two sets of three.
    check(unsafe {
        syscall(libc::SYS_capget, header.as_ptr() as usize, data.as_mut_ptr() as usize, 0, 0, 0, 0)
    })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok((join(data[0], data[3]), join(data[1], data[4])))
}

/// Sets all three sets of the caller. <https://man7.org/linux/man-pages/man2/capset.2.html>
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = [CAPABILITY_VERSION_3, 0];
    let high = |set: u64| (set >> 32) as u32;
    let data = [
        effective as u32,
        permitted as u32,
        inheritable as u32,
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    // SAFETY: version 3 has a header of two words and two sets of three.
    check(unsafe { syscall(libc::SYS_capset, header.as_ptr() as usize, data.as_ptr() as usize, 0, 0, 0, 0) })
        .map(drop)
}

/// Installs a classic BPF program of 8-byte instructions on the calling thread.
/// <https://man7.org/linux/man-pages/man2/seccomp.2.html>
pub fn install_seccomp(program: &[u8]) -> Result<()> {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    const SECCOMP_FILTER_FLAG_SPEC_ALLOW: usize = 4;
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const u8,
    }
    let length = u16::try_from(program.len() / 8).map_err(|_| Errno::INVAL)?;
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: a sock_fprog whose instructions are as many as it says; the kernel copies byte-wise.
    check(unsafe {
        syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program as usize,
            0,
            0,
            0,
        )
    })
    .map(drop)
}

/// Sets a limit of the calling process; returns the one before. `None` only asks.
/// <https://man7.org/linux/man-pages/man2/prlimit.2.html>
pub fn prlimit(resource: u32, new: Option<(u64, u64)>) -> Result<(u64, u64)> {
    let new = new.map(|(soft, hard)| [soft, hard]);
    let mut old = [0u64; 2];
    let new_pointer = new.as_ref().map_or(0, |pair| pair.as_ptr() as usize);
    // SAFETY: both are a struct rlimit64, or null.
    check(unsafe {
        syscall(libc::SYS_prlimit64, 0, resource as usize, new_pointer, old.as_mut_ptr() as usize, 0, 0)
    })?;
    Ok((old[0], old[1]))
}

/// <https://man7.org/linux/man-pages/man2/setresuid.2.html>
pub fn set_user(uid: u32) -> Result<()> {
    let uid = uid as usize;
    // SAFETY: no pointers.
    check(unsafe { syscall(libc::SYS_setresuid, uid, uid, uid, 0, 0, 0) }).map(drop)
}

/// <https://man7.org/linux/man-pages/man2/setresgid.2.html>
pub fn set_group(gid: u32) -> Result<()> {
    let gid = gid as usize;
    // SAFETY: no pointers.
    check(unsafe { syscall(libc::SYS_setresgid, gid, gid, gid, 0, 0, 0) }).map(drop)
}

/// <https://man7.org/linux/man-pages/man2/setgroups.2.html>
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length are of one slice of gid_t.
    check(unsafe { syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0) })
        .map(drop)
}

// ---- names and network --------------------------------------------------------------------------

/// <https://man7.org/linux/man-pages/man2/sethostname.2.html>
pub fn set_hostname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { syscall(libc::SYS_sethostname, name.as_ptr() as usize, name.len(), 0, 0, 0, 0) }).map(drop)
}

/// <https://man7.org/linux/man-pages/man2/setdomainname.2.html>
pub fn set_domainname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { syscall(libc::SYS_setdomainname, name.as_ptr() as usize, name.len(), 0, 0, 0, 0) })
        .map(drop)
}

/// Brings `lo` of the current network namespace up. <https://man7.org/linux/man-pages/man7/netdevice.7.html>
pub fn loopback_up() -> Result<()> {
    #[repr(C)]
    struct InterfaceFlags {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    let socket_kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize;
    // SAFETY: no pointers; returns a new descriptor.
    let socket =
        check_fd(unsafe { syscall(libc::SYS_socket, libc::AF_INET as usize, socket_kind, 0, 0, 0, 0) })?;
    let mut request =
        InterfaceFlags { name: [0; 16], flags: (libc::IFF_UP | libc::IFF_RUNNING) as u16, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq, which is 40 bytes.
    check(unsafe {
        syscall(
            libc::SYS_ioctl,
            socket.as_raw_fd() as usize,
            libc::SIOCSIFFLAGS as usize,
            &raw const request as usize,
            0,
            0,
            0,
        )
    })
    .map(drop)
}

// ---- mounts -------------------------------------------------------------------------------------

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
