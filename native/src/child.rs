//! The child between clone3 and execve: an interpreter of a flat list of operations.
//!
//! It may run in its parent's memory, so it allocates nothing, locks nothing, logs nothing, panics
//! nowhere and touches no thread-local storage; all it writes is its own stack. The list (`script.rs`), with every
//! C string and descriptor, is made beforehand (`prepare.rs`). A failure goes to the parent as (operation, errno) over the
//! socket; the table of records is in `process.rs`.
//!
//! Paths inside the container are resolved by `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` once,
//! and used through the resulting descriptor only.

#![allow(unsafe_code)]

use std::ffi::{c_void, CStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{fstat, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, FsMountFlags, FsOpenFlags,
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::init;
use crate::mount::Kind;
use crate::script::{Operation, Program, Record, RecordKind, Script, Slot, Source, Target, SLOTS};
use crate::sys::{self, MountAttributes};

/// Where a cloned child begins; `data` is a [`Script`] that outlives it.
pub extern "C" fn enter(data: *const c_void) -> ! {
    // SAFETY: the parent passes a Script that it keeps until the child has executed or is gone.
    let script = unsafe { &*data.cast::<Script>() };
    let mut child = Child { script, slots: [-1; SLOTS] };
    for (index, operation) in script.operations.iter().enumerate() {
        match child.perform(operation) {
            Ok(()) => {}
            Err(errno) if tolerable(operation, errno) => {
                child.report(RecordKind::Warning, index, errno.raw_os_error());
            }
            Err(errno) => {
                child.report(RecordKind::Failed, index, errno.raw_os_error());
                break;
            }
        }
    }
    sys::exit(127)
}

/// What a host without the privilege cannot do, and a container can run without.
fn tolerable(operation: &Operation, errno: Errno) -> bool {
    match operation {
        Operation::Limit { .. } => errno == Errno::PERM,
        Operation::WriteProc { path, .. } => {
            path.as_bytes() == OOM_SCORE.to_bytes() && matches!(errno, Errno::PERM | Errno::ACCESS)
        }
        _ => false,
    }
}

/// Below the private procfs; a negative value needs `CAP_SYS_RESOURCE`.
pub const OOM_SCORE: &CStr = c"self/oom_score_adj";

/// `linux/magic.h`.
const PROC_MAGIC: rustix::fs::FsWord = 0x9fa0;
const DEVPTS_MAGIC: rustix::fs::FsWord = 0x1cd1;
const READ_ONLY: MountAttributes = MountAttributes::new(sys::ATTR_RDONLY, 0);

struct Child<'a> {
    script: &'a Script,
    slots: [RawFd; SLOTS],
}

impl Child<'_> {
    fn perform(&mut self, operation: &Operation) -> Result<()> {
        use Operation as O;
        match operation {
            O::ResetSignals { ignored } => sys::reset_signals(*ignored),
            O::DeathSignal => {
                sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as usize, 0)?;
            }
            O::OwnGroup => rustix::process::setpgid(None, None)?,
            O::AwaitGo => self.await_go()?,
            O::UserRoot => {
                sys::set_group(0)?;
                sys::set_user(0)?;
            }
            O::Join { fd, kinds } => sys::setns(borrow(*fd), *kinds)?,
            O::Unshare { kinds } => sys::unshare(*kinds)?,
            O::LoopbackUp => sys::loopback_up()?,
            O::HostName(name) => sys::set_hostname(name)?,
            O::DomainName(name) => sys::set_domainname(name)?,
            O::NewSession => {
                rustix::process::setsid()?;
            }
            O::OpenTerminal { rows, columns } => self.open_terminal(*rows, *columns)?,
            O::ControllingTerminal { terminal } => {
                rustix::process::ioctl_tiocsctty(self.fd(*terminal)?)?;
            }
            O::Stdio(sources) => self.stdio(sources)?,
            O::Ready => self.report(RecordKind::Ready, 0, 0),
            O::Init => self.become_init()?,
            O::CloseOthers => self.close_others()?,
            O::Enter => self.enter_pid_namespace()?,
            O::Execute(program) => return Err(execute(program)),
            O::CloseRest => sys::cloexec_from(3)?,
            O::UnblockSignals => {
                sys::set_signal_mask(0);
            }
            _ => return self.perform_mount(operation),
        }
        Ok(())
    }

    fn perform_mount(&mut self, operation: &Operation) -> Result<()> {
        use Operation as O;
        match operation {
            O::PrivateMounts => {
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                rustix::mount::mount_change(c"/", private)?;
            }
            O::AttachRoot { mount } => self.attach_root(*mount)?,
            O::CurrentRoot => {
                let root = sys::open_resolved(rustix::fs::CWD, c"/", directory(), ResolveFlags::empty())?;
                self.keep(Slot::Root, root);
            }
            O::Make { filesystem, attributes, slot } => {
                let mount = make(filesystem, *attributes)?;
                self.keep(*slot, mount);
            }
            O::WriteProc { path, value } => write_file(self.slot(Slot::Proc)?, path, value)?,
            O::Attach { mount, target } => {
                let at = self.resolve_or_create(target)?;
                attach(self.fd(*mount)?, at.as_fd())?;
            }
            O::AttachBelow { mount, directory, name } => {
                attach_at(self.fd(*mount)?, borrow(*directory), name)?;
            }
            O::AttachCopy { fd, directory, name } => {
                let copy = copy_tree(borrow(*fd), false)?;
                attach_at(copy.as_fd(), borrow(*directory), name)?;
            }
            O::Mask { path, tmpfs } => self.mask(path, *tmpfs)?,
            O::ReadOnlyMount { mount } => sys::mount_setattr(borrow(*mount), false, &READ_ONLY)?,
            O::ReadOnlyPath { path } => self.make_read_only(path)?,
            O::FindWorkingDirectory { target, create } => self.find_working_directory(target, *create)?,
            O::PivotRoot => self.pivot_root()?,
            O::RootAttributes { attributes, propagation, recursive } => {
                let change = MountAttributes::new(*attributes, *propagation);
                sys::mount_setattr(self.slot(Slot::Root)?, *recursive, &change)?;
            }
            _ => return self.perform_privileges(operation),
        }
        Ok(())
    }

    fn perform_privileges(&mut self, operation: &Operation) -> Result<()> {
        use Operation as O;
        match operation {
            O::Limit { resource, soft, hard } => limit(*resource, *soft, *hard)?,
            O::Umask(mask) => {
                rustix::process::umask(Mode::from_raw_mode(*mask));
            }
            O::EnterWorkingDirectory => self.enter_working_directory()?,
            O::Undumpable => {
                sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
            }
            O::NoNewPrivileges => {
                sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
            }
            O::BoundCapabilities { keep, last } => {
                for capability in (0..=*last).filter(|n| keep & (1 << n) == 0) {
                    sys::prctl(libc::PR_CAPBSET_DROP, capability as usize, 0)?;
                }
            }
            O::Identity { uid, gid, groups } => {
                sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
                sys::set_groups(groups)?;
                sys::set_group(*gid)?;
                sys::set_user(*uid)?;
            }
            O::Seccomp { program } => sys::install_seccomp(program)?,
            O::RegainCapabilities => {
                let (_, permitted) = sys::capabilities()?;
                sys::set_capabilities(permitted, permitted, 0)?;
            }
            O::Capabilities { effective, permitted, ambient } => {
                set_capabilities(*effective, *permitted, *ambient)?;
            }
            _ => {}
        }
        Ok(())
    }

    // ---- the socket -----------------------------------------------------------------------------

    fn report(&self, kind: RecordKind, index: usize, errno: i32) {
        let record = Record { kind, operation: index as u32, errno };
        // write(2) rather than send(2): a seccomp filter hardly ever refuses it.
        let _ = rustix::io::write(borrow(self.script.sync), &record.to_bytes());
    }

    fn await_go(&self) -> Result<()> {
        let mut byte = [0; 1];
        match rustix::io::retry_on_intr(|| rustix::io::read(borrow(self.script.sync), &mut byte))? {
            // The parent gave up, or is gone: there is no one to report to.
            0 => sys::exit(127),
            _ => Ok(()),
        }
    }

    fn send_terminal(&self, master: &OwnedFd) -> Result<()> {
        use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
        let record = Record { kind: RecordKind::Terminal, operation: 0, errno: 0 }.to_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [master.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let data = [std::io::IoSlice::new(&record)];
        sendmsg(borrow(self.script.sync), &data, &mut control, SendFlags::empty()).map(drop)
    }

    // ---- descriptors ----------------------------------------------------------------------------

    fn keep(&mut self, slot: Slot, fd: OwnedFd) {
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = fd.into_raw_fd();
        }
    }

    fn slot(&self, slot: Slot) -> Result<BorrowedFd<'static>> {
        match self.slots.get(slot as usize) {
            Some(&raw) if raw >= 0 => Ok(borrow(raw)),
            _ => Err(Errno::BADF),
        }
    }

    fn fd(&self, source: Source) -> Result<BorrowedFd<'static>> {
        match source {
            Source::Fd(raw) => Ok(borrow(raw)),
            Source::Slot(slot) => self.slot(slot),
        }
    }

    fn stdio(&self, sources: &[Source; 3]) -> Result<()> {
        for (number, source) in sources.iter().enumerate() {
            sys::dup_to(self.fd(*source)?, number as RawFd)?;
        }
        Ok(())
    }

    // ---- the tree -------------------------------------------------------------------------------

    fn resolve(&self, path: &CStr, flags: OFlags, no_symlinks: bool) -> Result<OwnedFd> {
        let mut how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if no_symlinks {
            how |= ResolveFlags::NO_SYMLINKS;
        }
        sys::open_resolved(self.slot(Slot::Root)?, path, flags, how)
    }

    fn resolve_or_create(&self, target: &Target) -> Result<OwnedFd> {
        let found = match self.resolve(&target.path, OFlags::PATH, target.no_symlinks) {
            Err(Errno::NOENT) => self.create(target)?,
            other => other?,
        };
        if !target.on_proc && rustix::fs::fstatfs(&found)?.f_type == PROC_MAGIC {
            return Err(Errno::PERM); // CVE-2019-16884
        }
        Ok(found)
    }

    /// Makes what is missing of the target's path, one component at a time below the one before.
    fn create(&self, target: &Target) -> Result<OwnedFd> {
        let mut parent: Option<OwnedFd> = None;
        let last = target.prefixes.len().saturating_sub(1);
        for (number, (prefix, name)) in target.prefixes.iter().enumerate() {
            let mut found = self.resolve(prefix, OFlags::PATH, target.no_symlinks);
            if found.as_ref().err() == Some(&Errno::NOENT) {
                let root = self.slot(Slot::Root)?;
                let below = parent.as_ref().map_or(root, |fd| borrow(fd.as_raw_fd()));
                if number == last && target.kind == Kind::File {
                    create_file(below, name)?;
                } else {
                    match rustix::fs::mkdirat(below, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                found = self.resolve(prefix, OFlags::PATH, target.no_symlinks);
            }
            parent = Some(found?);
        }
        parent.ok_or(Errno::NOENT)
    }

    fn attach_root(&mut self, mount: RawFd) -> Result<()> {
        move_mount(borrow(mount), c"", rustix::fs::CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        if let Some(place) = self.slots.get_mut(Slot::Root as usize) {
            *place = mount;
        }
        Ok(())
    }

    fn pivot_root(&self) -> Result<()> {
        rustix::process::fchdir(self.slot(Slot::Root)?)?;
        match rustix::process::pivot_root(c".", c".") {
            Ok(()) => {}
            // The host runs from its initramfs, which cannot be moved; it stays covered by the new root.
            Err(Errno::INVAL) => return rustix::process::chroot(c"."),
            Err(errno) => return Err(errno),
        }
        // The old root now lies over the new one, at "."; the new one is the process's "/".
        rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")
    }

    fn mask(&mut self, path: &CStr, tmpfs: RawFd) -> Result<()> {
        let target = match self.resolve(path, OFlags::PATH, false) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        if crate::mount::kind_of(target.as_fd())? == Kind::File {
            return attach(copy_tree(self.null()?, false)?.as_fd(), target.as_fd());
        }
        // One empty filesystem serves all masked directories; a copy needs it attached somewhere.
        if let Ok(attached) = self.slot(Slot::Empty) {
            return attach(copy_tree(attached, false)?.as_fd(), target.as_fd());
        }
        attach(borrow(tmpfs), target.as_fd())?;
        if let Some(place) = self.slots.get_mut(Slot::Empty as usize) {
            *place = tmpfs;
        }
        Ok(())
    }

    /// The container's null device, told by its number and not by its name (CVE-2025-31133).
    fn null(&mut self) -> Result<BorrowedFd<'static>> {
        if let Ok(found) = self.slot(Slot::Null) {
            return Ok(found);
        }
        let null = self.resolve(c"dev/null", OFlags::PATH | OFlags::NOFOLLOW, true)?;
        let stat = rustix::fs::fstat(&null)?;
        let character =
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
        if !character || stat.st_rdev != rustix::fs::makedev(1, 3) {
            return Err(Errno::NODEV);
        }
        self.keep(Slot::Null, null);
        self.slot(Slot::Null)
    }

    fn make_read_only(&self, path: &CStr) -> Result<()> {
        let target = match self.resolve(path, OFlags::PATH, false) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        let copy = copy_tree(target.as_fd(), true)?;
        sys::mount_setattr(copy.as_fd(), true, &READ_ONLY)?;
        attach(copy.as_fd(), target.as_fd())
    }

    fn find_working_directory(&mut self, target: &Target, create: bool) -> Result<()> {
        let found = match self.resolve(&target.path, directory(), false) {
            Err(Errno::NOENT) if create => {
                self.create(target)?;
                self.resolve(&target.path, directory(), false)?
            }
            other => other?,
        };
        self.keep(Slot::WorkingDirectory, found);
        Ok(())
    }

    fn enter_working_directory(&self) -> Result<()> {
        rustix::process::fchdir(self.slot(Slot::WorkingDirectory)?)?;
        let mut path = [0u8; libc::PATH_MAX as usize];
        // A directory outside of the root is told as "(unreachable)/..." (CVE-2024-21626).
        match sys::current_directory(&mut path)? {
            [b'/', ..] => Ok(()),
            _ => Err(Errno::NOENT),
        }
    }

    fn open_terminal(&mut self, rows: u16, columns: u16) -> Result<()> {
        use rustix::pty::{ioctl_tiocgptpeer, unlockpt, OpenptFlags};
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
        let master = self.resolve(c"dev/pts/ptmx", flags, true)?;
        if rustix::fs::fstatfs(&master)?.f_type != DEVPTS_MAGIC {
            return Err(Errno::NODEV);
        }
        rustix::io::ioctl_fionbio(&master, false)?;
        unlockpt(&master)?;
        let terminal =
            ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        set_size(terminal.as_fd(), rows, columns)?;
        self.send_terminal(&master)?;
        self.keep(Slot::Terminal, terminal);
        Ok(())
    }

    // ---- init -----------------------------------------------------------------------------------

    fn close_others(&self) -> Result<()> {
        let sync = self.script.sync;
        // SAFETY: the descriptors are copies of the parent's, whose owners are there, and those in the
        // slots, which no later operation uses.
        unsafe {
            sys::close_between(3, sync - 1)?;
            sys::close_between(sync + 1, RawFd::MAX)
        }
    }

    /// Forks a sibling, and returns in it only.
    fn enter_pid_namespace(&self) -> Result<()> {
        if !self.script.own_memory {
            return Err(Errno::NOTSUP);
        }
        // SAFETY: this process has its memory to itself, as just checked, and one thread.
        match unsafe { sys::fork_sibling() }? {
            0 => Ok(()),
            pid => {
                self.report(RecordKind::Entered, pid as usize, 0);
                sys::exit(0)
            }
        }
    }

    /// Forks; returns in the child only. The parent of it becomes an init that never returns.
    fn become_init(&self) -> Result<()> {
        if !self.script.own_memory {
            return Err(Errno::NOTSUP);
        }
        let all = sys::set_signal_mask(u64::MAX);
        // SAFETY: this process has its memory to itself, as just checked, and one thread.
        match unsafe { sys::fork() }? {
            0 => {
                init::stand_apart(borrow(0));
                sys::set_signal_mask(all);
                Ok(())
            }
            pid => init::run(pid, &self.script.kept),
        }
    }
}

// ---- single steps -------------------------------------------------------------------------------

fn borrow(raw: RawFd) -> BorrowedFd<'static> {
    // SAFETY: a number that the parent keeps open for the child's time, or that the child itself made.
    unsafe { BorrowedFd::borrow_raw(raw) }
}

