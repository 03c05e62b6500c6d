//! Layers fed from memory: the same outcome as from a file, and no way out that leaves a thread.

use std::os::unix::fs::FileExt;

use super::*;

fn unpacker(place: &Place, copy: Option<OwnedFd>) -> LayerUnpacker {
    let root = place.root.to_str().expect("utf-8");
    LayerUnpacker::new(root, true, copy, Limits::DEFAULT).expect("start")
}

/// About 3 MiB that compress badly: more than the queue and the channel of small pieces hold.
fn large() -> Vec<u8> {
    let mut random = Random(7);
    let content: Vec<u8> = (0..3 << 20).map(|_| random.below(256) as u8).collect();
    Archive::default().dir("d/").entry("d/f", b'0', &content, "").end()
}

/// Begin, write `start`, end by `end`: whoever holds the copy's pipe then is a thread that was left.
fn leaves_nobody(start: &[u8], end: impl FnOnce(LayerUnpacker)) {
    let place = Place::new();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).expect("pipe");
    let unpacker = unpacker(&place, Some(write));
    unpacker.write(start).expect("write");
    end(unpacker);
    let mut buffer = [0; 4096];
    while rustix::io::read(&read, &mut buffer).expect("a thread holds the other end") > 0 {}
}

#[test]
fn pieces_give_what_the_file_gives() {
    let archive = large();
    for (bytes, step) in [(archive.clone(), 4093), (gzip(&archive), 60_000), (gzip(&archive), 1 << 22)] {
        let expected = Place::new().unpack(&bytes).expect("unpack");
        let place = Place::new();
        let copy_path = place.top.path().join("outside/copy");
        let unpacker = unpacker(&place, Some(File::create(&copy_path).expect("create").into()));
        for piece in bytes.chunks(step) {
            unpacker.write(piece).expect("write");
            unpacker.write(b"").expect("an empty piece is none");
        }
        assert_eq!(unpacker.finish().expect("finish"), expected);
        assert_eq!(fs::read(copy_path).expect("read"), bytes);
        assert_eq!(fs::metadata(place.at("d/f")).expect("stat").len(), 3 << 20);
    }
}

#[test]
fn a_partial_file_goes_first_and_is_not_copied_again() {
    let bytes = gzip(&large());
    let place = Place::new();
    let path = place.top.path().join("outside/partial");
    let have = bytes.len() / 3;
    fs::write(&path, &bytes[..have]).expect("write");
    let append = File::options().append(true).open(&path).expect("open");
    let unpacker = unpacker(&place, Some(append.into()));
    let partial = OwnedFd::from(File::open(&path).expect("open"));
    unpacker.write_file(&partial, have as u64).expect("write_file");
    unpacker.write(&bytes[have..]).expect("write");
    let expected = Place::new().unpack(&bytes).expect("unpack");
    assert_eq!(unpacker.finish().expect("finish"), expected);
    assert_eq!(fs::read(path).expect("read"), bytes);
}

#[test]
fn a_partial_file_that_is_shorter_than_was_said_is_refused() {
    let place = Place::new();
    let unpacker = unpacker(&place, None);
    let short = tempfile::tempfile().expect("tempfile");
    short.write_all_at(b"abc", 0).expect("write");
    let text = unpacker.write_file(&short.into(), 4).expect_err("short").to_string();
    assert!(text.contains("ends at 3 of 4 bytes"), "{text}");
}

#[test]
fn a_failure_comes_up_at_the_next_write_and_at_finish() {
    let place = Place::new();
    let unpacker = unpacker(&place, None);
    let bad = Archive::default().file("../out", "x").end();
    let noise = vec![0; 1 << 20];
    unpacker.write(&bad).expect("taken");
    let failure = (0..64).find_map(|_| unpacker.write(&noise).err()).expect("a failure").to_string();
    assert!(failure.contains("outside of the root"), "{failure}");
    assert_eq!(unpacker.write(b"x").expect_err("again").to_string(), failure);
    assert_eq!(unpacker.try_write(b"x").expect_err("again").to_string(), failure);
    assert_eq!(unpacker.finish().expect_err("again").to_string(), failure);
    place.assert_contained();
}

