//! The moment of the clone: signals blocked, borrowed namespaces entered and left again.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};

use crate::child;
use crate::process::Host;
use crate::script::Script;
use crate::sys::{self, Clone, Stack};

/// Clones a child that interprets `script`; returns its pid and pidfd. `script` and `stack` must be
/// kept until it has executed or is gone.
pub(crate) fn clone_child(
    script: &Script,
    stack: &Stack,
    namespaces: c_int,
    borrowed: &[(RawFd, c_int)],
    cgroup: Option<BorrowedFd<'_>>,
    host: &Host,
) -> Result<(i32, OwnedFd)> {
    // No handler of the parent's may run in the child; the child's own last step unblocks them.
    let mask = sys::set_signal_mask(u64::MAX);
    let result = enter(borrowed).and_then(|()| {
        let how = Clone { namespaces, shared_memory: false, cgroup };
        // SAFETY: the caller keeps script and stack; `enter` follows the rules for shared memory.
        unsafe { sys::clone3(&how, stack, child::enter, std::ptr::from_ref(script).cast()) }
    });
    leave(borrowed, host);
    sys::set_signal_mask(mask);
    result
}

fn enter(borrowed: &[(RawFd, c_int)]) -> Result<()> {
    borrowed.iter().try_for_each(|(fd, kinds)| {
        // SAFETY: the namespaces' owners keep their descriptors open over the clone.
        sys::setns(unsafe { BorrowedFd::borrow_raw(*fd) }, *kinds)
    })
}

/// Back to the caller's own namespaces, which it holds open: this cannot fail while it lives.
fn leave(borrowed: &[(RawFd, c_int)], host: &Host) {
    for (_, kinds) in borrowed {
        let own = match (*kinds, &host.bare) {
            (libc::CLONE_NEWNET, _) => host.network_namespace.as_fd(),
            (libc::CLONE_NEWNS, Some(bare)) => bare.own.as_fd(),
            _ => continue,
        };
        let back: std::result::Result<(), Errno> = sys::setns(own, *kinds);
        assert!(back.is_ok(), "cannot return to the namespace of the keeper: {back:?}");
    }
}
