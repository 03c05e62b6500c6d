//! What a new keeper sets up once: its lock, its socket, its own view of mounts, its limits.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{flock, FlockOperation, Mode, OFlags};
use rustix::mount::{mount_change, MountPropagationFlags};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

use super::connection::listen_at;
use crate::cgroup::{favor_dynamic_modifications, Hierarchies, Version};
use crate::error::{Error, Result};
use crate::sys::supervise::{ignore_signal, keep_from_children, unshare_mounts};

/// Set to `0`, the keeper does not mount the hierarchy that makes moves between cgroups fast (and forks a
/// little slower).
const FAVOR_VARIABLE: &str = "PROA_FAVORDYNMODS";

/// Take the lock; `EADDRINUSE` where another keeper has it.
pub fn take_lock(exec_root: &Path) -> Result<OwnedFd> {
    let path = exec_root.join("keeper.lock");
    let failed = |error| Error::os("lock", path.to_string_lossy(), error);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let lock = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::AGAIN) => Err(failed(rustix::io::Errno::ADDRINUSE)),
        Err(error) => Err(failed(error)),
    }
}

/// Everything that comes before the socket; what an older keeper has set up survives its execve.
pub fn set_up(exec_root: &Path) -> Result<OwnedFd> {
    own_mounts()?;
    if std::env::var(FAVOR_VARIABLE).map_or(true, |value| value != "0") {
        favor(exec_root);
    }
    resist_oom();
    listen_at(&exec_root.join("keeper.sock"))
}

/// What execve resets or a new binary may do differently.
pub fn set_up_process() {
    for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT] {
        ignore_signal(signal);
    }
    // Ignored: only a name for ps.
    let _ = rustix::thread::set_name(c"proa-keeper");
    let limit = getrlimit(Resource::Nofile);
    // Ignored: a few fds per container, so the soft limit is felt at some hundred of them only.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    leave_interpreter_out_of_children();
}

/// No child runs Python, so the pages that the interpreter's library dirtied (half of all) need not be copied
/// at each start.
fn leave_interpreter_out_of_children() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (address, length) in maps.lines().filter_map(interpreter_data) {
        // Ignored: it only makes forks slower.
        let _ = keep_from_children(address, length);
    }
}

/// Address and length of a private data mapping of libpython, out of a line of /proc/self/maps.
fn interpreter_data(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions, path) = (fields.next()?, fields.next()?, fields.nth(3)?);
    let file = path.rsplit('/').next()?;
    if !file.starts_with("libpython") || permissions.contains('x') || !permissions.ends_with('p') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end - start))
}

/// A mount namespace of our own: what we mount stays here, what the host mounts still arrives.
fn own_mounts() -> Result<()> {
    unshare_mounts().map_err(|error| Error::os("unshare", "mount namespace", error))?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|error| Error::os("make slave", "/", error))
}

/// Where all is v2, every process is born in its group, nothing is moved, and a v1 hierarchy would only show in
/// every `/proc/PID/cgroup`.
fn favor(exec_root: &Path) {
    if Hierarchies::probe().is_ok_and(|host| host.version() == Version::V2) {
        return;
    }
    let directory = exec_root.join("cgroup");
    let name = format!("proa-{}", std::process::id());
    let result = std::fs::create_dir_all(&directory)
        .map_err(|error| Error::os("mkdir", directory.to_string_lossy(), error))
        .and_then(|()| favor_dynamic_modifications(&directory, &name));
    match result {
        Ok(true) => {}
        Ok(false) => {
            report!("this kernel has no favordynmods: a start waits for an RCU grace period");
        }
        Err(error) => report!("{error}: a start may wait for an RCU grace period"),
    }
}

/// Without the keeper no container lives on, so the kernel should look elsewhere first.
fn resist_oom() {
    // Ignored: it takes CAP_SYS_RESOURCE.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
}

#[cfg(test)]
mod tests {
    use super::interpreter_data;

    #[test]
    fn only_the_interpreters_own_data_is_left_out() {
        let data = "7fe7afc44000-7fe7afd78000 rw-p 00500000 fe:00 42  /usr/lib/libpython3.11.so.1.0";
        assert_eq!(interpreter_data(data), Some((0x7fe7_afc4_4000, 0x13_4000)));
        for other in [
            "7fe7afc44000-7fe7afd78000 r-xp 00500000 fe:00 42  /usr/lib/libpython3.11.so.1.0",
            "7fe7afc44000-7fe7afd78000 rw-p 00500000 fe:00 42  /usr/lib/libc.so.6",
            "7fe7afc44000-7fe7afd78000 rw-p 00000000 00:00 0",
            "7fe7afc44000-7fe7afd78000 rw-p 00000000 00:00 0  [heap]",
        ] {
            assert_eq!(interpreter_data(other), None, "{other}");
        }
    }
}
