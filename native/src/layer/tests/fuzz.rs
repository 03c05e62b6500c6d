//! Mutated archives: no panic, nothing outside, whatever the answer; and in pieces the answer of the whole.

use super::*;

/// Well-formed but evil: every way out of the root that there is, in one archive.
fn seed(outside: &str) -> Vec<u8> {
    Archive::default()
        .dir("d/")
        .symlink("x", "../outside")
        .symlink("d/y", outside)
        .file("d/f", "some content")
        .hardlink("h", "d/f")
        .pax(&[("path", b"p/q/r"), ("mtime", b"1.5"), ("GNU.sparse.map", b"0,4"), ("GNU.sparse.size", b"10")])
        .file("q", "data")
        .file("d/.wh.z", "")
        .entry("pipe", b'6', b"", "")
        .pax(&[("SCHILY.xattr.user.k", b"v"), ("size", b"4")])
        .file("d/g", "four")
        .file("x/../../outside/secret", "evil")
        .end()
}

/// One to three changes, then checksums that are right again, so that they are believed.
fn mutate(random: &mut Random, seed: &[u8], outside: &str) -> Vec<u8> {
    let snippets: [&[u8]; 9] = [
        b"../",
        b"/",
        b"x/",
        b"d/y/",
        b".wh.",
        b".wh..wh..opq",
        b"\xff\xff\xff\xff",
        b"77777777777",
        outside.as_bytes(),
    ];
    let mut bytes = seed.to_vec();
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
    bytes
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

/// The unpacker as a pull drives it: pieces of any size, then the end.
fn unpack_in_pieces(place: &Place, bytes: &[u8], random: &mut Random) -> Result<Layer> {
    let root = place.root.to_str().expect("utf-8");
    let unpacker = LayerUnpacker::new(root, true, None, Limits::DEFAULT)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(1 + random.below(1500)));
        unpacker.write(piece)?;
        rest = after;
    }
    unpacker.finish()
}

#[test]
fn no_input_panics_or_writes_outside() {
    let place = Place::new();
    let outside = place.outside.to_str().expect("utf-8").to_owned();
    let seed = seed(&outside);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..1000 {
        place.empty();
        let _ = place.unpack(&mutate(&mut random, &seed, &outside));
    }
    place.assert_contained();
}

/// Plain, gzip and zstd; changed before compression (what a hostile registry has) or after it (what arrives broken).
#[test]
fn pieces_fail_or_succeed_as_the_whole_does_and_stay_inside() {
    let place = Place::new();
    let outside = place.outside.to_str().expect("utf-8").to_owned();
    let seed = seed(&outside);
    let mut random = Random(0x0123_4567_89ab_cdef);
    for round in 0..400 {
        let archive = mutate(&mut random, &seed, &outside);
        let mut bytes = match round % 3 {
            0 => archive,
            1 => gzip(&archive),
            _ => zstd::encode_all(&archive[..], 1).expect("zstd"),
        };
        if round % 2 == 0 && !bytes.is_empty() {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        place.empty();
        let whole = place.unpack(&bytes);
        place.empty();
        let pieces = unpack_in_pieces(&place, &bytes, &mut random);
        match (whole, pieces) {
            (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
            (Err(whole), Err(pieces)) => assert_eq!(whole.to_string(), pieces.to_string()),
            (whole, pieces) => panic!("round {round}: {whole:?} but in pieces {pieces:?}"),
        }
    }
    place.assert_contained();
}
