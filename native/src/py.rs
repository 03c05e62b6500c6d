//! The Python face of the crate: with its rooms (`py/`), the only file that names pyo3.

// Arguments come out of Python as owned values.
#![allow(clippy::needless_pass_by_value)]

use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::OnceLock;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::cgroup::{BlkioEntry, CpuStats, Hierarchies, MemoryStats};
use crate::error::{Error, Result};
use crate::keeper::log_reader;
use crate::netns;
use crate::plan::Resources;
use crate::seccomp;

mod copying;
mod expressions;
mod files;
mod filesync;
mod layers;
mod probes;
mod volumes;

/// How long a killed process may take to leave its group: one that waits for a disk goes when that has answered.
const EMPTIES_WITHIN: Duration = Duration::from_secs(10);

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
#[pyo3(signature = (exec_root, *, ready_fd = -1), text_signature = "(exec_root, *, ready_fd=-1)")]
fn keeper_main(python: Python<'_>, exec_root: std::path::PathBuf, ready_fd: i32) -> PyResult<()> {
    let ready = crate::sys::supervise::adopt(ready_fd);
    Ok(python.detach(|| crate::keeper::main(&exec_root, ready))?)
}

/// A program to execute by descriptor; the caller's, close-on-exec.
#[pyfunction]
fn sealed_program(py: Python<'_>, path: &str) -> PyResult<i32> {
    Ok(py.detach(|| crate::mount::sealed_program(path))?.into_raw_fd())
}

// ---- confinement: seccomp, cgroup ---------------------------------------------------------------

/// A classic BPF program of a Docker JSON profile; None: the built-in default.
#[pyfunction]
#[pyo3(signature = (profile, capabilities, *, architecture = ""))]
fn compile_seccomp<'py>(
    py: Python<'py>,
    profile: Option<&[u8]>,
    capabilities: u64,
    architecture: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let program = py.detach(|| seccomp::compile(profile, capabilities, architecture))?;
    Ok(PyBytes::new(py, &program))
}

/// This process's view of the hierarchies; they do not change under a running host.
fn hierarchies() -> Result<&'static Hierarchies> {
    static PROBED: OnceLock<Hierarchies> = OnceLock::new();
    if let Some(probed) = PROBED.get() {
        return Ok(probed);
    }
    let probed = Hierarchies::probe()?;
    Ok(PROBED.get_or_init(|| probed))
}

#[pyfunction]
fn cgroup_version(py: Python<'_>) -> PyResult<&'static str> {
    Ok(py.detach(hierarchies)?.version().as_str())
}

#[pyfunction]
fn cgroup_controllers(py: Python<'_>) -> PyResult<Vec<String>> {
    Ok(py.detach(hierarchies)?.controllers())
}

/// Write limits: all or none. What this kernel cannot limit was warned of when the request was resolved.
#[pyfunction]
fn cgroup_update(py: Python<'_>, path: &str, resources: &[u8]) -> PyResult<()> {
    let resources: Resources = rmp_serde::from_slice(resources)
        .map_err(|error| PyValueError::new_err(format!("bad resources: {error}")))?;
    Ok(py.detach(|| hierarchies()?.open(path)?.update(&resources).map(drop))?)
}

#[pyfunction]
fn cgroup_freeze(py: Python<'_>, path: &str, frozen: bool) -> PyResult<()> {
    Ok(py.detach(|| hierarchies()?.open(path)?.freeze(frozen))?)
}

#[pyfunction]
fn cgroup_pids(py: Python<'_>, path: &str) -> PyResult<Vec<i32>> {
    Ok(py.detach(|| hierarchies()?.open(path)?.pids())?)
}

#[pyfunction]
fn cgroup_kill(py: Python<'_>, path: &str) -> PyResult<()> {
    Ok(py.detach(|| hierarchies()?.open(path)?.kill())?)
}

#[pyfunction]
fn cgroup_remove(py: Python<'_>, path: &str) -> PyResult<()> {
    Ok(py.detach(|| hierarchies()?.open(path)?.remove(EMPTIES_WITHIN))?)
}

#[pyfunction]
fn cgroup_list(py: Python<'_>, parent: &str) -> PyResult<Vec<String>> {
    Ok(py.detach(|| hierarchies()?.list(parent))?)
}

/// One sample in Docker's shape.
#[pyfunction]
fn cgroup_stats<'py>(py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyDict>> {
    let stats = py.detach(|| hierarchies()?.open(path)?.stats())?;
    let pids = PyDict::new(py);
    pids.set_item("current", stats.pids_current)?;
    pids.set_item("limit", stats.pids_limit)?;
    let blkio = PyDict::new(py);
    blkio.set_item("io_service_bytes_recursive", blkio_entries(py, &stats.io_service_bytes)?)?;
    blkio.set_item("io_serviced_recursive", blkio_entries(py, &stats.io_serviced)?)?;
    let out = PyDict::new(py);
    out.set_item("cpu_stats", cpu_stats(py, &stats.cpu)?)?;
    out.set_item("memory_stats", memory_stats(py, &stats.memory)?)?;
    out.set_item("pids_stats", pids)?;
    out.set_item("blkio_stats", blkio)?;
    Ok(out)
}