fn directory() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn make(filesystem: &CStr, attributes: u64) -> Result<OwnedFd> {
    let fs = fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, c"source", filesystem)?;
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes as u32))
}

fn attach(mount: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Result<()> {
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match move_mount(mount, c"", at, c"", empty) {
        // A file and a directory: the old call's word for it says more.
        Err(Errno::INVAL) if is_directory(mount)? != is_directory(at)? => Err(Errno::NOTDIR),
        done => done,
    }
}

fn is_directory(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}

fn attach_at(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    move_mount(mount, c"", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn copy_tree(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, c"", flags)
}

fn create_file(below: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(below, name, flags, Mode::from_raw_mode(0o755)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn write_file(directory: BorrowedFd<'_>, path: &CStr, value: &[u8]) -> Result<()> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = sys::open_resolved(directory, path, OFlags::WRONLY, how)?;
    rustix::io::write(&file, value).map(drop)
}

pub(crate) fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    if rows == 0 && columns == 0 {
        return Ok(());
    }
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// Sets a limit; EPERM (so, a warning) after it was lowered to what the host allows.
fn limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    match sys::prlimit(resource, Some((soft, hard))) {
        Err(Errno::PERM) => {
            let (_, allowed) = sys::prlimit(resource, None)?;
            sys::prlimit(resource, Some((soft.min(allowed), hard.min(allowed))))?;
            Err(Errno::PERM)
        }
        other => other.map(drop),
    }
}

/// The final sets. Ambient ones need to be inheritable as well; otherwise that set is empty (CVE-2022-24769).
fn set_capabilities(effective: u64, permitted: u64, ambient: u64) -> Result<()> {
    sys::set_capabilities(effective, permitted, ambient)?;
    for capability in (0..64).filter(|n| ambient & (1 << n) != 0) {
        sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as usize, capability)?;
    }
    Ok(())
}

/// Tries the candidates as execvp(3) does: goes on past what is missing, remembers EACCES.
fn execute(program: &Program) -> Errno {
    let mut result = Errno::NOENT;
    for path in &program.candidates {
        // SAFETY: both arrays end with null and point into the program's strings.
        let errno = unsafe { sys::execve(path, program.argv.as_ptr(), program.envp.as_ptr()) };
        match errno {
            Errno::NOENT | Errno::NOTDIR if program.candidates.len() > 1 => {}
            Errno::ACCESS => result = errno,
            _ => return errno,
        }
    }
    result
}
