//! What a layer may say, and that it arrives.

use super::*;

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
