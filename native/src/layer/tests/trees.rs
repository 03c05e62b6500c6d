//! Trees on disk, and the outer archive of `docker load`.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

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

/// Directories, files with two names and links that come, go and take each other's place until `over`.
fn change(root: &Path, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        for number in 0..8 {
            let (one, other) = (root.join(format!("d{number}")), root.join(format!("d{}", (number + 1) % 8)));
            // Ignored, all of it: what is in the way this time is not the next.
            let _ = fs::create_dir_all(one.join("a/b"));
            let _ = fs::write(one.join("a/b/file"), "content");
            let _ = fs::hard_link(one.join("a/b/file"), one.join("a/again"));
            let _ = symlink("a/b", one.join("link"));
            let _ = fs::remove_dir_all(&other);
            let _ = symlink(&one, &other);
            let _ = fs::remove_file(&other);
        }
    }
}

#[test]
fn what_changes_meanwhile_fails_no_walk() {
    let (place, below) = (Place::new(), Place::new());
    let text = |place: &Place| place.root.to_str().expect("utf-8").to_owned();
    let (root, lower) = (text(&place), [text(&below)]);
    let over = AtomicBool::new(false);
    let walk = || -> Result<()> {
        let null = OwnedFd::from(File::create("/dev/null").expect("open"));
        for _ in 0..300 {
            disk_usage(&root)?;
            changes(&root, &lower)?;
            pack_layer(&root, &null, PackCompression::None, true)?;
            crate::copying::Tree::scan(&root, &crate::copying::Patterns::default())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| change(&place.root, &over));
        let walked = walk();
        over.store(true, Ordering::Relaxed);
        walked.expect("every walk ends well");
    });
}

#[test]
fn a_tree_may_be_removed_twice_at_once() {
    for _ in 0..50 {
        let place = Place::new();
        for number in 0..30 {
            fs::create_dir_all(place.at(&format!("a/{number}/b/c"))).expect("mkdir");
            fs::write(place.at(&format!("a/{number}/b/file")), "").expect("write");
        }
        let root = place.root.to_str().expect("utf-8");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| remove_tree(root));
            remove_tree(root).expect("remove");
            other.join().expect("no panic").expect("remove");
        });
        assert!(!place.root.exists());
    }
}

/// What it was told, and a directory for each layer that begins.
struct Told {
    root: PathBuf,
    found: Vec<Member>,
}

impl Members for Told {
    fn begin(&mut self, path: &[u8]) -> Result<Option<String>> {
        if path.starts_with(b"known/") {
            return Ok(None);
        }
        let target = self.root.join(format!("layer{}/fs", self.found.len()));
        fs::create_dir_all(&target).expect("mkdir");
        Ok(Some(target.to_str().expect("utf-8").to_owned()))
    }

    fn found(&mut self, member: Member) -> Result<()> {
        self.found.push(member);
        Ok(())
    }
}

fn split(place: &Place, archive: &[u8]) -> Result<Vec<Member>> {
    let mut file = tempfile::tempfile().expect("tempfile");
    file.write_all(archive).expect("write");
    file.rewind().expect("seek");
    let mut told = Told { root: place.root.clone(), found: Vec::new() };
    split_archive(&file, place.root.to_str().expect("utf-8"), &Limits::DEFAULT, &mut told)?;
    Ok(told.found)
}

#[test]
fn an_outer_archive_is_split_by_number() {
    let place = Place::new();
    let archive = Archive::default()
        .dir("blobs/")
        .file("../../evil", "first")
        .symlink("x/layer.tar", "../y/layer.tar")
        .file("manifest.json", "[]")
        .file("empty", "")
        .end();
    let found = split(&place, &gzip(&archive)).expect("split");
    let told: Vec<_> = found
        .iter()
        .map(|member| (String::from_utf8_lossy(&member.path).into_owned(), member.kind, member.number))
        .collect();
    assert_eq!(
        told,
        [
            ("../../evil".to_owned(), MemberKind::File, 0),
            ("x/layer.tar".to_owned(), MemberKind::Symlink, 1),
            ("manifest.json".to_owned(), MemberKind::File, 2),
            ("empty".to_owned(), MemberKind::File, 3),
        ]
    );
    assert!(found.iter().all(|member| member.layer.is_none()));
    assert_eq!(fs::read_to_string(place.at("0")).expect("read"), "first");
    assert_eq!(fs::read_to_string(place.at("2")).expect("read"), "[]");
    place.assert_contained();
}

