//! The Python face of the crate: the only file that names pyo3.

use std::os::fd::AsRawFd;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;
use crate::keeper::log_reader;

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

// ---- layers -------------------------------------------------------------------------------------

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
    use super::*;

    #[pymodule_export]
    use super::{keeper_main, LogReader};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
