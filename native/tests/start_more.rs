//! Containers started for real: terminals, the built-in init, execs, control groups, user namespaces.

mod busybox;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;

use busybox::{can_start, drive, no_container, process, run, start, with_pipes, Bundle, Outcome};
use proa_native::cgroup::{Hierarchies, FAREWELL};
use proa_native::plan::{IdMap, Namespace, Network, Plan, Process, Resources, UserNamespace};
use proa_native::process::{exec_into, spawn, ContainerHandle, Host, SpawnContext, Stdio};
use rustix::process::{pidfd_send_signal, Signal};

fn host() -> Host {
    Host::probe().expect("host")
}

/// A container that waits for a signal, so that others can be sent into it.
fn sleeping(host: &Host, plan: &mut Plan) -> busybox::Running {
    plan.process.args = ["sleep", "1000"].map(String::from).to_vec();
    start(host, plan, None).expect("started")
}

fn exec(host: &Host, init: &ContainerHandle, process: &Process) -> Outcome {
    with_pipes(|stdio| exec_into(init, process, host, stdio, None)).expect("started").finish()
}

fn stop(running: &busybox::Running) {
    pidfd_send_signal(&running.handle.pidfd, Signal::KILL).expect("signal");
    running.reap();
}

/// Reads a terminal until its other side is gone.
fn read_terminal(mut terminal: File) -> String {
    let mut output = Vec::new();
    let _ = terminal.read_to_end(&mut output); // ends with EIO
    String::from_utf8_lossy(&output).replace('\r', "")
}

#[test]
fn a_terminal_is_the_containers_own() {
    if !can_start() {
        return;
    }
    let (host, bundle) = (host(), Bundle::new());
    let mut plan =
        bundle.plan("tty; stty size; stat -c '%F %U' /dev/console; read line; echo got $line; ps -o tty");
    (plan.process.tty, plan.process.console_size) = (true, (33, 77));
    let mut running = start(&host, &plan, None).expect("started");
    let mut terminal = File::from(running.terminal.take().expect("a terminal"));
    terminal.write_all(b"word\n").expect("input");
    let output = read_terminal(terminal);
    for line in ["/dev/pts/0", "33 77", "character special file root", "got word", "136,0"] {
        assert!(output.lines().any(|found| found == line), "{line} not in {output}");
    }
    assert_eq!(running.reap(), 0);
}

#[test]
fn an_exec_joins_and_its_terminal_is_the_containers() {
    if !can_start() {
        return;
    }
    let (host, bundle) = (host(), Bundle::new());
    let running = sleeping(&host, &mut bundle.plan(""));
    let script = "hostname; id -u; pwd; cat /proc/1/cmdline; echo; ls /proc/self/fd | wc -l";
    let mut inside = process(["sh", "-c", script].map(String::from).to_vec());
    (inside.uid, inside.cwd) = (1000, "/etc".into());
    let outcome = exec(&host, &running.handle, &inside);
    assert_eq!((outcome.output.as_str(), outcome.code), ("inside\n1000\n/etc\nsleep\u{0}1000\u{0}\n4\n", 0));
    inside.args[2] = "tty; stty size".into();
    (inside.tty, inside.console_size) = (true, (5, 6));
    let mut on_tty =
        with_pipes(|stdio| exec_into(&running.handle, &inside, &host, stdio, None)).expect("started");
    let output = read_terminal(File::from(on_tty.terminal.take().expect("a terminal")));
    assert_eq!((output.as_str(), on_tty.reap()), ("/dev/pts/0\n5 6\n", 0));
    stop(&running);
}

#[test]
fn an_exec_that_cannot_run_says_why() {
    if !can_start() {
        return;
    }
    let (host, bundle) = (host(), Bundle::new());
    let running = sleeping(&host, &mut bundle.plan(""));
    let fail = |process: &Process| {
        let begun = with_pipes(|stdio| exec_into(&running.handle, process, &host, stdio, None));
        begun.err().map(|failure| (failure.step, failure.subject, failure.errno))
    };
    let mut inside = process(vec!["nosuch".into()]);
    assert_eq!(fail(&inside), Some(("exec".into(), "nosuch".into(), libc::ENOENT)));
    inside.cwd = "/missing".into();
    assert_eq!(fail(&inside), Some(("cwd".into(), "/missing".into(), libc::ENOENT)));
    stop(&running);
}

#[test]
fn init_reaps_forwards_and_holds_nothing() {
    if !can_start() {
        return;
    }
    let (host, bundle) = (host(), Bundle::new());
    let script = "cat /proc/1/comm; wc -l < /proc/1/maps; ls /proc/1/fd 2>/dev/null | wc -l; \
                  trap 'exit 9' TERM; (sleep 0.01 &); echo ready; while true; do sleep 0.01; done";
    let mut plan = bundle.plan(script);
    plan.init = true;
    let mut running = start(&host, &plan, None).expect("started");
    let mut output = String::new();
    let mut bytes = [0; 256];
    while !output.contains("ready") {
        let count = running.output.read(&mut bytes).expect("output");
        assert!(count > 0, "init ended: {output}");
        output.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!((lines[0], lines[2]), ("proa-init", "0"), "{output}");
    pidfd_send_signal(&running.handle.pidfd, Signal::TERM).expect("signal");
    assert_eq!(running.reap(), 9);
}

#[test]
fn init_reports_a_program_that_is_missing_and_one_that_is_killed() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    let mut plan = bundle.plan("kill -9 $$");
    plan.init = true;
    assert_eq!(run(&plan).code, 137);
    plan.process.args = vec!["nosuch".into()];
    assert_eq!(busybox::fail(&plan).step, "exec");
}

