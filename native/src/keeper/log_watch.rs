//! Who follows a log is told of what happens in its directory.
//!
//! One inotify instance for all of them, and a thread that waits for it from the first follower on: a user has
//! 128 instances (`fs.inotify.max_user_instances`), which root's other programs want too, while watches are
//! counted in tens of thousands. For the daemon alone: the keeper, which clones children, follows nothing.
//!
//! Source: inotify(7).

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::error::{Error, Result};

/// By watch descriptor, which directories share however many follow them.
type Followers = HashMap<i32, Vec<Arc<OwnedFd>>>;

#[derive(Debug)]
struct Hub {
    inotify: OwnedFd,
    followers: Mutex<Followers>,
}

static HUB: Mutex<Option<Arc<Hub>>> = Mutex::new(None);

impl Hub {
    /// The one of this process.
    fn get() -> Result<Arc<Self>> {
        let mut hub = HUB.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = &*hub {
            return Ok(Arc::clone(hub));
        }
        let inotify =
            inotify::init(CreateFlags::CLOEXEC).map_err(|error| Error::os("create", "inotify", error))?;
        let new = Arc::new(Self { inotify, followers: Mutex::default() });
        let waiting = Arc::clone(&new);
        std::thread::Builder::new()
            .name("proa-logs".into())
            .spawn(move || waiting.wait())
            .map_err(|error| Error::os("start a thread for", "logs", error))?;
        *hub = Some(Arc::clone(&new));
        Ok(new)
    }

    fn lock(&self) -> MutexGuard<'_, Followers> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tell whom each event is for; a directory that is gone is one. For ever.
    fn wait(&self) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => self.tell(event.wd()),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// A negative number is of no directory: events were lost, and everybody looks.
    fn tell(&self, number: i32) {
        let followers = self.lock();
        let one = followers.get(&number).into_iter();
        let all = followers.values().filter(|_| number < 0);
        for told in one.chain(all).flatten() {
            let _ = rustix::io::write(told, &1_u64.to_ne_bytes());
        }
    }
}

/// A directory that is watched, as long as this lives.
#[derive(Debug)]
pub struct Watch {
    hub: Arc<Hub>,
    number: i32,
    told: Arc<OwnedFd>,
}

impl Watch {
    /// Of writes to files of a directory, new ones, and renames.
    pub fn new(directory: &Path) -> Result<Self> {
        let failed = |error: rustix::io::Errno| Error::os("watch", directory.to_string_lossy(), error);
        let told = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let (hub, told) = (Hub::get()?, Arc::new(told));
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        // Under the lock, so that nobody takes away what another has just found there.
        let mut followers = hub.lock();
        let number = inotify::add_watch(&hub.inotify, directory, events).map_err(failed)?;
        followers.entry(number).or_default().push(Arc::clone(&told));
        drop(followers);
        Ok(Self { hub, number, told })
    }

    /// Readable when something happened since the last `drain`.
    pub fn notifier(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }

    pub fn drain(&self) {
        let _ = rustix::io::read(&self.told, &mut [0_u8; 8]);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut followers = self.hub.lock();
        let Some(those) = followers.get_mut(&self.number) else { return };
        those.retain(|told| !Arc::ptr_eq(told, &self.told));
        if those.is_empty() {
            followers.remove(&self.number);
            // EINVAL where the directory is gone: the watch went with it.
            let _ = inotify::remove_watch(&self.hub.inotify, self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::event::{poll, PollFd, PollFlags, Timespec};

    use super::*;

    fn told(watch: &Watch, seconds: i64) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(watch.notifier(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).expect("poll") > 0
    }

    #[test]
    fn more_than_a_user_has_instances_follow_and_only_theirs_is_told() {
        let (busy, idle) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("another"));
        let several: Vec<_> = (0..300).map(|_| Watch::new(busy.path()).expect("watch")).collect();
        let other = Watch::new(idle.path()).expect("watch");
        fs::write(busy.path().join("log"), "x").expect("write");
        for watch in &several {
            assert!(told(watch, 10));
            watch.drain();
        }
        assert!(!told(&other, 0));
        let one = several.into_iter().next_back().expect("the others are gone");
        fs::write(busy.path().join("log"), "y").expect("write");
        assert!(told(&one, 10));
    }

    #[test]
    fn a_directory_that_goes_tells_and_one_of_its_name_is_another() {
        let top = tempfile::tempdir().expect("directory");
        let path = top.path().join("container");
        fs::create_dir(&path).expect("create");
        let before = Watch::new(&path).expect("watch");
        fs::remove_dir(&path).expect("remove");
        assert!(told(&before, 10));
        fs::create_dir(&path).expect("create");
        let after = Watch::new(&path).expect("watch");
        drop(before);
        fs::write(path.join("log"), "x").expect("write");
        assert!(told(&after, 10));
    }
}
