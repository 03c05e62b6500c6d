//! The words of cgroup v1. Source: the kernel's admin-guide/cgroup-v1.

use super::limits::{warning, Current, Setting};
use crate::plan::{Resources, ThrottleDevice};

pub(super) const MEMORY_LIMIT: &str = "memory.limit_in_bytes";
const MEMORY_SWAP_LIMIT: &str = "memory.memsw.limit_in_bytes";
pub(super) const CPU_QUOTA: &str = "cpu.cfs_quota_us";

/// The writes for `resources`, in the order the kernel accepts.
pub(super) fn settings(resources: &Resources, current: Current) -> Vec<Setting> {
    let mut out = Vec::new();
    cpuset(resources, &mut out);
    memory(resources, current, &mut out);
    cpu(resources, &mut out);
    if let Some(limit) = resources.pids_limit {
        let value = if limit < 0 { "max".to_string() } else { limit.to_string() };
        out.push(Setting::new("pids", "pids.max", &value, warning::PIDS));
    }
    blkio(resources, &mut out);
    out
}

fn cpuset(resources: &Resources, out: &mut Vec<Setting>) {
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        out.extend(value.as_ref().map(|value| Setting::new("cpuset", file, value, warning::CPUSET)));
    }
}

/// At every moment memory <= memory and swap must hold, so which one goes first hangs on what is there.
fn memory(resources: &Resources, current: Current, out: &mut Vec<Setting>) {
    let limit = resources.memory_limit.map(|v| Setting::new("memory", MEMORY_LIMIT, &v, warning::MEMORY));
    let swap = resources.memory_swap.map(|v| Setting::new("memory", MEMORY_SWAP_LIMIT, &v, warning::SWAP));
    let swap_first = match (resources.memory_swap, current.memory) {
        (Some(swap), Some(memory)) => swap < 0 || swap >= memory,
        _ => false,
    };
    if swap_first {
        out.extend(swap.into_iter().chain(limit));
    } else {
        out.extend(limit.into_iter().chain(swap));
    }
    if let Some(value) = resources.memory_reservation {
        out.push(Setting::new("memory", "memory.soft_limit_in_bytes", &value, warning::RESERVATION));
    }
    if let Some(value) = resources.memory_swappiness {
        out.push(Setting::new("memory", "memory.swappiness", &value, warning::SWAPPINESS));
    }
    if let Some(disable) = resources.oom_kill_disable {
        out.push(Setting::new("memory", "memory.oom_control", &u8::from(disable), warning::OOM));
    }
}

fn cpu(resources: &Resources, out: &mut Vec<Setting>) {
    if let Some(shares) = resources.cpu_shares {
        out.push(Setting::new("cpu", "cpu.shares", &shares, warning::SHARES));
    }
    if let Some(period) = resources.cpu_period {
        out.push(Setting::new("cpu", "cpu.cfs_period_us", &period, warning::CFS));
    }
    if let Some(quota) = resources.cpu_quota {
        out.push(Setting::new("cpu", CPU_QUOTA, &quota, warning::CFS));
    }
}

/// `blkio.weight` went with the CFQ scheduler; BFQ has a file of its own.
fn blkio(resources: &Resources, out: &mut Vec<Setting>) {
    if let Some(weight) = resources.blkio_weight {
        let setting = Setting::new("blkio", "blkio.weight", &weight, warning::WEIGHT);
        out.push(setting.or("blkio.bfq.weight", &weight));
    }
    for device in &resources.blkio_weight_device {
        let key = format!("{}:{}", device.major, device.minor);
        let line = format!("{key} {}", device.weight);
        let setting = Setting::new("blkio", "blkio.weight_device", &line, warning::WEIGHT_DEVICE);
        out.push(setting.or("blkio.bfq.weight_device", &line).keyed(key));
    }
    throttle(out, "blkio.throttle.read_bps_device", &resources.blkio_throttle_read_bps, warning::READ_BPS);
    throttle(out, "blkio.throttle.write_bps_device", &resources.blkio_throttle_write_bps, warning::WRITE_BPS);
    throttle(out, "blkio.throttle.read_iops_device", &resources.blkio_throttle_read_iops, warning::READ_IOPS);
    throttle(
        out,
        "blkio.throttle.write_iops_device",
        &resources.blkio_throttle_write_iops,
        warning::WRITE_IOPS,
    );
}

fn throttle(out: &mut Vec<Setting>, file: &'static str, devices: &[ThrottleDevice], missing: &'static str) {
    for device in devices {
        let key = format!("{}:{}", device.major, device.minor);
        let line = format!("{key} {}", device.rate);
        out.push(Setting::new("blkio", file, &line, missing).keyed(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(resources: &Resources, current: Current) -> Vec<(&'static str, String)> {
        settings(resources, current).into_iter().map(|s| s.choices[0].clone()).collect()
    }

    fn memory_and_swap(limit: i64, swap: i64) -> Resources {
        Resources { memory_limit: Some(limit), memory_swap: Some(swap), ..Resources::default() }
    }

    #[test]
    fn memory_goes_before_swap_in_a_fresh_group_and_when_shrinking() {
        let order = [(MEMORY_LIMIT, "100".to_string()), (MEMORY_SWAP_LIMIT, "200".to_string())];
        assert_eq!(files(&memory_and_swap(100, 200), Current::default()), order);
        let current = Current { memory: Some(300), quota: None };
        assert_eq!(files(&memory_and_swap(100, 200), current), order);
    }

    #[test]
    fn swap_goes_first_when_growing_and_when_unlimited() {
        let current = Current { memory: Some(150), quota: None };
        assert_eq!(files(&memory_and_swap(180, 200), current)[0].0, MEMORY_SWAP_LIMIT);
        assert_eq!(files(&memory_and_swap(180, -1), current)[0].0, MEMORY_SWAP_LIMIT);
    }

    #[test]
    fn a_throttle_is_one_line_per_device() {
        let device = ThrottleDevice { major: 8, minor: 16, rate: 1024 };
        let resources = Resources { blkio_throttle_read_bps: vec![device], ..Resources::default() };
        let written = settings(&resources, Current::default());
        assert_eq!(written[0].choices, [("blkio.throttle.read_bps_device", "8:16 1024".to_string())]);
        assert_eq!(written[0].key.as_deref(), Some("8:16"));
    }

    #[test]
    fn nothing_set_writes_nothing() {
        assert!(settings(&Resources::default(), Current::default()).is_empty());
    }
}
