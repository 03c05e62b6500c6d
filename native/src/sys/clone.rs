//! Making a process, and making it another program.

use std::ffi::{c_int, c_void, CStr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, Result};

use super::{check, syscall};

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
