//! Whole passes: what an archive may do, what it may not, and that nothing it says reaches outside the root.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::error::Error;

mod feed;

/// A directory to unpack into, with a neighbour that no archive may touch.
struct Place {
    top: TempDir,
    root: PathBuf,
    outside: PathBuf,
}

impl Place {
    fn new() -> Self {
        let top = tempfile::tempdir().expect("tempdir");
        let root = top.path().join("root");
        let outside = top.path().join("outside");
        fs::create_dir(&root).expect("mkdir");
        fs::create_dir(&outside).expect("mkdir");
        fs::write(outside.join("secret"), "untouched").expect("write");
        Self { top, root, outside }
    }

    fn unpack_with(&self, archive: &[u8], overlay: bool, limits: &Limits) -> Result<Layer> {
        let mut file = tempfile::tempfile_in(self.top.path()).expect("tempfile");
        file.write_all(archive).expect("write");
        file.rewind().expect("seek");
        unpack_layer(&file, self.root.to_str().expect("utf-8"), overlay, None, limits)
    }

    fn unpack(&self, archive: &[u8]) -> Result<Layer> {
        self.unpack_with(archive, true, &Limits::DEFAULT)
    }

    /// Nothing beside the root changed, and nothing but the two is there.
    fn assert_contained(&self) {
        assert_eq!(fs::read_to_string(self.outside.join("secret")).expect("read"), "untouched");
        assert_eq!(fs::read_dir(&self.outside).expect("read").count(), 1);
        assert_eq!(fs::read_dir(self.top.path()).expect("read").count(), 2);
        assert_eq!(fs::metadata(self.outside.join("secret")).expect("stat").nlink(), 1);
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Archives byte by byte: what a well-behaved writer would refuse to write is the point.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn header(name: &[u8], kind: u8, size: u64, link: &[u8]) -> [u8; 512] {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name);
        put(100, b"0000644\x000000000\x000000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"00000000001\0        ");
        put(156, &[kind]);
        put(157, link);
        put(257, b"ustar\x0000");
        Self::seal(&header)
    }

    fn seal(header: &[u8; 512]) -> [u8; 512] {
        let mut header = *header;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    fn raw(mut self, header: &[u8; 512], content: &[u8]) -> Self {
        self.0.extend_from_slice(&Self::seal(header));
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn entry(self, name: &str, kind: u8, content: &[u8], link: &str) -> Self {
        let header = Self::header(name.as_bytes(), kind, content.len() as u64, link.as_bytes());
        self.raw(&header, content)
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, b'0', content.as_bytes(), "")
    }

    fn dir(self, name: &str) -> Self {
        self.entry(name, b'5', b"", "")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name, b'2', b"", target)
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(name, b'1', b"", target)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let mut length = key.len() + value.len() + 3;
            while length != key.len() + value.len() + 3 + length.to_string().len() {
                length = key.len() + value.len() + 3 + length.to_string().len();
            }
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry("pax", b'x', &content, "")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn invalid(result: Result<Layer>) -> String {
    match result {
        Err(Error::Invalid(text)) => text,
        other => panic!("expected a malformed archive, got {other:?}"),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

// ---- what works ---------------------------------------------------------------------------------

#[test]
fn every_kind_of_entry_arrives() {
    let place = Place::new();
    let archive = Archive::default()
        .dir("dir/")
        .file("dir/file", "content")
        .symlink("dir/link", "/etc/passwd")
        .hardlink("hard", "dir/file")
        .entry("pipe", b'6', b"", "")
        .end();
    let layer = place.unpack(&archive).expect("unpack");
    assert_eq!(layer.entries, 5);
    assert_eq!(layer.digests.digest, layer.digests.diff_id);
    assert_eq!(layer.digests.size, archive.len() as u64);
    assert_eq!(fs::read_to_string(place.at("hard")).expect("read"), "content");
    assert_eq!(fs::metadata(place.at("hard")).expect("stat").nlink(), 2);
    assert_eq!(fs::read_link(place.at("dir/link")).expect("readlink"), Path::new("/etc/passwd"));
    assert!(fs::metadata(place.at("pipe")).expect("stat").file_type().is_fifo());
    for path in ["dir", "dir/file", "dir/link", "pipe"] {
        let stat = fs::symlink_metadata(place.at(path)).expect("stat");
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (1, 0), "{path}");
    }
}

#[test]
fn compression_is_told_by_content_and_hashed_on_both_sides() {
    let archive = Archive::default().file("a", "one").end();
    let plain = Place::new().unpack(&archive).expect("plain").digests;
    // Two gzip members, as pigz and estargz write them.
    let members = [gzip(&archive[..700]), gzip(&archive[700..])].concat();
    let zstd = zstd::encode_all(&archive[..], 1).expect("zstd");
    for compressed in [gzip(&archive), members, zstd] {
        let place = Place::new();
        let found = place.unpack(&compressed).expect("unpack").digests;
        assert_eq!(found.diff_id, plain.diff_id);
        assert_ne!(found.digest, plain.digest);
        assert_eq!(found.compressed_size, compressed.len() as u64);
        assert_eq!(found.size, archive.len() as u64);
        assert_eq!(fs::read_to_string(place.at("a")).expect("read"), "one");
    }
}

#[test]
fn bytes_after_the_archive_belong_to_the_digest_and_the_copy() {
    let place = Place::new();
    let mut bytes = Archive::default().file("a", "x").end();
    bytes.resize(bytes.len() + 9000, 0);
    let mut source = tempfile::tempfile().expect("tempfile");
    source.write_all(&bytes).expect("write");
    source.rewind().expect("seek");
    let copy_path = place.top.path().join("outside/copy");
    let copy = OwnedFd::from(File::create(&copy_path).expect("create"));
    let root = place.root.to_str().expect("utf-8");
    let layer = unpack_layer(&source, root, true, Some(&copy), &Limits::DEFAULT).expect("unpack");
    assert_eq!(layer.digests.size, bytes.len() as u64);
    assert_eq!(fs::read(copy_path).expect("read"), bytes);
}

#[test]
fn pax_and_gnu_extensions_reach_the_file() {
    let place = Place::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    let archive = Archive::default()
        .entry("././@LongLink", b'L', format!("{long}\0").as_bytes(), "")
        .file("short", "gnu")
        .pax(&[("path", b"not-utf8-\xff\xfe"), ("mtime", b"-1.25"), ("SCHILY.xattr.user.k", b"v\0w")])
        .file("short", "pax")
        .end();
    place.unpack(&archive).expect("unpack");
    assert_eq!(fs::read_to_string(place.at(&long)).expect("read"), "gnu");
    let odd = place.root.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff\xfe"));
    let stat = fs::metadata(&odd).expect("stat");
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (-2, 750_000_000));
    let mut value = [0; 8];
    match rustix::fs::getxattr(&odd, "user.k", &mut value[..]) {
        Ok(length) => assert_eq!(&value[..length], b"v\0w"),
        Err(errno) => assert_eq!(errno, rustix::io::Errno::OPNOTSUPP),
    }
}

#[test]
fn a_size_of_eight_gib_and_more_is_understood() {
    let mut header = Archive::header(b"big", b'0', 0, b"");
    header[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]);
    let text = invalid(Place::new().unpack(&Archive::default().raw(&header, b"cut short").end()));
    assert!(text.contains("unexpected end"), "{text}");
}

#[test]
fn sparse_files_of_every_form_read_alike() {
    let expected = [b"head".to_vec(), vec![0; 4092], b"tail".to_vec(), vec![0; 96]].concat();
    let mut old = Archive::header(b"old", b'S', 8, b"");
    old[257..265].copy_from_slice(b"ustar  \0");
    for (index, number) in [0, 4, 4096, 4].iter().enumerate() {
        old[386 + 12 * index..398 + 12 * index].copy_from_slice(format!("{number:011o}\0").as_bytes());
    }
    old[483..495].copy_from_slice(format!("{:011o}\0", 4196).as_bytes());
    let mut map = b"2\n0\n4\n4096\n4\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"headtail");
    let archive = Archive::default()
        .raw(&old, b"headtail")
        .pax(&[
            ("GNU.sparse.size", b"4196"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"0"),
            ("GNU.sparse.numbytes", b"4"),
            ("GNU.sparse.offset", b"4096"),
            ("GNU.sparse.numbytes", b"4"),
        ])
        .file("pax00", "headtail")
        .pax(&[
            ("GNU.sparse.size", b"4196"),
            ("GNU.sparse.name", b"pax01"),
            ("GNU.sparse.map", b"0,4,4096,4"),
        ])
        .file("GNUSparseFile.0/pax01", "headtail")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"pax10"),
            ("GNU.sparse.realsize", b"4196"),
        ])
        .entry("GNUSparseFile.0/pax10", b'0', &map, "")
        .end();
    let place = Place::new();
    place.unpack(&archive).expect("unpack");
    for name in ["old", "pax00", "pax01", "pax10"] {
        assert_eq!(fs::read(place.at(name)).expect(name), expected, "{name}");
    }
    assert!(!place.at("GNUSparseFile.0").exists());
}

