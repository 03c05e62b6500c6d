//! The janitor: closes and deletes what takes the kernel long to take down, on a thread of its own.
//!
//! Whoever drops the last reference to an overlay waits until all of the file system below its upper directory
//! is synced, be it a whole disk's worth of somebody else's writes. That must be neither the container's exit
//! (so the keeper holds one reference more) nor the keeper's loop. The kernel offers no close that does not
//! wait, hence the thread. It has its own working directory, so that the loop may change mount namespaces.
//!
//! Source: `ovl_sync_fs` in the kernel's fs/overlayfs/super.c, called by `generic_shutdown_super`.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{channel, Sender};
use std::thread;

use crate::netns::Retired;
use crate::sys::supervise::own_working_directory;

/// Closing needs next to none.
const STACK: usize = 64 << 10;

/// One thing to take down.
#[derive(Debug)]
enum Work {
    Close(OwnedFd),
    Delete(Retired),
}

impl Work {
    fn run(self) {
        match self {
            Self::Close(fd) => drop(fd),
            Self::Delete(interface) => {
                if let Err(error) = interface.delete() {
                    report!("{error}");
                }
            }
        }
    }
}

/// The way to the thread, which starts with the first close.
#[derive(Debug, Default)]
pub struct Janitor {
    queue: Option<Sender<Work>>,
}

impl Janitor {
    /// Close `fd` soon; here and now where there is no thread to be had.
    pub fn close(&mut self, fd: OwnedFd) {
        self.send(Work::Close(fd));
    }

    /// Delete an interface that is out of use, in the same way.
    pub fn delete(&mut self, interface: Retired) {
        self.send(Work::Delete(interface));
    }

    fn send(&mut self, work: Work) {
        if let Err(refused) = self.queue.get_or_insert_with(start).send(work) {
            refused.0.run();
        }
    }
}

fn start() -> Sender<Work> {
    let (queue, work) = channel::<Work>();
    let (ready, started) = channel();
    let run = move || {
        let apart = own_working_directory();
        // Ignored: the starter waits for it.
        let _ = ready.send(());
        if apart.is_ok() {
            work.iter().for_each(Work::run);
        }
    };
    match thread::Builder::new().name("proa-janitor".into()).stack_size(STACK).spawn(run) {
        // Only then is the working directory nobody else's again.
        Ok(_) => drop(started.recv()),
        Err(error) => report!("no janitor: {error}"),
    }
    queue
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_it_is_given_is_closed() {
        let mut janitor = Janitor::default();
        for _ in 0..3 {
            let (ours, theirs) = UnixStream::pair().expect("a socket pair");
            janitor.close(theirs.into());
            // The end of file comes with the close.
            assert_eq!((&ours).read(&mut [0]).expect("a read"), 0);
        }
    }
}
