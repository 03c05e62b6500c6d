//! Mounts of proad's own, and limits of directories.

use pyo3::prelude::*;

use crate::volume;

#[pyfunction]
#[pyo3(signature = (target, kind, source, options, *, attributes = 0))]
pub fn mount_filesystem(
    py: Python<'_>,
    target: &str,
    kind: &str,
    source: &str,
    options: Vec<String>,
    attributes: u64,
) -> PyResult<()> {
    Ok(py.detach(|| volume::mount_filesystem(target, kind, source, &options, attributes))?)
}

#[pyfunction]
#[pyo3(signature = (target, source, *, recursive = false, attributes = 0))]
pub fn mount_bind(
    py: Python<'_>,
    target: &str,
    source: &str,
    recursive: bool,
    attributes: u64,
) -> PyResult<()> {
    Ok(py.detach(|| volume::mount_bind(target, source, recursive, attributes))?)
}

#[pyfunction]
pub fn unmount(py: Python<'_>, target: &str) -> PyResult<bool> {
    Ok(py.detach(|| volume::unmount_at(target))?)
}

#[pyfunction]
pub fn is_mounted(py: Python<'_>, target: &str) -> PyResult<bool> {
    Ok(py.detach(|| volume::is_mounted(target))?)
}

#[pyfunction]
pub fn has_project_quota(py: Python<'_>, directory: &str) -> PyResult<bool> {
    Ok(py.detach(|| volume::has_project_quota(directory))?)
}

#[pyfunction]
pub fn limit_directory(py: Python<'_>, directory: &str, size: u64) -> PyResult<()> {
    Ok(py.detach(|| volume::limit_directory(directory, size))?)
}
