//! Containers started for real: what they see of files, and that nothing of it shows outside.

mod busybox;

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};

use busybox::{bind, can_start, fail, inside, run, tmpfs, Bundle};
use proa_native::plan::{Device, DeviceKind, Mount, Propagation, Rootfs};

#[test]
fn dev_is_fresh_and_complete() {
    if !can_start() {
        return;
    }
    let script =
        "cd /dev; ls; stat -c '%n %F %t,%T %a' null tty; readlink fd; readlink ptmx; cat /dev/null; \
                  stat -f -c %T shm; ls fresh 2>&1; echo x > shm/y && echo writable";
    let output = inside(script, |bundle, _| fs::write(bundle.lower("dev/fresh"), "").expect("file"));
    let names = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let expected = format!(
        "{}\nnull character special file 1,3 666\ntty character special file 5,0 666\n\
         /proc/self/fd\npts/ptmx\ntmpfs\nls: fresh: No such file or directory\nwritable\n",
        names.replace(' ', "\n")
    );
    assert_eq!(output, expected);
}

#[test]
fn devices_are_made_as_asked() {
    if !can_start() {
        return;
    }
    let output = inside("stat -c '%t,%T %a %u:%g' /dev/net/tun", |_, plan| {
        plan.devices.push(Device {
            path: "/dev/net/tun".into(),
            kind: DeviceKind::Char,
            major: 10,
            minor: 200,
            mode: 0o640,
            uid: 3,
            gid: 4,
        });
    });
    assert_eq!(output, "a,c8 640 3:4\n");
}

#[test]
fn a_link_at_dev_redirects_nothing() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    fs::remove_dir(bundle.lower("dev")).expect("dev");
    symlink("etc", bundle.lower("dev")).expect("link");
    let failure = fail(&bundle.plan("true"));
    assert_eq!((failure.step.as_str(), failure.subject.as_str()), ("mount", "/dev"));
    assert_eq!(failure.errno, libc::ELOOP);
}

#[test]
fn masked_and_read_only_paths_hold() {
    if !can_start() {
        return;
    }
    let script =
        "cat /proc/keys /proc/interrupts; ls -A /sys/firmware /proc/acpi; touch /sys/firmware/x 2>&1; \
                  for file in irq/default_smp_affinity sys/kernel/hostname; do (echo 1 > /proc/$file) 2>&1; done; true";
    let output = inside(script, |_, _| {});
    let expected = "/proc/acpi:\n\n/sys/firmware:\ntouch: /sys/firmware/x: Read-only file system\n\
                    sh: can't create /proc/irq/default_smp_affinity: Read-only file system\n\
                    sh: can't create /proc/sys/kernel/hostname: Read-only file system\n";
    assert_eq!(output, expected);
}

#[test]
fn binds_keep_their_kind_and_mode() {
    if !can_start() {
        return;
    }
    let script =
        "cat /data/deep/file /etc/single; touch /data/deep/new 2>&1; touch /etc/single && echo touched";
    let output = inside(script, |bundle, plan| {
        fs::create_dir(bundle.directory.path().join("shared")).expect("directory");
        fs::write(bundle.directory.path().join("shared/file"), "one\n").expect("file");
        plan.mounts.push(bind(&bundle.path("shared"), "/data/deep", true));
        plan.mounts.push(bind(&bundle.path("shared/file"), "/etc/single", false));
    });
    assert_eq!(output, "one\none\ntouch: /data/deep/new: Read-only file system\ntouched\n");
}

#[test]
fn a_bind_target_cannot_leave_the_root() {
    if !can_start() {
        return;
    }
    let marker = "proa-start-marker";
    let output = inside(&format!("cat /tmp/{marker}"), |bundle, plan| {
        fs::write(bundle.path("file"), "kept inside\n").expect("file");
        symlink("../../../../../../tmp", bundle.lower("etc/out")).expect("link");
        plan.mounts.push(bind(&bundle.path("file"), &format!("/etc/out/{marker}"), true));
    });
    assert_eq!(output, "kept inside\n");
    assert!(!std::path::Path::new("/tmp").join(marker).exists());
}

#[test]
fn binds_over_proc_are_refused() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    let mut plan = bundle.plan("true");
    fs::write(bundle.path("file"), "").expect("file");
    plan.mounts.push(bind(&bundle.path("file"), "/proc/self/status", false));
    let failure = fail(&plan);
    assert_eq!((failure.step.as_str(), failure.errno), ("mount", libc::EPERM));
    plan.mounts.pop();
    plan.mounts.push(bind(&bundle.path("file"), "/proc/uptime", false));
    assert_eq!(run(&plan).code, 0);
}

