//! What a layer may ask of the host before it is refused.
//!
//! Source: shared rule on tar bombs (CVE-2017-14992 and kin). A legitimate layer stays far below
//! each of these; what lies above is refused as malformed, never half trusted.

/// Caps on one layer or outer archive.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries of one archive.
    pub entries: u64,
    /// Bytes of one extended header (PAX record block, GNU long name).
    pub header: u64,
    /// Bytes of a path, as the kernel has it.
    pub path: usize,
    /// Bytes of one xattr value, as the kernel has it.
    pub xattr: usize,
    /// Extents of one sparse file.
    pub extents: usize,
    /// Bytes of the paths of all directories, which are remembered until the end.
    pub directories: usize,
    /// Uncompressed bytes that are free of the ratio rule.
    pub free_output: u64,
    /// Uncompressed bytes for each compressed one, past `free_output`.
    pub ratio: u64,
}

impl Limits {
    /// What the engine uses. A ratio above 400 over more than 2 GiB is a bomb: `DEFLATE` ends at 1032,
    /// and real layers with zero-filled images stay below 200.
    pub const DEFAULT: Self = Self {
        entries: 4_000_000,
        header: 1 << 20,
        path: 4096,
        xattr: 64 << 10,
        extents: 1 << 18,
        directories: 256 << 20,
        free_output: 2 << 30,
        ratio: 400,
    };
}