#[test]
fn namespaces_of_another_container_are_joined() {
    if !can_start() {
        return;
    }
    // Visiting another mount namespace takes a thread whose working directory is its own.
    proa_native::sys::unshare(libc::CLONE_FS).expect("unshare");
    let (host, first, second) = (host(), Bundle::new(), Bundle::new());
    let running = sleeping(&host, &mut first.plan(""));
    exec(&host, &running.handle, &process(["touch", "/dev/shm/shared"].map(String::from).to_vec()));
    let mut plan = second.plan("hostname; cat /proc/1/comm; ls /dev/shm");
    let other = || Namespace::Container { id: "first".into() };
    (plan.namespaces.pid, plan.namespaces.ipc, plan.namespaces.uts) = (other(), other(), other());
    plan.namespaces.net = Network::Container { id: "first".into() };
    let container = |id: &str| (id == "first").then_some(&running.handle);
    let started = with_pipes(|stdio| {
        spawn(
            &plan,
            &SpawnContext {
                host: &host,
                stdio,
                netns: None,
                container: &container,
                caller: None,
                group: None,
            },
        )
    });
    let outcome = started.expect("started").finish();
    assert_eq!((outcome.output.as_str(), outcome.code), ("inside\nsleep\nshared\n", 0));
    plan.namespaces.pid = Namespace::Container { id: "gone".into() };
    assert_eq!(busybox::fail(&plan).step, "not_found");
    stop(&running);
}

#[test]
fn the_container_is_the_root_of_its_cgroups() {
    if !can_start() {
        return;
    }
    let Ok(hierarchies) = Hierarchies::probe() else {
        eprintln!("skipped: no cgroups");
        return;
    };
    let path = format!("/proa-start-test-{}/one", std::process::id());
    let group = hierarchies.create(&path, &Resources::default()).expect("group");
    let (host, bundle) = (host(), Bundle::new());
    let script = "cut -d: -f3 /proc/self/cgroup | sort -u; ls /sys/fs/cgroup | wc -l; \
                  cat /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | head -1; \
                  grep -c ' /sys/fs/cgroup[^ ]* rw' /proc/self/mountinfo; mkdir /sys/fs/cgroup/x 2>&1; true";
    let outcome = start(&host, &bundle.plan(script), Some(&group)).expect("started").finish();
    group.remove(FAREWELL).expect("removed");
    hierarchies
        .open(path.trim_end_matches("/one"))
        .and_then(|parent| parent.remove(FAREWELL))
        .expect("removed");
    let lines: Vec<&str> = outcome.output.lines().collect();
    assert_eq!(lines[0], "/", "{outcome:?}");
    assert!(lines[1].parse::<u32>().is_ok_and(|count| count > 3), "{outcome:?}");
    assert_eq!(
        lines[2..],
        ["1", "0", "mkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system"]
    );
}

#[test]
fn a_user_namespace_maps_and_the_files_follow() {
    if !can_start() {
        return;
    }
    let (host, bundle) = (host(), Bundle::new());
    let script = "id -u; cat /proc/self/uid_map; stat -c %u / /bin/busybox /dev /dev/null /dev/shm; \
                  touch /new && stat -c %u /new; echo x > /dev/null && echo ok; ls /sys/class/net";
    let mut plan = bundle.plan(script);
    let map = vec![IdMap { container_id: 0, host_id: 200_000, size: 65_536 }];
    plan.namespaces.user = Some(UserNamespace { uid_map: map.clone(), gid_map: map });
    let outcome = match start(&host, &plan, None) {
        Err(failure) if failure.subject.starts_with("id-map") => {
            eprintln!("skipped: this file system cannot be id-mapped");
            return;
        }
        other => other.expect("started").finish(),
    };
    let lines: Vec<&str> = outcome.output.lines().collect();
    assert_eq!((lines[0], outcome.code), ("0", 0), "{outcome:?}");
    assert_eq!(lines[2..], ["0", "0", "0", "0", "0", "0", "ok", "lo"], "{outcome:?}");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.path("upper/new")).expect("file"));
    assert_eq!(owner, 0, "on disk it is what an image would have");
}

#[test]
fn a_terminal_needs_no_pipes() {
    if !can_start() {
        return;
    }
    let (host, bundle) = (host(), Bundle::new());
    let mut plan = bundle.plan("exit 3");
    plan.process.tty = true;
    let null = File::open("/dev/null").expect("/dev/null");
    let stdio = Stdio { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
    let context =
        SpawnContext { host: &host, stdio, netns: None, container: &no_container, caller: None, group: None };
    let spawning = spawn(&plan, &context).expect("spawned");
    let running = drive(spawning, null.into()).expect("started");
    assert_eq!(running.reap(), 3);
}
