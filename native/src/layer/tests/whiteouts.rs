//! Whiteouts, into overlayfs's form and applied.

use super::*;

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
