//! What a layer's tar is beside its files, so that it can be made again from them, byte for byte.
//!
//! The blob of a layer that came uncompressed would be a second copy of every file in it: twice the bytes to write
//! when it is loaded, and twice the disk for good. Kept instead is a recipe, beside the layer's directory and with
//! its lifetime: a zstd stream of records, numbers little-endian.
//!
//! | tag | then                      | the next bytes of the tar are                    |
//! |-----|---------------------------|--------------------------------------------------|
//! | 0   | u32 n, n bytes            | these: headers, padding, the end                 |
//! | 1   | u64 size, u32 n, n bytes  | the content of the file of that path and size    |
//!
//! It holds while every file that it names is there. Where a layer replaces something that it made itself, which is
//! rare, what came so far is put together before that goes, and from there on the blob is written as it comes.
//! Nothing believes a recipe: what is made by one is digested.
//!
//! Source: tar-split (github.com/vbatts/tar-split), for the idea.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::source::read;
use super::stream::CHUNK;
use super::tree::{failed, open_in_root};
use crate::error::{Error, Result};

/// Its name, beside the layer's directory.
const NAME: &str = "tar";
/// Of zstd: headers differ in little, so that the fastest level makes 4 % of them.
const LEVEL: i32 = 1;
/// Plain bytes that are gathered before they are a record.
const GATHERED: usize = 64 << 10;
/// Bytes of one record's content or path, when it is read.
const RECORD: u32 = 1 << 20;

const PLAIN: u8 = 0;
const CONTENT: u8 = 1;

/// Where the recipe of the layer in `directory` is or would be.
fn beside(directory: &str) -> PathBuf {
    Path::new(directory).with_file_name(NAME)
}

/// The recipe of the layer in `directory`, if it has one.
pub(super) fn of(directory: &str) -> Result<Option<File>> {
    let path = beside(directory);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Error::os("open", path.display().to_string(), errno)),
    }
}

fn create(path: &Path) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
        .map(File::from)
        .map_err(|errno| Error::os("create", path.display().to_string(), errno))
}

fn unwritten(error: std::io::Error) -> Error {
    Error::os("write", "layer", error)
}

/// The record of one layer on its way in: recipe or, where that does not do, blob.
pub struct Recorder {
    root: OwnedFd,
    recipe: PathBuf,
    blob_path: PathBuf,
    /// While there is a recipe.
    encoder: Option<zstd::stream::write::Encoder<'static, File>>,
    /// Once there is none.
    blob: Option<File>,
    /// Bytes that are not a record yet.
    plain: Vec<u8>,
    /// Bytes of the file at hand that are still to come: they are in the directory.
    passing: u64,
    /// Told at the end: who hands bytes over has no use for it.
    failure: Option<Error>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Recorder").field("recipe", &self.recipe).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Of a layer that is unpacked into `directory`, which `root` is; a blob, if need be, is written to `blob`.
    pub fn new(root: OwnedFd, directory: &str, blob: PathBuf) -> Result<Self> {
        let recipe = beside(directory);
        let encoder = zstd::stream::write::Encoder::new(create(&recipe)?, LEVEL).map_err(unwritten)?;
        Ok(Self {
            root,
            recipe,
            blob_path: blob,
            encoder: Some(encoder),
            blob: None,
            plain: Vec::new(),
            passing: 0,
            failure: None,
        })
    }

    /// The next bytes of the tar, as they were read.
    pub fn take(&mut self, bytes: &[u8]) {
        if let Some(blob) = &mut self.blob {
            if let Err(error) = blob.write_all(bytes) {
                self.failure.get_or_insert(unwritten(error));
            }
            return;
        }
        let passed = bytes.len().min(usize::try_from(self.passing).unwrap_or(usize::MAX));
        self.passing -= passed as u64;
        self.plain.extend_from_slice(&bytes[passed..]);
        if self.plain.len() >= GATHERED {
            if let Err(error) = self.flush() {
                self.failure.get_or_insert(error);
            }
        }
    }

