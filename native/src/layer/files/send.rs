//! A path of a container, or all of its root file system, as a tar.
//!
//! Depth first, a directory before what is in it, siblings by name. The container goes on meanwhile: what is
//! gone when its turn comes is left out, a file that shrinks is padded to the size that it was announced with.
//! Sockets are left out, as Docker does. A bounded number of directories is open at a time, however deep they are.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::find::{is_kernels, reopen};
use super::Files;
use crate::error::Result;
use crate::layer::header::Header;
use crate::layer::pack::xattrs;
use crate::layer::source::write_all;
use crate::layer::tar::{padding, BLOCK};
use crate::layer::tree::{failed, join, list, open_with, unless_changed};

/// Directories kept open on the way down; those further up are opened again when it is their turn.
const OPEN_LEVELS: usize = 32;
/// Bytes handed on at once.
const CHUNK: usize = 256 << 10;

impl Files {
    /// Write what is at `path` to `target`, under the name that the path ends in (`.` and `/` included).
    pub fn send(&self, path: &[u8], target: &OwnedFd) -> Result<()> {
        let (fd, stat) = self.find(path)?;
        let name = base(path);
        let mut sender = Sender::new(self, target);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let prefix: &[u8] = if name == b"/" { b"" } else { name };
            let fail = |errno| failed("open", path, errno);
            let top = reopen(&fd, OFlags::DIRECTORY).map_err(fail)?;
            sender.directory(prefix, &top, &stat)?;
            if !is_kernels(&top).map_err(fail)? {
                sender.tree(&top, &|relative| [prefix, b"/", relative].concat())?;
            }
        } else {
            sender.entry(&fd, &stat, name)?;
        }
        sender.finish()
    }

    /// Write the root file system to `target`, without what is mounted in it.
    pub fn export(&self, target: &OwnedFd) -> Result<()> {
        let top = reopen(&self.rootfs, OFlags::DIRECTORY).map_err(|errno| failed("open", b"/", errno))?;
        let mut sender = Sender::new(self, target);
        sender.tree(&top, &<[u8]>::to_vec)?;
        sender.finish()
    }
}

/// The last component of a path: `/` of the root, `.` of `a/.`.
fn base(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    if end == 0 {
        return b"/";
    }
    let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    &path[start..end]
}

/// A directory whose entries are under way.
struct Level {
    fd: Option<OwnedFd>,
    /// Below the top.
    path: Vec<u8>,
    device: u64,
    /// Left to do, the last one first.
    names: Vec<Vec<u8>>,
}

