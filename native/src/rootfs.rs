//! Reads of a few files as a container sees them: through its image's layers before it runs, in its
//! root while it does.
//!
//! Every step is taken by fd, so that no symlink of an image leads out of its root. What is missing, a
//! directory or a device is `None`: only regular files are read, and only up to a limit.
//!
//! Source: openat2(2); Documentation/filesystems/overlayfs.rst (whiteouts, opaque directories).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{openat, readlinkat, statat, AtFlags, FileType, Mode, OFlags, ResolveFlags, CWD};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::open_resolved;

/// Symlinks followed before a path counts as a loop, as the kernel has it.
const MAX_LINKS: usize = 40;

/// procfs and sysfs, `linux/magic.h`.
const KERNEL_MAGIC: [rustix::fs::FsWord; 2] = [0x9fa0, 0x6265_6572];

/// One directory of the merged tree: where it lies in each layer, top first.
type Merged = Vec<OwnedFd>;

/// Files as a container with these layer directories (top first) would see them.
pub fn read_in_layers(layers: &[String], paths: &[String], limit: usize) -> Result<Vec<Option<Vec<u8>>>> {
    let root: Merged = layers
        .iter()
        .map(|layer| directory(CWD, Path::new(layer)).map_err(|e| Error::os("open", layer, e)))
        .collect::<Result<_>>()?;
    paths
        .iter()
        .map(|path| match find(&root, Path::new(path)) {
            Ok(Some(file)) => read(file, path, limit),
            Ok(None) => Ok(None),
            Err(errno) => absent(errno, path),
        })
        .collect()
}

/// The same, in the root of a running process.
pub fn read_in_process_root(pid: u32, paths: &[String], limit: usize) -> Result<Vec<Option<Vec<u8>>>> {
    let link = format!("/proc/{pid}/root");
    let root = directory(CWD, Path::new(&link)).map_err(|e| Error::os("open", &link, e))?;
    paths
        .iter()
        .map(|path| match open_regular(&root, path) {
            Ok(Some(file)) => read(file, path, limit),
            Ok(None) => Ok(None),
            Err(errno) => absent(errno, path),
        })
        .collect()
}

/// A regular file in a root that its container may change at any moment. To open a device does something to
/// it, and to open a fifo wakes its writers: what it is gets looked at first, through a descriptor that opens nothing.
fn open_regular(root: &OwnedFd, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    use std::os::fd::AsRawFd;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = open_resolved(root, path, OFlags::PATH, resolve)?;
    let regular = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) == FileType::RegularFile;
    // The kernel's files look regular; some of them wait for more or are used up by reading (/proc/kmsg).
    if !regular || KERNEL_MAGIC.contains(&rustix::fs::fstatfs(&found)?.f_type) {
        return Ok(None);
    }
    let name = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::fs::open(name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).map(Some)
}

fn absent(errno: Errno, path: &str) -> Result<Option<Vec<u8>>> {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV => Ok(None),
        _ => Err(Error::os("open", path, errno)),
    }
}

