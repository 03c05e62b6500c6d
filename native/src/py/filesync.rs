//! Build contexts over `BuildKit`'s protocol: frames, and the trees in them.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::{filesync, http2};

type Frames<'py> = Vec<(u8, u8, u32, Bound<'py, PyBytes>)>;

/// (kind, flags, stream, payload) of each whole frame, and the bytes that they were.
#[pyfunction]
pub fn split_frames<'py>(py: Python<'py>, buffer: &[u8], largest: usize) -> PyResult<(Frames<'py>, usize)> {
    let (frames, taken) = http2::split(buffer, largest)?;
    let frames = frames
        .into_iter()
        .map(|frame| (frame.kind, frame.flags, frame.stream, PyBytes::new(py, &frame.payload)))
        .collect();
    Ok((frames, taken))
}

/// A directory of a client's on its way.
#[pyclass(frozen)]
#[derive(Debug)]
pub struct ReceivedTree(Mutex<filesync::Tree>);

impl ReceivedTree {
    fn with<T>(&self, call: impl FnOnce(&mut filesync::Tree) -> T) -> T {
        call(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl ReceivedTree {
    #[new]
    fn new(py: Python<'_>, target: &str, records: PathBuf) -> PyResult<Self> {
        Ok(Self(Mutex::new(py.detach(|| filesync::Tree::open(target, &records))?)))
    }

    fn take<'py>(&self, py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let answer = py.detach(|| self.with(|tree| tree.take(data)))?;
        Ok(PyBytes::new(py, &answer))
    }

    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.with(filesync::Tree::finish))?)
    }

    #[getter]
    fn whole(&self) -> bool {
        self.with(|tree| tree.whole())
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.with(|tree| tree.bytes)
    }

    #[getter]
    fn size(&self) -> u64 {
        self.with(|tree| tree.size)
    }

    #[getter]
    fn failure(&self) -> Option<String> {
        self.with(|tree| tree.failure.clone())
    }
}
