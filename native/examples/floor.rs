//! What the kernel alone costs: a container's calls made by hand, as often as asked.
//!
//! `floor DIRECTORY COUNT COMMAND [ARGUMENT...]` runs COMMAND (found in DIRECTORY, statically linked) over an overlay of
//! DIRECTORY: clone3 with new pid, mount, ipc, uts and cgroup namespaces, proc, dev and sys, `pivot_root`, exec, wait; then
//! again with a network namespace. No cgroups, no seccomp, no capabilities, no pools. Prints JSON: microseconds of
//! the whole (`p50_us`, ...) and until the command runs (`exec_p50_us`).

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)]

use std::ffi::{CStr, CString};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{mknodat, symlinkat, FileType, Mode, CWD};
use rustix::mount::{
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount, FsMountFlags,
    FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};

const NAMESPACES: i32 =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

fn main() {
    let arguments: Vec<CString> = std::env::args().skip(1).map(|text| CString::new(text).unwrap()).collect();
    let [lower, count, command @ ..] = &arguments[..] else {
        eprintln!("usage: floor DIRECTORY COUNT COMMAND [ARGUMENT...]");
        std::process::exit(2);
    };
    let count: usize = count.to_str().unwrap().parse().unwrap();
    let scratch = std::env::temp_dir().join(format!("proa-floor-{}", std::process::id()));
    let [upper, work] = ["upper", "work"].map(|name| {
        let path = scratch.join(name);
        std::fs::create_dir_all(&path).unwrap();
        c_path(&path)
    });
    let container = Container { lower, upper: &upper, work: &work, command };
    let without_net = measure(&container, NAMESPACES, count);
    let with_net = measure(&container, NAMESPACES | libc::CLONE_NEWNET, count);
    println!("{{\"with_net\": {with_net}, \"without_net\": {without_net}, \"count\": {count}}}");
    std::fs::remove_dir_all(&scratch).unwrap();
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

fn measure(container: &Container<'_>, namespaces: i32, count: usize) -> String {
    let mut whole = Vec::with_capacity(count);
    let mut until_exec = Vec::with_capacity(count);
    for _ in 0..count + 5 {
        let begun = Instant::now();
        let executed = container.run(namespaces);
        whole.push(begun.elapsed().as_secs_f64() * 1e6);
        until_exec.push((executed - begun).as_secs_f64() * 1e6);
    }
    // The first ones fill caches.
    let (whole, until_exec) = (sorted(whole.split_off(5)), sorted(until_exec.split_off(5)));
    let at =
        |samples: &[f64], percent: usize| samples[(samples.len() * percent / 100).min(samples.len() - 1)];
    format!(
        "{{\"median_us\": {0:.1}, \"p50_us\": {0:.1}, \"p95_us\": {1:.1}, \"exec_p50_us\": {2:.1}, \"exec_p95_us\": {3:.1}}}",
        at(&whole, 50),
        at(&whole, 95),
        at(&until_exec, 50),
        at(&until_exec, 95)
    )
}

fn sorted(mut samples: Vec<f64>) -> Vec<f64> {
    samples.sort_unstable_by(f64::total_cmp);
    samples
}

struct Container<'a> {
    lower: &'a CStr,
    upper: &'a CStr,
    work: &'a CStr,
    command: &'a [CString],
}

impl Container<'_> {
    /// Runs the command to its end; returns when it was executed.
    fn run(&self, namespaces: i32) -> Instant {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        match clone3(namespaces) {
            0 => {
                let error = self.enter();
                eprintln!("floor: {error}");
                std::process::exit(1);
            }
            pid => {
                drop(write);
                rustix::io::read(&read, &mut [0; 1]).unwrap();
                let executed = Instant::now();
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
                    .unwrap()
                    .unwrap();
                assert_eq!(status.exit_status(), Some(0), "the command failed");
                executed
            }
        }
    }

    /// The child: comes back only to fail.
    fn enter(&self) -> rustix::io::Errno {
        match self.assemble() {
            Ok(()) => self.execute(),
            Err(error) => error,
        }
    }

    fn assemble(&self) -> rustix::io::Result<()> {
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let layers = [(c"lowerdir", self.lower), (c"upperdir", self.upper), (c"workdir", self.work)];
        let root = make(c"overlay", &layers, MountAttrFlags::empty())?;
        move_mount(&root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        let safe = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        place(&root, c"proc", &make(c"proc", &[], safe | MountAttrFlags::MOUNT_ATTR_NODEV)?)?;
        place(&root, c"dev", &dev()?)?;
        let read_only = safe | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_RDONLY;
        place(&root, c"sys", &make(c"sysfs", &[], read_only)?)?;
        rustix::process::fchdir(&root)?;
        rustix::process::pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")
    }

    fn execute(&self) -> rustix::io::Errno {
        let argv: Vec<_> = self.command.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        let envp = [c"PATH=/bin:/usr/bin".as_ptr(), std::ptr::null()];
        // SAFETY: C strings and arrays that end with null.
        unsafe { libc::execve(argv[0], argv.as_ptr(), envp.as_ptr()) };
        rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()
    }
}

fn make(kind: &CStr, options: &[(&CStr, &CStr)], attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&fs, *key, *value)?;
    }
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn place(root: &OwnedFd, name: &CStr, mount: &OwnedFd) -> rustix::io::Result<()> {
    move_mount(mount, c"", root, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn dev() -> rustix::io::Result<OwnedFd> {
    let dev = make(c"tmpfs", &[(c"mode", c"755")], MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    let nodes = [
        (c"null", 1, 3),
        (c"zero", 1, 5),
        (c"full", 1, 7),
        (c"random", 1, 8),
        (c"urandom", 1, 9),
        (c"tty", 5, 0),
    ];
    for (name, major, minor) in nodes {
        let device = rustix::fs::makedev(major, minor);
        mknodat(&dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
    }
    for (target, name) in
        [(c"/proc/self/fd", c"fd"), (c"/proc/self/fd/0", c"stdin"), (c"/proc/self/fd/1", c"stdout")]
    {
        symlinkat(target, &dev, name)?;
    }
    Ok(dev)
}

/// Forks into new namespaces: 0 in the child.
fn clone3(namespaces: i32) -> i32 {
    let mut arguments = [0u64; 11];
    let mut pidfd: i32 = -1;
    arguments[0] = namespaces as u64 | libc::CLONE_PIDFD as u64;
    arguments[1] = &raw mut pidfd as u64;
    arguments[4] = libc::SIGCHLD as u64;
    // SAFETY: a whole struct clone_args; the child has its memory to itself and this process one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    assert!(pid >= 0, "clone3: {}", std::io::Error::last_os_error());
    if pid > 0 {
        // SAFETY: CLONE_PIDFD stored a new descriptor there.
        drop(unsafe { OwnedFd::from_raw_fd(pidfd) });
    }
    pid as i32
}