fn read(file: OwnedFd, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
    let stat = rustix::fs::fstat(&file).map_err(|e| Error::os("fstat", path, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut content = Vec::new();
    File::from(file)
        .take(limit as u64 + 1)
        .read_to_end(&mut content)
        .map_err(|e| Error::os("read", path, e))?;
    if content.len() > limit {
        return Err(Error::os("read", path, io::Error::from(Errno::FBIG)));
    }
    Ok(Some(content))
}

fn directory(at: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(at, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// What a name is in a merged directory.
enum Entry {
    Missing,
    Link(OsString),
    Directory(Merged),
    Other(OwnedFd),
}

/// Walk the merged tree to a file; `None` where there is none.
fn find(root: &Merged, path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    let mut left: VecDeque<OsString> = names(path);
    // The directories above the current one; the root is below them all and has itself for a parent.
    let mut above: Vec<Merged> = Vec::new();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name.as_bytes() == b".." {
            above.pop();
            continue;
        }
        match look_up(above.last().unwrap_or(root), &name)? {
            Entry::Missing => return Ok(None),
            Entry::Directory(merged) => above.push(merged),
            Entry::Other(file) => return Ok(left.is_empty().then_some(file)),
            Entry::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                if target.as_bytes().first() == Some(&b'/') {
                    above.clear();
                }
                for name in names(Path::new(&target)).into_iter().rev() {
                    left.push_front(name);
                }
            }
        }
    }
    Ok(None)
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// The topmost layer that has the name decides what it is; directories go on down until one is opaque.
fn look_up(merged: &Merged, name: &OsString) -> rustix::io::Result<Entry> {
    let mut below: Merged = Vec::new();
    for layer in merged {
        let stat = match statat(layer, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        if kind == FileType::Directory {
            let found = directory(layer.as_fd(), Path::new(name))?;
            let opaque = is_opaque(&found);
            below.push(found);
            if opaque {
                break;
            }
            continue;
        }
        if whiteout || !below.is_empty() {
            break;
        }
        return other(layer, name, kind);
    }
    Ok(if below.is_empty() { Entry::Missing } else { Entry::Directory(below) })
}

fn other(layer: &OwnedFd, name: &OsString, kind: FileType) -> rustix::io::Result<Entry> {
    if kind == FileType::Symlink {
        let target = readlinkat(layer, name.as_os_str(), Vec::new())?;
        return Ok(Entry::Link(OsString::from_vec(target.into_bytes())));
    }
    if kind != FileType::RegularFile {
        return Ok(Entry::Missing);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(Entry::Other(openat(layer, name.as_os_str(), flags, Mode::empty())?))
}

/// An `O_PATH` fd has no xattrs of its own: they are read through its name in /proc.
fn is_opaque(directory: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let mut value = [0_u8; 1];
    matches!(rustix::fs::getxattr(path, "trusted.overlay.opaque", &mut value), Ok(1)) && value == *b"y"
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    use super::*;

    struct Layers {
        _root: tempfile::TempDir,
        directories: Vec<String>,
    }

    /// Layers top first, each a list of (path, content); a content of `-> x` is a symlink.
    fn layers(contents: &[&[(&str, &str)]]) -> Layers {
        let root = tempfile::tempdir().expect("a directory");
        let mut directories = Vec::new();
        for (number, files) in contents.iter().enumerate() {
            let layer = root.path().join(number.to_string());
            create_dir_all(&layer).expect("a layer");
            for (path, content) in *files {
                let file = layer.join(path);
                create_dir_all(file.parent().expect("a parent")).expect("a parent");
                match content.strip_prefix("-> ") {
                    Some(target) => symlink(target, &file).expect("a symlink"),
                    None => write(&file, content).expect("a file"),
                }
            }
            directories.push(layer.to_str().expect("UTF-8").to_owned());
        }
        Layers { _root: root, directories }
    }

    fn one(layers: &Layers, path: &str) -> Option<String> {
        read_in_layers(&layers.directories, &[path.to_owned()], 1 << 20)
            .expect("a read")
            .remove(0)
            .map(|content| String::from_utf8(content).expect("UTF-8"))
    }

    #[test]
    fn the_top_layer_wins_and_lower_ones_show_through() {
        let layers = layers(&[&[("etc/passwd", "top")], &[("etc/passwd", "low"), ("etc/group", "low")]]);
        assert_eq!(one(&layers, "/etc/passwd").as_deref(), Some("top"));
        assert_eq!(one(&layers, "/etc/group").as_deref(), Some("low"));
        assert_eq!(one(&layers, "/etc/shadow"), None);
        assert_eq!(one(&layers, "/etc"), None);
        assert_eq!(one(&layers, "/etc/passwd/x"), None);
    }

    #[test]
    fn symlinks_stay_inside_and_cross_layers() {
        let layers = layers(&[
            &[
                ("etc/passwd", "-> /run/../data/passwd"),
                ("a", "-> ../../../../etc/passwd"),
                ("loop", "-> loop"),
            ],
            &[("data/passwd", "inside"), ("run/x", "")],
        ]);
        assert_eq!(one(&layers, "/etc/passwd").as_deref(), Some("inside"));
        assert_eq!(one(&layers, "/a").as_deref(), Some("inside"));
        assert_eq!(one(&layers, "/loop"), None);
    }

    #[test]
    fn a_file_above_hides_a_directory_below() {
        let layers = layers(&[&[("etc", "a file")], &[("etc/passwd", "low")]]);
        assert_eq!(one(&layers, "/etc/passwd"), None);
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let layers = layers(&[&[("big", "0123456789")]]);
        let error = read_in_layers(&layers.directories, &["/big".to_owned()], 9).expect_err("too large");
        assert_eq!(error.errno(), Errno::FBIG.raw_os_error());
        assert!(read_in_layers(&layers.directories, &["/big".to_owned()], 10).is_ok());
    }

    #[test]
    fn a_process_s_root_is_read_in_root() {
        let found = read_in_process_root(
            std::process::id(),
            &["/etc/passwd", "/no/such", "/etc", "/dev/null", "/proc/uptime", "/proc/self/mem"]
                .map(String::from),
            1 << 20,
        )
        .expect("a read");
        assert!(found[0].is_some());
        assert!(found[1..].iter().all(Option::is_none));
    }

    #[test]
    fn whiteouts_and_opaque_directories_hide_what_is_below() {
        let layers = layers(&[&[("opaque/new", "new")], &[("gone", "x"), ("opaque/old", "old")]]);
        let top = Path::new(&layers.directories[0]);
        let device = rustix::fs::mknodat(
            CWD,
            top.join("gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        );
        if device.is_err() {
            return; // not root
        }
        rustix::fs::setxattr(
            top.join("opaque"),
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .expect("an xattr");
        assert_eq!(one(&layers, "/gone"), None);
        assert_eq!(one(&layers, "/opaque/old"), None);
        assert_eq!(one(&layers, "/opaque/new").as_deref(), Some("new"));
    }
}