#[test]
fn later_entries_replace_earlier_ones_and_directories_merge() {
    let archive = Archive::default()
        .dir("a/")
        .file("a/x", "1")
        .dir("a/")
        .file("a/y", "2")
        .file("b", "old")
        .file("b", "new")
        .dir("c/d/")
        .file("c/d/e", "gone")
        .file("c", "now a file")
        .file("f", "was a file")
        .dir("f/")
        .end();
    let place = Place::new();
    place.unpack(&archive).expect("unpack");
    assert!(place.at("a/x").exists() && place.at("a/y").exists());
    assert_eq!(fs::read_to_string(place.at("b")).expect("read"), "new");
    assert_eq!(fs::read_to_string(place.at("c")).expect("read"), "now a file");
    assert!(place.at("f").is_dir());
}

#[test]
fn set_id_bits_and_read_only_directories_survive() {
    let mut file = Archive::header(b"ro/suid", b'0', 1, b"");
    file[100..108].copy_from_slice(b"0006755\0");
    let mut dir = Archive::header(b"ro/", b'5', 0, b"");
    dir[100..108].copy_from_slice(b"0002555\0");
    let place = Place::new();
    place.unpack(&Archive::default().raw(&dir, b"").raw(&file, b"x").end()).expect("unpack");
    let mode = |path: &str| fs::metadata(place.at(path)).expect("stat").permissions().mode() & 0o7777;
    assert_eq!(mode("ro"), 0o2555);
    assert_eq!(mode("ro/suid"), 0o6755);
    fs::set_permissions(place.at("ro"), fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn owners_are_numeric() {
    if !is_root() {
        return;
    }
    let mut header = Archive::header(b"owned", b'0', 0, b"");
    header[108..124].copy_from_slice(b"0001750\x000003720\0");
    let place = Place::new();
    let archive = Archive::default()
        .raw(&header, b"")
        .pax(&[("uid", b"3000000000"), ("gid", b"4294967294")])
        .file("large", "")
        .end();
    place.unpack(&archive).expect("unpack");
    let stat = fs::metadata(place.at("owned")).expect("stat");
    assert_eq!((stat.uid(), stat.gid()), (1000, 2000));
    let stat = fs::metadata(place.at("large")).expect("stat");
    assert_eq!((stat.uid(), stat.gid()), (3_000_000_000, u32::MAX - 1));
}

// ---- whiteouts ----------------------------------------------------------------------------------

#[test]
fn whiteouts_take_overlayfs_form() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let archive = Archive::default()
        .file("dir/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file(".wh..wh.plnk", "")
        .file("both/.wh.sub", "")
        .dir("both/sub/")
        .dir("late/sub/")
        .file("late/.wh.sub", "")
        .end();
    place.unpack(&archive).expect("unpack");
    let gone = fs::symlink_metadata(place.at("dir/gone")).expect("stat");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |path: &str| {
        let mut value = [0; 1];
        rustix::fs::getxattr(place.at(path), "trusted.overlay.opaque", &mut value[..]) == Ok(1)
            && value == *b"y"
    };
    assert!(opaque("opaque") && opaque("both/sub") && opaque("late/sub"));
    assert!(!opaque("dir") && !opaque("both"));
    assert!(!place.at(".wh..wh.plnk").exists());
}

#[test]
fn whiteouts_are_applied_to_a_plain_tree() {
    let place = Place::new();
    for dir in ["dir", "opaque/sub"] {
        fs::create_dir_all(place.at(dir)).expect("mkdir");
    }
    for file in ["dir/gone", "dir/kept", "opaque/old", "opaque/sub/old"] {
        fs::write(place.at(file), "lower").expect("write");
    }
    let archive = Archive::default()
        .file("dir/.wh.gone", "")
        .file("opaque/new", "upper")
        .file("opaque/.wh..wh..opq", "")
        .end();
    place.unpack_with(&archive, false, &Limits::DEFAULT).expect("unpack");
    assert!(!place.at("dir/gone").exists() && place.at("dir/kept").exists());
    assert!(!place.at("opaque/old").exists() && !place.at("opaque/sub").exists());
    assert_eq!(fs::read_to_string(place.at("opaque/new")).expect("read"), "upper");
}

#[test]
fn whiteouts_of_the_directory_itself_are_refused() {
    for name in ["a/.wh..", "a/.wh...", ".wh.", "a/.wh."] {
        let place = Place::new();
        invalid(place.unpack(&Archive::default().file(name, "").end()));
        place.assert_contained();
    }
}

// ---- what must not work -------------------------------------------------------------------------

#[test]
fn names_that_climb_are_refused_and_absolute_ones_stay_inside() {
    for name in ["../outside/secret", "a/../../outside/secret", "/../outside/secret", ".."] {
        let place = Place::new();
        let text = invalid(place.unpack(&Archive::default().file(name, "evil").end()));
        assert!(text.contains("outside of the root"), "{text}");
        place.assert_contained();
    }
    let place = Place::new();
    place.unpack(&Archive::default().file("/etc/passwd", "inside").end()).expect("unpack");
    assert_eq!(fs::read_to_string(place.at("etc/passwd")).expect("read"), "inside");
}

/// Every way to go through a symlink called `x`.
fn through_symlink(target: &str) -> Vec<Archive> {
    let link = || Archive::default().symlink("x", target);
    vec![
        link().file("x/secret", "evil"),
        link().dir("x/").file("x/secret", "evil"),
        link().dir("x/new/"),
        link().file("x/.wh.secret", ""),
        link().file("x/.wh..wh..opq", ""),
        link().symlink("x/y", "z"),
        link().entry("x/pipe", b'6', b"", ""),
        link().hardlink("y", "x/secret"),
        link().hardlink("x/y", "x"),
        Archive::default().symlink("x/y", target).file("x/y/secret", "evil"),
        Archive::default().symlink("a", target).symlink("b", "a").file("b/secret", "evil"),
        Archive::default().file("d/f", "evil").symlink("x", target).hardlink("x/f", "d/f"),
    ]
}

#[test]
fn symlinks_lead_nowhere_outside() {
    for overlay in [true, false] {
        for number in 0..through_symlink("").len() {
            for relative in
                ["../outside", "../../../../../../../..", "/", "/proc/self/root", "/proc/self/cwd", ""]
            {
                let place = Place::new();
                let absolute = place.outside.to_str().expect("utf-8");
                let target = if relative.is_empty() { absolute } else { relative };
                let archive = through_symlink(target).swap_remove(number).end();
                let _ = place.unpack_with(&archive, overlay, &Limits::DEFAULT);
                place.assert_contained();
            }
        }
    }
}

#[test]
fn a_file_replaces_a_symlink_instead_of_writing_through_it() {
    let place = Place::new();
    let secret = place.outside.join("secret");
    let archive = Archive::default().symlink("x", secret.to_str().expect("utf-8")).file("x", "evil").end();
    place.unpack(&archive).expect("unpack");
    assert!(fs::symlink_metadata(place.at("x")).expect("stat").is_file());
    place.assert_contained();
}

#[test]
fn parents_resolve_as_they_would_inside() {
    let place = Place::new();
    let archive =
        Archive::default().dir("usr/lib/").symlink("lib", "/usr/lib").file("lib/libc.so", "elf").end();
    place.unpack(&archive).expect("unpack");
    assert_eq!(fs::read_to_string(place.at("usr/lib/libc.so")).expect("read"), "elf");
    let dangling = Archive::default().symlink("x", "/nowhere").file("x/y", "").end();
    invalid(Place::new().unpack(&dangling));
    let looped = Archive::default().symlink("x", "x").file("x/y", "").end();
    invalid(Place::new().unpack(&looped));
}

#[test]
fn hardlinks_stay_inside() {
    for target in ["../outside/secret", "missing", "", "/", "dir", "h"] {
        let place = Place::new();
        invalid(place.unpack(&Archive::default().dir("dir/").hardlink("h", target).end()));
        place.assert_contained();
    }
    // Absolute: from the root. To a symlink: the symlink itself, never what it points at.
    let place = Place::new();
    let secret = place.outside.join("secret");
    let secret = secret.to_str().expect("utf-8");
    let archive = Archive::default().symlink("s", secret).hardlink("h", "s").file("h", "evil").end();
    place.unpack(&archive).expect("unpack");
    place.assert_contained();
    assert_eq!(fs::read_link(place.at("s")).expect("readlink"), Path::new(secret));
    invalid(Place::new().unpack(&Archive::default().hardlink("h", secret).end()));
}

#[test]
fn a_hardlinked_file_is_replaced_not_written_to() {
    let place = Place::new();
    let archive = Archive::default().file("a", "first").hardlink("b", "a").file("b", "second").end();
    place.unpack(&archive).expect("unpack");
    assert_eq!(fs::read_to_string(place.at("a")).expect("read"), "first");
    assert_eq!(fs::read_to_string(place.at("b")).expect("read"), "second");
}

#[test]
fn a_whiteout_device_hides_nothing_but_its_name() {
    if !is_root() {
        return;
    }
    // An archive's own 0/0 device and a hard link to it are whiteouts of just these names.
    let place = Place::new();
    place
        .unpack(&Archive::default().entry("dev", b'3', b"", "").hardlink("link", "dev").end())
        .expect("unpack");
    assert_eq!(fs::symlink_metadata(place.at("link")).expect("stat").rdev(), 0);
    // Writing "to" a device replaces it.
    let place = Place::new();
    let mut null = Archive::header(b"null", b'3', 0, b"");
    null[329..345].copy_from_slice(b"0000001\x000000003\0");
    place.unpack(&Archive::default().raw(&null, b"").file("null", "file now").end()).expect("unpack");
    assert!(fs::symlink_metadata(place.at("null")).expect("stat").is_file());
}

#[test]
fn caps_hold() {
    let small = Limits { entries: 3, header: 64, free_output: 4096, ratio: 10, ..Limits::DEFAULT };
    let refused = |archive: &[u8]| invalid(Place::new().unpack_with(archive, true, &small));
    let many = (0..4).fold(Archive::default(), |archive, number| archive.file(&number.to_string(), ""));
    assert!(refused(&many.end()).contains("more than 3 entries"));
    let header = Archive::default().pax(&[("comment", &[b'x'; 100])]).file("a", "").end();
    assert!(refused(&header).contains("extended header"));
    let pieces =
        (0..9).fold(Archive::default(), |archive, _| archive.pax(&[("SCHILY.xattr.user.a", b"12345678")]));
    assert!(refused(&pieces.file("a", "").end()).contains("extended headers of more"));
    let bomb = gzip(&Archive::default().entry("zeros", b'0', &vec![0; 1 << 20], "").end());
    assert!(refused(&bomb).contains("more than 10 times"));
    let long = Archive::default().pax(&[("path", &[b'x'; 5000])]).file("a", "").end();
    assert!(invalid(Place::new().unpack(&long)).contains("4096"));
    let xattr = Archive::default().pax(&[("SCHILY.xattr.user.a", &vec![b'x'; 70_000])]).file("a", "").end();
    invalid(Place::new().unpack(&xattr));
    let deep = format!("{}x", "d/".repeat(2100));
    let deep = Archive::default().pax(&[("path", deep.as_bytes())]).file("a", "").end();
    invalid(Place::new().unpack(&deep));
}

#[test]
fn malformed_archives_say_what_is_wrong() {
    let good = Archive::default().file("a", "content").end();
    let mut checksum = good.clone();
    checksum[0] ^= 1;
    let mut size = Archive::header(b"a", b'0', 0, b"");
    size[124..136].fill(0xff);
    let mut text = Archive::header(b"a", b'0', 0, b"");
    text[124..136].copy_from_slice(b"zzzzzzzzzzz\0");
    let mut uid = Archive::header(b"a", b'0', 0, b"");
    uid[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let lone = [&[0_u8; 512][..], &good].concat();
    let mut flipped = gzip(&good);
    let middle = flipped.len() - 6;
    flipped[middle] ^= 0xff;
    for (bytes, says) in [
        (checksum, "checksum"),
        (b"not a tar archive".to_vec(), "unexpected end"),
        (vec![b'x'; 2048], "not a tar archive"),
        (good[..600].to_vec(), "unexpected end"),
        (good[..515].to_vec(), "unexpected end"),
        (Archive::default().raw(&size, b"").end(), "negative size"),
        (Archive::default().raw(&text, b"").end(), "bad size"),
        (Archive::default().raw(&uid, b"").end(), "out of range"),
        (Archive::default().entry("a", b'V', b"", "").end(), "unknown type"),
        (Archive::default().entry("a", b'x', b"999 a=b\n", "").file("a", "").end(), "PAX record"),
        (Archive::default().pax(&[("path", b"x")]).0, "unexpected end"),
        (Archive::default().file("/", "").end(), "no directory"),
        (Archive::default().file("a", "").file("a/b", "").end(), "no directory that can be reached"),
        (lone, "lone zero block"),
        (gzip(&good)[..30].to_vec(), "gzip"),
        (flipped, "gzip"),
        (b"BZh91AY".to_vec(), "bzip2"),
        (b"\xfd7zXZ\0".to_vec(), "xz"),
        (b"\x28\xb5\x2f\xfd garbage".to_vec(), "zstd"),
    ] {
        let place = Place::new();
        let text = invalid(place.unpack(&bytes));
        assert!(text.starts_with("malformed archive") && text.contains(says), "{text:?} lacks {says:?}");
        place.assert_contained();
    }
}

#[test]
fn an_empty_archive_is_an_empty_layer() {
    for bytes in [vec![0; 1024], vec![], vec![0; 10240]] {
        assert_eq!(Place::new().unpack(&bytes).expect("empty").entries, 0);
    }
}

/// Mutated archives: no panic, nothing outside, whatever the answer.
#[test]
fn no_input_panics_or_writes_outside() {
    let place = Place::new();
    let outside = place.outside.to_str().expect("utf-8").to_owned();
    let seed = Archive::default()
        .dir("d/")
        .symlink("x", "../outside")
        .symlink("d/y", &outside)
        .file("d/f", "some content")
        .hardlink("h", "d/f")
        .pax(&[("path", b"p/q/r"), ("mtime", b"1.5"), ("GNU.sparse.map", b"0,4"), ("GNU.sparse.size", b"10")])
        .file("q", "data")
        .file("d/.wh.z", "")
        .file("x/../../outside/secret", "evil")
        .end();
    let snippets: [&[u8]; 8] =
        [b"../", b"/", b"x/", b"d/y/", b".wh.", b".wh..wh..opq", b"\xff\xff\xff\xff", outside.as_bytes()];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..1000 {
        let mut bytes = seed.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            let with = snippets[random.below(snippets.len())];
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes.truncate(at),
                _ => {
                    let end = (at + with.len()).min(bytes.len());
                    bytes[at..end].copy_from_slice(&with[..end - at]);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        reseal(&mut bytes);
        let _ = fs::remove_dir_all(&place.root);
        fs::create_dir(&place.root).expect("mkdir");
        let _ = place.unpack(&bytes);
    }
    place.assert_contained();
}

/// Make checksums right again, so that mutations get past them.
fn reseal(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            let mut header = [0; 512];
            header.copy_from_slice(block);
            block.copy_from_slice(&Archive::seal(&header));
        }
    }
}

/// xorshift: the same mutations in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

// ---- the reverse --------------------------------------------------------------------------------

fn pack(directory: &Path, compression: PackCompression) -> (Vec<u8>, Layer) {
    let path = tempfile::NamedTempFile::new().expect("tempfile");
    let fd = OwnedFd::from(path.reopen().expect("open"));
    let layer = pack_layer(directory.to_str().expect("utf-8"), &fd, compression, true).expect("pack");
    (fs::read(path.path()).expect("read"), layer)
}

#[test]
fn a_tree_survives_packing_and_unpacking() {
    let place = Place::new();
    fs::create_dir_all(place.at("sub/deeper")).expect("mkdir");
    fs::write(place.at("sub/file"), vec![b'x'; 700_000]).expect("write");
    fs::hard_link(place.at("sub/file"), place.at("again")).expect("link");
    symlink("t".repeat(300), place.at("sub/link")).expect("symlink");
    fs::write(place.at(&format!("sub/{}", "n".repeat(250))), "long").expect("write");
    fs::write(place.root.join(std::ffi::OsStr::from_bytes(b"\xff")), "odd").expect("write");
    let (archive, layer) = pack(&place.root, PackCompression::None);
    assert_eq!(layer.digests.digest, layer.digests.diff_id);
    let second = Place::new();
    let unpacked = second.unpack(&archive).expect("unpack");
    assert_eq!(unpacked.digests.diff_id, layer.digests.diff_id);
    let (again, _) = pack(&second.root, PackCompression::None);
    assert_eq!(again, archive);
    let names: Vec<_> = ::tar::Archive::new(&archive[..])
        .entries()
        .expect("entries")
        .map(|entry| entry.expect("entry").path_bytes().into_owned())
        .collect();
    assert!(names.is_sorted_by(|left, right| left <= right), "{names:?}");
    for compression in [PackCompression::Gzip, PackCompression::Zstd] {
        let (compressed, found) = pack(&place.root, compression);
        assert_eq!(found.digests.diff_id, layer.digests.diff_id);
        assert_eq!(Place::new().unpack(&compressed).expect("unpack").digests, found.digests);
    }
}

#[test]
fn overlayfs_marks_become_whiteouts() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let archive = Archive::default().file("d/.wh..wh..opq", "").file("d/.wh.x", "").file("d/y", "").end();
    place.unpack(&archive).expect("unpack");
    let (packed, _) = pack(&place.root, PackCompression::None);
    let names: Vec<_> = ::tar::Archive::new(&packed[..])
        .entries()
        .expect("entries")
        .map(|entry| String::from_utf8_lossy(&entry.expect("entry").path_bytes()).into_owned())
        .collect();
    assert_eq!(names, ["d/", "d/.wh..wh..opq", "d/.wh.x", "d/y"]);
}

// ---- trees --------------------------------------------------------------------------------------

#[test]
fn usage_counts_hardlinks_once() {
    let place = Place::new();
    fs::create_dir(place.at("d")).expect("mkdir");
    fs::write(place.at("d/a"), "12345").expect("write");
    fs::hard_link(place.at("d/a"), place.at("b")).expect("link");
    assert_eq!(disk_usage(place.root.to_str().expect("utf-8")).expect("usage"), (5, 2));
}

#[test]
fn implied_directories_look_as_they_do_below() {
    let mut tmp = Archive::header(b"tmp/", b'5', 0, b"");
    tmp[100..108].copy_from_slice(b"0001777\0");
    let base = Place::new();
    base.unpack(&Archive::default().raw(&tmp, b"").file("x", "").end()).expect("unpack");
    let upper = Place::new();
    let archive =
        Archive::default().file("tmp/a", "").file("x/y", "").file("new/z", "").dir("own/").file("own/f", "");
    let layer = upper.unpack(&archive.end()).expect("unpack");
    let implied: [&[u8]; 4] = [b"", b"new", b"tmp", b"x"];
    assert_eq!(layer.implied, implied);
    let lower = [base.root.to_str().expect("utf-8").to_owned()];
    inherit_directories(upper.root.to_str().expect("utf-8"), &lower, &layer.implied).expect("inherit");
    let stat = fs::metadata(upper.at("tmp")).expect("stat");
    assert_eq!((stat.permissions().mode() & 0o7777, stat.mtime()), (0o1777, 1));
    for path in ["x", "new"] {
        assert_eq!(
            fs::metadata(upper.at(path)).expect("stat").permissions().mode() & 0o7777,
            0o755,
            "{path}"
        );
    }
}

#[test]
fn trees_go_whatever_is_in_them() {
    let place = Place::new();
    symlink(&place.outside, place.at("link")).expect("symlink");
    let root = place.root.to_str().expect("utf-8");
    // Deeper than PATH_MAX: every level is made from the one above.
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let mut fd = rustix::fs::open(root, flags, rustix::fs::Mode::empty()).expect("open");
    for level in 0..3000 {
        rustix::fs::mkdirat(&fd, "dddddddd", rustix::fs::Mode::from_raw_mode(0o755)).expect("mkdir");
        if level % 500 == 0 {
            rustix::fs::mkdirat(&fd, ".proa-aside-0", rustix::fs::Mode::from_raw_mode(0o755)).expect("mkdir");
        }
        fd = rustix::fs::openat(&fd, "dddddddd", flags, rustix::fs::Mode::empty()).expect("open");
    }
    drop(fd);
    disk_usage(root).expect("usage passes over what is too deep");
    remove_tree(root).expect("remove");
    assert!(!place.root.exists());
    assert_eq!(fs::read_to_string(place.outside.join("secret")).expect("read"), "untouched");
    remove_tree(root).expect("missing is no error");
}

// ---- outer archives -----------------------------------------------------------------------------

#[test]
fn an_outer_archive_is_split_by_number() {
    let place = Place::new();
    let mut file = tempfile::tempfile().expect("tempfile");
    let archive = Archive::default()
        .dir("blobs/")
        .file("../../evil", "first")
        .symlink("x/layer.tar", "../y/layer.tar")
        .file("manifest.json", "[]")
        .end();
    file.write_all(&gzip(&archive)).expect("write");
    file.rewind().expect("seek");
    let mut members = Vec::new();
    split_archive(&file, place.root.to_str().expect("utf-8"), &Limits::DEFAULT, |member| {
        members.push((String::from_utf8_lossy(&member.path).into_owned(), member.kind, member.number));
        Ok(())
    })
    .expect("split");
    assert_eq!(
        members,
        [
            ("../../evil".to_owned(), MemberKind::File, 0),
            ("x/layer.tar".to_owned(), MemberKind::Symlink, 1),
            ("manifest.json".to_owned(), MemberKind::File, 2),
        ]
    );
    assert_eq!(fs::read_to_string(place.at("0")).expect("read"), "first");
    assert_eq!(fs::read_to_string(place.at("2")).expect("read"), "[]");
    place.assert_contained();
}
