//! Which writes a set of limits is, and how they are undone.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::parent::{read_at, write_at, Parent};
use super::{v1, v2};
use crate::error::{Error, Result};
use crate::plan::Resources;

/// One value to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub controller: &'static str,
    /// The file and its value; where the first file does not exist the next is tried.
    pub choices: Vec<(&'static str, String)>,
    /// For a file of one line per device: this one's key (`8:0`).
    pub key: Option<String>,
    /// Docker's warning where the kernel has no such file or controller.
    pub missing: &'static str,
}

impl Setting {
    pub fn new(
        controller: &'static str,
        file: &'static str,
        value: &impl ToString,
        missing: &'static str,
    ) -> Self {
        Self { controller, choices: vec![(file, value.to_string())], key: None, missing }
    }

    pub fn or(mut self, file: &'static str, value: &impl ToString) -> Self {
        self.choices.push((file, value.to_string()));
        self
    }

    pub fn keyed(mut self, key: String) -> Self {
        self.key = Some(key);
        self
    }
}

/// Docker's warnings for what a kernel may lack.
pub(super) mod warning {
    pub const MEMORY: &str =
        "Your kernel does not support memory limit capabilities or the cgroup is not mounted. \
         Limitation discarded.";
    pub const SWAP: &str =
        "Your kernel does not support swap limit capabilities or the cgroup is not mounted. \
         Memory limited without swap.";
    pub const SWAPPINESS: &str =
        "Your kernel does not support memory swappiness capabilities or the cgroup is not \
         mounted. Memory swappiness discarded.";
    pub const RESERVATION: &str =
        "Your kernel does not support memory soft limit capabilities or the cgroup is not \
         mounted. Limitation discarded.";
    pub const OOM: &str = "Your kernel does not support OomKillDisable. OomKillDisable discarded.";
    pub const PIDS: &str =
        "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.";
    pub const SHARES: &str =
        "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.";
    pub const CFS: &str =
        "Your kernel does not support CPU CFS scheduler or the cgroup is not mounted. Period and quota discarded.";
    pub const CPUSET: &str =
        "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.";
    pub const WEIGHT: &str =
        "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.";
    pub const WEIGHT_DEVICE: &str =
        "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.";
    pub const READ_BPS: &str =
        "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. \
         Block I/O BPS read limit discarded.";
    pub const WRITE_BPS: &str =
        "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. \
         Block I/O BPS write limit discarded.";
    pub const READ_IOPS: &str =
        "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. \
         Block I/O IOPS read limit discarded.";
    pub const WRITE_IOPS: &str =
        "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. \
         Block I/O IOPS write limit discarded.";
}

/// What is there now, where the meaning or the order of the new limits hangs on it. Of a fresh group:
/// the default.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Current {
    /// Bytes; `None` unlimited.
    pub memory: Option<i64>,
    /// Microseconds; `None` unlimited.
    pub quota: Option<i64>,
}

/// Write the limits of a fresh group, whose removal is the undo. Answers the warnings.
pub(super) fn write_all(parent: &Parent, name: &str, resources: &Resources) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (index, setting) in settings(parent, resources, Current::default(), &mut warnings) {
        if !write_one(parent, index, name, &setting)? {
            warn(&mut warnings, setting.missing);
        }
    }
    Ok(warnings)
}

/// Change the limits of a group that is in use: all of them or none. Answers the warnings.
pub(super) fn update_all(parent: &Parent, name: &str, resources: &Resources) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let current = current(parent, name);
    let mut done: Vec<(usize, Undo)> = Vec::new();
    for (index, setting) in settings(parent, resources, current, &mut warnings) {
        let undo = undo(parent, index, name, &setting);
        match write_one(parent, index, name, &setting) {
            Ok(true) => done.extend(undo.map(|undo| (index, undo))),
            Ok(false) => warn(&mut warnings, setting.missing),
            Err(error) => {
                // Backwards, the order is one that the kernel accepts again. Best effort: the first error
                // is the one to tell.
                for (index, undo) in done.iter().rev() {
                    if let Ok(directory) = parent.directory(*index) {
                        let _ = write_at(directory, &undo.file, &undo.value);
                    }
                }
                return Err(error);
            }
        }
    }
    Ok(warnings)
}

