//! Takes the outer archive of `docker load` apart: each regular file in it becomes a file of its own.
//!
//! Names in the archive are only reported, never used as paths: the files are called by number.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::limits::Limits;
use super::source::Input;
use super::stream::{self, Digests, Stream};
use super::tar::{Entry, Kind, Reader};
use super::tree::{failed, open_root};
use crate::error::Result;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// Its content is in the file called `number`.
    File,
    /// It points at another member, by a path relative to its own directory.
    Symlink,
    /// It is another name of a member.
    Hardlink,
}

/// One member of the outer archive, complete on disk.
#[derive(Debug, Clone)]
pub struct Member {
    pub path: Vec<u8>,
    pub kind: MemberKind,
    pub link: Vec<u8>,
    /// Name of its file in the directory.
    pub number: u64,
    pub size: u64,
}

/// Split the archive from `source` (gzip, zstd or plain) into files `0`, `1`, ... of `directory`. `found` is
/// called for each member as soon as it is complete; its error ends the pass.
pub fn split_archive(
    source: impl AsFd,
    directory: &str,
    limits: &Limits,
    mut found: impl FnMut(Member) -> Result<()>,
) -> Result<Digests> {
    let directory = open_root(directory)?;
    let ((), digests) = stream::run(Input::Fd(source.as_fd()), None, limits, |stream| {
        let mut reader = Reader::new(stream, limits);
        let mut number = 0;
        while let Some(entry) = reader.next()? {
            let kind = match entry.kind {
                Kind::File => MemberKind::File,
                Kind::Symlink => MemberKind::Symlink,
                Kind::Hardlink => MemberKind::Hardlink,
                Kind::Directory | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => continue,
            };
            let size = match kind {
                MemberKind::File => take(&directory, number, &entry, reader.stream)?,
                MemberKind::Symlink | MemberKind::Hardlink => 0,
            };
            found(Member { path: entry.path, kind, link: entry.link, number, size })?;
            number += 1;
        }
        Ok(())
    })?;
    Ok(digests)
}

fn take(directory: &OwnedFd, number: u64, entry: &Entry, stream: &mut Stream) -> Result<u64> {
    let name = number.to_string();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name.as_str(), flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| failed("create", name.as_bytes(), errno))?;
    let Some(sparse) = &entry.sparse else {
        stream.write_to(&file, 0, entry.stored, &entry.path)?;
        return Ok(entry.stored);
    };
    for extent in &sparse.extents {
        stream.write_to(&file, extent.offset, extent.length, &entry.path)?;
    }
    rustix::fs::ftruncate(&file, sparse.size).map_err(|errno| failed("truncate", &entry.path, errno))?;
    Ok(sparse.size)
}
