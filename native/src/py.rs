//! The Python face of the crate: the only file that names pyo3.

// Arguments come out of Python as owned values.
#![allow(clippy::needless_pass_by_value)]

use std::os::fd::{AsRawFd, OwnedFd};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;
use crate::keeper::log_reader;
use crate::layer;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Os { ref source, .. } => {
                let text = error.to_string();
                pyo3::exceptions::PyOSError::new_err((source.raw_os_error().unwrap_or(0), text))
            }
            Error::Invalid(text) => pyo3::exceptions::PyValueError::new_err(text),
        }
    }
}

// ---- keeper -------------------------------------------------------------------------------------

/// Become the keeper. The interpreter is let go of and not used again before the end.
#[pyfunction]
#[pyo3(signature = (exec_root, *, ready_fd = -1))]
fn keeper_main(python: Python<'_>, exec_root: std::path::PathBuf, ready_fd: i32) -> PyResult<()> {
    let ready = crate::sys::supervise::adopt(ready_fd);
    Ok(python.detach(|| crate::keeper::main(&exec_root, ready))?)
}

// ---- confinement: seccomp, cgroup ---------------------------------------------------------------

// ---- rootfs reads -------------------------------------------------------------------------------

type Contents<'py> = Vec<Option<Bound<'py, PyBytes>>>;

/// Files as a container with these layers would see them.
#[pyfunction]
#[pyo3(signature = (layers, paths, *, limit = 1 << 20))]
fn read_in_layers<'py>(
    py: Python<'py>,
    layers: Vec<String>,
    paths: Vec<String>,
    limit: usize,
) -> PyResult<Contents<'py>> {
    let found = py.detach(|| crate::rootfs::read_in_layers(&layers, &paths, limit))?;
    Ok(contents(py, &found))
}

/// Files in the root of a running process.
#[pyfunction]
#[pyo3(signature = (pid, paths, *, limit = 1 << 20))]
fn read_in_process_root(
    py: Python<'_>,
    pid: u32,
    paths: Vec<String>,
    limit: usize,
) -> PyResult<Contents<'_>> {
    let found = py.detach(|| crate::rootfs::read_in_process_root(pid, &paths, limit))?;
    Ok(contents(py, &found))
}

fn contents<'py>(py: Python<'py>, found: &[Option<Vec<u8>>]) -> Contents<'py> {
    found.iter().map(|content| content.as_deref().map(|bytes| PyBytes::new(py, bytes))).collect()
}

// ---- layers -------------------------------------------------------------------------------------

/// What one pass over a layer found.
#[pyclass(frozen, get_all)]
#[derive(Debug)]
struct UnpackedLayer {
    digest: String,
    diff_id: String,
    compressed_size: u64,
    size: u64,
    entries: u64,
    implied: Vec<Vec<u8>>,
}

impl From<layer::Layer> for UnpackedLayer {
    fn from(found: layer::Layer) -> Self {
        let layer::Digests { digest, diff_id, compressed_size, size } = found.digests;
        Self { digest, diff_id, compressed_size, size, entries: found.entries, implied: found.implied }
    }
}

/// A duplicate of a caller's fd number, so that the caller keeps its own: `pidfd_getfd(2)` on ourselves is the one
/// call that takes a number on trust and answers EBADF rather than misbehaving.
fn duplicate(fd: i32) -> Result<OwnedFd, Error> {
    let failed = |errno| Error::os("use file descriptor", fd.to_string(), errno);
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    let own = own.map_err(failed)?;
    rustix::process::pidfd_getfd(own, fd, rustix::process::PidfdGetfdFlags::empty()).map_err(failed)
}

#[pyfunction]
#[pyo3(signature = (source_fd, target, *, overlay = true, copy_fd = -1))]
fn unpack_layer(
    py: Python<'_>,
    source_fd: i32,
    target: &str,
    overlay: bool,
    copy_fd: i32,
) -> PyResult<UnpackedLayer> {
    let source = duplicate(source_fd)?;
    let copy = if copy_fd < 0 { None } else { Some(duplicate(copy_fd)?) };
    let limits = layer::Limits::DEFAULT;
    let found = py.detach(|| layer::unpack_layer(&source, target, overlay, copy.as_ref(), &limits))?;
    Ok(found.into())
}

