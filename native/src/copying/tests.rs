//! Patterns, trees and digests; COPY into real overlays is tested from Python (tests/root).

use std::fs;
use std::os::unix::fs::symlink;

use super::mode::{change_mode, directory_mode};
use super::patterns::{clean, Patterns};
use super::scan::{kept, left_out, Tree};
use super::FileDigests;

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

fn patterns(texts: &[&str]) -> Result<Patterns, Box<dyn std::error::Error>> {
    Ok(Patterns::new(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())?)
}

/// The table of `tests/unit/test_ignore.py`.
#[test]
fn the_last_fitting_pattern_decides() -> Outcome {
    let table: &[(&[&str], &str, bool)] = &[
        (&["a"], "a", true),
        (&["a"], "a/b/c", true),
        (&["a"], "b/a", false),
        (&["/a/"], "a", true),
        (&["**"], "anything/at/all", true),
        (&["**/"], "file", true),
        (&["**/a"], "a", true),
        (&["**/a"], "x/y/a", true),
        (&["**/a"], "x/ya", false),
        (&["a/**/c"], "a/c", true),
        (&["a/**/c"], "a/b/b/c", true),
        (&["a/**"], "a", false),
        (&["a/**"], "a/b", true),
        (&["*"], "a/b", true),
        (&["*.go"], "a.go", true),
        (&["*.go"], "x/a.go", false),
        (&["*/x"], "a/x", true),
        (&["a?c"], "abc", true),
        (&["a?c"], "a/c", false),
        (&["[a-c]x"], "bx", true),
        (&["[^a]x"], "bx", true),
        (&["[^a]x"], "ax", false),
        (&["a\\*b"], "a*b", true),
        (&["a\\*b"], "axb", false),
        (&["a.b$"], "a.b$", true),
        (&["*", "!a"], "a", false),
        (&["*", "!a"], "a/b", false),
        (&["*", "!a", "a/b"], "a/b", true),
        (&["a", "!a/b"], "a/b/c", false),
        (&["a", "!a/b"], "a/c", true),
        (&["!a", "a"], "a", true),
        (&[""], "a", false),
        (&["x/../a"], "a", true),
        (&["[ä-ü]x"], "öx", true),
    ];
    for (texts, path, wanted) in table {
        assert_eq!(left_out(&patterns(texts)?, path.as_bytes()), *wanted, "{texts:?} {path}");
    }
    for bad in ["!", "a[", "a\\", "[]a"] {
        assert!(patterns(&[bad]).is_err(), "{bad}");
    }
    assert_eq!(clean("./a//b/../c/"), "a/c");
    Ok(())
}

/// Nothing in a context may keep a thread busy or take its whole stack.
#[test]
fn patterns_are_cheap_and_shallow_whatever_they_are() -> Outcome {
    let stars = format!("{}b", "*a".repeat(200));
    let levels = format!("{}x", "**/".repeat(200_000));
    let mixed = "***".repeat(2000) + "b";
    for (pattern, path, wanted) in [
        (&stars, "a".repeat(255), false),
        (&stars, "a".repeat(254) + "b", true),
        (&levels, "a/".repeat(20) + "y", false),
        (&levels, "a/".repeat(20) + "x", true),
        (&mixed, "a/".repeat(100) + "b", true),
    ] {
        assert_eq!(left_out(&patterns(&[pattern])?, path.as_bytes()), wanted, "{path}");
    }
    Ok(())
}

fn context() -> std::io::Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    let root = directory.path();
    fs::create_dir_all(root.join("src/deep"))?;
    fs::create_dir_all(root.join("node_modules/x"))?;
    fs::write(root.join("a.txt"), "a")?;
    fs::write(root.join("src/b.txt"), "b")?;
    fs::write(root.join("src/deep/c.txt"), "c")?;
    fs::write(root.join("node_modules/x/index.js"), "x")?;
    symlink("/src/deep", root.join("link"))?;
    symlink("loop", root.join("loop"))?;
    Ok(directory)
}

fn paths(tree: &Tree, source: &str) -> Result<Vec<String>, crate::error::Error> {
    let found = tree.select(source)?;
    Ok(found.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect())
}

#[test]
fn a_tree_has_what_is_not_ignored() -> Outcome {
    let directory = context()?;
    let root = directory.path().to_string_lossy().into_owned();
    let tree = Tree::scan(&root, &patterns(&["node_modules", "src/*", "!src/deep/c.txt"])?)?;
    let all: Vec<_> = tree.below(0).iter().map(|entry| String::from_utf8_lossy(&entry.path)).collect();
    assert_eq!(all, ["", "a.txt", "link", "loop", "src", "src/deep", "src/deep/c.txt"]);
    Ok(())
}

