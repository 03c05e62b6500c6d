//! The pipes between the keeper and a process's standard streams.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{pipe_with, PipeFlags};

use crate::error::{Error, Result};

/// The two ends of a process's pipes; the child's are closed after the clone.
#[derive(Debug)]
pub struct Pipes {
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub child_stdin: OwnedFd,
    pub child_stdout: OwnedFd,
    pub child_stderr: OwnedFd,
}

impl Pipes {
    /// `owner`: the host's uid of the process, so that it may open /dev/stdout again.
    pub fn new(open_stdin: bool, owner: u32) -> Result<Self> {
        let (stdout, child_stdout) = pipe("stdout", owner, &End::Read)?;
        let (stderr, child_stderr) = pipe("stderr", owner, &End::Read)?;
        let (child_stdin, stdin) = if open_stdin {
            let (read, write) = pipe("stdin", owner, &End::Write)?;
            (read, Some(write))
        } else {
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty());
            (null.map_err(|error| Error::os("open", "/dev/null", error))?, None)
        };
        Ok(Self { stdin, stdout, stderr, child_stdin, child_stdout, child_stderr })
    }
}

/// Which end of a pipe is the keeper's.
enum End {
    Read,
    Write,
}

fn pipe(name: &str, owner: u32, ours: &End) -> Result<(OwnedFd, OwnedFd)> {
    let failed = |error: Errno| Error::os("make pipe for", name, error);
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    let own = if matches!(ours, End::Read) { &read } else { &write };
    rustix::io::ioctl_fionbio(own, true).map_err(failed)?;
    if owner != 0 {
        rustix::fs::fchown(&write, Some(rustix::fs::Uid::from_raw(owner)), None).map_err(failed)?;
    }
    Ok((read, write))
}