struct Sender<'a> {
    files: &'a Files,
    target: &'a OwnedFd,
    buffer: Vec<u8>,
    /// Inodes with several names, by the first of them.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<'a> Sender<'a> {
    fn new(files: &'a Files, target: &'a OwnedFd) -> Self {
        Self { files, target, buffer: Vec::with_capacity(CHUNK), links: HashMap::new() }
    }

    /// Everything below `top`; `named` makes a path below it the archive's.
    fn tree(&mut self, top: &OwnedFd, named: &dyn Fn(&[u8]) -> Vec<u8>) -> Result<()> {
        let copy = reopen(top, OFlags::DIRECTORY).map_err(|errno| failed("open", b"/", errno))?;
        let mut levels = vec![Level::new(copy, Vec::new())?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            let (path, device) = (join(&level.path, &name), level.device);
            let Some(directory) = level.fd(top)? else {
                levels.pop();
                continue;
            };
            let Some((fd, stat)) = look(directory, &name, &path)? else { continue };
            if stat.st_dev != device && is_kernels(&fd).map_err(|errno| failed("statfs", &path, errno))? {
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    self.directory(&named(&path), &fd, &stat)?;
                }
                continue;
            }
            if let Some(below) = self.entry(&fd, &stat, &named(&path))? {
                levels.push(Level::new(below, path)?);
                if levels.len() > OPEN_LEVELS {
                    let above = levels.len() - OPEN_LEVELS - 1;
                    levels[above].fd = None;
                }
            }
        }
        Ok(())
    }

    /// One entry by its `O_PATH` descriptor; an open directory where there is something below it.
    fn entry(&mut self, fd: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<Option<OwnedFd>> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut header = self.header_of(path, stat);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                header.typeflag = b'1';
                header.link.clone_from(first);
                self.header(&header)?;
                return Ok(None);
            }
        }
        match kind {
            FileType::Directory => {
                let Some(opened) = opened(reopen(fd, OFlags::DIRECTORY), path)? else { return Ok(None) };
                self.directory(path, &opened, stat)?;
                return Ok(Some(opened));
            }
            FileType::RegularFile => {
                let Some(file) = opened(reopen(fd, OFlags::NONBLOCK), path)? else { return Ok(None) };
                self.file(&file, path, header)?;
            }
            FileType::Symlink => {
                header.typeflag = b'2';
                let link = unless_changed(rustix::fs::readlinkat(fd, c"", Vec::new()));
                let Some(link) = link.map_err(|errno| failed("readlink", path, errno))? else {
                    return Ok(None);
                };
                header.link = link.into_bytes();
                self.header(&header)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                header.typeflag = if kind == FileType::BlockDevice { b'4' } else { b'3' };
                header.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                self.header(&header)?;
            }
            FileType::Fifo => {
                header.typeflag = b'6';
                self.header(&header)?;
            }
            FileType::Socket | FileType::Unknown => return Ok(None),
        }
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        Ok(None)
    }

    fn header_of(&self, path: &[u8], stat: &Stat) -> Header {
        let mut header = Header::new(path, stat);
        (header.uid, header.gid) = self.files.owner_inside(stat.st_uid, stat.st_gid);
        header
    }

    /// A directory's own entry; `fd` may be an `O_PATH` one, which has no attributes to read.
    fn directory(&mut self, path: &[u8], fd: &OwnedFd, stat: &Stat) -> Result<()> {
        let mut header = self.header_of(path, stat);
        header.typeflag = b'5';
        header.path.push(b'/');
        header.xattrs = xattrs(fd, path).unwrap_or_default();
        self.header(&header)
    }

    fn file(&mut self, file: &OwnedFd, path: &[u8], mut header: Header) -> Result<()> {
        let stat = rustix::fs::fstat(file).map_err(|errno| failed("stat", path, errno))?;
        header.size = stat.st_size.unsigned_abs();
        header.xattrs = xattrs(file, path)?;
        self.header(&header)?;
        let mut left = header.size;
        while left > 0 {
            self.make_room()?;
            let held = self.buffer.len();
            let step = (CHUNK - held).min(usize::try_from(left).unwrap_or(usize::MAX));
            self.buffer.resize(held + step, 0);
            let count = match rustix::io::read(file, &mut self.buffer[held..]) {
                Ok(0) => step, // shrunk: what the buffer has is zeros
                Ok(count) => count,
                Err(Errno::INTR) => 0,
                Err(errno) => return Err(failed("read", path, errno)),
            };
            self.buffer.truncate(held + count);
            left -= count as u64;
        }
        self.write(&[0; BLOCK][..padding(header.size) as usize])
    }

    fn header(&mut self, header: &Header) -> Result<()> {
        for part in header.parts() {
            self.write(&part)?;
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            self.make_room()?;
            let step = bytes.len().min(CHUNK - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..step]);
            bytes = &bytes[step..];
        }
        Ok(())
    }

    fn make_room(&mut self) -> Result<()> {
        if self.buffer.len() >= CHUNK {
            write_all(self.target, &self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.write(&[0; 2 * BLOCK])?;
        write_all(self.target, &self.buffer)
    }
}

impl Level {
    fn new(fd: OwnedFd, path: Vec<u8>) -> Result<Self> {
        let fail = |errno| failed("read", &path, errno);
        let device = rustix::fs::fstat(&fd).map_err(fail)?.st_dev;
        let listed = unless_changed(list(&fd)).map_err(fail)?.unwrap_or_default();
        let mut names: Vec<_> = listed.into_iter().map(|(name, _)| name).collect();
        names.sort_unstable_by(|left, right| right.cmp(left));
        Ok(Self { fd: Some(fd), path, device, names })
    }

    /// Its descriptor, opened again if need be; `None` where it is gone.
    fn fd(&mut self, top: &OwnedFd) -> Result<Option<&OwnedFd>> {
        if self.fd.is_none() {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let again = open_with(top, &self.path, OFlags::PATH | OFlags::DIRECTORY, resolve);
            self.fd = opened(again, &self.path)?;
        }
        Ok(self.fd.as_ref())
    }
}

/// An `O_PATH` descriptor and the status of a directory's entry; `None` where it is gone.
fn look(directory: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Option<(OwnedFd, Stat)>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Some(fd) = opened(rustix::fs::openat(directory, name, flags, Mode::empty()), path)? else {
        return Ok(None);
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| failed("stat", path, errno))?;
    Ok(Some((fd, stat)))
}

fn opened(result: rustix::io::Result<OwnedFd>, path: &[u8]) -> Result<Option<OwnedFd>> {
    unless_changed(result).map_err(|errno| failed("open", path, errno))
}
