//! Detached mounts: everything of a container's tree that the parent can make before the clone.
//!
//! Each function returns the fd of a mount that is attached nowhere yet; dropping the fd unmounts it,
//! so that nothing is left behind when a start fails half-way. What depends on the container's own
//! namespaces (proc, sysfs, mqueue) is made by the child.
//!
//! Source: `Documentation/filesystems/mount_api.rst`, <https://man7.org/linux/man-pages/man2/fsopen.2.html>.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{open, openat2, AtFlags, FileType, Mode, OFlags, ResolveFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, open_tree, unmount,
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::error::{Error, Result};
use crate::plan::{Mount, Propagation};
use crate::sys::{self, MountAttributes, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};

/// The layers of an overlay; directories, top layer first.
#[derive(Debug)]
pub struct Overlay<'a> {
    pub lower: &'a [String],
    pub upper: &'a str,
    pub work: &'a str,
    pub volatile: bool,
    /// Show the layers through the id maps of this user namespace, whose root is (uid, gid) outside.
    pub idmap: Option<(BorrowedFd<'a>, (u32, u32))>,
    /// The caller is root of a user namespace only: trusted.* attributes are out of its reach.
    pub userxattr: bool,
}

impl Overlay<'_> {
    /// Assembles the overlay.
    ///
    /// Kernel 6.7 takes one `lowerdir+` per layer; before, all of them go into one string, which the
    /// kernel bounds: there each layer is named by a short path through a descriptor.
    pub fn mount(&self) -> Result<OwnedFd> {
        match self.configure() {
            // A volatile mount leaves a mark that refuses the next one, because what it wrote may be lost
            // with the power. Who asks for one again accepts that: the container's life is short anyway.
            Err(error) if self.volatile && error.errno() == libc::EINVAL && self.forget_volatile() => {
                self.configure()
            }
            other => other,
        }
    }

    /// Removes the mark; true where there was one.
    fn forget_volatile(&self) -> bool {
        std::fs::remove_dir_all(std::path::Path::new(self.work).join("work/incompat")).is_ok()
    }

    fn configure(&self) -> Result<OwnedFd> {
        let mut layers = Layers::new(self.idmap.map(|(fd, _)| fd));
        let options = self.options(&mut layers)?;
        if options.iter().any(|(_, value)| value.len() > LONGEST_VALUE) {
            return self.mount_in_place(&options);
        }
        let fs =
            fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| Error::os("open", "overlay", e))?;
        for (key, value) in &options {
            let set = if value.is_empty() {
                fsconfig_set_flag(&fs, *key)
            } else {
                fsconfig_set_string(&fs, *key, value)
            };
            set.map_err(|e| Error::os(format!("overlay {key}"), value.as_str(), e))?;
        }
        self.as_owner(|| fsconfig_create(&fs))?;
        attach_later(&fs, 0).map_err(|e| Error::os("mount overlay", self.upper, e))
    }

    /// Keys and values in the order the kernel wants them; a value of a flag is empty.
    fn options(&self, layers: &mut Layers<'_>) -> Result<Vec<(&'static str, String)>> {
        let one_by_one = takes_layers_one_by_one();
        let mut all = vec![("source", "overlay".to_owned())];
        if one_by_one {
            for lower in self.lower {
                all.push(("lowerdir+", layers.name(lower)?));
            }
        } else {
            let names: Vec<String> =
                self.lower.iter().map(|lower| layers.short_name(lower)).collect::<Result<_>>()?;
            all.push(("lowerdir", names.join(":")));
        }
        for (key, path) in [("upperdir", self.upper), ("workdir", self.work)] {
            let name = match (self.idmap, path.rsplit_once('/')) {
                // Both must lie in one mount: that of the directory that has both.
                (Some(_), Some((parent, name))) => format!("{}/{name}", layers.short_name(parent)?),
                _ if one_by_one => layers.name(path)?,
                _ => layers.short_name(path)?,
            };
            all.push((key, name));
        }
        let off = |key| (key, "off".to_owned());
        if self.volatile {
            all.push(("volatile", String::new()));
        }
        if self.userxattr {
            all.push(("userxattr", String::new()));
        } else {
            // The upper directory holds plain files only, whatever the host's module options say:
            // it is read directly by diff and commit.
            all.extend([off("redirect_dir"), off("metacopy")]);
        }
        // Neither file handles nor hard links across layers are promised, so no marks are written for them.
        all.extend([off("index"), off("uuid")]);
        Ok(all)
    }

    /// Many layers before kernel 6.7: fsconfig(2) takes no value of their length, mount(2) does, up to a page.
    ///
    /// It needs a place: the work directory, for as long as the mount is copied from there.
    fn mount_in_place(&self, options: &[(&str, String)]) -> Result<OwnedFd> {
        let fail = |e: Errno| Error::os("mount overlay", self.upper, e);
        let place = open(self.work, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::os("open", self.work, e))?;
        let place = format!("/proc/self/fd/{}", place.as_raw_fd());
        let words: Vec<String> = options
            .iter()
            .filter(|(key, _)| *key != "source")
            .map(|(key, value)| if value.is_empty() { (*key).to_owned() } else { format!("{key}={value}") })
            .collect();
        let data = CString::new(words.join(",")).map_err(|_| fail(Errno::INVAL))?;
        self.as_owner(|| mount("overlay", place.as_str(), "overlay", MountFlags::empty(), data.as_c_str()))?;
        let copy = clone_tree(self.work, false);
        unmount(self.work, UnmountFlags::DETACH).map_err(fail)?;
        copy
    }

    /// The overlay makes files of its own as who mounts it: an id that the maps have.
    fn as_owner(&self, make: impl FnOnce() -> rustix::io::Result<()>) -> Result<()> {
        let fail = |e: Errno| Error::os("mount overlay", self.upper, e);
        let Some((_, (uid, gid))) = self.idmap else {
            return make().map_err(fail);
        };
        sys::set_file_ids(uid, gid).map_err(fail)?;
        let done = make();
        sys::set_file_ids(0, 0).map_err(fail)?;
        done.map_err(fail)
    }
}

