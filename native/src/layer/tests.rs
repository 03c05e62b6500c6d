//! Whole passes: what an archive may do, what it may not, and that nothing it says reaches outside the root.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::error::Error;

mod entries;
mod feed;
mod fuzz;
mod hostile;
mod packing;
mod trees;
mod whiteouts;

/// A directory to unpack into, with a neighbour that no archive may touch.
struct Place {
    top: TempDir,
    root: PathBuf,
    outside: PathBuf,
}

impl Place {
    fn new() -> Self {
        let top = tempfile::tempdir().expect("tempdir");
        let root = top.path().join("root");
        let outside = top.path().join("outside");
        fs::create_dir(&root).expect("mkdir");
        fs::create_dir(&outside).expect("mkdir");
        fs::write(outside.join("secret"), "untouched").expect("write");
        Self { top, root, outside }
    }

    fn unpack_with(&self, archive: &[u8], overlay: bool, limits: &Limits) -> Result<Layer> {
        let mut file = tempfile::tempfile_in(self.top.path()).expect("tempfile");
        file.write_all(archive).expect("write");
        file.rewind().expect("seek");
        let root = self.root.to_str().expect("utf-8");
        let layer = unpack_layer(&file, root, overlay, None, limits)?;
        if overlay {
            assert_eq!(layer.usage, disk_usage(root).expect("usage"));
        }
        Ok(layer)
    }

    fn unpack(&self, archive: &[u8]) -> Result<Layer> {
        self.unpack_with(archive, true, &Limits::DEFAULT)
    }

    /// Nothing beside the root changed, and nothing but the two is there.
    fn assert_contained(&self) {
        assert_eq!(fs::read_to_string(self.outside.join("secret")).expect("read"), "untouched");
        assert_eq!(fs::read_dir(&self.outside).expect("read").count(), 1);
        assert_eq!(fs::read_dir(self.top.path()).expect("read").count(), 2);
        assert_eq!(fs::metadata(self.outside.join("secret")).expect("stat").nlink(), 1);
    }

    /// A fresh root for the next archive.
    fn empty(&self) {
        fs::remove_dir_all(&self.root).expect("remove");
        fs::create_dir(&self.root).expect("mkdir");
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Archives byte by byte: what a well-behaved writer would refuse to write is the point.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn header(name: &[u8], kind: u8, size: u64, link: &[u8]) -> [u8; 512] {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name);
        put(100, b"0000644\x000000000\x000000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"00000000001\0        ");
        put(156, &[kind]);
        put(157, link);
        put(257, b"ustar\x0000");
        Self::seal(&header)
    }

    fn seal(header: &[u8; 512]) -> [u8; 512] {
        let mut header = *header;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    fn raw(mut self, header: &[u8; 512], content: &[u8]) -> Self {
        self.0.extend_from_slice(&Self::seal(header));
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn entry(self, name: &str, kind: u8, content: &[u8], link: &str) -> Self {
        let header = Self::header(name.as_bytes(), kind, content.len() as u64, link.as_bytes());
        self.raw(&header, content)
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, b'0', content.as_bytes(), "")
    }

    fn dir(self, name: &str) -> Self {
        self.entry(name, b'5', b"", "")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name, b'2', b"", target)
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(name, b'1', b"", target)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let mut length = key.len() + value.len() + 3;
            while length != key.len() + value.len() + 3 + length.to_string().len() {
                length = key.len() + value.len() + 3 + length.to_string().len();
            }
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry("pax", b'x', &content, "")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn invalid(result: Result<Layer>) -> String {
    match result {
        Err(Error::Invalid(text)) => text,
        other => panic!("expected a malformed archive, got {other:?}"),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

/// xorshift: the same mutations in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