#[pyfunction]
#[pyo3(signature = (directory, target_fd, *, compression = "none", overlay = true))]
fn pack_layer(
    py: Python<'_>,
    directory: &str,
    target_fd: i32,
    compression: &str,
    overlay: bool,
) -> PyResult<UnpackedLayer> {
    let target = duplicate(target_fd)?;
    let compression = match compression {
        "none" => layer::PackCompression::None,
        "gzip" => layer::PackCompression::Gzip,
        "zstd" => layer::PackCompression::Zstd,
        other => return Err(Error::Invalid(format!("unknown compression {other:?}")).into()),
    };
    let found = py.detach(|| layer::pack_layer(directory, &target, compression, overlay))?;
    Ok(found.into())
}

#[pyfunction]
fn split_archive(
    py: Python<'_>,
    source_fd: i32,
    directory: &str,
    found: &Bound<'_, PyAny>,
) -> PyResult<String> {
    let source = duplicate(source_fd)?;
    let found = found.clone().unbind();
    let mut raised = None;
    let split = py.detach(|| {
        layer::split_archive(&source, directory, &layer::Limits::DEFAULT, |member| {
            let kind = match member.kind {
                layer::MemberKind::File => "file",
                layer::MemberKind::Symlink => "symlink",
                layer::MemberKind::Hardlink => "hardlink",
            };
            Python::attach(|py| {
                let path = PyBytes::new(py, &member.path);
                let link = PyBytes::new(py, &member.link);
                found.call1(py, (path, kind, link, member.number, member.size)).map(drop)
            })
            .map_err(|error| {
                raised = Some(error);
                Error::Invalid("the caller gave up".into())
            })
        })
    });
    match (raised, split) {
        (Some(error), _) => Err(error),
        (None, split) => Ok(split?.digest),
    }
}

#[pyfunction]
fn disk_usage(py: Python<'_>, directory: &str) -> PyResult<(u64, u64)> {
    Ok(py.detach(|| layer::disk_usage(directory))?)
}

#[pyfunction]
fn inherit_directories(
    py: Python<'_>,
    directory: &str,
    lower: Vec<String>,
    paths: Vec<Vec<u8>>,
) -> PyResult<()> {
    Ok(py.detach(|| layer::inherit_directories(directory, &lower, &paths))?)
}

#[pyfunction]
fn remove_tree(py: Python<'_>, directory: &str) -> PyResult<()> {
    Ok(py.detach(|| layer::remove_tree(directory))?)
}

// ---- logs ---------------------------------------------------------------------------------------

/// Reads a json-file log and its rotated files in order, following rotation.
#[pyclass]
struct LogReader(Option<log_reader::LogReader>);

#[pymethods]
impl LogReader {
    #[new]
    #[pyo3(signature = (path, *, stdout, stderr, since_ns = 0, until_ns = 0, tail = -1, timestamps = false,
                        multiplexed = true, follow = false))]
    #[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)] // Keywords in Python.
    fn new(
        python: Python<'_>,
        path: std::path::PathBuf,
        stdout: bool,
        stderr: bool,
        since_ns: u64,
        until_ns: u64,
        tail: i64,
        timestamps: bool,
        multiplexed: bool,
        follow: bool,
    ) -> PyResult<Self> {
        let query =
            log_reader::Query { stdout, stderr, since_ns, until_ns, tail, timestamps, multiplexed, follow };
        Ok(Self(Some(python.detach(|| log_reader::LogReader::open(path, query))?)))
    }

    #[pyo3(signature = (limit = 1 << 16))]
    fn read<'py>(&mut self, python: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyBytes>> {
        let Some(reader) = &mut self.0 else { return Err(closed()) };
        let chunk = python.detach(|| reader.read(limit))?;
        Ok(PyBytes::new(python, &chunk))
    }

    fn fileno(&self) -> PyResult<i32> {
        let reader = self.0.as_ref().ok_or_else(closed)?;
        let notifier = reader.notifier().ok_or_else(|| PyValueError::new_err("the log is not followed"))?;
        Ok(notifier.as_raw_fd())
    }

    fn close(&mut self) {
        self.0 = None;
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("I/O operation on closed log")
}

#[pymodule]
mod proa_native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::{
        disk_usage, inherit_directories, pack_layer, remove_tree, split_archive, unpack_layer, UnpackedLayer,
    };

    #[pymodule_export]
    use super::{keeper_main, LogReader};

    #[pymodule_export]
    use super::{read_in_layers, read_in_process_root};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