    /// The next `size` bytes go into the new file called `path`.
    pub fn content(&mut self, path: &[u8], size: u64) -> Result<()> {
        if self.blob.is_some() || size == 0 {
            return Ok(());
        }
        self.flush()?;
        let length = (path.len() as u32).to_le_bytes();
        self.write(&[&[CONTENT][..], &size.to_le_bytes(), &length, path].concat())?;
        self.passing = size;
        Ok(())
    }

    /// Something that was made goes: put together what it may be part of while it is there.
    pub fn losing(&mut self) -> Result<()> {
        self.flush()?;
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        encoder.finish().map_err(unwritten)?;
        let mut blob = create(&self.blob_path)?;
        let recipe = File::open(&self.recipe).map_err(unreadable)?;
        rebuild(&self.root, recipe, |bytes| blob.write_all(bytes).map_err(unwritten))?;
        self.blob = Some(blob);
        std::fs::remove_file(&self.recipe).map_err(unwritten)
    }

    /// All was taken: true where there is a recipe, false where there is a blob.
    pub fn finish(&mut self) -> Result<bool> {
        self.flush()?;
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let Some(encoder) = self.encoder.take() else { return Ok(false) };
        encoder.finish().map_err(unwritten)?;
        Ok(true)
    }

    /// Make a record of what was gathered.
    fn flush(&mut self) -> Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        let plain = std::mem::take(&mut self.plain);
        for piece in plain.chunks(RECORD as usize) {
            self.write(&[PLAIN])?;
            self.write(&(piece.len() as u32).to_le_bytes())?;
            self.write(piece)?;
        }
        self.plain = plain;
        self.plain.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.encoder {
            Some(encoder) => encoder.write_all(bytes).map_err(unwritten),
            None => Ok(()),
        }
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::os("read", "recipe of a layer", error)
}

/// Make the tar again from `recipe` and the files below `root`. Whether it is what it was its digest says.
pub(super) fn rebuild(root: &OwnedFd, recipe: File, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let decoder = zstd::stream::read::Decoder::new(recipe).map_err(unreadable)?;
    let mut records = BufReader::with_capacity(CHUNK, decoder);
    let mut buffer = vec![0; CHUNK];
    let mut tag = [0];
    while records.read(&mut tag).map_err(unreadable)? == 1 {
        match tag[0] {
            PLAIN => put(&bytes(&mut records)?)?,
            CONTENT => {
                let mut size = [0; 8];
                records.read_exact(&mut size).map_err(unreadable)?;
                let path = bytes(&mut records)?;
                content(root, &path, u64::from_le_bytes(size), &mut buffer, &mut put)?;
            }
            other => return Err(Error::Invalid(format!("the recipe of a layer has a record {other}"))),
        }
    }
    Ok(())
}

fn bytes(records: &mut impl Read) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    records.read_exact(&mut length).map_err(unreadable)?;
    let length = u32::from_le_bytes(length);
    if length > RECORD {
        return Err(Error::Invalid("the recipe of a layer has a record that is too long".into()));
    }
    let mut bytes = vec![0; length as usize];
    records.read_exact(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// The content of a file, which must be as long as it was.
fn content(
    root: &OwnedFd,
    path: &[u8],
    size: u64,
    buffer: &mut [u8],
    put: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = open_in_root(root, path, flags).map_err(|errno| failed("open", path, errno))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| failed("stat", path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size as u64 != size {
        return Err(Error::Invalid(format!("{} is not what it was", String::from_utf8_lossy(path))));
    }
    let mut left = size;
    while left > 0 {
        let step = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match read(file.as_fd(), &mut buffer[..step])? {
            0 => return Err(failed("read", path, Errno::IO)),
            count => {
                put(&buffer[..count])?;
                left -= count as u64;
            }
        }
    }
    Ok(())
}
