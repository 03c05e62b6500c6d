//! What the calling process may do: capabilities, ids, limits, the seccomp filter.

use std::ffi::{c_int, CStr};

use rustix::io::{Errno, Result};

use super::{check, syscall};

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
