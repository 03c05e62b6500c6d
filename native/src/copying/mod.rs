//! Files into layers, for builds: what a context has, what of it counts, and COPY itself.
//!
//! A context is looked at once a build (`scan`); of a file that is as it was, the digest is known (`digests`).
//! Copies resolve their target inside the layer's root by descriptor and write where nothing else could be meant
//! (`place`).
//!
//! Source: the Dockerfile reference, COPY and ADD; the Docker build reference, `.dockerignore` files.

mod digests;
mod file;
mod mode;
mod patterns;
mod place;
mod scan;
#[cfg(test)]
mod tests;

pub use digests::FileDigests;
pub use patterns::Patterns;
pub use place::{copy, make_directory, Copy, Source, Target};
pub use scan::{heads, merged, open_file, Entry, Tree};