/// What fsconfig(2) takes at most for a value.
const LONGEST_VALUE: usize = 255;

/// Whether overlayfs knows `lowerdir+` (kernel 6.7).
///
/// Until 6.4 it collects any option unseen, in 6.5 and 6.6 it refuses this one; where it knows it, it looks
/// the directory up at once.
fn takes_layers_one_by_one() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let missing = "/proc/self/fd/no-such-layer";
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .is_ok_and(|fs| fsconfig_set_string(&fs, "lowerdir+", missing) == Err(Errno::NOENT))
    })
}

/// Names of layer directories for the kernel, and the descriptors that keep the short ones valid.
struct Layers<'a> {
    idmap: Option<BorrowedFd<'a>>,
    open: Vec<(String, OwnedFd)>,
}

impl<'a> Layers<'a> {
    fn new(idmap: Option<BorrowedFd<'a>>) -> Self {
        Self { idmap, open: Vec::new() }
    }

    fn name(&mut self, path: &str) -> Result<String> {
        if self.idmap.is_some() || path.len() > LONGEST_VALUE {
            self.short_name(path)
        } else {
            Ok(path.to_owned())
        }
    }

    fn short_name(&mut self, path: &str) -> Result<String> {
        if let Some((_, fd)) = self.open.iter().find(|(open, _)| open == path) {
            return Ok(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        }
        let fd = match self.idmap {
            Some(user_namespace) => {
                let fd = clone_tree(path, false)?;
                sys::mount_idmap(fd.as_fd(), user_namespace).map_err(|e| Error::os("id-map", path, e))?;
                fd
            }
            None => rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| Error::os("open layer", path, e))?,
        };
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        self.open.push((path.to_owned(), fd));
        Ok(name)
    }
}

/// A mount of the filesystem that `fs` has configured.
fn attach_later(fs: &OwnedFd, attributes: u64) -> rustix::io::Result<OwnedFd> {
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached copy of what is at `path` on the host.
fn clone_tree(path: &str, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).map_err(|e| Error::os("bind source", path, e))
}