#[test]
fn a_failed_system_call_keeps_its_errno_when_told_again() {
    let place = Place::new();
    let full = OwnedFd::from(File::options().write(true).open("/dev/full").expect("open"));
    let unpacker = unpacker(&place, Some(full));
    let noise = vec![0; 1 << 20];
    let failures: Vec<_> =
        (0..64).filter_map(|_| unpacker.write(&noise).err()).map(|error| error.errno()).collect();
    assert!(failures.len() > 1);
    assert!(failures.iter().all(|errno| *errno == libc::ENOSPC), "{failures:?}");
    assert_eq!(unpacker.finish().expect_err("full").errno(), libc::ENOSPC);
}

#[test]
fn a_stream_cut_short_is_an_error_at_finish() {
    let bytes = gzip(&large());
    for end in [0, 1, 3, 100, bytes.len() / 2, bytes.len() - 1] {
        let place = Place::new();
        let unpacker = unpacker(&place, None);
        unpacker.write(&bytes[..end]).expect("write");
        let cut = unpacker.finish();
        assert!(end == 0 || cut.is_err(), "{end}: {cut:?}");
        assert!(unpacker.finish().is_err());
    }
}

#[test]
fn a_full_queue_says_so_and_tells_when_there_is_room() {
    let place = Place::new();
    let unpacker = unpacker(&place, None);
    let bytes = large();
    let mut refused = 0;
    for piece in bytes.chunks(100_000) {
        while !unpacker.try_write(piece).expect("try_write") {
            refused += 1;
            let mut poll =
                [rustix::event::PollFd::from_borrowed_fd(unpacker.room(), rustix::event::PollFlags::IN)];
            assert_eq!(rustix::event::poll(&mut poll, None).expect("poll"), 1);
        }
    }
    assert!(refused < 1000, "the eventfd stayed readable while there was no room");
    let expected = Place::new().unpack(&bytes).expect("unpack");
    assert_eq!(unpacker.finish().expect("finish"), expected);
}

#[test]
fn abort_ends_a_waiting_writer() {
    let place = Place::new();
    let unpacker = unpacker(&place, None);
    // A header that promises much, and a writer that never stops.
    let header = Archive::header(b"f", b'0', 0o7_7777_7777, b"");
    unpacker.write(&Archive::default().raw(&header, b"begun").0).expect("write");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| loop {
            if let Err(error) = unpacker.write(&[1; 8192]) {
                return error.to_string();
            }
        });
        unpacker.abort();
        let text = writing.join().expect("join");
        assert!(text.contains("given up"), "{text}");
    });
    unpacker.abort();
    assert!(unpacker.finish().is_err());
}

#[test]
fn every_way_out_leaves_no_thread() {
    let archive = Archive::default().file("a", "x").end();
    leaves_nobody(&archive, |unpacker| drop(unpacker.finish().expect("finish")));
    for start in [&b""[..], b"\x1f\x8b", &archive[..600], &archive] {
        leaves_nobody(start, |unpacker| unpacker.abort());
        leaves_nobody(start, drop);
    }
}

/// Whoever closes a feed gives up the connection: its client must see that it ends.
#[test]
fn a_socket_that_is_read_while_the_feed_is_closed_is_held_no_longer() {
    use std::io::{Read, Write};

    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("socket pair");
    let feed = Feed::new().expect("feed");
    feed.lend(super::super::Body::new(ours.into(), super::super::Phase::Fixed, 1 << 20, Vec::new()));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| while let Ok(Some(_)) = feed.take() {});
        theirs.write_all(b"some").expect("send");
        while feed.reclaim().is_some_and(|body| {
            feed.lend(body);
            true
        }) {}
        feed.close();
        reader.join().expect("reader");
    });
    assert!(feed.reclaim().is_none());
    assert_eq!(theirs.read(&mut [0; 1]).expect("end"), 0);
}
