//! Takes the outer archive of `docker load` apart: each regular file in it becomes a file of its own, and what may be
//! a layer is unpacked in the same pass.
//!
//! ```text
//! outer archive --> tar --> file NUMBER, but of a layer that is uncompressed and has its recipe
//!                      `--> LayerUnpacker, where the file begins as a layer does and `begin` gives a directory
//! ```
//! Names in the archive are only reported, never used as paths: the files are called by number.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::feed::LayerUnpacker;
use super::limits::Limits;
use super::source::Input;
use super::stream::{self, Stream};
use super::tar::{Entry, Kind, Reader, BLOCK};
use super::tree::{failed, open_root};
use super::Layer;
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
#[derive(Debug)]
pub struct Member {
    pub path: Vec<u8>,
    pub kind: MemberKind,
    pub link: Vec<u8>,
    /// Name of its file in the directory; there is none where the layer has a recipe instead.
    pub number: u64,
    pub size: u64,
    /// What unpacking it gave, where `begin` had it unpacked. A failure is only the member's.
    pub layer: Option<Result<Layer>>,
}

/// Who is told of the members, in the order they come; an error of either ends the pass.
pub trait Members {
    /// A file begins that may be a layer: the empty directory to unpack it into, if it is to be.
    fn begin(&mut self, path: &[u8]) -> Result<Option<String>>;
    /// A member is complete.
    fn found(&mut self, member: Member) -> Result<()>;
}

/// Split the archive from `source` (gzip, zstd or plain) into files `0`, `1`, ... of `directory`.
pub fn split_archive<'a>(
    source: impl Into<Input<'a>>,
    directory: &str,
    limits: &Limits,
    members: &mut impl Members,
) -> Result<()> {
    let input = source.into();
    let _held = input.held();
    let fd = open_root(directory)?;
    stream::run_unhashed(input, limits, |stream| {
        let mut reader = Reader::new(stream, limits);
        let mut number = 0;
        while let Some(entry) = reader.next()? {
            let kind = match entry.kind {
                Kind::File => MemberKind::File,
                Kind::Symlink => MemberKind::Symlink,
                Kind::Hardlink => MemberKind::Hardlink,
                Kind::Directory | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => continue,
            };
            let (size, layer) = match kind {
                MemberKind::File => {
                    let place = Place { directory: &fd, path: directory, number };
                    take(&place, &entry, reader.stream, limits, members)?
                }
                MemberKind::Symlink | MemberKind::Hardlink => (0, None),
            };
            members.found(Member { path: entry.path, kind, link: entry.link, number, size, layer })?;
            number += 1;
        }
        Ok(())
    })
}

/// One regular file, to disk and maybe to an unpacker: its size, and what became of the unpacking.
fn take(
    place: &Place<'_>,
    entry: &Entry,
    stream: &mut Stream,
    limits: &Limits,
    members: &mut impl Members,
) -> Result<(u64, Option<Result<Layer>>)> {
    if let Some(sparse) = &entry.sparse {
        let file = place.create()?;
        for extent in &sparse.extents {
            stream.write_to(&file, extent.offset, extent.length, &entry.path)?;
        }
        rustix::fs::ftruncate(&file, sparse.size).map_err(|errno| failed("truncate", &entry.path, errno))?;
        return Ok((sparse.size, None));
    }
    let mut head = vec![0; BLOCK.min(usize::try_from(entry.stored).unwrap_or(BLOCK))];
    stream.read_exact(&mut head)?;
    let left = entry.stored - head.len() as u64;
    let target = if begins_as_layer(&head) { members.begin(&entry.path)? } else { None };
    let layer = match target {
        // A failure of the unpacking comes up again at its end.
        Some(target) if begins_as_tar(&head) => {
            let unpacker = LayerUnpacker::recording(&target, place.path(), *limits)?;
            drop(unpacker.write(&head));
            stream.pass(left, |bytes| drop(unpacker.write(bytes)))?;
            Some(unpacker.finish())
        }
        target => {
            let unpacker =
                target.map(|target| LayerUnpacker::new(&target, true, None, *limits)).transpose()?;
            let unpack = |bytes: &[u8]| drop(unpacker.as_ref().map(|unpacker| unpacker.write(bytes)));
            let file = place.create()?;
            unpack(&head);
            stream::write_at(&file, &head, 0, &entry.path)?;
            stream.write_to_both(&file, head.len() as u64, left, &entry.path, unpack)?;
            unpacker.map(|unpacker| unpacker.finish())
        }
    };
    Ok((entry.stored, layer))
}

/// Where a member's file is or would be.
struct Place<'a> {
    directory: &'a OwnedFd,
    path: &'a str,
    number: u64,
}

impl Place<'_> {
    fn create(&self) -> Result<OwnedFd> {
        let name = self.number.to_string();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.directory, name.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| failed("create", name.as_bytes(), errno))
    }

    fn path(&self) -> PathBuf {
        Path::new(self.path).join(self.number.to_string())
    }
}

/// gzip, zstd or tar, by its first bytes; an empty layer is all zeros.
fn begins_as_layer(head: &[u8]) -> bool {
    head.starts_with(b"\x1f\x8b") || head.starts_with(b"\x28\xb5\x2f\xfd") || begins_as_tar(head)
}

fn begins_as_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar") || (head.len() == BLOCK && head.iter().all(|byte| *byte == 0))
}