/// A program of the host as it may be executed where a container can look at it (CVE-2019-5736): /proc/PID/exe then
/// leads to a read-only mount that is attached nowhere, so that not even root of a container can change the file.
pub fn sealed_program(path: &str) -> Result<OwnedFd> {
    let fd = clone_tree(path, false)?;
    let change = MountAttributes::new(ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, libc::MS_PRIVATE);
    sys::mount_setattr(fd.as_fd(), false, &change).map_err(|e| Error::os("seal", path, e))?;
    Ok(fd)
}

/// A detached copy of another container's /dev/shm, whose IPC namespace is joined. No symbolic link that the
/// container may have put there is followed.
pub fn shared_memory_of(init: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fail = |e: Errno| Error::os("share", "/dev/shm", e);
    let copy = || {
        let how = (OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, ResolveFlags::NO_SYMLINKS);
        let fd = openat2(CWD, c"/dev/shm", how.0, Mode::empty(), how.1)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(fd, c"", flags | OpenTreeFlags::AT_EMPTY_PATH)
    };
    visiting(init, copy).map_err(fail)?.map_err(fail)
}

/// Runs `work` in another mount namespace: a mount can be copied only from within its own.
///
/// The caller, which must have its working directory to itself (it is no other thread's), goes there and comes back.
fn visiting<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T) -> rustix::io::Result<T> {
    let own = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    sys::setns(namespace, libc::CLONE_NEWNS)?;
    let result = work();
    let back = sys::setns(own.as_fd(), libc::CLONE_NEWNS);
    assert!(back.is_ok(), "cannot return to the mount namespace of the keeper: {back:?}");
    Ok(result)
}

/// A bind source whose mounts are to be seen on the host as well: the caller's own namespace may be
/// downstream of the host's, so the copy is taken there.
fn clone_shared_tree(path: &str, recursive: bool) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let open = |name: &str| rustix::fs::open(name, flags, Mode::empty());
    let (Ok(own), Ok(host)) = (open("/proc/self/ns/mnt"), open("/proc/1/ns/mnt")) else {
        return clone_tree(path, recursive);
    };
    let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| stat.st_ino);
    if inode(&own) == inode(&host) {
        return clone_tree(path, recursive);
    }
    visiting(host.as_fd(), || clone_tree(path, recursive)).map_err(|e| Error::os("bind source", path, e))?
}

/// What a mount covers: a target of the other kind is refused by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
}

/// The kind of what `fd` refers to.
pub fn kind_of(fd: BorrowedFd<'_>) -> rustix::io::Result<Kind> {
    let stat = rustix::fs::fstat(fd)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(if directory { Kind::Directory } else { Kind::File })
}

/// A bind source with its attributes, from a [`Mount::Bind`].
pub fn bind(mount: &Mount) -> Result<(OwnedFd, Kind)> {
    let Mount::Bind {
        source,
        readonly,
        recursive,
        recursive_readonly,
        recursive_readonly_forced,
        nosuid,
        nodev,
        noexec,
        propagation,
        ..
    } = mount
    else {
        return Err(Error::Invalid("not a bind".into()));
    };
    let fd = match propagation {
        Propagation::Shared | Propagation::Rshared => clone_shared_tree(source, *recursive)?,
        _ => clone_tree(source, *recursive)?,
    };
    let fail = |e: Errno| Error::os("bind attributes", source.as_str(), e);
    let kind = kind_of(fd.as_fd()).map_err(fail)?;
    let (kinds, everywhere) = propagation_bits(*propagation);
    let with_propagation = MountAttributes::new(0, kinds);
    sys::mount_setattr(fd.as_fd(), everywhere, &with_propagation).map_err(fail)?;
    let flags = attributes([*readonly, *nosuid, *nodev, *noexec]);
    if *readonly && *recursive_readonly {
        let everywhere = MountAttributes::new(ATTR_RDONLY, 0);
        match sys::mount_setattr(fd.as_fd(), true, &everywhere) {
            Err(e) if *recursive_readonly_forced => return Err(fail(e)),
            // Where the plan allows it, the plain one below is the fallback.
            Ok(()) | Err(_) => {}
        }
    }
    if flags != 0 {
        sys::mount_setattr(fd.as_fd(), false, &MountAttributes::new(flags, 0)).map_err(fail)?;
    }
    Ok((fd, kind))
}

