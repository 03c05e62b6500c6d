//! The words of cgroup v2, and v1's numbers in them. Source: the kernel's admin-guide/cgroup-v2.rst.

use super::limits::{warning, Current, Setting};
use crate::plan::{Resources, ThrottleDevice};

pub(super) const MEMORY_MAX: &str = "memory.max";
pub(super) const CPU_MAX: &str = "cpu.max";

/// The writes for `resources`, in the order the kernel accepts.
pub(super) fn settings(resources: &Resources, current: Current) -> Vec<Setting> {
    let mut out = Vec::new();
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        out.extend(value.as_ref().map(|value| Setting::new("cpuset", file, value, warning::CPUSET)));
    }
    memory(resources, current, &mut out);
    cpu(resources, current, &mut out);
    if let Some(limit) = resources.pids_limit {
        out.push(Setting::new("pids", "pids.max", &max(limit), warning::PIDS));
    }
    io(resources, &mut out);
    out
}

/// A number, or `max` for a negative one.
fn max(value: i64) -> String {
    if value < 0 {
        "max".into()
    } else {
        value.to_string()
    }
}

/// v2 counts swap apart from memory; Docker counts both together.
fn memory(resources: &Resources, current: Current, out: &mut Vec<Setting>) {
    if let Some(limit) = resources.memory_limit {
        out.push(Setting::new("memory", MEMORY_MAX, &max(limit), warning::MEMORY));
    }
    if let Some(both) = resources.memory_swap {
        let memory = resources.memory_limit.or(current.memory).filter(|limit| *limit >= 0);
        let swap = match memory {
            Some(memory) if both >= 0 => (both - memory).max(0),
            _ => -1,
        };
        out.push(Setting::new("memory", "memory.swap.max", &max(swap), warning::SWAP));
    }
    if let Some(value) = resources.memory_reservation {
        out.push(Setting::new("memory", "memory.low", &max(value), warning::RESERVATION));
    }
    // v2 has neither of these; a file that does not exist makes the warning.
    if resources.memory_swappiness.is_some() {
        out.push(Setting { choices: Vec::new(), ..Setting::new("memory", "", &"", warning::SWAPPINESS) });
    }
    if resources.oom_kill_disable == Some(true) {
        out.push(Setting { choices: Vec::new(), ..Setting::new("memory", "", &"", warning::OOM) });
    }
}

fn cpu(resources: &Resources, current: Current, out: &mut Vec<Setting>) {
    if let Some(shares) = resources.cpu_shares {
        out.push(Setting::new("cpu", "cpu.weight", &weight_of_shares(shares), warning::SHARES));
    }
    // `cpu.max` is "quota period"; a quota alone leaves the period.
    let value = match (resources.cpu_quota, resources.cpu_period) {
        (None, None) => return,
        (Some(quota), None) => max(quota),
        (quota, Some(period)) => format!("{} {period}", max(quota.or(current.quota).unwrap_or(-1))),
    };
    out.push(Setting::new("cpu", CPU_MAX, &value, warning::CFS));
}

fn io(resources: &Resources, out: &mut Vec<Setting>) {
    if let Some(weight) = resources.blkio_weight {
        let setting = Setting::new("io", "io.bfq.weight", &format!("default {weight}"), warning::WEIGHT);
        let other = format!("default {}", weight_of_blkio(weight));
        out.push(setting.or("io.weight", &other).keyed("default".into()));
    }
    for device in &resources.blkio_weight_device {
        let key = format!("{}:{}", device.major, device.minor);
        let line = format!("{key} {}", device.weight);
        let setting = Setting::new("io", "io.bfq.weight", &line, warning::WEIGHT_DEVICE);
        let other = format!("{key} {}", weight_of_blkio(device.weight));
        out.push(setting.or("io.weight", &other).keyed(key));
    }
    throttle(out, "rbps", &resources.blkio_throttle_read_bps, warning::READ_BPS);
    throttle(out, "wbps", &resources.blkio_throttle_write_bps, warning::WRITE_BPS);
    throttle(out, "riops", &resources.blkio_throttle_read_iops, warning::READ_IOPS);
    throttle(out, "wiops", &resources.blkio_throttle_write_iops, warning::WRITE_IOPS);
}

