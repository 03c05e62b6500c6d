//! The reverse: a directory to a layer.
//!
//! Sorted by name, so that equal trees give equal layers. Sockets are left out, as Docker does. A container that is
//! committed may go on meanwhile: what is gone when its turn comes is left out, too. A file with large
//! holes goes as a sparse one (PAX 1.0, which every reader in Go, GNU tar and libarchive knows): what is nothing
//! on disk would be gigabytes of zeros to compress here, and more than a careful reader takes there.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::encode::{Output, PackCompression};
use super::header::Header;
use super::recipe;
use super::sparse::{self, Extent};
use super::stream::CHUNK;
use super::tar::{padding, BLOCK};
use super::tree::{self, failed, join, open_beneath, open_root, unless_changed};
use super::whiteout::{OPAQUE, OPAQUE_XATTR, PREFIX};
use super::Layer;
use crate::error::Result;

/// Write `directory` as a layer to `target`. With `overlay` the directory is an overlayfs upper: its whiteouts
/// and opaque marks take the layer's form. One that has a recipe beside it gives the tar that it came as.
pub fn pack_layer(
    directory: &str,
    target: &OwnedFd,
    compression: PackCompression,
    overlay: bool,
) -> Result<Layer> {
    let root = open_root(directory)?;
    std::thread::scope(|scope| {
        let mut output = Output::new(scope, target, compression, None)?;
        if let Some(recipe) = recipe::of(directory)? {
            recipe::rebuild(&root, recipe, |bytes| output.write(bytes))?;
            let digests = output.finish()?;
            return Ok(Layer { digests, entries: 0, implied: Vec::new(), usage: (0, 0), recipe: true });
        }
        let buffer = vec![0; CHUNK];
        let mut packer = Packer { root, overlay, output, links: HashMap::new(), entries: 0, buffer };
        packer.tree()?;
        let entries = packer.entries;
        Ok(Layer {
            digests: packer.output.finish()?,
            entries,
            implied: Vec::new(),
            usage: (0, 0),
            recipe: false,
        })
    })
}

/// Bytes of holes that make a file a sparse one.
const HOLES: u64 = 1 << 20;

struct Packer<'a> {
    root: OwnedFd,
    overlay: bool,
    output: Output<'a>,
    /// Inodes with several names, by the first of them.
    links: HashMap<(u64, u64), Vec<u8>>,
    entries: u64,
    buffer: Vec<u8>,
}