/// The writes, each with the hierarchy it goes to; a controller that is nowhere becomes a warning.
fn settings(
    parent: &Parent,
    resources: &Resources,
    current: Current,
    warnings: &mut Vec<String>,
) -> Vec<(usize, Setting)> {
    let v1 = v1::settings(resources, current).into_iter().map(|s| (false, s));
    let v2 = v2::settings(resources, current).into_iter().map(|s| (true, s));
    let mut out = Vec::new();
    for (unified, setting) in v1.chain(v2) {
        // v1 `blkio` is v2 `io`.
        match parent.host.find(setting.controller) {
            Some((index, found)) if found == unified => out.push((index, setting)),
            Some(_) => {}
            None => {
                let other = match setting.controller {
                    "blkio" => "io",
                    "io" => "blkio",
                    same => same,
                };
                if parent.host.find(other).is_none() {
                    warn(warnings, setting.missing);
                }
            }
        }
    }
    out
}

fn warn(warnings: &mut Vec<String>, text: &str) {
    if !warnings.iter().any(|warning| warning == text) {
        warnings.push(text.to_string());
    }
}

/// False where no file of that name exists.
fn write_one(parent: &Parent, index: usize, name: &str, setting: &Setting) -> Result<bool> {
    let directory = parent.directory(index)?;
    for (file, value) in &setting.choices {
        let relative = format!("{name}/{file}");
        match write_at(directory, &relative, value) {
            Ok(()) => return Ok(true),
            Err(Errno::NOENT) => {}
            Err(error) => {
                return Err(Error::os(format!("write {value} to"), parent.shown(index, &relative), error));
            }
        }
    }
    Ok(false)
}

struct Undo {
    file: String,
    value: String,
}

/// How to put back what a setting is about to overwrite.
fn undo(parent: &Parent, index: usize, name: &str, setting: &Setting) -> Option<Undo> {
    let directory = parent.directory(index).ok()?;
    setting.choices.iter().find_map(|(file, _)| {
        let relative = format!("{name}/{file}");
        let text = read_at(directory, &relative).ok()?;
        Some(Undo { file: relative, value: previous(file, &text, setting.key.as_deref()) })
    })
}

/// The value that restores `text`, read from `file`; of the line of `key` where there is one.
fn previous(file: &str, text: &str, key: Option<&str>) -> String {
    let Some(key) = key else {
        return text.trim().to_string();
    };
    let line = text.lines().find(|line| line.split(' ').next() == Some(key));
    line.map_or_else(
        || match file {
            "io.max" => format!("{key} rbps=max wbps=max riops=max wiops=max"),
            "io.weight" | "io.bfq.weight" => format!("{key} default"),
            _ => format!("{key} 0"),
        },
        |line| line.trim().to_string(),
    )
}

fn current(parent: &Parent, name: &str) -> Current {
    let read = |controller: &str, v1: &str, v2: &str| -> Option<String> {
        let (index, unified) = parent.host.find(controller)?;
        let directory: BorrowedFd<'_> = parent.directory(index).ok()?;
        read_at(directory, &format!("{name}/{}", if unified { v2 } else { v1 })).ok()
    };
    Current {
        memory: read("memory", v1::MEMORY_LIMIT, v2::MEMORY_MAX).and_then(|text| limit(&text)),
        quota: read("cpu", v1::CPU_QUOTA, v2::CPU_MAX).and_then(|text| limit(&text)),
    }
}

/// A limit as either version writes it; `None` unlimited (`max`, -1, or v1's huge page-rounded number).
pub(super) fn limit(text: &str) -> Option<i64> {
    let value = text.split_whitespace().next()?.parse::<i64>().ok()?;
    (0..UNLIMITED).contains(&value).then_some(value)
}

/// v1 shows "no limit" as `i64::MAX` rounded down to a page, whatever the page's size.
const UNLIMITED: i64 = i64::MAX - 0xf_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_both_dialects() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("-1\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("67108864\n"), Some(67_108_864));
        assert_eq!(limit("max 100000\n"), None);
        assert_eq!(limit("50000 100000\n"), Some(50_000));
    }

    #[test]
    fn a_keyed_line_is_put_back_alone() {
        let text = "8:16 rbps=max wbps=1024 riops=max wiops=max\n8:0 rbps=7 wbps=max riops=max wiops=max\n";
        assert_eq!(previous("io.max", text, Some("8:0")), "8:0 rbps=7 wbps=max riops=max wiops=max");
        assert_eq!(previous("io.max", text, Some("8:1")), "8:1 rbps=max wbps=max riops=max wiops=max");
        assert_eq!(previous("blkio.throttle.read_bps_device", "", Some("8:1")), "8:1 0");
        assert_eq!(previous("io.weight", "default 100\n", Some("default")), "default 100");
        assert_eq!(previous("cpu.max", "max 100000\n", None), "max 100000");
    }
}