/// A detached bind of a directory of the engine's own choice, with `attributes` on it and below.
pub fn bind_plain(source: &str, recursive: bool, attributes: u64) -> Result<OwnedFd> {
    let fd = clone_tree(source, recursive)?;
    let change = MountAttributes::new(attributes, libc::MS_PRIVATE);
    sys::mount_setattr(fd.as_fd(), recursive, &change)
        .map_err(|e| Error::os("bind attributes", source, e))?;
    Ok(fd)
}

/// `MOUNT_ATTR_*` of the switches read-only, nosuid, nodev, noexec.
#[must_use]
pub fn attributes(switches: [bool; 4]) -> u64 {
    let bits = [ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC];
    switches.iter().zip(bits).filter(|(on, _)| **on).map(|(_, bit)| bit).sum()
}

/// `MS_*` of a propagation, and whether it goes for the mounts below, too.
#[must_use]
pub fn propagation_bits(propagation: Propagation) -> (u64, bool) {
    match propagation {
        Propagation::Private => (libc::MS_PRIVATE, false),
        Propagation::Rprivate => (libc::MS_PRIVATE, true),
        Propagation::Slave => (libc::MS_SLAVE, false),
        Propagation::Rslave => (libc::MS_SLAVE, true),
        Propagation::Shared => (libc::MS_SHARED, false),
        Propagation::Rshared => (libc::MS_SHARED, true),
    }
}

/// A filesystem of its own with `key=value` (or bare) options.
pub fn filesystem<'o>(
    kind: &str,
    options: impl IntoIterator<Item = &'o str>,
    attributes: u64,
) -> Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| Error::os("open filesystem", kind, e))?;
    fsconfig_set_string(&fs, "source", kind).map_err(|e| Error::os("mount", kind, e))?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&fs, key, value),
            None => fsconfig_set_flag(&fs, option),
        }
        .map_err(|e| Error::os(format!("{kind} option"), option, e))?;
    }
    fsconfig_create(&fs).map_err(|e| Error::os("mount", kind, e))?;
    attach_later(&fs, attributes).map_err(|e| Error::os("mount", kind, e))
}

/// Levels of a tree that are copied: each costs stack and descriptors of a process that all containers depend on.
const COPIED_LEVELS: usize = 256;

/// Copies what `source` has into the empty directory `target`: for a tmpfs with copy-up.
///
/// Regular files, directories, symlinks and special files with owner and mode; fd-relative throughout.
/// ENAMETOOLONG where it is nested more than 256 directories deep.
pub fn copy_tree(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    copy_levels(source, target, COPIED_LEVELS)
}

fn copy_levels(source: BorrowedFd<'_>, target: BorrowedFd<'_>, levels: usize) -> rustix::io::Result<()> {
    use rustix::fs::{openat, Dir};
    let below = levels.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    let directory = openat(source, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        copy_entry(directory.as_fd(), target, entry.file_name(), below)?;
    }
    Ok(())
}

fn copy_entry(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    levels: usize,
) -> rustix::io::Result<()> {
    use rustix::fs::{chownat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat, Gid, Uid};
    let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let (kind, mode) = (FileType::from_raw_mode(stat.st_mode), Mode::from_raw_mode(stat.st_mode));
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match kind {
        FileType::Directory => {
            mkdirat(target, name, mode)?;
            let from = openat(source, name, read | OFlags::DIRECTORY, Mode::empty())?;
            let to = openat(target, name, read | OFlags::DIRECTORY, Mode::empty())?;
            copy_levels(from.as_fd(), to.as_fd(), levels)?;
        }
        FileType::RegularFile => {
            let from = openat(source, name, read, Mode::empty())?;
            let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let to = openat(target, name, create, mode)?;
            while rustix::fs::sendfile(&to, &from, None, 1 << 30)? > 0 {}
        }
        FileType::Symlink => symlinkat(&readlinkat(source, name, Vec::new())?, target, name)?,
        _ => mknodat(target, name, kind, mode, stat.st_rdev)?,
    }
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    chownat(target, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        // After the owner, whose change clears set-id bits; the umask is out of it, too.
        rustix::fs::chmodat(target, name, mode, AtFlags::empty())?;
    }
    Ok(())
}
