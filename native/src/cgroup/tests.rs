//! Real groups on the host's hierarchies, below a parent of the test's own. Needs root; skips without.
//!
//! The same tests hold on v1, v2 and hybrids (`cargo test v2_` runs them all, in a VM too). Where the host is a
//! hybrid they run once more as if cgroup2 was not there.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::Pid;

use super::*;
use crate::error::Error;
use crate::plan::{DeviceRule, Resources, ThrottleDevice};

/// For what was killed to go, on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(10);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// One way to see this host, and a parent in it that is removed at the end.
struct Site {
    host: Hierarchies,
    parent: String,
}

impl Site {
    fn all() -> Vec<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root for cgroups");
            return Vec::new();
        }
        let Ok(host) = Hierarchies::probe() else {
            eprintln!("skipped: no cgroup hierarchy is mounted");
            return Vec::new();
        };
        let mut hosts = vec![host];
        if hosts[0].version() == Version::Hybrid {
            hosts.extend(Hierarchies::probe().and_then(Hierarchies::without_unified));
        }
        hosts.into_iter().map(Self::new).collect()
    }

    fn new(host: Hierarchies) -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self { host, parent: format!("/proa-test-{}-{number}", std::process::id()) }
    }

    fn group(&self, resources: &Resources) -> Group {
        self.host.create(&format!("{}/c", self.parent), resources).unwrap_or_else(|e| panic!("{e}"))
    }

    fn file(&self, controller: &str, v1: &str, v2: &str) -> String {
        let (mount, unified) = self.host.mount_of(controller).unwrap_or_else(|| panic!("no {controller}"));
        let path = format!("{mount}{}/c/{}", self.parent, if unified { v2 } else { v1 });
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_string()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for path in [format!("{}/c", self.parent), self.parent.clone()] {
            if let Ok(group) = self.host.open(&path) {
                let _ = group.kill();
                let _ = group.remove(PATIENCE);
            }
        }
    }
}

/// A shell that waits for a line before it does `script`.
struct Waiting(Child);

