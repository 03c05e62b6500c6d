//! Layers and trees.

use std::os::fd::{AsRawFd, OwnedFd};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::{Error, Result};
use crate::layer;

/// What one pass over a layer found.
#[pyclass(frozen, get_all)]
#[derive(Debug)]
pub struct UnpackedLayer {
    digest: String,
    diff_id: String,
    compressed_size: u64,
    size: u64,
    entries: u64,
    implied: Vec<Vec<u8>>,
    usage: (u64, u64),
    recipe: bool,
}

impl From<layer::Layer> for UnpackedLayer {
    fn from(found: layer::Layer) -> Self {
        let layer::Digests { digest, diff_id, compressed_size, size } = found.digests;
        Self {
            digest,
            diff_id,
            compressed_size,
            size,
            entries: found.entries,
            implied: found.implied,
            usage: found.usage,
            recipe: found.recipe,
        }
    }
}

/// A duplicate of a caller's fd number, so that the caller keeps its own: `pidfd_getfd(2)` on ourselves is the one
/// call that takes a number on trust and answers EBADF rather than misbehaving.
pub(super) fn duplicate(fd: i32) -> Result<OwnedFd> {
    let failed = |errno| Error::os("use file descriptor", fd.to_string(), errno);
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    let own = own.map_err(failed)?;
    rustix::process::pidfd_getfd(own, fd, rustix::process::PidfdGetfdFlags::empty()).map_err(failed)
}

/// What the HTTP connection calls the states in the middle of a body.
const PHASES: [(&str, layer::Phase); 4] = [
    ("fixed", layer::Phase::Fixed),
    ("chunk-size", layer::Phase::ChunkSize),
    ("chunk-data", layer::Phase::ChunkData),
    ("chunk-end", layer::Phase::ChunkEnd),
];

/// Bytes on their way to a native call in another thread.
#[pyclass(frozen)]
#[derive(Debug)]
pub struct ByteFeed(layer::Feed);

#[pymethods]
impl ByteFeed {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self(layer::Feed::new()?))
    }

    fn try_write(&self, py: Python<'_>, chunk: &[u8]) -> PyResult<bool> {
        match py.detach(|| self.0.try_put(chunk)) {
            Some(true) => Ok(true),
            None => Ok(false),
            Some(false) => Err(Error::os("write to", "feed", rustix::io::Errno::PIPE).into()),
        }
    }

    fn fileno(&self) -> i32 {
        self.0.room().as_raw_fd()
    }

    fn lend(&self, fd: i32, phase: &str, remaining: u64, unparsed: Vec<u8>) -> PyResult<()> {
        let phase = PHASES.iter().find(|(name, _)| *name == phase).map(|(_, phase)| *phase);
        let phase = phase.ok_or_else(|| Error::Invalid("unknown phase of a body".into()))?;
        self.0.lend(layer::Body::new(duplicate(fd)?, phase, remaining, unparsed));
        Ok(())
    }

    fn reclaim<'py>(&self, py: Python<'py>) -> Option<(&'static str, u64, Bound<'py, PyBytes>)> {
        let (phase, remaining, unparsed) = self.0.reclaim()?.state();
        let name = PHASES.iter().find(|(_, other)| *other == phase).map_or("", |(name, _)| *name);
        Some((name, remaining, PyBytes::new(py, &unparsed)))
    }

    fn end(&self) {
        self.0.end();
    }

    fn close(&self) {
        self.0.close();
    }
}

/// Where a call reads from: the caller's fd, by number, or a feed.
#[derive(FromPyObject)]
pub enum Source<'py> {
    Feed(Bound<'py, ByteFeed>),
    Fd(i32),
}

impl Source<'_> {
    fn open(&self) -> Result<Opened<'_>> {
        Ok(match self {
            Self::Feed(feed) => Opened::Feed(&feed.get().0),
            Self::Fd(fd) => Opened::Fd(duplicate(*fd)?),
        })
    }
}

/// A [`Source`] without the interpreter.
enum Opened<'a> {
    Feed(&'a layer::Feed),
    Fd(OwnedFd),
}

impl Opened<'_> {
    fn input(&self) -> layer::Input<'_> {
        match self {
            Self::Feed(feed) => layer::Input::Feed(feed),
            Self::Fd(fd) => fd.into(),
        }
    }
}

#[pyfunction]
#[pyo3(signature = (source, target, *, overlay = true, copy_fd = -1), text_signature = "(source, target, *, overlay=True, copy_fd=-1)")]
pub fn unpack_layer(
    py: Python<'_>,
    source: Source<'_>,
    target: &str,
    overlay: bool,
    copy_fd: i32,
) -> PyResult<UnpackedLayer> {
    let source = source.open()?;
    let copy = if copy_fd < 0 { None } else { Some(duplicate(copy_fd)?) };
    let limits = layer::Limits::DEFAULT;
    let found = py.detach(|| layer::unpack_layer(source.input(), target, overlay, copy.as_ref(), &limits))?;
    Ok(found.into())
}

/// Unpacks a layer that is handed over in pieces, on a thread of its own.
#[pyclass(frozen)]
#[derive(Debug)]
pub struct LayerUnpacker(layer::LayerUnpacker);

#[pymethods]
impl LayerUnpacker {
    #[new]
    #[pyo3(signature = (target, *, overlay = true, copy_fd = -1), text_signature = "(target, *, overlay=True, copy_fd=-1)")]
    fn new(target: &str, overlay: bool, copy_fd: i32) -> PyResult<Self> {
        let copy = if copy_fd < 0 { None } else { Some(duplicate(copy_fd)?) };
        Ok(Self(layer::LayerUnpacker::new(target, overlay, copy, layer::Limits::DEFAULT)?))
    }

