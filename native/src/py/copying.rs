//! Files into layers, for builds.

use std::os::fd::IntoRawFd;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::copying::{self, Copy, Patterns, Source, Target, Tree};
use crate::overlay::Overlay;

/// Digests of files, kept from one build to the next.
#[pyclass(frozen)]
#[derive(Debug)]
pub struct FileDigests(copying::FileDigests);

#[pymethods]
impl FileDigests {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> Self {
        Self(py.detach(|| copying::FileDigests::open(&path)))
    }

    fn save(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.0.save())?)
    }
}

/// A tree of files, looked at once.
#[pyclass(frozen)]
#[derive(Debug)]
pub struct FileTree(Tree);

#[pymethods]
impl FileTree {
    #[staticmethod]
    fn context(py: Python<'_>, directory: &str, ignore: Vec<String>) -> PyResult<Self> {
        Ok(Self(py.detach(|| Tree::scan(directory, &Patterns::new(&ignore)?))?))
    }

    #[staticmethod]
    fn layers(py: Python<'_>, lower: Vec<String>) -> PyResult<Self> {
        let tree = py.detach(|| Tree::of(copying::merged(&lower)?, &Patterns::default(), false))?;
        Ok(Self(tree))
    }

    fn digest(
        &self,
        py: Python<'_>,
        sources: Vec<String>,
        exclude: Vec<String>,
        parents: bool,
        known: &FileDigests,
    ) -> PyResult<String> {
        Ok(py.detach(|| self.0.digest(&sources, &Patterns::new(&exclude)?, parents, &known.0))?)
    }

    /// (path, first bytes) of each regular file that a source means.
    fn heads<'py>(
        &self,
        py: Python<'py>,
        source: &str,
        length: usize,
    ) -> PyResult<Vec<(PathBuf, Bound<'py, PyBytes>)>> {
        let found = py.detach(|| copying::heads(&self.0, source, length))?;
        Ok(found.into_iter().map(|(path, head)| (path, PyBytes::new(py, &head))).collect())
    }

    /// A descriptor of a regular file, the caller's.
    fn open(&self, py: Python<'_>, path: PathBuf) -> PyResult<i32> {
        Ok(py.detach(|| copying::open_file(&self.0, &path))?.into_raw_fd())
    }
}

/// (name, content, mode, seconds since 1970).
type Inline = (String, Vec<u8>, u32, i64);

#[pyfunction]
#[pyo3(signature = (layer, target, sources, *, inline = vec![], owner = None, mode = "", parents = false, exclude = vec![], epoch = None))]
#[allow(clippy::too_many_arguments)]
pub fn copy_files(
    py: Python<'_>,
    layer: (Vec<String>, String, String),
    target: String,
    sources: Vec<(Py<FileTree>, Vec<String>)>,
    inline: Vec<Inline>,
    owner: Option<(u32, u32)>,
    mode: &str,
    parents: bool,
    exclude: Vec<String>,
    epoch: Option<i64>,
) -> PyResult<()> {
    let copy =
        Copy { target, owner, mode: mode.to_owned(), parents, exclude: Patterns::new(&exclude)?, epoch };
    py.detach(|| {
        let place = open_layer(&layer)?;
        let mut all: Vec<Source<'_>> =
            sources.iter().map(|(tree, paths)| Source::Files { tree: &tree.get().0, paths }).collect();
        all.extend(inline.iter().map(|(name, data, mode, modified)| Source::Inline {
            name,
            data,
            mode: *mode,
            modified: *modified,
        }));
        copying::copy(&place, &copy, &all)
    })?;
    Ok(())
}

#[pyfunction]
pub fn make_layer_directory(
    py: Python<'_>,
    layer: (Vec<String>, String, String),
    path: &str,
    owner: (u32, u32),
) -> PyResult<()> {
    Ok(py.detach(|| copying::make_directory(&open_layer(&layer)?, path, owner))?)
}

/// (lower directories top first, upper, work).
fn open_layer(layer: &(Vec<String>, String, String)) -> crate::error::Result<Target> {
    let (lower, upper, work) = layer;
    let overlay = Overlay {
        lower,
        writable: Some((upper.as_str(), work.as_str())),
        volatile: true,
        idmap: None,
        userxattr: false,
    };
    Target::new(overlay.mount()?, upper)
}
