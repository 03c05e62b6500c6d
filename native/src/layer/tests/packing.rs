//! The reverse: what is packed unpacks alike.

use super::*;

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
