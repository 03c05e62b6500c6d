//! Healthchecks without a process.

use std::os::fd::AsRawFd;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::probes::{Handle, Outcome, Rhythm, Target, Watch};

/// Containers that are asked how they are, and what they answered.
#[pyclass(frozen)]
#[derive(Debug)]
pub struct Probes(Handle);

/// (start, end, exit code, output); Unix nanoseconds.
type Found = (u64, u64, i32, String);

#[pymethods]
impl Probes {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self(Handle::new()?))
    }

    #[pyo3(signature = (pid, addresses, request, *, interval_ns, start_interval_ns, start_ends_ns, timeout_ns,
                        starting, late))]
    #[allow(clippy::too_many_arguments)] // Keywords in Python.
    fn watch(
        &self,
        py: Python<'_>,
        pid: i32,
        addresses: Vec<String>,
        request: Vec<u8>,
        interval_ns: u64,
        start_interval_ns: u64,
        start_ends_ns: u64,
        timeout_ns: u64,
        starting: bool,
        late: String,
    ) -> PyResult<u32> {
        let parse =
            |text: &String| text.parse().map_err(|_| PyValueError::new_err(format!("bad address {text:?}")));
        let addresses = addresses.iter().map(parse).collect::<PyResult<_>>()?;
        let rhythm = Rhythm {
            interval: interval_ns,
            start_interval: start_interval_ns,
            start_ends: start_ends_ns,
            timeout: timeout_ns,
        };
        let watch = Watch { pid, target: Target { addresses, request }, rhythm, starting, late };
        Ok(py.detach(|| self.0.watch(watch))?)
    }

    fn unwatch(&self, number: u32) {
        self.0.unwatch(number);
    }

    fn take(&self, number: u32) -> Vec<Found> {
        let found = |outcome: Outcome| (outcome.start_ns, outcome.end_ns, outcome.code, outcome.output);
        self.0.take(number).into_iter().map(found).collect()
    }

    fn news(&self) -> Vec<u32> {
        self.0.news()
    }

    fn fileno(&self) -> i32 {
        self.0.notifier().as_raw_fd()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}