impl Waiting {
    fn new(script: &str) -> Self {
        let child = Command::new("sh")
            .args(["-c", &format!("read line; {script}")])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap_or_else(|e| panic!("{e}")))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// Let it go on; answers its exit code, `None` for a signal.
    fn go(mut self) -> Option<i32> {
        if let Some(mut stdin) = self.0.stdin.take() {
            stdin.write_all(b"\n").unwrap_or_else(|e| panic!("{e}"));
        }
        self.0.wait().unwrap_or_else(|e| panic!("{e}")).code()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn limits() -> Resources {
    Resources {
        memory_limit: Some(64 << 20),
        memory_swap: Some(64 << 20),
        memory_reservation: Some(32 << 20),
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        cpuset_cpus: Some("0".into()),
        pids_limit: Some(77),
        ..Resources::default()
    }
}

#[test]
fn v1_v2_limits_reach_the_kernel() {
    for place in Site::all() {
        let group = place.group(&limits());
        assert_eq!(place.file("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
        assert_eq!(place.file("pids", "pids.max", "pids.max"), "77");
        assert_eq!(place.file("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
        assert!(!place.file("cpuset", "cpuset.mems", "cpuset.mems.effective").is_empty());
        let cpu = place.file("cpu", "cpu.cfs_quota_us", "cpu.max");
        assert!(matches!(cpu.as_str(), "50000" | "50000 100000"), "{cpu}");
        let weight = place.file("cpu", "cpu.shares", "cpu.weight").parse::<u64>().unwrap_or(0);
        assert!(matches!(weight, 512 | 40..=70), "{weight}");
        let stats = group.stats().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(stats.memory.limit, Some(64 << 20));
        assert_eq!(stats.pids_limit, Some(77));
        assert!(stats.cpu.system > 0 && stats.cpu.online_cpus > 0);
    }
}

#[test]
fn v1_v2_life_of_a_group() {
    for place in Site::all() {
        let group = place.group(&Resources::default());
        let path = format!("{}/c", place.parent);
        assert_eq!(place.host.list(&place.parent).ok(), Some(vec!["c".to_string()]));
        let child = Waiting::new("exit 3");
        group.attach(child.pid()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(group.pids().ok(), Some(vec![child.pid().as_raw_nonzero().get()]));
        assert_eq!(group.stats().ok().and_then(|stats| stats.pids_current), Some(1));
        assert_eq!(group.try_remove().ok(), Some(false), "a group in use stays");
        assert!(place.host.open(&path).is_ok_and(|group| group.exists()));
        group.freeze(true).unwrap_or_else(|e| panic!("{e}"));
        group.freeze(false).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(child.go(), Some(3));
        group.remove(PATIENCE).unwrap_or_else(|e| panic!("{e}"));
        group.remove(PATIENCE).unwrap_or_else(|e| panic!("twice: {e}"));
        assert_eq!(place.host.list(&place.parent).ok(), Some(Vec::new()));
        assert_eq!(group.stats().map_or_else(|e| e.errno(), |_| 0), libc::ENOENT);
    }
}

#[test]
fn v1_v2_kill_reaches_a_frozen_process() {
    for place in Site::all() {
        let group = place.group(&Resources::default());
        let mut child = Waiting::new("exit 0");
        group.attach(child.pid()).unwrap_or_else(|e| panic!("{e}"));
        group.freeze(true).unwrap_or_else(|e| panic!("{e}"));
        group.kill().unwrap_or_else(|e| panic!("{e}"));
        let status = child.0.wait().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
        group.remove(PATIENCE).unwrap_or_else(|e| panic!("{e}"));
        group.kill().unwrap_or_else(|e| panic!("missing: {e}"));
    }
}

fn device(allow: bool, kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
    DeviceRule { allow, kind, major, minor, access: access.into() }
}

#[test]
fn v1_v2_devices_are_denied_but_for_the_rules() {
    let devices = vec![
        device(false, 'a', None, None, "rwm"),
        device(true, 'c', None, None, "m"),
        device(true, 'c', Some(1), Some(3), "rw"),
        device(true, 'c', Some(1), Some(7), "r"),
    ];
    for place in Site::all() {
        let group = place.group(&Resources { devices: devices.clone(), ..Resources::default() });
        let cases = [
            ("exec 3<>/dev/null", 0),
            ("exec 3</dev/full", 0),
            ("exec 3>/dev/full", 2),
            ("exec 3</dev/zero", 2),
        ];
        for (script, code) in cases {
            let child = Waiting::new(script);
            group.attach(child.pid()).unwrap_or_else(|e| panic!("{e}"));
            let got = child.go().unwrap_or(-1);
            // Shells differ in the code of a failed redirection.
            assert_eq!(got == 0, code == 0, "{script}: {got}");
        }
        // An update replaces the rules.
        let devices = vec![device(true, 'a', None, None, "rwm")];
        let updated = group.update(&Resources { devices, ..Resources::default() });
        assert!(updated.is_ok(), "{updated:?}");
        let child = Waiting::new("exec 3</dev/zero");
        group.attach(child.pid()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(child.go(), Some(0));
    }
}

/// The eBPF program is enforced wherever cgroup2 is mounted, so a hybrid can show it, too.
#[test]
fn v2_device_program_is_enforced_and_replaced() {
    for place in Site::all() {
        let group = place.group(&Resources::default());
        let Some(directory) = group.clone_into_fd() else { continue };
        let restrict =
            |rules: &[DeviceRule]| devices::attach_v2(&group.parent, &group.name, directory, rules);
        let reads_zero = || {
            let child = Waiting::new("exec 3</dev/zero");
            group.attach(child.pid()).unwrap_or_else(|e| panic!("{e}"));
            child.go() == Some(0)
        };
        let null = device(true, 'c', Some(1), Some(3), "rw");
        let zero = device(true, 'c', Some(1), Some(5), "r");
        restrict(std::slice::from_ref(&null)).unwrap_or_else(|e| panic!("{e}"));
        assert!(!reads_zero());
        restrict(&[null.clone(), zero.clone()]).unwrap_or_else(|e| panic!("{e}"));
        assert!(reads_zero());
        restrict(&[null, zero, device(false, 'c', Some(1), None, "r")]).unwrap_or_else(|e| panic!("{e}"));
        assert!(!reads_zero());
    }
}

#[test]
fn v1_v2_out_of_memory_is_counted_and_announced() {
    for place in Site::all() {
        let resources =
            Resources { memory_limit: Some(16 << 20), memory_swap: Some(16 << 20), ..Resources::default() };
        let group = place.group(&resources);
        let events = group.oom_events().unwrap_or_else(|e| panic!("{e}"));
        let events = events.unwrap_or_else(|| panic!("no memory controller"));
        assert_eq!(group.oom_kills(), 0);
        let child = Waiting::new("exec tail /dev/zero");
        group.attach(child.pid()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(child.go(), None);
        assert_eq!(group.oom_kills(), 1);
        let flags = if events.is_priority() { PollFlags::PRI } else { PollFlags::IN };
        assert!(ready(&events, flags), "the event has come");
        events.drain();
        assert!(!ready(&events, flags), "and is drained");
    }
}

fn ready(events: &OomEvents, flags: PollFlags) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(events, flags)], Some(&now)), Ok(1))
}

#[test]
fn v1_v2_update_is_all_or_nothing() {
    for place in Site::all() {
        let group = place.group(&limits());
        let memory = || place.file("memory", "memory.limit_in_bytes", "memory.max");
        let update = |resources: &Resources| group.update(resources);
        let both = |memory: i64, swap: i64| Resources {
            memory_limit: Some(memory),
            memory_swap: Some(swap),
            ..Resources::default()
        };
        for (memory_limit, swap) in [(128 << 20, 256 << 20), (32 << 20, 32 << 20), (64 << 20, -1)] {
            let updated = update(&both(memory_limit, swap));
            assert!(updated.is_ok(), "{updated:?}");
            assert_eq!(memory(), memory_limit.to_string());
        }
        // The memory part is good and comes first; the period is not.
        let bad =
            Resources { cpu_period: Some(7), cpuset_cpus: Some("0".into()), ..both(32 << 20, 32 << 20) };
        let error = update(&bad).map_or_else(|e| e, |_| panic!("accepted"));
        assert_eq!(error.errno(), libc::EINVAL, "{error}");
        assert_eq!(memory(), (64 << 20).to_string());
        assert_eq!(place.file("pids", "pids.max", "pids.max"), "77");
    }
}

#[test]
fn v1_v2_a_failed_create_leaves_nothing() {
    for place in Site::all() {
        let resources = Resources { cpuset_cpus: Some("4095".into()), ..limits() };
        let error = place.host.create(&format!("{}/c", place.parent), &resources);
        let error = error.map_or_else(|e| e, |_| panic!("made"));
        assert!(matches!(error, Error::Os { .. }));
        let text = error.to_string();
        assert!(
            text.starts_with("write 4095 to /sys/fs/cgroup/") && text.contains("/c/cpuset.cpus: "),
            "{text}"
        );
        assert_eq!(place.host.list(&place.parent).ok(), Some(Vec::new()));
    }
}

#[test]
fn v1_v2_a_leftover_is_taken_over_and_a_lost_parent_made_again() {
    for place in Site::all() {
        drop(place.group(&Resources::default()));
        let group = place.group(&Resources { pids_limit: Some(5), ..Resources::default() });
        assert_eq!(place.file("pids", "pids.max", "pids.max"), "5");
        group.remove(PATIENCE).unwrap_or_else(|e| panic!("{e}"));
        let parent = place.host.open(&place.parent).unwrap_or_else(|e| panic!("{e}"));
        parent.remove(PATIENCE).unwrap_or_else(|e| panic!("{e}"));
        drop(place.group(&Resources { pids_limit: Some(6), ..Resources::default() }));
        assert_eq!(place.file("pids", "pids.max", "pids.max"), "6");
    }
}

#[test]
fn v1_v2_groups_made_inside_are_removed_too() {
    for place in Site::all() {
        let group = place.group(&Resources::default());
        for mount in place.host.mounts() {
            fs::create_dir_all(format!("{mount}{}/c/inner/most", place.parent))
                .unwrap_or_else(|e| panic!("{e}"));
        }
        group.remove(PATIENCE).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(place.host.list(&place.parent).ok(), Some(Vec::new()));
    }
}

/// A throttle and the words of v2 that v1 says otherwise.
#[test]
fn v2_files_hold_what_was_asked_for() {
    for place in Site::all().into_iter().filter(|place| place.host.version() == Version::V2) {
        let disk = fs::read_dir("/sys/block").ok().and_then(|mut all| all.next()?.ok());
        let disk = disk.and_then(|disk| fs::read_to_string(disk.path().join("dev")).ok());
        let disk = disk.map(|numbers| numbers.trim().to_string()).unwrap_or_default();
        let throttle = |rate| {
            let (major, minor) = disk.split_once(':')?;
            Some(ThrottleDevice { major: major.parse().ok()?, minor: minor.parse().ok()?, rate })
        };
        let resources = Resources {
            memory_swap: Some(96 << 20),
            blkio_throttle_read_bps: throttle(1 << 20).into_iter().collect(),
            blkio_throttle_write_iops: throttle(100).into_iter().collect(),
            ..limits()
        };
        let group = place.group(&resources);
        assert_eq!(group.warnings(), [""; 0]);
        let file = |name| place.file("memory", "", name);
        assert_eq!(file("memory.swap.max"), (32 << 20).to_string());
        assert_eq!(file("memory.low"), (32 << 20).to_string());
        if !disk.is_empty() {
            assert_eq!(file("io.max"), format!("{disk} rbps=1048576 wbps=max riops=max wiops=100"));
            let blkio_throttle_read_bps = throttle(0).into_iter().collect();
            let updated = group.update(&Resources { blkio_throttle_read_bps, ..Resources::default() });
            assert!(updated.is_ok(), "{updated:?}");
            assert_eq!(file("io.max"), format!("{disk} rbps=max wbps=max riops=max wiops=100"));
        }
        // Swap alone: what is left beside the memory that stays. A period alone: the quota stays.
        let changed =
            Resources { memory_swap: Some(80 << 20), cpu_period: Some(50_000), ..Resources::default() };
        let updated = group.update(&changed);
        assert!(updated.is_ok(), "{updated:?}");
        assert_eq!(file("memory.swap.max"), (16 << 20).to_string());
        assert_eq!(file("cpu.max"), "50000 50000");
    }
}

/// The engine in a container: processes at the root of what it sees, and so no controllers below.
#[test]
fn v2_processes_at_the_root_make_room() {
    for place in Site::all().into_iter().filter(|place| place.host.version() == Version::V2) {
        let outer = place.group(&Resources::default());
        let child = Waiting::new("exit 3");
        outer.attach(child.pid()).unwrap_or_else(|e| panic!("{e}"));
        let (mount, _) = place.host.mount_of("memory").unwrap_or_else(|| panic!("no memory"));
        let root = format!("{mount}{}/c", place.parent);
        let controllers = fs::read_to_string(format!("{root}/cgroup.controllers")).unwrap_or_default();
        let seen = hierarchy::Hierarchy {
            mount_point: root.clone(),
            unified: true,
            controllers: controllers.split_whitespace().map(String::from).collect(),
            name: None,
        };
        let inner = Hierarchies::of(vec![seen]).unwrap_or_else(|e| panic!("{e}"));
        let group = inner.create("/proa/x", &limits()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(group.warnings(), [""; 0]);
        let moved = fs::read_to_string(format!("{root}/init/cgroup.procs")).unwrap_or_default();
        assert_eq!(moved.trim(), child.pid().as_raw_nonzero().to_string());
        assert_eq!(child.go(), Some(3));
    }
}

/// Prints what a start pays: `cargo test --release v2_measure -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn v1_v2_measure() {
    for place in Site::all() {
        let devices: Vec<_> = (1..14).map(|minor| device(true, 'c', Some(1), Some(minor), "rwm")).collect();
        let resources = Resources { devices, ..limits() };
        let (mut made, mut removed) = (Vec::new(), Vec::new());
        for number in 0..200 {
            let path = format!("{}/m{number}", place.parent);
            let start = std::time::Instant::now();
            let group = place.host.create(&path, &resources).unwrap_or_else(|e| panic!("{e}"));
            made.push(start.elapsed());
            let start = std::time::Instant::now();
            group.remove(PATIENCE).unwrap_or_else(|e| panic!("{e}"));
            removed.push(start.elapsed());
        }
        made.sort();
        removed.sort();
        eprintln!("{:?}: create p50 {:?}, remove p50 {:?}", place.host.version(), made[100], removed[100]);
    }
}
