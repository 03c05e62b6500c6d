//! Layers: one streaming pass from compressed tar to a directory, and the reverse.
//!
//! ```text
//! fd or feed -> digest -> decompress -> diff_id -> tar -> files
//! body           source              stream     tar + sparse  unpack + whiteout
//! directory -> tar -> diff_id -> compress -> digest -> fd
//! pack, header, sparse   encode     gzip       sink
//! ```
//! `recipe` is how a tar comes back that nobody kept. `tree` sizes and removes directories, `archive` takes the
//! outer archive of `docker load` apart, `changes` compares, `files` is for a container's files. Nothing here
//! knows about images. Everything an archive says is untrusted; `limits` says how much of it is believed.
//!
//! Source: OCI image specification, layer.md.

mod archive;
mod body;
mod changes;
mod encode;
mod feed;
mod files;
mod gzip;
mod header;
mod limits;
mod pack;
mod recipe;
mod sink;
mod source;
mod sparse;
mod stream;
mod tar;
pub(crate) mod tree;
mod unpack;
mod whiteout;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

pub use archive::{split_archive, Member, MemberKind, Members};
pub use body::{Body, Phase};
pub use changes::{changes, Change, ChangeKind};
pub use encode::{compress_layer, PackCompression};
pub use feed::{Feed, LayerUnpacker};
pub use files::{Files, PathStat, Place, Wish};
pub use limits::Limits;
pub use pack::pack_layer;
pub use source::Input;
pub use stream::Digests;
pub use tree::{disk_usage, inherit_directories, remove_tree, sync_file_system};
pub(crate) use unpack::is_kept_xattr;

use crate::error::{Error, Result};

/// What one pass over a layer found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub digests: Digests,
    /// Entries of the archive.
    pub entries: u64,
    /// Directories that the archive has no entry for, by path, the root (empty) among them; see
    /// [`inherit_directories`].
    pub implied: Vec<Vec<u8>>,
    /// (apparent bytes, inodes) of what was unpacked, hardlinks counted once.
    pub usage: (u64, u64),
    /// Whether its directory has what it takes to make its tar again: [`pack_layer`] does. See `recipe`.
    pub recipe: bool,
}

/// Unpack a layer from `source`, read to its end, into the directory `target`. With `overlay` whiteouts take
/// overlayfs's form; without, they are applied to what is in `target`. The bytes as read go to `copy` too.
/// On failure what was written stays for the caller to remove.
pub fn unpack_layer<'a>(
    source: impl Into<Input<'a>>,
    target: &str,
    overlay: bool,
    copy: Option<&OwnedFd>,
    limits: &Limits,
) -> Result<Layer> {
    let root = tree::open_root(target)?;
    unpack_input(source.into(), root, overlay, copy, limits, None)
}

/// What is to be kept of a layer that comes uncompressed, besides its files.
#[derive(Debug)]
pub(crate) struct Recording {
    /// What the layer is unpacked into.
    directory: String,
    /// The blob's file, written where a recipe does not do.
    blob: PathBuf,
}

fn unpack_input(
    input: Input<'_>,
    root: OwnedFd,
    overlay: bool,
    copy: Option<&OwnedFd>,
    limits: &Limits,
    recording: Option<Recording>,
) -> Result<Layer> {
    let _held = input.held();
    let recorder = recording.map(|recording| record(&root, recording)).transpose()?;
    let ((entries, usage, implied), digests) = stream::run(input, copy, limits, |stream| {
        stream.record(recorder.clone());
        let mut unpacker = unpack::Unpacker::new(root, limits, overlay, recorder.clone());
        unpacker.archive(stream)?;
        Ok((unpacker.entries, unpacker.usage()?, unpacker.implied()))
    })?;
    let recipe = recorder.map_or(Ok(false), |recorder| recorder.borrow_mut().finish())?;
    Ok(Layer { digests, entries, implied, usage, recipe })
}

fn record(root: &OwnedFd, recording: Recording) -> Result<Rc<RefCell<recipe::Recorder>>> {
    let root = root.try_clone().map_err(|error| Error::os("use", "layer", error))?;
    recipe::Recorder::new(root, &recording.directory, recording.blob).map(|it| Rc::new(RefCell::new(it)))
}
