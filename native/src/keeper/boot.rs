//! What a new keeper sets up once: its lock, its socket, its own view of mounts, its limits.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{flock, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{mount_change, MountPropagationFlags};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

use super::connection::listen_at;
use crate::cgroup::{favor_dynamic_modifications, Hierarchies, Version};
use crate::error::{Error, Result};
use crate::sys::supervise::{ignore_signal, keep_from_children, unshare_mounts};
use crate::sys::thread_pages;

/// Set to `0`, the keeper does not mount the hierarchy that makes moves between cgroups fast (and forks a
/// little slower).
const FAVOR_VARIABLE: &str = "PROA_FAVORDYNMODS";

/// The least that Python's allocator maps at a time, of all its versions.
const ARENA: usize = 256 << 10;

/// How long an earlier keeper's lock may outlive it, and how long to wait between two looks.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// Take the lock; `EADDRINUSE` where another keeper keeps it.
///
/// Whoever starts one has found none that listens. But one that was killed leaves the lock for a moment to the child that
/// it was starting, which has a copy of its descriptors until it executes or is killed in its turn. flock(2) knows no
/// timeout, so the lock is looked at again.
pub fn take_lock(exec_root: &Path) -> Result<OwnedFd> {
    let path = exec_root.join("keeper.lock");
    let failed = |error| Error::os("lock", path.to_string_lossy(), error);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let lock = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
    let until = Instant::now() + GONE_WITHIN;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::AGAIN) if Instant::now() < until => std::thread::sleep(LOOK),
            Err(Errno::AGAIN) => return Err(failed(Errno::ADDRINUSE)),
            Err(error) => return Err(failed(error)),
        }
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

/// No child runs Python, so the pages that the interpreter has written (most of all) need not be copied at each
/// start.
fn leave_interpreter_out_of_children() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let here = leave_interpreter_out_of_children as *const () as usize;
    for (start, end) in interpreter_memory(&maps, here, thread_pages()) {
        // Ignored: it only makes forks slower.
        let _ = keep_from_children(start, end - start);
    }
}

/// The interpreter's own memory, out of /proc/self/maps: the data of the executable and of libpython, and the heap
/// that Python maps for itself. Not the image that holds the code at `here`, nor the pages of `thread`.
fn interpreter_memory(maps: &str, here: usize, thread: (usize, usize)) -> Vec<(usize, usize)> {
    let mappings: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::parse).collect();
    let own = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&here));
    let (Some(own), Some(executable)) = (own, mappings.first()) else { return Vec::new() };
    let mut found = Vec::new();
    let (mut image, mut reached) = (executable, executable.start);
    for mapping in &mappings {
        // Zeroed data lies right behind its image's.
        if !mapping.is_anonymous() || mapping.start != reached {
            image = mapping;
        }
        reached = mapping.end;
        let of_interpreter = image.inode == executable.inode || image.is_library_of_python();
        let of_heap = image.is_anonymous() && mapping.end - mapping.start >= ARENA;
        let in_use = image.inode == own.inode || (mapping.start < thread.1 && thread.0 < mapping.end);
        if mapping.is_data() && !in_use && (of_interpreter || of_heap) {
            found.push((mapping.start, mapping.end));
        }
    }
    found
}

/// A line of /proc/self/maps.
struct Mapping<'a> {
    start: usize,
    end: usize,
    permissions: &'a str,
    inode: &'a str,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let inode = fields.nth(2)?;
        let path = fields.next().unwrap_or_default();
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        Some(Self { start, end, permissions, inode, path })
    }

    fn is_anonymous(&self) -> bool {
        self.inode == "0" && self.path.is_empty()
    }

    fn is_library_of_python(&self) -> bool {
        self.path.rsplit('/').next().is_some_and(|file| file.starts_with("libpython"))
    }

    fn is_data(&self) -> bool {
        !self.permissions.contains('x') && self.permissions.ends_with('p')
    }
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
    use super::interpreter_memory;

    const MAPS: &str = "\
00400000-0041f000 r--p 00000000 fe:00 7     /usr/bin/python3.11
0041f000-00946000 r-xp 0001f000 fe:00 7     /usr/bin/python3.11
00946000-00a85000 rw-p 00545000 fe:00 7     /usr/bin/python3.11
00a85000-00aca000 rw-p 00000000 00:00 0
20f20000-20fbd000 rw-p 00000000 00:00 0     [heap]
7fa838000000-7fa8380eb000 r--p 00000000 fe:00 42     /lib/proa_native.so
7fa8380eb000-7fa83855c000 r-xp 000eb000 fe:00 42     /lib/proa_native.so
7fa838571000-7fa838573000 rw-p 00571000 fe:00 42     /lib/proa_native.so
7fa838618000-7fa838628000 rw-p 00000000 00:00 0
7fa838651000-7fa8388b7000 rw-p 00000000 00:00 0
7fa83890e000-7fa838a8c000 rw-p 00000000 00:00 0
7fa838ae3000-7fa838ae5000 rw-p 001d3000 fe:00 9     /lib/libc.so.6
7fa838af0000-7fa838b00000 r-xp 00500000 fe:00 8     /lib/libpython3.11.so.1.0
7fa838b00000-7fa838c00000 rw-p 00600000 fe:00 8     /lib/libpython3.11.so.1.0
7fffa2777000-7fffa2998000 rw-p 00000000 00:00 0     [stack]
";
    const THREAD: (usize, usize) = (0x7fa8_3890_e000, 0x7fa8_3891_0000);

    #[test]
    fn the_interpreters_own_memory_is_left_out() {
        let found = interpreter_memory(MAPS, 0x7fa8_3810_0000, THREAD);
        let wanted = [
            (0x40_0000, 0x41_f000),
            (0x94_6000, 0xa8_5000),
            (0xa8_5000, 0xac_a000),
            (0x7fa8_3865_1000, 0x7fa8_388b_7000),
            (0x7fa8_38b0_0000, 0x7fa8_38c0_0000),
        ];
        assert_eq!(found.iter().filter(|range| !wanted.contains(range)).count(), 0, "{found:x?}");
        assert!(wanted[1..].iter().all(|range| found.contains(range)), "{found:x?}");
    }

    #[test]
    fn a_program_that_is_the_keeper_itself_keeps_its_data() {
        let found = interpreter_memory(MAPS, 0x50_0000, THREAD);
        assert!(found.iter().all(|(start, _)| *start > 0x1000_0000), "{found:x?}");
    }
}
