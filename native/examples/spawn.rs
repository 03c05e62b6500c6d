//! What proa's own start path costs beside `floor`: the default plan, without a keeper around it.
//!
//! `spawn DIRECTORY COUNT COMMAND [ARGUMENT...]`, with DIRECTORY as `floor` has it. Prints JSON: microseconds until the command
//! runs (`exec_p50_us`), of the call of `spawn` itself (`spawn_p50_us`) and of the whole (`p50_us`), with and without a
//! new network namespace. With `PROA_CGROUPS=1` in a control group, made beforehand.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)]

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Instant;

use proa_native::cgroup::{Group, Hierarchies, FAREWELL};
use proa_native::plan::{
    Capabilities, Cgroup, Mount, Namespace, Namespaces, Network, Plan, Process, Propagation, Resources,
    Rootfs, Stdio,
};
use proa_native::process::{spawn, ContainerHandle, Host, Progress, SpawnContext, Stdio as Streams};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::process::{waitid, WaitId, WaitIdOptions};

const CAPABILITIES: u64 = 0xa804_25fb;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(lower), Some(count)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: spawn DIRECTORY COUNT COMMAND [ARGUMENT...]");
        std::process::exit(2);
    };
    let count: usize = count.parse().unwrap();
    let scratch = std::env::temp_dir().join(format!("proa-spawn-{}", std::process::id()));
    let [upper, work] = ["upper", "work"].map(|name| {
        let path = scratch.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let mut plan = plan(lower, upper, work, arguments.collect());
    let host = Host::probe().unwrap();
    let hierarchies = Hierarchies::probe().ok().filter(|_| std::env::var_os("PROA_CGROUPS").is_some());
    let with_net = measure(&host, &plan, hierarchies.as_ref(), count);
    plan.namespaces.net = Network::Host;
    let without_net = measure(&host, &plan, hierarchies.as_ref(), count);
    println!("{{\"with_net\": {with_net}, \"without_net\": {without_net}, \"count\": {count}}}");
    std::fs::remove_dir_all(&scratch).unwrap();
}

fn measure(host: &Host, plan: &Plan, hierarchies: Option<&Hierarchies>, count: usize) -> String {
    let mut samples: [Vec<f64>; 3] = Default::default();
    for round in 0..count + 5 {
        let path = format!("/proa-spawn-{}-{round}", std::process::id());
        let group = hierarchies.map(|all| all.create(&path, &Resources::default()).unwrap());
        let times = once(host, plan, group.as_ref());
        if let Some(group) = group {
            group.remove(FAREWELL).unwrap();
        }
        for (all, one) in samples.iter_mut().zip(times) {
            all.push(one);
        }
    }
    let [spawned, executed, whole] = samples.map(|mut all| {
        let mut all = all.split_off(5); // the first ones fill caches
        all.sort_unstable_by(f64::total_cmp);
        (all[all.len() / 2], all[all.len() * 95 / 100])
    });
    format!(
        "{{\"spawn_p50_us\": {:.1}, \"exec_p50_us\": {:.1}, \"exec_p95_us\": {:.1}, \"p50_us\": {:.1}, \"p95_us\": {:.1}}}",
        spawned.0, executed.0, executed.1, whole.0, whole.1
    )
}

/// Microseconds until `spawn` returned, until the command was executed, until it was reaped.
fn once(host: &Host, plan: &Plan, group: Option<&Group>) -> [f64; 3] {
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let stdio = Streams { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
    let container = |_: &str| None::<&ContainerHandle>;
    let context = SpawnContext { host, stdio, netns: None, container: &container, caller: None, group };
    let begun = Instant::now();
    let since = || begun.elapsed().as_secs_f64() * 1e6;
    let mut spawning = spawn(plan, &context).unwrap();
    let spawned = since();
    loop {
        poll(&mut [PollFd::new(&spawning, PollFlags::IN)], None).unwrap();
        match spawning.on_readable() {
            Progress::Pending => {}
            Progress::Started { .. } => break,
            Progress::Failed(failure) => panic!("{failure:?}"),
        }
    }
    let executed = since();
    waitid(WaitId::PidFd(spawning.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    [spawned, executed, since()]
}

fn plan(lower: String, upper: String, work: String, args: Vec<String>) -> Plan {
    let masked = "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list \
                  /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap";
    let read_only = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger";
    let list = |text: &str| text.split(' ').filter(|part| !part.is_empty()).map(String::from).collect();
    Plan {
        id: "f".repeat(64),
        hostname: "floor".into(),
        domainname: String::new(),
        rootfs: Rootfs::Overlay { lower: vec![lower], upper, work, volatile: false, late: false },
        readonly_rootfs: false,
        rootfs_propagation: Propagation::Rprivate,
        namespaces: Namespaces {
            pid: Namespace::New,
            ipc: Namespace::New,
            uts: Namespace::New,
            cgroup: Namespace::New,
            net: Network::None,
            user: None,
        },
        mounts: vec![
            Mount::Proc { target: "/proc".into() },
            Mount::Dev { shm_size: 64 << 20, shm_source: None },
            Mount::Mqueue { target: "/dev/mqueue".into() },
            Mount::Sysfs { target: "/sys".into(), readonly: true },
            Mount::Cgroup { target: "/sys/fs/cgroup".into(), readonly: true },
        ],
        devices: Vec::new(),
        masked_paths: list(masked),
        readonly_paths: list(read_only),
        sysctls: Vec::new(),
        cgroup: Cgroup { path: String::new(), resources: Resources::default() },
        process: Process {
            args,
            env: vec!["PATH=/bin:/usr/bin".into()],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            umask: None,
            capabilities: Capabilities {
                bounding: CAPABILITIES,
                effective: CAPABILITIES,
                permitted: CAPABILITIES,
                ambient: 0,
            },
            no_new_privileges: false,
            seccomp: None,
            rlimits: Vec::new(),
            oom_score_adj: None,
            tty: false,
            console_size: (0, 0),
        },
        init: false,
        stdio: Stdio { open_stdin: false, stdin_once: false, log: None },
        timeout_ns: 0,
    }
}
