//! The keeper: one native supervisor per host, parent of every container's init.

pub mod protocol;