    fn write(&self, py: Python<'_>, chunk: &[u8]) -> PyResult<()> {
        Ok(py.detach(|| self.0.write(chunk))?)
    }

    fn try_write(&self, py: Python<'_>, chunk: &[u8]) -> PyResult<bool> {
        Ok(py.detach(|| self.0.try_write(chunk))?)
    }

    fn write_file(&self, py: Python<'_>, fd: i32, size: u64) -> PyResult<()> {
        let file = duplicate(fd)?;
        Ok(py.detach(|| self.0.write_file(&file, size))?)
    }

    fn fileno(&self) -> i32 {
        self.0.room().as_raw_fd()
    }

    fn finish(&self, py: Python<'_>) -> PyResult<UnpackedLayer> {
        Ok(py.detach(|| self.0.finish())?.into())
    }

    fn abort(&self, py: Python<'_>) {
        py.detach(|| self.0.abort());
    }
}

#[pyfunction]
#[pyo3(signature = (directory, target_fd, *, compression = "none", overlay = true))]
pub fn pack_layer(
    py: Python<'_>,
    directory: &str,
    target_fd: i32,
    compression: &str,
    overlay: bool,
) -> PyResult<UnpackedLayer> {
    let target = duplicate(target_fd)?;
    let compression = compression_named(compression)?;
    let found = py.detach(|| layer::pack_layer(directory, &target, compression, overlay))?;
    Ok(found.into())
}

fn compression_named(name: &str) -> Result<layer::PackCompression> {
    Ok(match name {
        "none" => layer::PackCompression::None,
        "gzip" => layer::PackCompression::Gzip,
        "zstd" => layer::PackCompression::Zstd,
        other => return Err(Error::Invalid(format!("unknown compression {other:?}"))),
    })
}

#[pyfunction]
#[pyo3(signature = (source_fd, target_fd, *, compression = "gzip", level = None))]
pub fn compress_layer(
    py: Python<'_>,
    source_fd: i32,
    target_fd: i32,
    compression: &str,
    level: Option<i32>,
) -> PyResult<UnpackedLayer> {
    let (source, target) = (duplicate(source_fd)?, duplicate(target_fd)?);
    let compression = compression_named(compression)?;
    let digests = py.detach(|| layer::compress_layer(&source, &target, compression, level))?;
    Ok(layer::Layer { digests, entries: 0, implied: Vec::new(), usage: (0, 0), recipe: false }.into())
}

/// Tells Python of an archive's members. What it raises ends the pass and is kept.
struct Members {
    begin: Py<PyAny>,
    found: Py<PyAny>,
    raised: Option<PyErr>,
}

impl Members {
    fn call<T>(&mut self, call: impl FnOnce(Python<'_>, &Self) -> PyResult<T>) -> Result<T> {
        Python::attach(|py| call(py, self)).map_err(|error| {
            self.raised = Some(error);
            Error::Invalid("the caller gave up".into())
        })
    }
}

impl layer::Members for Members {
    fn begin(&mut self, path: &[u8]) -> Result<Option<String>> {
        self.call(|py, told| told.begin.call1(py, (PyBytes::new(py, path),))?.extract(py))
    }

    fn found(&mut self, member: layer::Member) -> Result<()> {
        let kind = match member.kind {
            layer::MemberKind::File => "file",
            layer::MemberKind::Symlink => "symlink",
            layer::MemberKind::Hardlink => "hardlink",
        };
        self.call(|py, told| {
            let layer = match member.layer {
                None => py.None(),
                Some(Ok(layer)) => Py::new(py, UnpackedLayer::from(layer))?.into_any(),
                Some(Err(error)) => PyErr::from(error).into_value(py).into_any(),
            };
            let path = PyBytes::new(py, &member.path);
            let link = PyBytes::new(py, &member.link);
            told.found.call1(py, (path, kind, link, member.number, member.size, layer)).map(drop)
        })
    }
}

#[pyfunction]
pub fn split_archive(
    py: Python<'_>,
    source: Source<'_>,
    directory: &str,
    begin: Py<PyAny>,
    found: Py<PyAny>,
) -> PyResult<()> {
    let source = source.open()?;
    let mut members = Members { begin, found, raised: None };
    let split =
        py.detach(|| layer::split_archive(source.input(), directory, &layer::Limits::DEFAULT, &mut members));
    match members.raised {
        Some(error) => Err(error),
        None => Ok(split?),
    }
}

#[pyfunction]
pub fn disk_usage(py: Python<'_>, directory: &str) -> PyResult<(u64, u64)> {
    Ok(py.detach(|| layer::disk_usage(directory))?)
}

#[pyfunction]
pub fn inherit_directories(
    py: Python<'_>,
    directory: &str,
    lower: Vec<String>,
    paths: Vec<Vec<u8>>,
) -> PyResult<()> {
    Ok(py.detach(|| layer::inherit_directories(directory, &lower, &paths))?)
}

#[pyfunction]
pub fn remove_tree(py: Python<'_>, directory: &str) -> PyResult<()> {
    Ok(py.detach(|| layer::remove_tree(directory))?)
}

#[pyfunction]
pub fn sync_file_system(py: Python<'_>, directory: &str) -> PyResult<()> {
    Ok(py.detach(|| layer::sync_file_system(directory))?)
}
