//! One sample of a group's resource usage, in Docker's shape (Engine API, `ContainerStatsResponse`).

use std::collections::BTreeMap;
use std::fs;

use rustix::param::clock_ticks_per_second;

use super::group::Group;
use super::limits::limit;
use super::{v1, v2};
use crate::error::{Error, Result};

const BILLION: u64 = 1_000_000_000;

/// Times in nanoseconds, sizes in bytes. `None` where the interface does not have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids_current: Option<u64>,
    /// v2 shows "no limit" as `u64::MAX`, as Docker does; v1 leaves it out.
    pub pids_limit: Option<u64>,
    pub io_service_bytes: Vec<BlkioEntry>,
    pub io_serviced: Vec<BlkioEntry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    pub total: u64,
    pub per_cpu: Option<Vec<u64>>,
    pub kernel: u64,
    pub user: u64,
    /// Of the whole host.
    pub system: u64,
    pub online_cpus: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub usage: Option<u64>,
    pub max_usage: Option<u64>,
    pub failcnt: Option<u64>,
    /// The host's memory where there is no limit.
    pub limit: Option<u64>,
    /// memory.stat as the kernel has it.
    pub stats: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    pub op: String,
    pub value: u64,
}

impl Group {
    /// Take a sample. A controller that is not there leaves its part empty; a missing group is `ENOENT`.
    pub fn stats(&self) -> Result<Stats> {
        self.read(self.main(), "cgroup.procs").map(drop)?;
        let (io_service_bytes, io_serviced) = self.blkio();
        let (pids_current, pids_limit) = self.pid_counts();
        Ok(Stats {
            cpu: self.cpu()?,
            memory: self.memory()?,
            pids_current,
            pids_limit,
            io_service_bytes,
            io_serviced,
        })
    }

    /// A file of a controller that may be missing, like the controller itself.
    fn optional(&self, index: usize, file: &str) -> Option<String> {
        self.read(index, file).ok()
    }

    fn cpu(&self) -> Result<CpuStats> {
        let path = "/proc/stat";
        let host = fs::read_to_string(path).map_err(|e| Error::os("read", path, e))?;
        let (system, online_cpus) = parse_proc_stat(&host, clock_ticks_per_second());
        let mut cpu = CpuStats { system, online_cpus, ..CpuStats::default() };
        // cgroup2 keeps the basic times without the controller, but in a hybrid they start at its own groups.
        if let Some((index, true)) = self.parent.host.find("cpu") {
            fill_cpu_v2(&mut cpu, &self.optional(index, "cpu.stat").unwrap_or_default());
            return Ok(cpu);
        }
        if let Some((index, false)) = self.parent.host.find("cpuacct") {
            let number =
                |file| self.optional(index, file).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            cpu.total = number("cpuacct.usage");
            cpu.user = number("cpuacct.usage_user");
            cpu.kernel = number("cpuacct.usage_sys");
            cpu.per_cpu = self.optional(index, "cpuacct.usage_percpu").map(|text| numbers(&text));
        }
        if let Some((index, false)) = self.parent.host.find("cpu") {
            let stat = keyed(&self.optional(index, "cpu.stat").unwrap_or_default());
            cpu.periods = value(&stat, "nr_periods");
            cpu.throttled_periods = value(&stat, "nr_throttled");
            cpu.throttled_time = value(&stat, "throttled_time");
        }
        Ok(cpu)
    }

    fn memory(&self) -> Result<MemoryStats> {
        let Some((index, unified)) = self.parent.host.find("memory") else {
            return Ok(MemoryStats::default());
        };
        let number = |file| self.optional(index, file).and_then(|text| text.trim().parse().ok());
        let stats = keyed(&self.optional(index, "memory.stat").unwrap_or_default());
        let bound = self.optional(index, if unified { v2::MEMORY_MAX } else { v1::MEMORY_LIMIT });
        let bound = bound.and_then(|text| limit(&text)).map_or(u64::MAX, |limit| limit as u64);
        let limit = Some(bound.min(host_memory()?));
        if unified {
            let events = keyed(&self.optional(index, "memory.events").unwrap_or_default());
            let failcnt = Some(value(&events, "oom"));
            return Ok(MemoryStats {
                usage: number("memory.current"),
                max_usage: None,
                failcnt,
                limit,
                stats,
            });
        }
        Ok(MemoryStats {
            usage: number("memory.usage_in_bytes"),
            max_usage: number("memory.max_usage_in_bytes"),
            failcnt: number("memory.failcnt"),
            limit,
            stats,
        })
    }