#[test]
fn layers_are_unpacked_while_the_outer_archive_is_split() {
    let place = Place::new();
    let layer = Archive::default().file("a", &"content".repeat(200_000)).end();
    let broken = Archive::default().file("../../outside/secret", "evil").end();
    let archive = Archive::default()
        .entry("a/layer.tar", b'0', &layer, "")
        .entry("b/layer.tar", b'0', &gzip(&layer), "")
        .entry("c/layer.tar", b'0', &broken, "")
        .entry("known/layer.tar", b'0', &layer, "")
        .file("manifest.json", "[]")
        .end();
    let found = split(&place, &archive).expect("split");
    let plain = Place::new().unpack(&layer).expect("unpack");
    let packed = Place::new().unpack(&gzip(&layer)).expect("unpack");
    let layers: Vec<_> = found.into_iter().map(|member| member.layer).collect();
    assert!(matches!(&layers[0], Some(Ok(layer)) if *layer == Layer { recipe: true, ..plain }));
    assert!(matches!(&layers[1], Some(Ok(layer)) if *layer == packed));
    assert!(matches!(&layers[2], Some(Err(Error::Invalid(text))) if text.contains("outside of the root")));
    assert!(layers[3].is_none());
    assert!(layers[4].is_none());
    assert!(!place.at("0").exists() && place.at("layer0/tar").exists());
    assert_eq!(fs::read(place.at("1")).expect("read"), gzip(&layer));
    assert!(!place.at("layer1/tar").exists());
    assert_eq!(fs::read(place.at("3")).expect("read"), layer);
    assert_eq!(fs::metadata(place.at("layer1/fs/a")).expect("stat").len(), 1_400_000);
    place.assert_contained();
}

/// The layer of an outer archive, as it is unpacked and as it can be had again.
fn recorded(place: &Place, layer: &[u8]) -> Layer {
    let archive = Archive::default().entry("layer.tar", b'0', layer, "").end();
    let member = split(place, &archive).expect("split").pop().expect("one");
    member.layer.expect("a layer").expect("unpacked")
}

fn packed(place: &Place) -> Result<Vec<u8>> {
    let target = OwnedFd::from(tempfile::tempfile().expect("tempfile"));
    pack_layer(place.at("layer0/fs").to_str().expect("utf-8"), &target, PackCompression::None, true)?;
    let mut bytes = Vec::new();
    let mut file = File::from(target);
    file.rewind().expect("seek");
    file.read_to_end(&mut bytes).expect("read");
    Ok(bytes)
}

#[test]
fn a_layer_comes_back_from_its_recipe_byte_for_byte() {
    let large = "0123456789abcdef".repeat(40_000);
    let trailing = [Archive::default().end(), b"what follows the end".to_vec()].concat();
    for layer in [
        Archive::default()
            .dir("d/")
            .file("d/large", &large)
            .file("./d//../odd", "a name that is not clean")
            .symlink("s", "d")
            .file("s/through", "a symlink")
            .entry("d/hard", b'1', b"", "d/large")
            .file("d/.wh.gone", "a whiteout with content")
            .file("d/.wh..wh..opq", "")
            .file("d/empty", "")
            .file("d/last", "x")
            .end(),
        trailing,
        vec![0; 4096],
    ] {
        let place = Place::new();
        assert!(recorded(&place, &layer).recipe);
        assert!(!place.at("0").exists());
        assert!(packed(&place).expect("packed") == layer);
    }
}

#[test]
fn a_layer_that_replaces_its_own_files_is_kept_as_it_came() {
    let large = "0123456789abcdef".repeat(40_000);
    let layer = Archive::default()
        .file("before", &large)
        .file("twice", "first")
        .file("between", &large)
        .file("twice", "second, and longer")
        .file("after", &large)
        .end();
    let place = Place::new();
    assert!(!recorded(&place, &layer).recipe);
    assert!(fs::read(place.at("0")).expect("read") == layer);
    assert!(!place.at("layer0/tar").exists());
    assert_eq!(fs::read_to_string(place.at("layer0/fs/twice")).expect("read"), "second, and longer");
}

#[test]
fn a_recipe_is_not_believed() {
    let layer = Archive::default().file("a", "content").file("b", "other").end();
    let place = Place::new();
    assert!(recorded(&place, &layer).recipe);
    let root = place.at("layer0/fs");
    fs::write(root.join("a"), "shorter").expect("write");
    assert!(packed(&place).expect("the same length") != layer);
    fs::write(root.join("a"), "short").expect("write");
    assert!(packed(&place).is_err());
    fs::remove_file(root.join("a")).expect("remove");
    symlink(place.outside.join("secret"), root.join("a")).expect("symlink");
    assert!(packed(&place).is_err());
    fs::remove_file(root.join("a")).expect("remove");
    assert!(packed(&place).is_err());
    fs::write(place.at("layer0/tar"), "no recipe").expect("write");
    assert!(packed(&place).is_err());
    place.assert_contained();
}
