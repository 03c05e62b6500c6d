//! Whiteouts, in a layer's form and in overlayfs's.
//!
//! | layer                | overlayfs                                   | meaning                          |
//! |----------------------|---------------------------------------------|----------------------------------|
//! | file `.wh.NAME`      | character device 0/0 called NAME            | NAME of lower layers is gone     |
//! | file `.wh..wh..opq`  | `trusted.overlay.opaque` = `y` on the parent | all of the lower directory is gone |
//!
//! Source: OCI image specification, layer.md "Whiteouts"; Documentation/filesystems/overlayfs.rst.

use super::tar::malformed;
use crate::error::Result;

pub const PREFIX: &[u8] = b".wh.";
pub const OPAQUE: &[u8] = b".wh..wh..opq";
pub const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// What the last component of an entry's path means.
#[derive(Debug, PartialEq, Eq)]
pub enum Name<'a> {
    Plain,
    /// A whiteout of this sibling.
    Whiteout(&'a [u8]),
    /// The parent directory is opaque.
    Opaque,
    /// aufs's own bookkeeping (`.wh..wh.plnk` and kin): not for us.
    Ignored,
}

/// Classify a last component. `.wh..` and `.wh...` would name the directory itself and its parent.
pub fn classify(name: &[u8]) -> Result<Name<'_>> {
    let Some(hidden) = name.strip_prefix(PREFIX) else { return Ok(Name::Plain) };
    match hidden {
        b"" | b"." | b".." => {
            Err(malformed(format_args!("whiteout of {:?}", String::from_utf8_lossy(hidden))))
        }
        _ if name == OPAQUE => Ok(Name::Opaque),
        _ if hidden.starts_with(PREFIX) => Ok(Name::Ignored),
        _ => Ok(Name::Whiteout(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(classify(b"x").expect("plain"), Name::Plain);
        assert_eq!(classify(b".whx").expect("plain"), Name::Plain);
        assert_eq!(classify(b".wh.x").expect("whiteout"), Name::Whiteout(b"x"));
        assert_eq!(classify(b".wh..hidden").expect("whiteout"), Name::Whiteout(b".hidden"));
        assert_eq!(classify(OPAQUE).expect("opaque"), Name::Opaque);
        assert_eq!(classify(b".wh..wh.plnk").expect("ignored"), Name::Ignored);
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(classify(bad).is_err(), "{bad:?}");
        }
    }
}