fn cpu_stats<'py>(py: Python<'py>, cpu: &CpuStats) -> PyResult<Bound<'py, PyDict>> {
    let usage = PyDict::new(py);
    usage.set_item("total_usage", cpu.total)?;
    if let Some(per_cpu) = &cpu.per_cpu {
        usage.set_item("percpu_usage", per_cpu)?;
    }
    usage.set_item("usage_in_kernelmode", cpu.kernel)?;
    usage.set_item("usage_in_usermode", cpu.user)?;
    let throttling = PyDict::new(py);
    throttling.set_item("periods", cpu.periods)?;
    throttling.set_item("throttled_periods", cpu.throttled_periods)?;
    throttling.set_item("throttled_time", cpu.throttled_time)?;
    let out = PyDict::new(py);
    out.set_item("cpu_usage", usage)?;
    out.set_item("system_cpu_usage", cpu.system)?;
    out.set_item("online_cpus", cpu.online_cpus)?;
    out.set_item("throttling_data", throttling)?;
    Ok(out)
}

fn memory_stats<'py>(py: Python<'py>, memory: &MemoryStats) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    let numbers = [
        ("usage", memory.usage),
        ("max_usage", memory.max_usage),
        ("failcnt", memory.failcnt),
        ("limit", memory.limit),
    ];
    for (key, number) in numbers {
        if let Some(number) = number {
            out.set_item(key, number)?;
        }
    }
    out.set_item("stats", &memory.stats)?;
    Ok(out)
}

/// None where there are none, as Docker has it.
fn blkio_entries<'py>(py: Python<'py>, entries: &[BlkioEntry]) -> PyResult<Option<Vec<Bound<'py, PyDict>>>> {
    let entry = |entry: &BlkioEntry| {
        let out = PyDict::new(py);
        out.set_item("major", entry.major)?;
        out.set_item("minor", entry.minor)?;
        out.set_item("op", &entry.op)?;
        out.set_item("value", entry.value)?;
        Ok(out)
    };
    let entries: Vec<_> = entries.iter().map(entry).collect::<PyResult<_>>()?;
    Ok((!entries.is_empty()).then_some(entries))
}

/// Counters by interface, `lo` left out.
#[pyfunction]
fn network_stats(py: Python<'_>, pid: i32) -> PyResult<Bound<'_, PyDict>> {
    let counters = py.detach(|| netns::counters(pid))?;
    let out = PyDict::new(py);
    for interface in counters {
        let numbers = PyDict::new(py);
        numbers.set_item("rx_bytes", interface.rx_bytes)?;
        numbers.set_item("rx_packets", interface.rx_packets)?;
        numbers.set_item("rx_errors", interface.rx_errors)?;
        numbers.set_item("rx_dropped", interface.rx_dropped)?;
        numbers.set_item("tx_bytes", interface.tx_bytes)?;
        numbers.set_item("tx_packets", interface.tx_packets)?;
        numbers.set_item("tx_errors", interface.tx_errors)?;
        numbers.set_item("tx_dropped", interface.tx_dropped)?;
        out.set_item(interface.interface, numbers)?;
    }
    Ok(out)
}

// ---- rootfs reads -------------------------------------------------------------------------------

type Contents<'py> = Vec<Option<Bound<'py, PyBytes>>>;

/// Files as a container with these layers would see them.
#[pyfunction]
#[pyo3(signature = (layers, paths, *, limit = 1 << 20))]
fn read_in_layers(
    py: Python<'_>,
    layers: Vec<String>,
    paths: Vec<String>,
    limit: usize,
) -> PyResult<Contents<'_>> {
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

// ---- logs ---------------------------------------------------------------------------------------

/// Reads a json-file log and its rotated files in order, following rotation.
#[pyclass]
struct LogReader(Option<log_reader::LogReader>);

#[pymethods]
impl LogReader {
    #[new]
    #[pyo3(signature = (path, *, stdout, stderr, since_ns = 0, until_ns = 0, tail = -1, timestamps = false,
                        details = String::new(), multiplexed = true, follow = false),
        text_signature = "(path, *, stdout, stderr, since_ns=0, until_ns=0, tail=-1, timestamps=False, \
                          details=\"\", multiplexed=True, follow=False)")]
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
        details: String,
        multiplexed: bool,
        follow: bool,
    ) -> PyResult<Self> {
        let query = log_reader::Query {
            stdout,
            stderr,
            since_ns,
            until_ns,
            tail,
            timestamps,
            details,
            multiplexed,
            follow,
        };
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
    use super::copying::{copy_files, make_layer_directory, FileDigests, FileTree};
    #[pymodule_export]
    use super::expressions::Expression;

    #[pymodule_export]
    use super::files::{changes, ContainerFiles};
    #[pymodule_export]
    use super::filesync::{split_frames, ReceivedTree};

    #[pymodule_export]
    use super::layers::{
        compress_layer, disk_usage, inherit_directories, pack_layer, remove_tree, split_archive,
        sync_file_system, unpack_layer, ByteFeed, LayerUnpacker, UnpackedLayer,
    };

    #[pymodule_export]
    use super::probes::Probes;

    #[pymodule_export]
    use super::volumes::{
        has_project_quota, is_mounted, limit_directory, mount_bind, mount_filesystem, unmount,
    };

    #[pymodule_export]
    use super::{keeper_main, sealed_program, LogReader};

    #[pymodule_export]
    use super::{read_in_layers, read_in_process_root};

    #[pymodule_export]
    use super::{
        cgroup_controllers, cgroup_freeze, cgroup_kill, cgroup_list, cgroup_pids, cgroup_remove,
        cgroup_stats, cgroup_update, cgroup_version, compile_seccomp, network_stats,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
