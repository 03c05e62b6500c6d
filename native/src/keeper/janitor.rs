//! The janitor: closes what takes the kernel long to take down, on a thread of its own.
//!
//! Whoever drops the last reference to an overlay waits until all of the file system below its upper directory
//! is synced, be it a whole disk's worth of somebody else's writes. That must be neither the container's exit
//! (so the keeper holds one reference more) nor the keeper's loop. The kernel offers no close that does not
//! wait, hence the thread. It has its own working directory, so that the loop may change mount namespaces.
//!
//! Source: `ovl_sync_fs` in the kernel's fs/overlayfs/super.c, called by `generic_shutdown_super`.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread;

use crate::sys::supervise::own_working_directory;

/// Closing needs next to none.
const STACK: usize = 64 << 10;

/// The way to the thread, which starts with the first close.
#[derive(Debug, Default)]
pub struct Janitor {
    queue: Option<Sender<OwnedFd>>,
}

impl Janitor {
    /// Close `fd` soon; here and now where there is no thread to be had.
    pub fn close(&mut self, fd: OwnedFd) {
        let refused = match self.queue.get_or_insert_with(start).send(fd) {
            Ok(()) => return,
            Err(refused) => refused,
        };
        drop(refused);
    }
}

fn start() -> Sender<OwnedFd> {
    let (queue, work) = channel();
    let (ready, started) = channel();
    let run = move || {
        let apart = own_working_directory();
        // Ignored: the starter waits for it.
        let _ = ready.send(());
        if apart.is_ok() {
            close_all(&work);
        }
    };
    match thread::Builder::new().name("proa-janitor".into()).stack_size(STACK).spawn(run) {
        // Only then is the working directory nobody else's again.
        Ok(_) => drop(started.recv()),
        Err(error) => report!("no janitor: {error}"),
    }
    queue
}

fn close_all(work: &Receiver<OwnedFd>) {
    while let Ok(fd) = work.recv() {
        drop(fd);
    }
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
