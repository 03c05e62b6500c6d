//! A container's files both ways, in roots of this test's own (needs root: they are overlays).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Files, Wish};
use crate::layer::{changes, ChangeKind};
use crate::plan::UserNamespace;

struct Root {
    directory: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["upper", "lower", "work"] {
            fs::create_dir(directory.path().join(name)).expect("a layer");
        }
        Self { directory }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn text(&self, path: &str) -> String {
        self.path(path).to_str().expect("UTF-8").to_owned()
    }

    /// The files of `upper` alone, seen as a root: what a view is made of, without a mount.
    fn files(&self, user: Option<UserNamespace>) -> Files {
        let open = || OwnedFd::from(File::open(self.path("upper")).expect("the root"));
        let namespace = OwnedFd::from(File::open("/proc/self/ns/mnt").expect("a namespace"));
        Files { root: open(), rootfs: open(), namespace, user }
    }

    fn changes(&self) -> Vec<String> {
        changes(&self.text("upper"), &[self.text("lower")])
            .expect("changes")
            .into_iter()
            .map(|change| {
                let kind = match change.kind {
                    ChangeKind::Modified => 'C',
                    ChangeKind::Added => 'A',
                    ChangeKind::Deleted => 'D',
                };
                format!("{kind} {}", String::from_utf8_lossy(&change.path))
            })
            .collect()
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn sent(files: &Files, path: &str) -> BTreeMap<String, (u8, String)> {
    let mut file = tempfile::tempfile().expect("a file");
    let target = OwnedFd::from(file.try_clone().expect("a copy"));
    files.send(path.as_bytes(), &target).expect("sent");
    file.seek(SeekFrom::Start(0)).expect("rewound");
    let mut archive = tar::Archive::new(file);
    let mut found = BTreeMap::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut content = String::new();
        entry.read_to_string(&mut content).expect("text");
        if let Some(link) = entry.link_name_bytes() {
            content = String::from_utf8_lossy(&link).into_owned();
        }
        found.insert(name, (entry.header().entry_type().as_byte(), content));
    }
    found
}

fn receive(files: &Files, path: &str, members: &[(&str, u8, &str)], wish: Wish) -> crate::error::Result<()> {
    let mut builder = tar::Builder::new(tempfile::tempfile().expect("a file"));
    for (name, kind, content) in members {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("GNU").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(0o640);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        let data = if *kind == b'0' { content.as_bytes() } else { b"" };
        if *kind != b'0' {
            let link = &mut header.as_gnu_mut().expect("GNU").linkname;
            link[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).expect("a member");
    }
    let mut file = builder.into_inner().expect("an archive");
    file.flush().expect("written");
    file.seek(SeekFrom::Start(0)).expect("rewound");
    files.receive(path.as_bytes(), OwnedFd::from(file), wish)
}

#[test]
fn a_path_is_sent_under_the_name_it_ends_in() {
    let root = Root::new();
    fs::create_dir_all(root.path("upper/a/b")).expect("directories");
    fs::write(root.path("upper/a/b/f"), "x").expect("a file");
    fs::hard_link(root.path("upper/a/b/f"), root.path("upper/a/h")).expect("a link");
    symlink("/a/b", root.path("upper/l")).expect("a link");
    let files = root.files(None);
    let names = |path| sent(&files, path).into_keys().collect::<Vec<_>>();
    assert_eq!(names("/a"), ["a/", "a/b/", "a/b/f", "a/h"]);
    assert_eq!(names("/a/."), ["./", "./b/", "./b/f", "./h"]);
    assert_eq!(names("/l/"), ["l/", "l/f"]);
    assert_eq!(sent(&files, "/l")["l"], (b'2', "/a/b".into()));
    assert_eq!(sent(&files, "/a")["a/h"], (b'1', "a/b/f".into()));
    assert_eq!(names("/")[..2], ["/", "/a/"]);
    assert_eq!(files.stat(b"/l").expect("a link").target, b"/a/b");
    assert_eq!(files.stat(b"/nope").expect_err("nothing").errno(), libc::ENOENT);
}

#[test]
fn directories_deeper_than_descriptors_go_are_sent_whole() {
    let root = Root::new();
    let deep = "d/".repeat(200);
    fs::create_dir_all(root.path(&format!("upper/{deep}"))).expect("directories");
    fs::write(root.path(&format!("upper/{deep}f")), "x").expect("a file");
    fs::write(root.path("upper/d/z"), "after").expect("a file");
    let found = sent(&root.files(None), "/d");
    assert_eq!(found.len(), 202);
    assert_eq!(found["d/z"], (b'0', "after".into()));
}

#[test]
fn what_comes_stays_below_and_replaces_what_it_may() {
    if !is_root() {
        return;
    }
    let root = Root::new();
    fs::create_dir_all(root.path("upper/to/dir")).expect("directories");
    fs::write(root.path("outside"), "kept").expect("a file");
    symlink(root.path("outside"), root.path("upper/to/link")).expect("a link");
    symlink("/other", root.path("upper/to/sub")).expect("a link");
    fs::create_dir(root.path("upper/other")).expect("a directory");
    let files = root.files(None);
    let members =
        [("link", b'0', "new"), ("sub/x", b'0', "through"), ("p/q", b'0', "parents"), (".wh.f", b'0', "odd")];
    receive(&files, "/to", &members, Wish::default()).expect("received");
    assert_eq!(fs::read_to_string(root.path("outside")).expect("text"), "kept");
    assert_eq!(fs::read_to_string(root.path("upper/to/link")).expect("text"), "new");
    assert_eq!(fs::read_to_string(root.path("upper/other/x")).expect("text"), "through");
    assert!(root.path("upper/to/.wh.f").exists());
    let status = fs::metadata(root.path("upper/to/link")).expect("a file");
    assert_eq!(
        (status.uid(), status.gid(), status.mode() & 0o7777, status.mtime()),
        (7, 8, 0o640, 1_000_000_000)
    );
    let parent = fs::metadata(root.path("upper/to/p")).expect("a directory");
    assert_eq!((parent.uid(), parent.permissions().mode() & 0o7777), (0, 0o755));
    for bad in [("../x", b'0', "x"), ("h", b'1', "../outside"), ("h", b'1', "link/..")] {
        assert!(receive(&files, "/to", &[bad], Wish::default()).is_err(), "{bad:?}");
    }
    let strict = Wish { keep_kinds: true, owner: Some((1, 2)) };
    let error = receive(&files, "/to", &[("dir", b'0', "x")], strict).expect_err("a directory is there");
    assert_eq!(error.to_string(), "cannot overwrite directory \"/to/dir\" with non-directory \"/to\"");
    receive(&files, "/to", &[("mine", b'0', "x")], strict).expect("received");
    let status = fs::metadata(root.path("upper/to/mine")).expect("a file");
    assert_eq!((status.uid(), status.gid()), (1, 2));
    receive(&files, "/to", &[("dir", b'0', "x")], Wish::default()).expect("replaced");
    assert!(root.path("upper/to/dir").is_file());
}

#[test]
fn ids_are_the_containers_both_ways() {
    if !is_root() {
        return;
    }
    let map = vec![crate::plan::IdMap { container_id: 0, host_id: 100_000, size: 1000 }];
    let user = UserNamespace { uid_map: map.clone(), gid_map: map };
    let root = Root::new();
    let files = root.files(Some(user));
    receive(&files, "/", &[("f", b'0', "x")], Wish::default()).expect("received");
    assert_eq!(fs::metadata(root.path("upper/f")).expect("a file").uid(), 100_007);
    assert_eq!(files.owner_inside(100_007, 5), (7, super::OVERFLOW_ID));
    let far = Wish { owner: Some((5000, 0)), ..Wish::default() };
    assert!(receive(&files, "/", &[("f", b'0', "x")], far).is_err());
    receive(&files, "/", &[("n", b'3', "")], Wish::default()).expect("passed over");
    assert!(!root.path("upper/n").exists());
}

#[test]
fn the_kernels_files_are_not_there() {
    let namespace = OwnedFd::from(File::open("/proc/self/ns/mnt").expect("a namespace"));
    let open = || OwnedFd::from(File::open("/").expect("the root"));
    let files = Files { root: open(), rootfs: open(), namespace, user: None };
    assert!(files.stat(b"/proc").is_ok());
    assert_eq!(files.stat(b"/proc/uptime").expect_err("hidden").errno(), libc::ENOENT);
    assert_eq!(files.place(b"/proc/sys").expect_err("refused").errno(), libc::EPERM);
    assert_eq!(files.place(b"/etc/passwd").expect_err("a file").errno(), libc::ENOTDIR);
    assert!(files.stat(b"/proc/self/root/etc").is_err());
    assert_eq!(sent(&files, "/proc").into_keys().collect::<Vec<_>>(), ["proc/"]);
}

fn whiteout(path: &Path) {
    use rustix::fs::{mknodat, FileType, Mode, CWD};
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).expect("a whiteout");
}

#[test]
fn changes_are_told_as_docker_tells_them() {
    if !is_root() {
        return;
    }
    let root = Root::new();
    for layer in ["upper", "lower"] {
        for directory in ["etc", "same/below", "mode", "opaque"] {
            fs::create_dir_all(root.path(&format!("{layer}/{directory}"))).expect("directories");
        }
    }
    for file in ["etc/passwd", "etc/gone", "same/below/f", "opaque/old", "opaque/kept", "kind"] {
        fs::write(root.path(&format!("lower/{file}")), "x").expect("a file");
    }
    fs::write(root.path("upper/etc/passwd"), "longer").expect("a file");
    whiteout(&root.path("upper/etc/gone"));
    whiteout(&root.path("upper/etc/never"));
    fs::create_dir(root.path("upper/new")).expect("a directory");
    fs::write(root.path("upper/new/f"), "x").expect("a file");
    fs::set_permissions(root.path("upper/mode"), fs::Permissions::from_mode(0o700)).expect("a mode");
    let mark = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.path("upper/opaque"), "trusted.overlay.opaque", b"y", mark).expect("an xattr");
    fs::write(root.path("upper/opaque/kept"), "x").expect("a file");
    copy_times(&root.path("lower/opaque/kept"), &root.path("upper/opaque/kept"));
    // Copied up and not changed.
    fs::write(root.path("upper/same/below/f"), "x").expect("a file");
    copy_times(&root.path("lower/same/below/f"), &root.path("upper/same/below/f"));
    fs::create_dir(root.path("upper/kind")).expect("a directory");
    fs::write(root.path("upper/kind/f"), "x").expect("a file");
    assert_eq!(
        root.changes(),
        [
            "C /etc",
            "D /etc/gone",
            "C /etc/passwd",
            "C /kind",
            "A /kind/f",
            "C /mode",
            "A /new",
            "A /new/f",
            "C /opaque",
            "D /opaque/old",
        ]
    );
}

fn copy_times(from: &Path, to: &Path) {
    let time = fs::metadata(from).expect("a file").modified().expect("a time");
    File::options().write(true).open(to).expect("a file").set_modified(time).expect("a time");
}
