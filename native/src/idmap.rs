//! User namespaces as id maps: written to a child's, or kept by themselves for idmapped mounts.
//!
//! Source: <https://man7.org/linux/man-pages/man7/user_namespaces.7.html>.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::c_void;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::plan::{IdMap, UserNamespace};
use crate::sys::{self, Clone, Stack};

/// The id outside that `id` inside maps to.
#[must_use]
pub fn to_host(map: &[IdMap], id: u32) -> Option<u32> {
    let covers = |range: &&IdMap| id >= range.container_id && id - range.container_id < range.size;
    let range = map.iter().find(covers)?;
    range.host_id.checked_add(id - range.container_id)
}

/// The id inside that `id` outside is.
#[must_use]
pub fn from_host(map: &[IdMap], id: u32) -> Option<u32> {
    let covers = |range: &&IdMap| id >= range.host_id && id - range.host_id < range.size;
    let range = map.iter().find(covers)?;
    range.container_id.checked_add(id - range.host_id)
}

/// Writes both maps of the user namespace that `pid` is in. Once per namespace.
pub fn write_maps(pid: i32, user: &UserNamespace) -> Result<()> {
    for (file, map) in [("uid_map", &user.uid_map), ("gid_map", &user.gid_map)] {
        let path = format!("/proc/{pid}/{file}");
        let text = lines(map);
        fs::write(&path, &text).map_err(|e| Error::os(format!("write {} to", text.trim_end()), path, e))?;
    }
    Ok(())
}

fn lines(map: &[IdMap]) -> String {
    map.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {} {}", range.container_id, range.host_id, range.size);
        text
    })
}

/// Namespaces that only carry a map, one per distinct map, for the life of the process.
#[derive(Debug, Default)]
pub struct IdMaps {
    made: RefCell<Vec<(UserNamespace, Arc<OwnedFd>)>>,
}

impl IdMaps {
    /// The namespace of these maps, made at its first use.
    pub fn get(&self, user: &UserNamespace) -> Result<Arc<OwnedFd>> {
        if let Some((_, fd)) = self.made.borrow().iter().find(|(maps, _)| maps == user) {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(make(user)?);
        self.made.borrow_mut().push((user.clone(), Arc::clone(&fd)));
        Ok(fd)
    }
}

/// A user namespace without processes: its first child lives until the maps are written.
pub(crate) fn make(user: &UserNamespace) -> Result<OwnedFd> {
    use rustix::process::{pidfd_send_signal, waitid, Signal, WaitId, WaitIdOptions};
    let stack = Stack::new().map_err(|e| Error::os("map", "a stack", e))?;
    let how = Clone { namespaces: libc::CLONE_NEWUSER, shared_memory: false, cgroup: None };
    // SAFETY: `idle` uses neither memory nor data; the child is reaped below, before the stack goes.
    let (pid, pidfd) = unsafe { sys::clone3(&how, &stack, idle, std::ptr::null()) }
        .map_err(|e| Error::os("clone", "user namespace", e))?;
    let path = format!("/proc/{pid}/ns/user");
    let opened = write_maps(pid, user).and_then(|()| {
        fs::File::open(&path).map(OwnedFd::from).map_err(|e| Error::os("open", path.as_str(), e))
    });
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)), WaitIdOptions::EXITED);
    opened
}

extern "C" fn idle(_: *const c_void) -> ! {
    loop {
        let _ = sys::wait_signal(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: [IdMap; 2] = [
        IdMap { container_id: 0, host_id: 100_000, size: 1000 },
        IdMap { container_id: 1000, host_id: 5, size: 1 },
    ];

    #[test]
    fn ids_map_by_range() {
        assert_eq!(to_host(&MAP, 0), Some(100_000));
        assert_eq!(to_host(&MAP, 999), Some(100_999));
        assert_eq!(to_host(&MAP, 1000), Some(5));
        assert_eq!(to_host(&MAP, 1001), None);
        assert_eq!(from_host(&MAP, 100_999), Some(999));
        assert_eq!(from_host(&MAP, 5), Some(1000));
        assert_eq!(from_host(&MAP, 101_000), None);
    }

    #[test]
    fn maps_are_written_one_range_a_line() {
        assert_eq!(lines(&MAP), "0 100000 1000\n1000 5 1\n");
    }

    #[test]
    fn one_namespace_serves_equal_maps() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: id maps need root");
            return;
        }
        let maps = IdMaps::default();
        let user = UserNamespace { uid_map: MAP.to_vec(), gid_map: MAP.to_vec() };
        let first = maps.get(&user).expect("made");
        let second = maps.get(&user).expect("kept");
        assert!(Arc::ptr_eq(&first, &second));
    }
}
