//! Trees that come a second time: what is asked for, and that the result is as if they had come the first.

use std::fs;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Tree;

const TIME: i64 = 1_700_000_000_123_456_789;

/// A client's file: path, Go's mode, content or target, time.
#[derive(Clone)]
struct Told(&'static str, u32, &'static str, i64);

const DIRECTORY: u32 = 1 << 31 | 0o755;
const LINK: u32 = 1 << 27 | 0o777;
const FILE: u32 = 0o644;

fn field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.extend([number << 3 | 2, bytes.len() as u8]);
    message.extend(bytes);
}

fn varint(message: &mut Vec<u8>, number: u8, mut value: u64) {
    message.push(number << 3);
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

/// A mode with bit 30 set is a hardlink's to what it has as content.
const HARD: u32 = 1 << 30;

fn stat(told: &Told) -> Vec<u8> {
    let mut stat = vec![];
    field(&mut stat, 1, told.0.as_bytes());
    varint(&mut stat, 2, u64::from(told.1 & !HARD));
    if told.1 == FILE {
        varint(&mut stat, 5, told.2.len() as u64);
    } else if told.1 == LINK || told.1 & HARD != 0 {
        field(&mut stat, 7, told.2.as_bytes());
    }
    varint(&mut stat, 6, told.3 as u64);
    let mut packet = vec![];
    field(&mut packet, 2, &stat);
    framed(&packet)
}

fn data(number: usize, content: &[u8]) -> Vec<u8> {
    let mut packet = vec![8, 2];
    varint(&mut packet, 3, number as u64);
    field(&mut packet, 4, content);
    framed(&packet)
}

struct Rig {
    directory: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    fn open(&self) -> Tree {
        let root = self.root();
        Tree::open(root.to_str().expect("text"), &self.directory.path().join("records")).expect("a tree")
    }

    /// Send all of it; the paths that were asked for.
    fn receive(&self, all: &[Told]) -> Vec<&'static str> {
        let mut tree = self.open();
        let stats: Vec<u8> = all.iter().flat_map(stat).chain(framed(b"")).collect();
        let mut answer = vec![];
        for piece in stats.chunks(7) {
            answer.extend(tree.take(piece).expect("taken"));
        }
        let mut wanted = vec![];
        let mut rest = &answer[..];
        while let [0, 0, 0, 0, size, body @ ..] = rest {
            let (message, after) = body.split_at(usize::from(*size));
            if message[1] == 1 {
                wanted.push(message.get(3).map_or(0, |number| usize::from(*number)));
            }
            rest = after;
        }
        assert_eq!(tree.whole(), wanted.is_empty());
        for &number in &wanted {
            tree.take(&data(number, all[number].2.as_bytes())).expect("taken");
            tree.take(&data(number, b"")).expect("taken");
        }
        assert!(tree.whole());
        tree.finish().expect("finished");
        wanted.into_iter().map(|number| all[number].0).collect()
    }

    /// (path, mode, size or target, modified, names) of everything there is.
    fn found(&self) -> Vec<(String, u32, String, i64, u64)> {
        let mut found = vec![];
        walk(&self.root(), &self.root(), &mut found);
        found.sort();
        found
    }
}

fn walk(root: &Path, at: &Path, found: &mut Vec<(String, u32, String, i64, u64)>) {
    for entry in fs::read_dir(at).expect("read") {
        let path = entry.expect("an entry").path();
        let meta = fs::symlink_metadata(&path).expect("stat");
        let content = match meta.file_type() {
            kind if kind.is_symlink() => fs::read_link(&path).expect("a link").display().to_string(),
            kind if kind.is_file() => fs::read_to_string(&path).expect("content"),
            _ => String::new(),
        };
        let name = path.strip_prefix(root).expect("below").display().to_string();
        let modified = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        let names = if meta.is_dir() { 0 } else { meta.nlink() };
        found.push((name, meta.mode(), content, modified, names));
        if meta.is_dir() {
            walk(root, &path, found);
        }
    }
}

fn beginning() -> Vec<Told> {
    vec![
        Told("a", FILE, "first", TIME),
        Told("d", DIRECTORY, "", TIME),
        Told("d/e", DIRECTORY, "", TIME),
        Told("d/e/f", FILE, "deep", TIME),
        Told("d/empty", FILE, "", TIME),
        Told("d/hard", FILE | HARD, "a", TIME),
        Told("l", LINK, "d/e", TIME),
        Told("z", FILE, "last", TIME),
    ]
}

/// Whatever comes after `beginning`: what is asked for, and the tree is as if it had come alone.
fn again(all: &[Told], wanted: &[&str]) {
    let (rig, fresh) = (Rig::new(), Rig::new());
    assert_eq!(rig.receive(&beginning()), ["a", "d/e/f", "z"]);
    assert_eq!(rig.receive(all), wanted);
    fresh.receive(all);
    assert_eq!(rig.found(), fresh.found());
    assert_eq!(rig.receive(all), [""; 0], "nothing has changed");
    assert_eq!(rig.found(), fresh.found());
}