#[test]
fn a_missing_bind_source_is_named() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    let mut plan = bundle.plan("true");
    plan.mounts.push(bind("/nonexistent/source", "/data", false));
    let failure = fail(&plan);
    assert_eq!(failure.errno, libc::ENOENT);
    assert!(failure.subject.contains("/nonexistent/source"), "{failure:?}");
}

#[test]
fn a_missing_layer_is_named() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    fs::remove_dir_all(bundle.directory.path().join("lower")).expect("lower");
    let failure = fail(&bundle.plan("true"));
    assert_eq!((failure.step.as_str(), failure.errno), ("rootfs", libc::ENOENT));
    assert!(failure.subject.contains(&bundle.path("lower")), "{failure:?}");
}

/// Before kernel 6.7 their names fit into no single value of fsconfig(2).
#[test]
fn many_layers_are_shown_in_their_order() {
    if !can_start() {
        return;
    }
    let output = inside("cat /shared /own1 /own99 && touch /new && echo ok", |bundle, plan| {
        let Rootfs::Overlay { lower, .. } = &mut plan.rootfs;
        for number in 1..100 {
            let layer = bundle.directory.path().join(format!("layer{number}"));
            fs::create_dir(&layer).expect("layer");
            fs::write(layer.join("shared"), format!("{number}\n")).expect("file");
            fs::write(layer.join(format!("own{number}")), format!("own {number}\n")).expect("file");
            lower.insert(0, layer.to_str().expect("utf-8").to_owned());
        }
    });
    assert_eq!(output, "99\nown 1\nown 99\nok\n");
}

#[test]
fn a_tmpfs_takes_its_options_and_what_was_there() {
    if !can_start() {
        return;
    }
    let script = "stat -c %a /run/x /etc /tmp; cat /etc/passwd /etc/sub/link; touch /etc/new && echo ok; \
                  grep ' /run/x ' /proc/self/mountinfo | grep -o size=4096k,mode=700";
    let output = inside(script, |bundle, plan| {
        fs::create_dir(bundle.lower("etc/sub")).expect("directory");
        // Whatever the umask is: a start in another thread sets its own for a moment.
        fs::set_permissions(bundle.lower("etc"), fs::Permissions::from_mode(0o755)).expect("mode");
        symlink("../passwd", bundle.lower("etc/sub/link")).expect("link");
        fs::set_permissions(bundle.lower("tmp"), fs::Permissions::from_mode(0o711)).expect("mode");
        plan.mounts.push(tmpfs("/run/x", &["size=4096k", "mode=700"]));
        plan.mounts.push(tmpfs("/tmp", &[]));
        let mut with_copy = tmpfs("/etc", &[]);
        if let Mount::Tmpfs { copy_up, .. } = &mut with_copy {
            *copy_up = true;
        }
        plan.mounts.push(with_copy);
    });
    let line = "root:x:0:0:root:/root:/bin/sh\n";
    assert_eq!(output, format!("700\n755\n711\n{line}{line}ok\nsize=4096k,mode=700\n"));
}

#[test]
fn a_read_only_root_is_read_only_and_its_tmpfs_is_not() {
    if !can_start() {
        return;
    }
    let output = inside("touch /x 2>&1; touch /tmp/x && echo ok", |_, plan| {
        plan.readonly_rootfs = true;
        plan.mounts.push(tmpfs("/tmp", &[]));
    });
    assert_eq!(output, "touch: /x: Read-only file system\nok\n");
}

#[test]
fn the_root_propagates_as_asked() {
    if !can_start() {
        return;
    }
    let script = "grep -c ' / / .* shared:' /proc/self/mountinfo; true";
    assert_eq!(inside(script, |_, _| {}), "0\n");
    let shared = inside(script, |_, plan| plan.rootfs_propagation = Propagation::Rshared);
    assert_eq!(shared, "1\n");
}

#[test]
fn nothing_is_left_on_the_host() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    let count = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        mounts.lines().filter(|line| line.contains(&bundle.path(""))).count()
    };
    let mut plan = bundle.plan("true");
    assert_eq!(run(&plan).code, 0);
    plan.process.args = vec!["nosuch".into()];
    fail(&plan);
    assert_eq!(count(), 0);
}

/// An image of two layers beside the container's own.
fn image(bundle: &Bundle) -> Vec<String> {
    let layer = |name: &str| bundle.directory.path().join(name);
    fs::create_dir_all(layer("base/app/old")).expect("layer");
    fs::write(layer("base/app/shared"), "base\n").expect("file");
    fs::write(layer("base/app/only-base"), "only base\n").expect("file");
    fs::create_dir_all(layer("top/app")).expect("layer");
    fs::write(layer("top/app/shared"), "top\n").expect("file");
    symlink("/app/only-base", layer("top/absolute")).expect("link");
    symlink("../../../../../../..", layer("top/up")).expect("link");
    ["top", "base"].map(|name| bundle.path(name)).to_vec()
}

