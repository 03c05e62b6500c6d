//! System calls that rustix does not have, one thin function each.
//!
//! None of these allocates, locks or touches thread-local storage (errno included), so that the
//! child between clone3 and execve may call them while it shares the parent's memory. rustix's own
//! Linux backend has the same property on the two architectures known here.

#![allow(unsafe_code)]

pub mod bpf;
pub mod clock;
mod clone;
pub mod datagrams;
pub mod loop_device;
mod mounts;
mod privileges;
mod process;
pub mod quota;
mod resolve;
pub mod supervise;
mod uts;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};

pub use clone::{clone3, execve, fork, fork_sibling, Clone, Stack};
pub use mounts::{
    mount_idmap, mount_setattr, MountAttributes, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY,
};
pub use privileges::{
    capabilities, install_seccomp, prctl, prlimit, set_capabilities, set_group, set_groups, set_name,
    set_user,
};
pub use process::{
    cloexec_from, close_all, close_between, current_directory, dup_to, exit, ignored_signals, kill, reap_any,
    reset_signals, set_file_ids, set_signal_mask, setns, thread_pages, unmap, unshare, wait_signal,
};
pub use resolve::open_resolved;
pub use uts::{loopback_up, set_domainname, set_hostname};

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
