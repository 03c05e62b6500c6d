//! Kills for want of memory: how many there were, and a descriptor that tells of the next.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::{openat, statat, AtFlags, Mode, OFlags};

use super::group::Group;
use super::hierarchy::subdirectories;
use super::parent::{read_at, write_at};
use crate::error::{Error, Result};

const V1_FILE: &str = "memory.oom_control";
const V2_FILE: &str = "memory.events";

/// Announces memory trouble of a group. Readiness is a hint: compare [`Group::oom_kills`] to be sure.
#[derive(Debug)]
pub struct OomEvents {
    fd: OwnedFd,
    priority: bool,
}

impl OomEvents {
    /// Whether to wait for `EPOLLPRI` (v2: a changed file) or for `EPOLLIN` (v1: an eventfd).
    #[must_use]
    pub fn is_priority(&self) -> bool {
        self.priority
    }

    /// Make it not ready until the next event.
    pub fn drain(&self) {
        let mut buffer = [0u8; 1024];
        if self.priority {
            // kernfs: a read from the start re-arms poll.
            let _ = rustix::io::pread(&self.fd, &mut buffer, 0);
        } else {
            let _ = rustix::io::read(&self.fd, &mut buffer[..8]);
        }
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Group {
    /// Processes that the kernel killed in this group for want of memory, so far. 0 without a memory controller.
    ///
    /// Read it before the group is removed: the count goes with it.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let Some((index, unified)) = self.parent.host.find("memory") else {
            return 0;
        };
        let Ok(directory) = self.parent.directory(index) else {
            return 0;
        };
        let file = if unified { V2_FILE } else { V1_FILE };
        let own = read_at(directory, &format!("{}/{file}", self.name)).map_or(0, |text| kills(&text));
        // v1 counts in the group of the victim alone; v2 counts in those above, too.
        let nested =
            || statat(directory, self.name.as_str(), AtFlags::empty()).is_ok_and(|stat| stat.st_nlink > 2);
        if unified || !nested() {
            return own;
        }
        own + kills_below(Path::new(&self.parent.shown(index, &self.name)))
    }

    /// A descriptor for the event loop, `None` without a memory controller.
    pub fn oom_events(&self) -> Result<Option<OomEvents>> {
        let Some((index, unified)) = self.parent.host.find("memory") else {
            return Ok(None);
        };
        let file = format!("{}/{}", self.name, if unified { V2_FILE } else { V1_FILE });
        let directory = self.parent.directory(index)?;
        let failed = |operation: &'static str| {
            let shown = self.parent.shown(index, &file);
            move |error| Error::os(operation, shown, error)
        };
        let watched = openat(directory, file.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open"))?;
        if unified {
            let events = OomEvents { fd: watched, priority: true };
            events.drain();
            return Ok(Some(events));
        }
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed("eventfd for"))?;
        let line = format!("{} {}", fd.as_raw_fd(), watched.as_raw_fd());
        write_at(directory, &format!("{}/cgroup.event_control", self.name), &line)
            .map_err(failed("watch"))?;
        Ok(Some(OomEvents { fd, priority: false }))
    }
}

/// `oom_kill 3` is a line of both files.
fn kills(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn kills_below(directory: &Path) -> u64 {
    let children = subdirectories(directory).unwrap_or_default();
    children
        .iter()
        .map(|child| {
            let path = directory.join(child);
            let own = std::fs::read_to_string(path.join(V1_FILE)).map_or(0, |text| kills(&text));
            own + kills_below(&path)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::kills;

    #[test]
    fn kills_are_counted_in_both_dialects() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(kills("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(kills(""), 0);
    }
}