impl Packer<'_> {
    /// Depth first, a directory before what is in it, siblings by name. One fd at a time is open.
    fn tree(&mut self) -> Result<()> {
        let mut pending = vec![Vec::new()];
        while let Some(path) = pending.pop() {
            if !path.is_empty() && !self.entry(&path)? {
                continue;
            }
            let Some(fd) = self.open(&path)? else { continue };
            if self.overlay && !path.is_empty() && is_opaque(&fd) {
                self.whiteout(&join(&path, OPAQUE))?;
            }
            let listed = unless_changed(tree::list(&fd)).map_err(|errno| failed("read", &path, errno))?;
            let mut names = listed.unwrap_or_default();
            names.sort_unstable_by(|(left, _), (right, _)| right.cmp(left));
            pending.extend(names.iter().map(|(name, _)| join(&path, name)));
        }
        self.output.write(&[0; 2 * BLOCK])
    }

    /// A directory of the tree; `None` where it is gone.
    fn open(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        let opened = open_beneath(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY);
        unless_changed(opened).map_err(|errno| failed("open", path, errno))
    }

    /// Write one entry; true where it is a directory to go into.
    fn entry(&mut self, path: &[u8]) -> Result<bool> {
        let (parent, name) = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or((&b""[..], path), |slash| (&path[..slash], &path[slash + 1..]));
        let opened = open_beneath(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY);
        let Some(dir) = unless_changed(opened).map_err(|errno| failed("open", parent, errno))? else {
            return Ok(false);
        };
        let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(failed("stat", path, errno)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.overlay && kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            self.whiteout(&join(parent, &[PREFIX, name].concat()))?;
            return Ok(false);
        }
        let mut header = Header::new(path, &stat);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                header.typeflag = b'1';
                header.link.clone_from(first);
                self.header(&header)?;
                return Ok(false);
            }
        }
        match kind {
            FileType::RegularFile => {
                let opened = open_beneath(&dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK);
                let Some(file) = unless_changed(opened).map_err(|errno| failed("open", path, errno))? else {
                    return Ok(false);
                };
                self.file(&file, path, header)?;
                self.remember(path, &stat);
                return Ok(false);
            }
            FileType::Directory => {
                header.typeflag = b'5';
                header.path.push(b'/');
                let Some(fd) = self.open(path)? else { return Ok(false) };
                header.xattrs = xattrs(&fd, path)?;
            }
            FileType::Symlink => {
                header.typeflag = b'2';
                header.link = match rustix::fs::readlinkat(&dir, name, Vec::new()) {
                    Err(Errno::INVAL | Errno::NOENT) => return Ok(false), // no link any more
                    other => other.map_err(|errno| failed("readlink", path, errno))?.into_bytes(),
                };
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                header.typeflag = if kind == FileType::BlockDevice { b'4' } else { b'3' };
                header.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            }
            FileType::Fifo => header.typeflag = b'6',
            FileType::Socket | FileType::Unknown => return Ok(false),
        }
        self.header(&header)?;
        self.remember(path, &stat);
        Ok(kind == FileType::Directory)
    }

    /// Further names of what was written are links to it.
    fn remember(&mut self, path: &[u8], stat: &Stat) {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory && stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
    }

    /// A file's size is fixed when it is opened: one that shrinks meanwhile is padded, growth is left out.
    fn file(&mut self, fd: &OwnedFd, path: &[u8], mut header: Header) -> Result<()> {
        let stat = rustix::fs::fstat(fd).map_err(|errno| failed("stat", path, errno))?;
        let size = stat.st_size.unsigned_abs();
        header.xattrs = xattrs(fd, path)?;
        header.size = size;
        let few_blocks = size.saturating_sub(stat.st_blocks.unsigned_abs() * 512) >= HOLES;
        let extents = if few_blocks { extents(fd, size) } else { Ok(Vec::new()) };
        let extents = extents.map_err(|errno| failed("find the holes of", path, errno))?;
        // One of all that there is: the file system compresses.
        if extents.first().is_some_and(|extent| extent.length < size) {
            let map = sparse::map(&extents);
            header.size = map.len() as u64 + extents.iter().map(|extent| extent.length).sum::<u64>();
            header.sparse = Some(size);
            self.header(&header)?;
            self.output.write(&map)?;
            for extent in extents {
                self.content(fd, path, extent)?;
            }
        } else {
            self.header(&header)?;
            self.content(fd, path, Extent { offset: 0, length: size })?;
        }
        self.output.write(&[0; BLOCK][..padding(header.size) as usize])
    }

    /// A run of a file's bytes; zeros past its end.
    fn content(&mut self, fd: &OwnedFd, path: &[u8], extent: Extent) -> Result<()> {
        let Extent { mut offset, length: mut left } = extent;
        let mut buffer = std::mem::take(&mut self.buffer);
        while left > 0 {
            let step = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match rustix::io::pread(fd, &mut buffer[..step], offset) {
                Ok(0) => {
                    buffer[..step].fill(0);
                    step
                }
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("read", path, errno)),
            };
            self.output.write(&buffer[..count])?;
            offset += count as u64;
            left -= count as u64;
        }
        self.buffer = buffer;
        Ok(())
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        self.header(&Header { path: path.to_vec(), ..Header::default() })
    }

    fn header(&mut self, header: &Header) -> Result<()> {
        self.entries += 1;
        for part in header.parts() {
            self.output.write(&part)?;
        }
        Ok(())
    }
}

/// Where a file has data, within `size` bytes; a last extent of no length says where it ends.
fn extents(fd: &OwnedFd, size: u64) -> rustix::io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut end = 0;
    while end < size {
        let offset = match rustix::fs::seek(fd, SeekFrom::Data(end)) {
            // Nothing but a hole follows.
            Err(Errno::NXIO) => break,
            found => found?.min(size),
        };
        end = rustix::fs::seek(fd, SeekFrom::Hole(offset))?.min(size);
        extents.push(Extent { offset, length: end - offset });
    }
    if end < size {
        extents.push(Extent { offset: size, length: 0 });
    }
    Ok(extents)
}

fn is_opaque(fd: &OwnedFd) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::fgetxattr(fd, OPAQUE_XATTR, &mut value[..]), Ok(1)) && value == *b"y"
}

/// What a layer carries: file capabilities and users' xattrs, sorted.
pub(super) fn xattrs(fd: &OwnedFd, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(fd, &mut names[..0]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        _ => match rustix::fs::flistxattr(fd, &mut names[..]) {
            Ok(length) => length,
            Err(errno) => return Err(failed("list xattrs of", path, errno)),
        },
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let users = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if !users && name != b"security.capability" {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(failed("read xattr of", path, errno)),
        }
        found.push((name.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}