#[test]
fn what_is_there_is_not_asked_for_again() {
    again(&beginning(), &[]);
}

#[test]
fn what_has_changed_is() {
    let mut all = beginning();
    all[0] = Told("a", FILE, "second", TIME); // its second name follows it
    all[3] = Told("d/e/f", FILE, "deeP", TIME + 1);
    all[4] = Told("d/empty", FILE, "no more", TIME);
    all[6] = Told("l", LINK, "elsewhere", TIME);
    again(&all, &["a", "d/e/f", "d/empty"]);
}

#[test]
fn what_is_gone_goes() {
    let all: Vec<_> = beginning().into_iter().filter(|told| !told.0.starts_with("d/e")).collect();
    again(&all, &[]);
    again(&[], &[]);
}

#[test]
fn kinds_change_into_each_other() {
    let all = [
        Told("a", DIRECTORY, "", TIME),
        Told("a/d", FILE, "x", TIME),
        Told("d", FILE, "y", TIME),
        Told("l", DIRECTORY, "", TIME),
        Told("l/f", FILE, "deep", TIME),
        Told("z", LINK, "a", TIME),
    ];
    again(&all, &["a/d", "d", "l/f"]);
    let all = [Told("a", LINK, "d", TIME), Told("d", LINK, "/", TIME), Told("z", FILE | HARD, "a", TIME)];
    again(&all, &[]);
}

#[test]
fn a_directory_that_only_changed_its_mode_keeps_what_is_in_it() {
    let mut all = beginning();
    all[1] = Told("d", 1 << 31 | 1 << 22 | 0o555, "", TIME + 5);
    all.insert(5, Told("d/g", FILE, "new", TIME));
    again(&all, &["d/g"]);
}

#[test]
fn a_file_of_a_moment_ago_is_asked_for_again() {
    let rig = Rig::new();
    let now = i64::MAX / 2;
    let all = [Told("a", FILE, "x", TIME), Told("b", FILE, "y", now)];
    assert_eq!(rig.receive(&all), ["a", "b"]);
    assert_eq!(rig.receive(&all), ["b"]);
    assert_eq!(rig.receive(&all[..1]), [""; 0]);
    assert_eq!(rig.found().len(), 1);
}

#[test]
fn a_tree_that_was_left_half_done_begins_anew() {
    let rig = Rig::new();
    rig.receive(&beginning());
    let mut cut = rig.open();
    cut.take(&stat(&Told("a", FILE, "half", TIME))).expect("taken");
    drop(cut);
    fs::write(rig.root().join("stray"), "x").expect("written");
    assert_eq!(rig.receive(&beginning()), ["a", "d/e/f", "z"]);
    assert!(!rig.root().join("stray").exists());
}

#[test]
fn a_link_in_the_tree_leads_nowhere() {
    let rig = Rig::new();
    let outside = tempfile::tempdir().expect("a directory");
    fs::write(outside.path().join("f"), "untouched").expect("written");
    rig.receive(&beginning());
    fs::remove_dir_all(rig.root().join("d/e")).expect("removed");
    symlink(outside.path(), rig.root().join("d/e")).expect("a link");
    let mut tree = rig.open();
    for told in &beginning()[1..3] {
        tree.take(&stat(told)).expect("taken");
    }
    tree.take(&stat(&Told("d/e/f", FILE, "through", TIME))).expect("taken");
    assert!(tree.take(&data(2, b"through")).is_err());
    assert_eq!(fs::read_to_string(outside.path().join("f")).expect("read"), "untouched");
}

#[test]
fn a_client_may_not_open_files_without_end() {
    let rig = Rig::new();
    let mut tree = rig.open();
    let names: Vec<&'static str> = (0..200).map(|n| &*Box::leak(format!("f{n}").into_boxed_str())).collect();
    for name in &names {
        tree.take(&stat(&Told(name, FILE, "x", TIME))).expect("taken");
    }
    let opened = (0..200).take_while(|&number| tree.take(&data(number, b"x")).is_ok()).count();
    assert_eq!(opened, super::OPEN);
}

#[test]
fn modes_have_gos_bits() {
    let rig = Rig::new();
    rig.receive(&[Told("d", 1 << 31 | 1 << 20 | 0o711, "", TIME)]);
    let mode = fs::metadata(rig.root().join("d")).expect("stat").permissions().mode();
    assert_eq!(mode & 0o7777, 0o1711);
}

#[test]
fn a_size_is_what_came_whatever_is_told() {
    let rig = Rig::new();
    let mut tree = rig.open();
    for (path, size) in [("giant", u64::MAX >> 1), ("negative", u64::MAX), ("small", 1)] {
        let mut told = vec![];
        field(&mut told, 1, path.as_bytes());
        varint(&mut told, 2, u64::from(FILE));
        varint(&mut told, 5, size);
        let mut packet = vec![];
        field(&mut packet, 2, &told);
        tree.take(&framed(&packet)).expect("taken");
    }
    for number in 0..3 {
        tree.take(&data(number, b"content")).expect("taken");
        tree.take(&data(number, b"")).expect("taken");
    }
    assert_eq!(tree.size, 21);
}
