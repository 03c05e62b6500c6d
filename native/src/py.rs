//! The Python face of the crate: the only file that names pyo3.

use pyo3::prelude::*;

use crate::error::Error;

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

// ---- confinement: seccomp, cgroup ---------------------------------------------------------------

// ---- rootfs reads -------------------------------------------------------------------------------

// ---- layers -------------------------------------------------------------------------------------

// ---- logs ---------------------------------------------------------------------------------------

#[pymodule]
mod proa_native {
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