    fn pid_counts(&self) -> (Option<u64>, Option<u64>) {
        let Some((index, unified)) = self.parent.host.find("pids") else {
            return (None, None);
        };
        let current = self.optional(index, "pids.current").and_then(|text| text.trim().parse().ok());
        let bound = self.optional(index, "pids.max").and_then(|text| limit(&text)).map(|limit| limit as u64);
        (current, bound.or(unified.then_some(u64::MAX)))
    }

    fn blkio(&self) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
        if let Some((index, true)) = self.parent.host.find("io") {
            return parse_io_stat(&self.optional(index, "io.stat").unwrap_or_default());
        }
        let Some((index, _)) = self.parent.host.find("blkio") else {
            return (Vec::new(), Vec::new());
        };
        let read = |file| parse_blkio(&self.optional(index, file).unwrap_or_default());
        (read("blkio.throttle.io_service_bytes_recursive"), read("blkio.throttle.io_serviced_recursive"))
    }
}

fn fill_cpu_v2(cpu: &mut CpuStats, text: &str) {
    let stat = keyed(text);
    cpu.total = value(&stat, "usage_usec") * 1000;
    cpu.user = value(&stat, "user_usec") * 1000;
    cpu.kernel = value(&stat, "system_usec") * 1000;
    cpu.periods = value(&stat, "nr_periods");
    cpu.throttled_periods = value(&stat, "nr_throttled");
    cpu.throttled_time = value(&stat, "throttled_usec") * 1000;
}

/// Lines of `key number`.
fn keyed(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (key, number) = line.split_once(' ')?;
        Some((key.to_string(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn value(map: &BTreeMap<String, u64>, key: &str) -> u64 {
    map.get(key).copied().unwrap_or(0)
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The host's CPU time in nanoseconds, guest time not counted twice, and its CPUs that are on.
fn parse_proc_stat(text: &str, ticks_per_second: u64) -> (u64, u64) {
    let all = text.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: u64 = numbers(all).iter().take(7).sum();
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    (ticks * (BILLION / ticks_per_second.max(1)), text.lines().filter(is_cpu).count() as u64)
}

/// `8:0 Read 4096`; the `Total` line without a device is left out.
fn parse_blkio(text: &str) -> Vec<BlkioEntry> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = (words.next()?.to_string(), words.next()?.parse().ok()?);
        Some(BlkioEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op, value })
    };
    text.lines().filter_map(line).collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`: bytes, then operations.
fn parse_io_stat(text: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((Ok(major), Ok(minor))) =
            words.next().and_then(|word| word.split_once(':')).map(|(a, b)| (a.parse(), b.parse()))
        else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut bytes, "read"),
                "wbytes" => (&mut bytes, "write"),
                "rios" => (&mut operations, "read"),
                "wios" => (&mut operations, "write"),
                _ => continue,
            };
            let value = value.parse().unwrap_or(0);
            list.push(BlkioEntry { major, minor, op: op.to_string(), value });
        }
    }
    (bytes, operations)
}

/// The host's memory in bytes.
fn host_memory() -> Result<u64> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).map_err(|e| Error::os("read", path, e))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| Error::Invalid(format!("no MemTotal in {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_time_counts_seven_fields() {
        let text = "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\n";
        assert_eq!(parse_proc_stat(text, 100), (280 * 10_000_000, 2));
    }

    #[test]
    fn v1_blkio_lines() {
        let text = "8:0 Read 4096\n8:0 Write 512\n8:0 Total 4608\nTotal 4608\n";
        let entries = parse_blkio(text);
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[1], BlkioEntry { major: 8, minor: 0, op: "Write".into(), value: 512 });
    }

    #[test]
    fn v2_io_lines() {
        let (bytes, operations) =
            parse_io_stat("253:1 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=9 dios=9\n8:0 \nbroken\n");
        assert_eq!(
            bytes.iter().map(|e| (e.op.as_str(), e.value)).collect::<Vec<_>>(),
            [("read", 10), ("write", 20)]
        );
        assert_eq!(operations.iter().map(|e| e.value).sum::<u64>(), 3);
    }

    #[test]
    fn v2_times_become_nanoseconds() {
        let mut cpu = CpuStats::default();
        fill_cpu_v2(
            &mut cpu,
            "usage_usec 12\nuser_usec 5\nsystem_usec 7\nnr_periods 3\nnr_throttled 2\nthrottled_usec 9\n",
        );
        assert_eq!((cpu.total, cpu.user, cpu.kernel), (12_000, 5000, 7000));
        assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled_time), (3, 2, 9000));
    }
}
