//! Overlays: the layers of an image as one tree, mounted detached.
//!
//! A container's root is one; so is each image that is mounted into it (`--mount type=image`) and each stage
//! that a build command looks into.
//!
//! Source: `Documentation/filesystems/overlayfs.rst`, <https://man7.org/linux/man-pages/man2/fsopen.2.html>.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{open, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen, mount, move_mount, open_tree, unmount,
    FsOpenFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::error::{Error, Result};
use crate::mount::{attach_later, clone_tree, kind_of, Kind};
use crate::plan::Mount;
use crate::sys::{self, MountAttributes, ATTR_RDONLY};

/// The layers of an overlay; directories, top layer first.
#[derive(Debug)]
pub struct Overlay<'a> {
    pub lower: &'a [String],
    /// Where writes go: an upper and a work directory. Without it the overlay is read-only, and has two
    /// layers at least.
    pub writable: Option<(&'a str, &'a str)>,
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
        self.writable.is_some_and(|(_, work)| {
            std::fs::remove_dir_all(std::path::Path::new(work).join("work/incompat")).is_ok()
        })
    }

    /// What a failure names.
    fn name(&self) -> &str {
        self.writable.map_or_else(|| self.lower.first().map_or("", String::as_str), |(upper, _)| upper)
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
        attach_later(&fs, 0).map_err(|e| Error::os("mount overlay", self.name(), e))
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
        let writable = self.writable.map(|(upper, work)| [("upperdir", upper), ("workdir", work)]);
        for (key, path) in writable.into_iter().flatten() {
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
    /// It needs a place: the work directory (or the topmost layer), for as long as the mount is copied from there.
    fn mount_in_place(&self, options: &[(&str, String)]) -> Result<OwnedFd> {
        let fail = |e: Errno| Error::os("mount overlay", self.name(), e);
        let directory = self.place();
        let place = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::os("open", directory, e))?;
        let place = format!("/proc/self/fd/{}", place.as_raw_fd());
        let words: Vec<String> = options
            .iter()
            .filter(|(key, _)| *key != "source")
            .map(|(key, value)| if value.is_empty() { (*key).to_owned() } else { format!("{key}={value}") })
            .collect();
        let data = CString::new(words.join(",")).map_err(|_| fail(Errno::INVAL))?;
        self.as_owner(|| mount("overlay", place.as_str(), "overlay", MountFlags::empty(), data.as_c_str()))?;
        let copy = clone_tree(directory, false);
        unmount(directory, UnmountFlags::DETACH).map_err(fail)?;
        copy
    }

    /// A directory of the caller's mount namespace that can be mounted over for a moment.
    fn place(&self) -> &str {
        self.writable.map_or_else(|| self.name(), |(_, work)| work)
    }

    /// The overlay makes files of its own as who mounts it: an id that the maps have.
    fn as_owner(&self, make: impl FnOnce() -> rustix::io::Result<()>) -> Result<()> {
        let fail = |e: Errno| Error::os("mount overlay", self.name(), e);
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

/// The tree of a [`Mount::Layers`], or what is at its `subpath`, with the kind of that.
///
/// `idmap` and `userxattr` as of [`Overlay`]. ENOENT where the tree has no such path.
pub fn layers(
    mount: &Mount,
    idmap: Option<(BorrowedFd<'_>, (u32, u32))>,
    userxattr: bool,
) -> Result<(OwnedFd, Kind)> {
    let Mount::Layers { lower, subpath, readonly, upper, work, volatile, .. } = mount else {
        return Err(Error::Invalid("not a tree of layers".into()));
    };
    let writable = match (upper, work) {
        (Some(upper), Some(work)) => Some((upper.as_str(), work.as_str())),
        (None, None) => None,
        _ => {
            return Err(Error::Invalid(
                "a tree of layers has both an upper and a work directory, or none".into(),
            ))
        }
    };
    let overlay = Overlay { lower, writable, volatile: *volatile, idmap, userxattr };
    let tree = match (&lower[..], writable) {
        ([], _) => return Err(Error::Invalid("a tree of layers has one layer at least".into())),
        // An overlay that is read-only takes two layers; one shows the same by itself.
        ([only], None) => one_layer(only, idmap.map(|(fd, _)| fd))?,
        _ => overlay.mount()?,
    };
    let tree = match subpath.trim_matches('/') {
        "" => tree,
        path => {
            subtree(&tree, path, overlay.place()).map_err(|e| Error::os("look up", subpath.as_str(), e))?
        }
    };
    let fail = |e: Errno| Error::os("mount attributes", overlay.name(), e);
    let flags = if *readonly || writable.is_none() { ATTR_RDONLY } else { 0 };
    sys::mount_setattr(tree.as_fd(), false, &MountAttributes::new(flags, libc::MS_PRIVATE)).map_err(fail)?;
    let kind = kind_of(tree.as_fd()).map_err(fail)?;
    Ok((tree, kind))
}

fn one_layer(path: &str, user_namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let tree = clone_tree(path, false)?;
    if let Some(user_namespace) = user_namespace {
        sys::mount_idmap(tree.as_fd(), user_namespace).map_err(|e| Error::os("id-map", path, e))?;
    }
    Ok(tree)
}

/// A mount of what is at `path` in a detached tree: its links lead nowhere but in the tree.
///
/// Before kernel 6.15 only what is attached can be copied: `place` is covered by it for that moment.
fn subtree(tree: &OwnedFd, path: &str, place: &str) -> rustix::io::Result<OwnedFd> {
    let copy = || {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let found = sys::open_resolved(tree, path, OFlags::PATH, how)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(found, c"", flags | OpenTreeFlags::AT_EMPTY_PATH)
    };
    match copy() {
        Err(Errno::INVAL) => {}
        other => return other,
    }
    let place = open(place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", &place, c"", whole)?;
    let copied = copy();
    // By its own descriptor: whatever else is mounted there by now stays.
    unmount(format!("/proc/self/fd/{}", tree.as_raw_fd()), UnmountFlags::DETACH)?;
    copied
}
