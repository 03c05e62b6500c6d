//! Paths of untrusted trees, opened as the kernel is told to resolve them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

/// How often the kernel is asked again before its EAGAIN is an answer.
const TRIES: u32 = 128;

/// Opens what exists at `path` below `root`, resolved under `how`, close-on-exec.
///
/// Wherever anything on the host was renamed or mounted meanwhile, the kernel cannot vouch for a `..` (of the path or
/// of a link in it) and answers EAGAIN: it is asked again. <https://man7.org/linux/man-pages/man2/openat2.2.html>
pub fn open_resolved(
    root: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    how: ResolveFlags,
) -> Result<OwnedFd> {
    let mut tries = 1;
    loop {
        #[allow(clippy::disallowed_methods)] // here it is asked again
        let opened = rustix::fs::openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), how);
        match opened {
            Err(Errno::AGAIN) if tries < TRIES => tries += 1,
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn renames_elsewhere_do_not_fail_a_lookup() {
        let root = tempfile::tempdir().expect("a directory");
        let elsewhere = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join("a")).expect("made");
        let at =
            rustix::fs::open(root.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opened");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let names = [elsewhere.path().join("x"), elsewhere.path().join("y")];
                std::fs::create_dir(&names[0]).expect("made");
                for turn in (0..2).cycle() {
                    std::fs::rename(&names[turn], &names[1 - turn]).expect("renamed");
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let opened =
                (0..20_000).find_map(|_| open_resolved(&at, "a/../../a/../../a", OFlags::PATH, how).err());
            over.store(true, Ordering::Relaxed);
            assert_eq!(opened, None);
        });
    }
}