/// Docker's rate of 0 is "no limit".
fn throttle(out: &mut Vec<Setting>, word: &str, devices: &[ThrottleDevice], missing: &'static str) {
    for device in devices {
        let key = format!("{}:{}", device.major, device.minor);
        let rate = if device.rate == 0 { "max".to_string() } else { device.rate.to_string() };
        out.push(Setting::new("io", "io.max", &format!("{key} {word}={rate}"), missing).keyed(key));
    }
}

/// v1 shares (2 to 262144, default 1024) as a v2 weight (1 to 10000, default 100).
///
/// The curve that runc and crun agreed on: through minimum, default and maximum of both scales, so that a
/// container of default shares weighs what any other cgroup does.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = f64::from(shares as u32).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            // A hair less before rounding up: 10^2 may come out as 100.00000000000001.
            (10f64.powf(exponent) - 1e-9).ceil() as u64
        }
    }
}

/// v1 blkio weight (10 to 1000) as a v2 weight (1 to 10000), as the OCI runtimes do it.
fn weight_of_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight.max(10)) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(resources: &Resources, current: Current) -> Vec<(&'static str, String)> {
        settings(resources, current).into_iter().filter_map(|s| s.choices.first().cloned()).collect()
    }

    #[test]
    fn shares_keep_minimum_default_and_maximum() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 100);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert!(weight_of_shares(512) < 100 && weight_of_shares(2048) > 100);
    }

    #[test]
    fn blkio_weights_span_the_scale() {
        assert_eq!(weight_of_blkio(10), 1);
        assert_eq!(weight_of_blkio(1000), 10_000);
    }

    #[test]
    fn swap_is_what_is_left_beside_memory() {
        let with = |limit, swap| Resources { memory_limit: limit, memory_swap: swap, ..Resources::default() };
        let fresh = Current::default();
        assert_eq!(files(&with(Some(100), Some(300)), fresh)[1], ("memory.swap.max", "200".into()));
        assert_eq!(files(&with(Some(100), Some(100)), fresh)[1], ("memory.swap.max", "0".into()));
        assert_eq!(files(&with(Some(100), Some(-1)), fresh)[1], ("memory.swap.max", "max".into()));
        let current = Current { memory: Some(50), quota: None };
        assert_eq!(files(&with(None, Some(60)), current)[0], ("memory.swap.max", "10".into()));
    }

    #[test]
    fn cpu_max_keeps_the_half_that_is_not_given() {
        let with = |quota, period| Resources { cpu_quota: quota, cpu_period: period, ..Resources::default() };
        let fresh = Current::default();
        assert_eq!(files(&with(Some(50_000), None), fresh)[0].1, "50000");
        assert_eq!(files(&with(Some(50_000), Some(100_000)), fresh)[0].1, "50000 100000");
        assert_eq!(files(&with(None, Some(50_000)), fresh)[0].1, "max 50000");
        let current = Current { memory: None, quota: Some(7000) };
        assert_eq!(files(&with(None, Some(50_000)), current)[0].1, "7000 50000");
        assert_eq!(files(&with(Some(-1), None), fresh)[0].1, "max");
    }

    #[test]
    fn what_v2_lacks_is_a_warning() {
        let resources =
            Resources { memory_swappiness: Some(10), oom_kill_disable: Some(true), ..Resources::default() };
        let warnings: Vec<_> = settings(&resources, Current::default()).iter().map(|s| s.missing).collect();
        assert_eq!(warnings, [warning::SWAPPINESS, warning::OOM]);
    }
}
