//! proa's native core: what happens between a request and the kernel.
//!
//! `process`, `child`, `mount`, `confine`, `seccomp`, `cgroup` and `netns` start and confine
//! containers, `layer` unpacks and packs images, `keeper` supervises. `py` is the only module that
//! knows Python.

#![deny(unsafe_code)]

pub mod cgroup;
pub mod error;
pub mod keeper;
pub mod layer;
pub mod netlink;
pub mod netns;
pub mod plan;
pub mod process;
#[cfg(feature = "python")]
mod py;
pub mod sys;
