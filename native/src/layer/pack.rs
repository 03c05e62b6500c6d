//! The reverse: a directory to a layer.
//!
//! Sorted by name, so that equal trees give equal layers. A header is plain ustar where that can say it
//! all, with a PAX header before it where it cannot: long or non-ASCII names, sizes of 8 GiB and more, large
//! ids, nanoseconds, xattrs. Sockets are left out, as Docker does.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::source::write_all;
use super::stream::{digest_text, Digests};
use super::tar::{padding, BLOCK};
use super::tree::{self, failed, join, open_beneath, open_root};
use super::whiteout::{OPAQUE, OPAQUE_XATTR, PREFIX};
use super::Layer;
use crate::error::{Error, Result};

/// How a packed layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackCompression {
    None,
    Gzip,
    Zstd,
}

/// Write `directory` as a layer to `target`. With `overlay` the directory is an overlayfs upper: its whiteouts
/// and opaque marks take the layer's form.
pub fn pack_layer(
    directory: &str,
    target: &OwnedFd,
    compression: PackCompression,
    overlay: bool,
) -> Result<Layer> {
    let root = open_root(directory)?;
    let mut packer = Packer {
        root,
        overlay,
        output: Output { hash: Sha256::new(), size: 0, encoder: Encoder::new(target, compression)? },
        links: HashMap::new(),
        entries: 0,
        buffer: vec![0; 256 << 10],
    };
    packer.tree()?;
    let entries = packer.entries;
    Ok(Layer { digests: packer.output.finish()?, entries, implied: Vec::new() })
}

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
            let fd = open_beneath(&self.root, &path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|errno| failed("open", &path, errno))?;
            if self.overlay && !path.is_empty() && is_opaque(&fd) {
                self.whiteout(&join(&path, OPAQUE))?;
            }
            let mut names = tree::list(&fd).map_err(|errno| failed("read", &path, errno))?;
            names.sort_unstable_by(|(left, _), (right, _)| right.cmp(left));
            pending.extend(names.iter().map(|(name, _)| join(&path, name)));
        }
        self.output.write(&[0; 2 * BLOCK])
    }

    /// Write one entry; true where it is a directory to go into.
    fn entry(&mut self, path: &[u8]) -> Result<bool> {
        let (parent, name) = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or((&b""[..], path), |slash| (&path[..slash], &path[slash + 1..]));
        let dir = open_beneath(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| failed("open", parent, errno))?;
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
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        match kind {
            FileType::RegularFile => return self.file(&dir, name, path, header).map(|()| false),
            FileType::Directory => {
                header.typeflag = b'5';
                header.path.push(b'/');
                let fd = open_beneath(&dir, name, OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(|errno| failed("open", path, errno))?;
                header.xattrs = xattrs(&fd, path)?;
            }
            FileType::Symlink => {
                header.typeflag = b'2';
                header.link = rustix::fs::readlinkat(&dir, name, Vec::new())
                    .map_err(|errno| failed("readlink", path, errno))?
                    .into_bytes();
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                header.typeflag = if kind == FileType::BlockDevice { b'4' } else { b'3' };
                header.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            }
            FileType::Fifo => header.typeflag = b'6',
            FileType::Socket | FileType::Unknown => return Ok(false),
        }
        self.header(&header)?;
        Ok(kind == FileType::Directory)
    }

    /// A file's size is fixed when it is opened: one that shrinks meanwhile is padded, growth is left out.
    fn file(&mut self, dir: &OwnedFd, name: &[u8], path: &[u8], mut header: Header) -> Result<()> {
        let fd = open_beneath(dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)
            .map_err(|errno| failed("open", path, errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| failed("stat", path, errno))?;
        header.size = stat.st_size.unsigned_abs();
        header.xattrs = xattrs(&fd, path)?;
        self.header(&header)?;
        let mut left = header.size;
        let mut buffer = std::mem::take(&mut self.buffer);
        while left > 0 {
            let step = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match rustix::io::read(&fd, &mut buffer[..step]) {
                Ok(0) => {
                    buffer[..step].fill(0);
                    step
                }
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("read", path, errno)),
            };
            self.output.write(&buffer[..count])?;
            left -= count as u64;
        }
        self.buffer = buffer;
        self.output.write(&[0; BLOCK][..padding(header.size) as usize])
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

/// A header to write.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub typeflag: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Header {
    pub fn new(path: &[u8], stat: &Stat) -> Self {
        Self {
            path: path.to_vec(),
            typeflag: b'0',
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ..Self::default()
        }
    }

    /// The PAX records that say what the block cannot; empty where it can.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut record = |key: &[u8], value: &[u8]| {
            // LENGTH KEY=VALUE\n, the length counting its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + decimal_digits(rest);
            if decimal_digits(length) != decimal_digits(rest) {
                length = rest + decimal_digits(length);
            }
            records.extend_from_slice(length.to_string().as_bytes());
            records.push(b' ');
            records.extend_from_slice(key);
            records.push(b'=');
            records.extend_from_slice(value);
            records.push(b'\n');
        };
        if self.mtime.1 != 0 || self.mtime.0 < 0 {
            record(b"mtime", time(self.mtime).as_bytes());
        }
        if self.path.len() > 100 || !self.path.is_ascii() {
            record(b"path", &self.path);
        }
        if self.link.len() > 100 || !self.link.is_ascii() {
            record(b"linkpath", &self.link);
        }
        for (key, value, width) in
            [(&b"size"[..], self.size, 11), (b"uid", self.uid.into(), 7), (b"gid", self.gid.into(), 7)]
        {
            if value >= 1 << (3 * width) {
                record(key, value.to_string().as_bytes());
            }
        }
        for (name, value) in &self.xattrs {
            record(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        records
    }

    /// What the archive has of it: the block, before it the PAX records if there are any.
    pub fn parts(&self) -> Vec<Vec<u8>> {
        let records = self.records();
        if records.is_empty() {
            return vec![self.block().to_vec()];
        }
        let extended = Self {
            path: b"PaxHeaders.0/entry".to_vec(),
            typeflag: b'x',
            mode: 0o644,
            size: records.len() as u64,
            ..Self::default()
        };
        let end = vec![0; padding(extended.size) as usize];
        vec![extended.block().to_vec(), records, end, self.block().to_vec()]
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut text = |offset: usize, width: usize, value: &[u8]| {
            let length = value.len().min(width);
            block[offset..offset + length].copy_from_slice(&value[..length]);
        };
        text(0, 100, &self.path);
        text(100, 8, &octal(self.mode.into(), 7));
        text(108, 8, &octal(self.uid.into(), 7));
        text(116, 8, &octal(self.gid.into(), 7));
        text(124, 12, &octal(self.size, 11));
        text(136, 12, &octal(u64::try_from(self.mtime.0).unwrap_or(0), 11));
        text(148, 8, b"        ");
        text(156, 1, &[if self.typeflag == 0 { b'0' } else { self.typeflag }]);
        text(157, 100, &self.link);
        text(257, 8, b"ustar\x0000");
        text(329, 8, &octal(self.device.0.into(), 7));
        text(337, 8, &octal(self.device.1.into(), 7));
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..154].copy_from_slice(&octal(sum, 6));
        block[154] = 0;
        block
    }
}