fn layers(lower: Vec<String>, subpath: &str, target: &str) -> Mount {
    Mount::Layers {
        lower,
        subpath: subpath.into(),
        target: target.into(),
        readonly: false,
        upper: None,
        work: None,
        volatile: false,
    }
}

#[test]
fn layers_are_shown_merged_and_read_only() {
    if !can_start() {
        return;
    }
    let script = "cat /image/app/shared /image/app/only-base /part/shared /file /base/app/shared /link;
                  for path in /image/new /part/shared /file /base/new; do touch $path 2>&1; done; true";
    let output = inside(script, |bundle, plan| {
        let lower = image(bundle);
        plan.mounts.push(layers(lower.clone(), "", "/image"));
        plan.mounts.push(layers(lower.clone(), "/app", "/part"));
        plan.mounts.push(layers(lower.clone(), "app/shared", "/file"));
        plan.mounts.push(layers(lower.clone(), "absolute", "/link"));
        plan.mounts.push(layers(lower[1..].to_vec(), "", "/base"));
    });
    let refused = ["/image/new", "/part/shared", "/file", "/base/new"]
        .map(|path| format!("touch: {path}: Read-only file system\n"))
        .concat();
    assert_eq!(output, format!("top\nonly base\ntop\ntop\nbase\nonly base\n{refused}"));
}

#[test]
fn layers_with_an_upper_directory_take_writes_there() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    let mut plan = bundle.plan("echo new > /part/shared && cat /part/shared");
    let lower = image(&bundle);
    for name in ["own/upper", "own/work"] {
        fs::create_dir_all(bundle.directory.path().join(name)).expect("directory");
    }
    let mut mount = layers(lower, "app", "/part");
    if let Mount::Layers { upper, work, .. } = &mut mount {
        (*upper, *work) = (Some(bundle.path("own/upper")), Some(bundle.path("own/work")));
    }
    plan.mounts.push(mount);
    for _ in 0..2 {
        let outcome = run(&plan);
        assert_eq!((outcome.code, outcome.output.as_str()), (0, "new\n"));
    }
    assert_eq!(fs::read_to_string(bundle.path("top/app/shared")).expect("layer"), "top\n");
    assert_eq!(fs::read_to_string(bundle.path("own/upper/app/shared")).expect("upper"), "new\n");
}

#[test]
fn a_subpath_of_layers_stays_in_them() {
    if !can_start() {
        return;
    }
    let output = inside("ls /part; ls /part/app", |bundle, plan| {
        let lower = image(bundle);
        plan.mounts.push(layers(lower, "up/../../up", "/part"));
    });
    assert_eq!(output, "absolute\napp\nup\nold\nonly-base\nshared\n");
    let bundle = Bundle::new();
    let mut plan = bundle.plan("true");
    plan.mounts.push(layers(image(&bundle), "app/nothing", "/part"));
    let failure = fail(&plan);
    assert_eq!((failure.step.as_str(), failure.errno), ("mount", libc::ENOENT));
    assert!(failure.subject.contains("app/nothing"), "{failure:?}");
}

#[test]
fn layers_that_make_no_sense_are_refused() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    let mut half = layers(image(&bundle), "", "/image");
    if let Mount::Layers { upper, .. } = &mut half {
        *upper = Some(bundle.path("upper"));
    }
    for mount in [layers(Vec::new(), "", "/image"), half] {
        let mut plan = bundle.plan("true");
        plan.mounts.push(mount);
        let failure = fail(&plan);
        assert_eq!((failure.step.as_str(), failure.errno), ("mount", 0));
        assert!(failure.subject.contains("a tree of layers has"), "{failure:?}");
    }
}

/// Before kernel 6.7 their names fit into no single value of fsconfig(2).
#[test]
fn many_layers_are_mounted_read_only() {
    if !can_start() {
        return;
    }
    let output = inside("cat /image/shared /image/own1", |bundle, plan| {
        let lower = (1..100)
            .map(|number| {
                let layer = bundle.directory.path().join(format!("layer{number}"));
                fs::create_dir(&layer).expect("layer");
                fs::write(layer.join("shared"), format!("{number}\n")).expect("file");
                fs::write(layer.join(format!("own{number}")), format!("own {number}\n")).expect("file");
                layer.to_str().expect("utf-8").to_owned()
            })
            .rev()
            .collect();
        plan.mounts.push(layers(lower, "", "/image"));
    });
    assert_eq!(output, "99\nown 1\n");
}
