//! Containers started for real: who the process is, what it may do, how it fails.

mod busybox;

use std::fs;

use busybox::{can_start, fail, inside, run, Bundle, DEFAULT_CAPABILITIES};
use proa_native::plan::Rlimit;

#[test]
fn a_container_has_namespaces_of_its_own() {
    if !can_start() {
        return;
    }
    let script = "echo $$; hostname; cat /proc/sys/kernel/domainname; id -u; pwd; ip -o link | wc -l; \
                  ls /proc/self/fd";
    assert_eq!(inside(script, |_, _| {}), "1\ninside\nexample\n0\n/\n1\n0\n1\n2\n3\n");
}

#[test]
fn exit_codes_and_signals_come_through() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    assert_eq!(run(&bundle.plan("exit 7")).code, 7);
    assert_eq!(run(&bundle.plan("sh -c 'kill -9 $$'; exit $?")).code, 137);
}

#[test]
fn the_process_is_who_it_is_told_to_be() {
    if !can_start() {
        return;
    }
    let script = "id; umask; pwd; grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
    let output = inside(script, |_, plan| {
        let process = &mut plan.process;
        (process.uid, process.gid, process.groups) = (1000, 1001, vec![7, 1001]);
        process.umask = Some(0o077);
        process.cwd = "/work/here".into();
        process.no_new_privileges = true;
    });
    assert!(output.starts_with("uid=1000 gid=1001 groups=7,1001\n0077\n/work/here\n"), "{output}");
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(output.contains(line), "{line} not in {output}");
    }
    assert!(output.contains(&format!("CapBnd:\t{DEFAULT_CAPABILITIES:016x}")), "{output}");
}

#[test]
fn signals_are_as_a_new_process_has_them() {
    if !can_start() {
        return;
    }
    let output = inside("", |_, plan| {
        plan.process.args =
            ["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"].map(String::from).to_vec();
    });
    let none = format!("{:016x}", 0);
    assert_eq!(output, format!("SigBlk:\t{none}\nSigIgn:\t{none}\nSigCgt:\t{none}\n"));
}

#[test]
fn root_has_the_default_capabilities_and_no_more() {
    if !can_start() {
        return;
    }
    let output = inside("grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status", |_, _| {});
    let (none, set) = (format!("{:016x}", 0), format!("{DEFAULT_CAPABILITIES:016x}"));
    let expected =
        format!("CapInh:\t{none}\nCapPrm:\t{set}\nCapEff:\t{set}\nCapBnd:\t{set}\nCapAmb:\t{none}\n");
    assert_eq!(output, expected);
}

#[test]
fn ambient_capabilities_reach_a_user() {
    if !can_start() {
        return;
    }
    let output = inside("grep -E '^Cap(Eff|Amb)' /proc/self/status", |_, plan| {
        plan.process.uid = 1000;
        plan.process.capabilities.ambient = 1 << 10;
    });
    assert_eq!(output, "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400\n");
}

#[test]
fn limits_and_settings_are_set() {
    if !can_start() {
        return;
    }
    let script =
        "ulimit -n; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/self/oom_score_adj";
    let output = inside(script, |_, plan| {
        plan.process.rlimits.push(Rlimit { resource: 7, soft: 100, hard: 200 });
        plan.sysctls.push(("net.ipv4.ip_forward".into(), "1".into()));
        plan.sysctls.push(("kernel.msgmax".into(), "4242".into()));
        plan.process.oom_score_adj = Some(123);
    });
    assert_eq!(output, "100\n1\n4242\n123\n");
}

#[test]
fn a_wrong_setting_is_named() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    let mut plan = bundle.plan("true");
    plan.sysctls.push(("net.ipv4.nonsense".into(), "1".into()));
    let failure = fail(&plan);
    assert_eq!((failure.step.as_str(), failure.subject.as_str()), ("sysctl", "net.ipv4.nonsense=1"));
    assert_eq!(failure.errno, libc::ENOENT);
}

#[test]
fn what_the_host_forbids_is_lowered_and_told() {
    if !can_start() {
        return;
    }
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("CapEff");
    if u64::from_str_radix(effective, 16).expect("hex") & (1 << 24) != 0 {
        eprintln!("skipped: this host has CAP_SYS_RESOURCE");
        return;
    }
    let bundle = Bundle::new();
    let mut plan = bundle.plan("true");
    plan.process.rlimits.push(Rlimit { resource: 7, soft: 1 << 30, hard: 1 << 30 });
    plan.process.oom_score_adj = Some(-900);
    plan.process.capabilities.permitted = u64::MAX >> 23;
    plan.process.capabilities.effective = u64::MAX >> 23;
    let outcome = run(&plan);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.warnings.len(), 3, "{outcome:?}");
    assert!(outcome.warnings[0].contains("CAP_SYS_RESOURCE"), "{outcome:?}");
}

#[test]
fn failures_to_execute_tell_missing_from_forbidden() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    let mut plan = bundle.plan("");
    let cases = [
        ("nosuch", libc::ENOENT),
        ("/nosuch", libc::ENOENT),
        ("/etc", libc::EACCES),
        ("/etc/passwd", libc::EACCES),
    ];
    for (name, errno) in cases {
        plan.process.args = vec![name.into()];
        let failure = fail(&plan);
        assert_eq!((failure.step.as_str(), failure.subject.as_str()), ("exec", name));
        assert_eq!(failure.errno, errno, "{name}");
    }
}

#[test]
fn a_filter_holds_and_the_rest_passes() {
    if !can_start() {
        return;
    }
    for no_new_privileges in [false, true] {
        let output = inside("grep -E '^Seccomp:' /proc/self/status; mkdir /x 2>&1; true", |_, plan| {
            plan.process.seccomp = Some(serde_bytes::ByteBuf::from(deny_mkdir()));
            plan.process.no_new_privileges = no_new_privileges;
        });
        assert_eq!(output, "Seccomp:\t2\nmkdir: can't create directory '/x': Operation not permitted\n");
    }
}

/// mkdir and mkdirat answer EPERM; everything else is allowed.
fn deny_mkdir() -> Vec<u8> {
    let equals = |number: i64| (0x15u16, 0u8, 1u8, number as u32);
    let program = [
        (0x20, 0, 0, 0), // load the number
        equals(if cfg!(target_arch = "x86_64") { 83 } else { libc::SYS_mkdirat }),
        (0x06, 0, 0, 0x0005_0001), // errno 1
        equals(libc::SYS_mkdirat),
        (0x06, 0, 0, 0x0005_0001),
        (0x06, 0, 0, 0x7fff_0000), // allow
    ];
    let bytes = |(code, yes, no, value): (u16, u8, u8, u32)| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([yes, no]);
        bytes.extend(value.to_ne_bytes());
        bytes
    };
    program.into_iter().flat_map(bytes).collect()
}
