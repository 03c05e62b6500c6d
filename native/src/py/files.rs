//! A container's files: what it has changed, and archives both ways.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::layers::duplicate;
use crate::layer;
use crate::plan::Plan;

type Changes<'py> = Vec<(u8, Bound<'py, PyBytes>)>;

/// (0 modified, 1 added, 2 deleted; path) by name.
#[pyfunction]
pub fn changes<'py>(py: Python<'py>, upper: &str, lower: Vec<String>) -> PyResult<Changes<'py>> {
    let found = py.detach(|| layer::changes(upper, &lower))?;
    Ok(found.iter().map(|change| (change.kind as u8, PyBytes::new(py, &change.path))).collect())
}

/// The files of one container, for as long as this lives.
#[pyclass(frozen)]
#[derive(Debug)]
pub struct ContainerFiles(layer::Files);

fn plan(packed: &[u8]) -> PyResult<Plan> {
    rmp_serde::from_slice(packed).map_err(|error| PyValueError::new_err(format!("bad plan: {error}")))
}

#[pymethods]
impl ContainerFiles {
    #[staticmethod]
    fn running(py: Python<'_>, pid: i32, packed: &[u8]) -> PyResult<Self> {
        let user = plan(packed)?.namespaces.user;
        Ok(Self(py.detach(|| layer::Files::running(pid, user))?))
    }

    #[staticmethod]
    fn stopped(py: Python<'_>, packed: &[u8]) -> PyResult<Self> {
        let plan = plan(packed)?;
        Ok(Self(py.detach(|| layer::Files::stopped(plan))?))
    }

    fn stat(&self, py: Python<'_>, path: PathBuf) -> PyResult<(u64, u32, i128, OsString)> {
        let found = py.detach(|| self.0.stat(path.as_os_str().as_bytes()))?;
        let mtime = i128::from(found.mtime.0) * 1_000_000_000 + i128::from(found.mtime.1);
        Ok((found.size, found.mode, mtime, OsString::from_vec(found.target)))
    }

    fn place(&self, py: Python<'_>, path: PathBuf) -> PyResult<(bool, bool)> {
        let found = py.detach(|| self.0.place(path.as_os_str().as_bytes()))?;
        Ok((found.read_only, found.in_rootfs))
    }

    fn send(&self, py: Python<'_>, path: PathBuf, target_fd: i32) -> PyResult<()> {
        let target = duplicate(target_fd)?;
        Ok(py.detach(|| self.0.send(path.as_os_str().as_bytes(), &target))?)
    }

    fn export(&self, py: Python<'_>, target_fd: i32) -> PyResult<()> {
        let target = duplicate(target_fd)?;
        Ok(py.detach(|| self.0.export(&target))?)
    }

    #[pyo3(signature = (path, source_fd, *, keep_kinds = false, owner = None))]
    fn receive(
        &self,
        py: Python<'_>,
        path: PathBuf,
        source_fd: i32,
        keep_kinds: bool,
        owner: Option<(u32, u32)>,
    ) -> PyResult<()> {
        let source = duplicate(source_fd)?;
        let wish = layer::Wish { keep_kinds, owner };
        Ok(py.detach(|| self.0.receive(path.as_os_str().as_bytes(), &source, wish))?)
    }
}
