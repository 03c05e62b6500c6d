//! What must not work: nothing an archive says reaches outside the root or past the caps.

use super::*;

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