/// `width` octal digits; what does not fit is 0 there and said in a PAX record.
fn octal(value: u64, width: usize) -> Vec<u8> {
    let value = if value >= 1 << (3 * width) { 0 } else { value };
    format!("{value:0width$o}").into_bytes()
}

fn decimal_digits(value: usize) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

fn time((seconds, nanoseconds): (i64, u32)) -> String {
    if seconds < 0 && nanoseconds != 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

/// tar bytes on their way out: counted, hashed, compressed, hashed again.
struct Output<'a> {
    hash: Sha256,
    size: u64,
    encoder: Encoder<'a>,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        self.hash.update(bytes);
        self.encoder.write(bytes)
    }

    fn finish(self) -> Result<Digests> {
        let sink = self.encoder.finish()?;
        let (digest, compressed_size) = sink.finish()?;
        Ok(Digests { digest, diff_id: digest_text(self.hash), compressed_size, size: self.size })
    }
}

/// The fd, behind a buffer and a hash.
struct Sink<'a> {
    fd: &'a OwnedFd,
    hash: Sha256,
    size: u64,
    buffer: Vec<u8>,
    failure: Option<Error>,
}

impl Sink<'_> {
    fn flush_buffer(&mut self) -> Result<()> {
        self.hash.update(&self.buffer);
        self.size += self.buffer.len() as u64;
        write_all(self.fd, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(String, u64)> {
        self.flush_buffer()?;
        Ok((digest_text(self.hash), self.size))
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= 256 << 10 {
            self.flush_buffer().map_err(|error| {
                self.failure = Some(error);
                std::io::Error::other("target failed")
            })?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Encoder<'a> {
    None(Sink<'a>),
    Gzip(flate2::write::GzEncoder<Sink<'a>>),
    Zstd(zstd::stream::write::Encoder<'static, Sink<'a>>),
}

impl<'a> Encoder<'a> {
    fn new(fd: &'a OwnedFd, compression: PackCompression) -> Result<Self> {
        let sink = Sink { fd, hash: Sha256::new(), size: 0, buffer: Vec::new(), failure: None };
        Ok(match compression {
            PackCompression::None => Self::None(sink),
            PackCompression::Gzip => {
                Self::Gzip(flate2::write::GzEncoder::new(sink, flate2::Compression::new(6)))
            }
            PackCompression::Zstd => Self::Zstd(
                zstd::stream::write::Encoder::new(sink, 3)
                    .map_err(|error| Error::os("start zstd for", "layer", error))?,
            ),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match self {
            Self::None(sink) => sink.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        };
        written.map_err(|error| {
            let sink = match self {
                Self::None(sink) => sink,
                Self::Gzip(encoder) => encoder.get_mut(),
                Self::Zstd(encoder) => encoder.get_mut(),
            };
            sink.failure.take().unwrap_or_else(|| Error::os("compress", "layer", error))
        })
    }

    fn finish(self) -> Result<Sink<'a>> {
        let failed = |error| Error::os("compress", "layer", error);
        match self {
            Self::None(sink) => Ok(sink),
            Self::Gzip(encoder) => encoder.finish().map_err(failed),
            Self::Zstd(encoder) => encoder.finish().map_err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_digits() {
        let header = Header { path: vec![b'x'; 101], ..Header::default() };
        assert!(header.records().starts_with(b"111 path=xxx"));
        // 99 bytes without the length: three digits are needed for 102, not two.
        let header = Header { xattrs: vec![(b"user.a".to_vec(), vec![b'v'; 77])], ..Header::default() };
        let records = header.records();
        let told: usize = String::from_utf8_lossy(&records[..3]).trim().parse().expect("a number");
        assert_eq!(told, records.len());
    }

    #[test]
    fn times_before_1970_read_back() {
        assert_eq!(time((-2, 750_000_000)), "-1.250000000");
        assert_eq!(time((-1, 0)), "-1.000000000");
        assert_eq!(time((1, 5)), "1.000000005");
    }
}