#[test]
fn sources_are_found_by_name_wildcard_and_through_links_that_stay_inside() -> Outcome {
    let directory = context()?;
    let tree = Tree::scan(&directory.path().to_string_lossy(), &Patterns::default())?;
    assert_eq!(paths(&tree, "*.txt")?, ["a.txt"]);
    assert_eq!(paths(&tree, "/src/*.txt")?, ["src/b.txt"]);
    assert_eq!(paths(&tree, "link/c.txt")?, ["link/c.txt"]);
    assert_eq!(tree.entry(tree.select("link")?[0].1).path, b"src/deep");
    assert_eq!(paths(&tree, "../../a.txt")?, ["a.txt"]);
    assert!(paths(&tree, "*.nothing")?.is_empty());
    for missing in ["nothing", "loop", "a.txt/x"] {
        assert_eq!(tree.select(missing).err().map(|error| error.errno()), Some(libc::ENOENT), "{missing}");
    }
    Ok(())
}

#[test]
fn modes_change_as_they_are_told() {
    for (mode, change, expected) in [
        (0o644, "", 0o644),
        (0o644, "4711", 0o4711),
        (0o644, "u+x,go=", 0o700),
        (0o6755, "u=rwX,go=rX", 0o755),
        (0o6755, "u=rwx", 0o2755),
        (0o6755, "+t", 0o7755),
        (0o600, "a+X", 0o600),
    ] {
        assert_eq!(change_mode(mode, change, false), expected, "{mode:o} {change}");
    }
    assert_eq!(["", "4711", "u=rwx"].map(directory_mode), [0o755, 0o711, 0o755]);
}

#[test]
fn a_digest_tells_of_content_and_modes_and_never_of_times() -> Outcome {
    let directory = context()?;
    let root = directory.path();
    let known = FileDigests::open(&root.join("a.txt"));
    let digest = || -> Result<String, crate::error::Error> {
        let tree = Tree::scan(&root.to_string_lossy(), &Patterns::default())?;
        tree.digest(&["src".into()], &Patterns::default(), false, &known)
    };
    let before = digest()?;
    let file = fs::File::options().write(true).open(root.join("src/b.txt"))?;
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)?;
    assert_eq!(digest()?, before);
    fs::write(root.join("src/b.txt"), "B")?;
    let changed = digest()?;
    assert_ne!(changed, before);
    fs::write(root.join("a.txt"), "not read")?;
    assert_eq!(digest()?, changed);
    fs::set_permissions(root.join("src/b.txt"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    assert_ne!(digest()?, changed);
    Ok(())
}

#[test]
fn what_is_excluded_is_named_from_its_source() -> Outcome {
    let directory = context()?;
    let known = FileDigests::open(&directory.path().join("none"));
    let tree = Tree::scan(&directory.path().to_string_lossy(), &Patterns::default())?;
    let digest = |exclude: &str, parents: bool| -> Result<String, Box<dyn std::error::Error>> {
        Ok(tree.digest(&["src".into()], &patterns(&[exclude])?, parents, &known)?)
    };
    let all = digest("nothing", false)?;
    assert_eq!(digest("src", false)?, all);
    assert_eq!(digest("src/deep", false)?, all);
    assert_ne!(digest("deep", false)?, all);
    assert_eq!(digest("deep", true)?, all);
    assert_ne!(digest("src/deep", true)?, all);
    Ok(())
}

#[test]
fn a_directory_above_what_is_taken_back_stays() -> Outcome {
    let directory = context()?;
    let tree = Tree::scan(&directory.path().to_string_lossy(), &Patterns::default())?;
    let top = tree.find(b"src").ok_or("no src")?;
    let left = |words: &[&str]| -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let patterns = patterns(words)?;
        let found = kept(tree.below(top), |entry| left_out(&patterns, &entry.path));
        Ok(found.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect())
    };
    assert_eq!(left(&["**/deep"])?, ["src", "src/b.txt"]);
    let back = left(&["**/deep", "!**/deep/c.txt"])?;
    assert_eq!(back, ["src", "src/b.txt", "src/deep", "src/deep/c.txt"]);
    Ok(())
}

#[test]
fn digests_are_kept_for_the_next_process() -> Outcome {
    let directory = context()?;
    let root = directory.path();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    for name in ["a.txt", "src/b.txt"] {
        fs::File::options().write(true).open(root.join(name))?.set_modified(old)?;
    }
    let store = tempfile::tempdir()?;
    let file = store.path().join("digests");
    let known = FileDigests::open(&file);
    let tree = Tree::scan(&root.to_string_lossy(), &Patterns::default())?;
    let first = tree.digest(&[".".into()], &Patterns::default(), false, &known)?;
    known.save()?;
    let again = FileDigests::open(&file);
    assert_eq!(tree.digest(&[".".into()], &Patterns::default(), false, &again)?, first);
    fs::write(&file, "not ours")?;
    assert_eq!(tree.digest(&[".".into()], &Patterns::default(), false, &FileDigests::open(&file))?, first);
    Ok(())
}
