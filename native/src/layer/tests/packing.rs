//! The reverse: what is packed unpacks alike.

use std::io::Read;
use std::os::unix::fs::FileExt;

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

/// Files of every size around a gzip block's, compressible and not.
fn blocks(root: &Path) {
    let mut random = Random(11);
    for (number, size) in [0, 511, (512 << 10) - 1536, (512 << 10) + 7].into_iter().enumerate() {
        let noise: Vec<u8> = (0..size).map(|_| random.below(256) as u8).collect();
        fs::write(root.join(format!("noise{number}")), noise).expect("write");
        fs::write(root.join(format!("text{number}")), "all work and no play ".repeat(size / 21))
            .expect("write");
    }
}

#[test]
fn every_compression_packs_the_same_archive_and_each_the_same_bytes_again() {
    let from = Place::new();
    blocks(&from.root);
    let (plain, layer) = pack(&from.root, PackCompression::None);
    for compression in [PackCompression::Gzip, PackCompression::Zstd] {
        let (bytes, compressed) = pack(&from.root, compression);
        assert_eq!(compressed.digests.diff_id, layer.digests.digest);
        assert_eq!(compressed.digests.compressed_size, bytes.len() as u64);
        assert!(bytes.len() < plain.len() * 2 / 3);
        assert!(bytes == pack(&from.root, compression).0, "not the same twice");
        let unpacked = if compression == PackCompression::Gzip {
            // One member: the decoder stops at the end of the first.
            let mut unpacked = Vec::new();
            flate2::bufread::GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).expect("one member");
            unpacked
        } else {
            zstd::decode_all(&bytes[..]).expect("zstd")
        };
        assert!(unpacked == plain, "another archive");
    }
}

#[test]
fn a_full_disk_is_the_error_whatever_the_compression() {
    let from = Place::new();
    blocks(&from.root);
    let root = from.root.to_str().expect("utf-8");
    for compression in [PackCompression::None, PackCompression::Gzip, PackCompression::Zstd] {
        let full = OwnedFd::from(File::options().write(true).open("/dev/full").expect("open"));
        let error = pack_layer(root, &full, compression, true).expect_err("full");
        assert_eq!(error.errno(), libc::ENOSPC, "{compression:?}: {error}");
    }
}

/// More than the eight GiB that a header can say, next to nothing of it on disk or in the layer.
#[test]
fn holes_stay_holes() {
    let from = Place::new();
    let size = (9 << 30) + 5;
    let file = File::create(from.at("big")).expect("create");
    file.set_len(size).expect("truncate");
    file.write_all_at(b"first", 0).expect("write");
    file.write_all_at(b"middle", 5 << 30).expect("write");
    let file = File::create(from.at("empty")).expect("create");
    file.set_len(3 << 20).expect("truncate");
    let (bytes, packed) = pack(&from.root, PackCompression::Gzip);
    assert!(packed.digests.size < 1 << 20, "{:?}", packed.digests);
    let to = Place::new();
    to.unpack(&bytes).expect("unpack");
    let big = File::open(to.at("big")).expect("open");
    let stat = big.metadata().expect("stat");
    assert_eq!(stat.len(), size);
    assert!(stat.blocks() * 512 < 1 << 20);
    let mut found = [0; 6];
    big.read_exact_at(&mut found, 5 << 30).expect("read");
    assert_eq!(&found, b"middle");
    assert_eq!(fs::metadata(to.at("empty")).expect("stat").len(), 3 << 20);
    // A second opinion on the form.
    let mut archive = ::tar::Archive::new(flate2::bufread::GzDecoder::new(&bytes[..]));
    let entries = archive.entries().expect("entries").count();
    assert_eq!(entries, 2);
}
